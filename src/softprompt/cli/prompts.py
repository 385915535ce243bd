"""`softprompt prompts`: keep, look at, compare, tag, ship and tidy the prompts of the store."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from softprompt.prompts.soft_prompt import SoftPrompt
    from softprompt.store.diff import Difference
    from softprompt.store.index import Listing
    from softprompt.store.store import PromptStore

app = typer.Typer(help="Keep, look at, compare, tag, ship and tidy prompts.", no_args_is_help=True)

_REFERENCE = "A name, name@v3, name@tag or sha256:… of the store."
_LINE = 80
"""Signs of an evaluation of somebody else's that are shown."""
_JSON = typer.Option(False, "--json", help="Print JSON.")


@app.command("list")
def list_(
    search: str = typer.Argument("", help="Only where this stands in the name, a tag, the task or a label."),
    as_json: bool = _JSON,
) -> None:
    """List the prompts of the store, the latest version of each.

    Example: softprompt prompts list sentiment
    """
    found = _store().list(search)
    if as_json:
        _json([asdict(each) for each in found])
    elif found:
        _table(["name", "version", "tokens", "KB", "task", "backbone", "saved", "tags"], map(_line, found))
    else:
        print(f"no prompt has `{search}` in it" if search else "no prompts yet; `softprompt train` makes one")


