"""`softprompt keys`: who may call a server, which prompts each key may use, and how much."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import typer

from softprompt.cli.opening import AS_JSON
from softprompt.cli.output import print_json
from softprompt.progress import say
from softprompt.server.keyring import EVERYTHING, Key, add_key, default_path, read_keys, remove_key

app = typer.Typer(help="Who may call a server, which prompts, and how much.", no_args_is_help=True)

_FILE = typer.Option(None, "--keys", metavar="FILE", help="The file of keys. Default: keys.json under the home.")


@app.command()
def add(
    name: str = typer.Argument(help="What logs call whoever has the key."),
    prompts: list[str] | None = typer.Option(
        None, metavar="PATTERN", help="Prompts that it may use, as 'support-*'; repeat. Default: all."
    ),
    manage: bool = typer.Option(False, "--manage", help="It may upload, tag and delete those prompts."),
    watch: bool = typer.Option(False, "--watch", help="It may read /metrics; without --prompts, nothing else."),
    rate: float | None = typer.Option(None, help="Requests a minute, at most."),
    tokens: float | None = typer.Option(None, help="Tokens a minute, read and written, at most."),
    path: Path | None = _FILE,
) -> None:
    """Make a key and print it, once: the file keeps only its hash. A running server knows it at once.

    Example: softprompt keys add helpdesk --prompts 'support-*' --rate 60
    """
    file = _file(path)
    usable = tuple(prompts or (() if watch and not manage else EVERYTHING))
    key = add_key(
        file, name, prompts=usable, manage=manage, watch=watch, requests_per_minute=rate, tokens_per_minute=tokens
    )
    say(f"the key of `{name}`, which is shown this once; only its hash is kept, in {file}")
    print(key)


@app.command("list")
def list_(path: Path | None = _FILE, as_json: bool = AS_JSON) -> None:
    """List who may call; the keys themselves nobody can read again.

    Example: softprompt keys list
    """
    file = _file(path)
    keys = read_keys(file) if file.exists() else ()
    if as_json:
        print_json([{name: value for name, value in asdict(key).items() if name != "sha256"} for key in keys])
    elif keys:
        print("\n".join(map(_line, keys)))
    else:
        print(f"no keys in {file}; `softprompt keys add NAME` makes one")


@app.command()
def remove(name: str = typer.Argument(help="What the key is called."), path: Path | None = _FILE) -> None:
    """Take a key away; a running server refuses it at once.

    Example: softprompt keys remove helpdesk
    """
    file = _file(path)
    remove_key(file, name)
    left = len(read_keys(file))
    print(f"removed `{name}`; {left} keys are left" + ("" if left else f", so nobody may call; delete {file} to undo"))


def _file(path: Path | None) -> Path:
    return path.expanduser() if path else default_path()


def _line(key: Key) -> str:
    """One key as a line: its name, its prompts, its rights, its limits and its age."""
    limits = (("requests", key.requests_per_minute), ("tokens", key.tokens_per_minute))
    rights = (("manages", key.manage), ("watches", key.watch))
    told = [
        f"{key.name:<20}",
        ", ".join(key.prompts) or "no prompts",
        *(word for word, has in rights if has),
        *(f"{most:g} {what}/min" for what, most in limits if most is not None),
        f"made {time.strftime('%Y-%m-%d', time.localtime(key.made))}",
    ]
    return "  ".join(told)
