"""`softprompt backbones`: what can be used, and what one of them is."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

app = typer.Typer(help="The frozen models that prompts are trained on.", no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list")
def list_backbones(as_json: _Json = False) -> None:
    """List the packaged backbones and the families that hub ids, folders and GGUF files may be of.

    Example: softprompt backbones list
    """
    from softprompt.backbones.families import FAMILIES
    from softprompt.backbones.packaged import PACKAGED, is_installed

    packaged = [
        {"name": entry.name, "title": entry.title, "installed": is_installed(entry), "extra": entry.extra}
        for entry in PACKAGED.values()
    ]
    families = [
        {"model_type": family.model_type, "title": family.title, "kind": family.kind} for family in FAMILIES.values()
    ]
    if as_json:
        print(json.dumps({"packaged": packaged, "families": families}, indent=2))
        return
    for row in packaged:
        state = "installed" if row["installed"] else f'not installed: pip install "softprompt[{row["extra"]}]"'
        print(f"{row['name']}  {row['title']}  ({state})")
    print("\nAny hub id, folder or .gguf file of these families:")
    for kind in dict.fromkeys(row["kind"] for row in families):
        named = ", ".join(f"{row['title']} ({row['model_type']})" for row in families if row["kind"] == kind)
        print(f"  {kind}s: {named}")


@app.command("show")
def show_backbone(
    source: Annotated[str, typer.Argument(help="A packaged name, a hub id, a folder or a .gguf file.")],
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit of a hub id.")] = None,
    device: Annotated[str | None, typer.Option(help="`cpu`, `cuda` or `cuda:N`.")] = None,
    dtype: Annotated[str | None, typer.Option(help="`bf16`, `fp32` or, on a GPU, `fp16`.")] = None,
    as_json: _Json = False,
) -> None:
    """Load a backbone and say what it is.

    Example: softprompt backbones show gemma-3-270m
    """
    from softprompt.backbones.backbone import load_backbone
    from softprompt.backbones.description import describe

    facts = describe(load_backbone(source, revision=revision, device=device, dtype=dtype))
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        for line in _lines(name.replace("_", " "), value):
            print(line)


def _lines(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{name}:", *(f"  {key.replace('_', ' ')}: {entry}" for key, entry in value.items())]
    return [f"{name}: {'–' if value is None else value}"]
