"""`softprompt recipes`: the settings of papers, with their sources."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from softprompt.cli.output import print_json

app = typer.Typer(help="Settings of papers, in our terms and with their sources.", no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command("list")
def list_recipes(as_json: _Json = False) -> None:
    """List the recipes that come with softprompt.

    Example: softprompt recipes list
    """
    from softprompt.experiments.recipes import load_recipe, shipped

    recipes = [load_recipe(name) for name in shipped()]
    if as_json:
        print_json([recipe.to_json() for recipe in recipes])
        return
    width = max(len(recipe.name) for recipe in recipes)
    for recipe in recipes:
        source = f" (arXiv {recipe.paper['arxiv']})" if "arxiv" in recipe.paper else ""
        variants = f"; variants: {', '.join(recipe.variants)}" if recipe.variants else ""
        print(f"{recipe.name:<{width}}  {recipe.title}{source}{variants}")


@app.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(help="A recipe, one of its variants as NAME/VARIANT, or a YAML file.")],
    as_json: _Json = False,
) -> None:
    """Say what a recipe sets, what the paper says, and where the two differ.

    Example: softprompt recipes show p-tuning-v2-roberta-large/rte
    """
    from softprompt.experiments.recipes import load_recipe

    recipe = load_recipe(name)
    if as_json:
        print_json(recipe.to_json())
        return
    print(f"{recipe.name}: {recipe.title}")
    blocks = {"paper": recipe.paper, "backbones": recipe.backbones, "settings": recipe.settings, "notes": recipe.notes}
    for title, block in blocks.items():
        for line in _lines(title, block):
            print(line)
    if recipe.variants:
        print(f"variants: {', '.join(recipe.variants)}")
    if recipe.missing:
        print(f"not in this version: {', '.join(recipe.missing)}")


def _lines(title: str, block: Any) -> list[str]:
    if not block:
        return []
    if isinstance(block, tuple):
        return [f"{title}:", *(f"  - {each}" for each in block)]
    return [f"{title}:", *(f"  {name}: {_said(value)}" for name, value in block.items())]


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