@app.command()
def show(reference: str = typer.Argument(help=_REFERENCE), as_json: bool = _JSON) -> None:
    """Show all that a prompt says of itself, and a line of each evaluation kept beside it; `--json` has all of them.

    Example: softprompt prompts show sentiment@v2 --json
    """
    store = _store()
    prompt = store.get(reference)
    told = _told(prompt, store)
    if as_json:
        _json(told)
        return
    evaluations = told.pop("evaluations")
    for key, value in told.items():
        print(f"{key:<13} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    for name, found in evaluations.items():
        print(f"{'evaluation':<13} {name}: {_in_a_line(found)}")


def _in_a_line(found: Mapping[str, Any]) -> str:
    """What an evaluation found, in a line; what has no figures as ours, its first words."""
    figures = found.get("figures")
    if not isinstance(figures, dict):
        text = json.dumps(found, ensure_ascii=False)
        return text if len(text) <= _LINE else f"{text[:_LINE]}…"
    measures = figures.get("measures") or [{"name": "accuracy", "value": figures.get("accuracy")}]
    said = (f"{each['name']} {each['value']:.3f}" for each in measures if each.get("value") is not None)
    return ", ".join([f"{figures.get('rows', 0):,} rows", *said])


@app.command()
def log(name: str = typer.Argument(help="The prompt's name."), as_json: bool = _JSON) -> None:
    """List the versions of a name, newest first.

    Example: softprompt prompts log sentiment
    """
    found = _store().log(name)
    if as_json:
        _json([asdict(version) for version in found])
        return
    rows = ([str(v), f"sha256:{v.digest[:12]}", _day(v.saved), ", ".join(v.tags)] for v in found)
    _table(["version", "digest", "saved", "tags"], rows)


@app.command()
def tag(
    reference: str = typer.Argument(help="A name or name@v3: what the tag is to stand on."),
    label: str = typer.Argument(metavar="TAG", help="For instance prod; it moves if it stands elsewhere."),
) -> None:
    """Let a tag stand on a version.

    Example: softprompt prompts tag sentiment@v3 prod
    """
    version = _store().tag(reference, label)
    print(f"{version.name}@{label} is now {version}")


@app.command()
def untag(
    name: str = typer.Argument(help="The prompt's name."), label: str = typer.Argument(metavar="TAG", help="The tag.")
) -> None:
    """Take a tag away; the version it stood on stays.

    Example: softprompt prompts untag sentiment prod
    """
    _store().untag(name, label)
    print(f"{name} has no tag {label} any more")


@app.command()
def diff(
    a: str = typer.Argument(help=_REFERENCE), b: str = typer.Argument(help=_REFERENCE), as_json: bool = _JSON
) -> None:
    """Say what differs between two prompts: settings, provenance, and each virtual token.

    Example: softprompt prompts diff sentiment@v1 sentiment@v2
    """
    found = _store().diff(a, b)
    _json(found.to_json()) if as_json else _print_difference(found)


@app.command()
def verify(as_json: bool = _JSON) -> None:
    """Read every file of the store and say what is wrong; exit code 1 if anything is.

    Example: softprompt prompts verify
    """
    found = _store().verify()
    if as_json:
        _json(asdict(found))
    else:
        print("\n".join(found.problems) or f"all is well: {found.prompts} files, {found.versions} versions")
    if found.problems:
        raise typer.Exit(1)


@app.command()
def gc(
    older_than: float = typer.Option(3600.0, help="Seconds for which a file that nothing refers to is left alone."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would go."),
    as_json: bool = _JSON,
) -> None:
    """Take away files that no version refers to, and what killed writers left behind.

    Example: softprompt prompts gc --dry-run
    """
    found = _store().gc(older_than, dry_run=dry_run)
    if as_json:
        _json(asdict(found))
        return
    verb = "would remove" if dry_run else "removed"
    print(f"{verb} {len(found.objects)} prompts and {found.parts} unfinished files, {found.size / 1024:.1f} KB")


@app.command()
def remove(target: str = typer.Argument(help="name@v3, or a name with all of its versions and tags.")) -> None:
    """Remove a version, or a name; the files go with the next `gc`.

    Example: softprompt prompts remove sentiment@v1
    """
    for version in _store().remove(target):
        print(f"removed {version}; until the next gc it is still sha256:{version.digest[:12]}")


@app.command()
def reindex() -> None:
    """Make the store's index again; it may be deleted at any time.

    Example: softprompt prompts reindex
    """
    print(f"the index holds {_store().rebuild_index()} names")


@app.command("import")
def import_(
    path: Path = typer.Argument(
        help="A prompt file; a folder that PEFT wrote; Google's .npy; TGIS's .pt or its folder; KoboldAI's zip."
    ),
    name: str = typer.Argument(help="The name to put it under."),
    format: str | None = typer.Option(
        None, "--format", help="softprompt, peft, google, tgis or kobold. Default: told from the file."
    ),
    backbone: str | None = typer.Option(None, help="For other tools' prompts: the backbone that it was trained on."),
    text: list[str] | None = typer.Option(None, help="For other tools' prompts: text columns of a row. Default: text."),
    template: str | None = typer.Option(None, help="For other tools' prompts: the pattern of a row."),
    label: list[str] | None = typer.Option(
        None, help="For other tools' prompts: a label, as name or name=words; repeat."
    ),
    max_new_tokens: int | None = typer.Option(
        None, help="For other tools' prompts that answer with text: tokens of an answer at most."
    ),
) -> None:
    """Put a prompt file, or a prompt that another tool trained, into the store.

    Example: softprompt prompts import sentiment.safetensors sentiment
    """
    from softprompt.cli.importing import Foreign, take

    given = Foreign(backbone, text or [], template, label or [], max_new_tokens)
    prompt = take(path, format, given)
    version = _store().put(prompt, name)
    print(f"{version} is sha256:{version.digest[:12]}, {prompt.length} virtual tokens")


@app.command()
def export(
    reference: str = typer.Argument(help=_REFERENCE),
    path: Path = typer.Argument(help="The file to write, or the folder with --peft or --for."),
    peft: bool = typer.Option(False, "--peft", help="Write a folder that PEFT reads."),
    engine: str | None = typer.Option(
        None, "--for", help="Write a folder for another engine, vllm or sglang, or for lm-eval."
    ),
    backbone: str | None = typer.Option(None, help="With --peft or --for: the backbone that it was trained on."),
    field: list[str] | None = typer.Option(
        None, help="With --for: a column of the row in the request, as name=text; repeat. Default: an example."
    ),
    data: str | None = typer.Option(
        None, help="With --for lm-eval: labelled rows to be judged by, of which the test split is taken."
    ),
    label: str | None = typer.Option(None, help="With --data: the label column. Default: guessed."),
) -> None:
    """Write a prompt as a file of its own, as a PEFT folder, or as a folder for vLLM, SGLang or lm-eval.

    Example: softprompt prompts export sentiment@prod sentiment.safetensors
    """
    from softprompt.cli.exporting import LM_EVAL, Judging, to_engine, to_lm_eval, to_peft
    from softprompt.errors import ConfigError

    if peft and engine:
        raise ConfigError(f"`--peft` and `--for {engine}` write different folders; choose one")
    if data is not None and engine != LM_EVAL:
        raise ConfigError(f"`--data {data}` is for `--for {LM_EVAL}`; leave it out, or ask for that")
    prompt = _store().get(reference)
    if peft:
        to_peft(prompt, backbone, path)
    elif engine == LM_EVAL:
        to_lm_eval(prompt, backbone, path, Judging(reference, data, label))
    elif engine:
        to_engine(prompt, backbone, path, engine, field or [])
    else:
        prompt.save(path)
    print(f"wrote {path}")


def _store() -> PromptStore:
    from softprompt.store.store import PromptStore

    return PromptStore()


def _json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _line(each: Listing) -> list[str]:
    summary = each.summary
    if each.problem:
        return [each.name, f"v{each.version}", "", "", each.problem]
    tags = ", ".join(f"{tag} (v{number})" for tag, number in each.tags.items())
    size = f"{summary['bytes'] / 1024:.1f}"
    told = [summary["task"] or "", summary["backbone"] or "", _day(each.saved), tags]
    return [each.name, f"v{each.version}", str(summary["virtual_tokens"]), size, *told]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(len(head))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip())


def _told(prompt: SoftPrompt, store: PromptStore) -> dict[str, Any]:
    sites = {site: [str(tensor.dtype).removeprefix("torch."), *tensor.shape] for site, tensor in prompt.tensors.items()}
    own = {"digest": prompt.digest, "bytes": len(prompt.to_bytes()), "tensors": sites}
    return {**own, **prompt.to_json(), "evaluations": store.evaluations(prompt.digest)}


def _print_difference(found: Difference) -> None:
    if found.same:
        print(f"{found.a} and {found.b} are the same file")
        return
    for path, (left, right) in {**found.fields, **found.shapes}.items():
        print(f"{path}: {json.dumps(left, ensure_ascii=False)} -> {json.dumps(right, ensure_ascii=False)}")
    for each in found.tokens:
        cosine = "none" if each.cosine is None else f"{each.cosine:+.4f}"
        print(f"{each.site}[{each.token}]: distance {each.distance:.4f}, cosine {cosine}")
