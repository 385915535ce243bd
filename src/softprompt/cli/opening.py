"""Opening what a user names on the command line: prompts by reference or path, and the backbone they stand on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from softprompt.errors import ConfigError, IncompatiblePromptError, UnknownNameError
from softprompt.progress import say

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.prompts.soft_prompt import SoftPrompt

DEFAULT_BACKBONE = "gemma-3-270m"
SUFFIX = ".safetensors"

PROMPT = "A prompt of the store (name, name@v3, name@tag, sha256:…), or a prompt file."
AS_JSON = typer.Option(False, "--json", help="Print JSON.")
DEVICE = typer.Option(None, help="Where it runs: cpu, cuda or cuda:N. Default: the GPU if there is one.")
DTYPE = typer.Option(
    None, help="What it computes in: bf16, fp32 or, on a GPU, fp16. Default: bf16 where the hardware has it."
)
OTHER_WEIGHTS = typer.Option(
    False, "--allow-other-weights", help="Accept a prompt trained on other weights of the same architecture."
)
BACKBONE = typer.Option(
    None, help=f"A packaged name, hub id, folder or .gguf file. Default: the prompt's own, else {DEFAULT_BACKBONE}."
)


class Opened(NamedTuple):
    """A prompt as the user named it.

    Attributes:
        name: what to call it: the reference, or the file's name without its suffix.
        prompt: the prompt.
        stored: whether it came out of the store.
    """

    name: str
    prompt: SoftPrompt
    stored: bool


def open_prompt(reference: str) -> Opened:
    """Return the prompt that a reference of the store or a path means.

    Raises:
        UnknownNameError: the store has no such prompt, and no file is called so.
        PromptFileError: the file cannot be used as a prompt.
        StorageError: it may not be read, or the store is damaged.
    """
    from softprompt.prompts.soft_prompt import SoftPrompt
    from softprompt.store.store import PromptStore

    path = Path(reference).expanduser()
    if reference.endswith(SUFFIX) or "/" in reference or os.sep in reference:
        return Opened(path.name.removesuffix(SUFFIX), SoftPrompt.load(path), False)
    try:
        return Opened(reference, PromptStore().get(reference), True)
    except UnknownNameError:
        if not path.is_file():
            raise
        return Opened(path.name, SoftPrompt.load(path), False)


def open_prompts(names: str) -> list[Opened]:
    """Return the prompts of a list such as `sentiment,spam`.

    Raises:
        ConfigError: no name, or two prompts that would be called the same.
        UnknownNameError, PromptFileError, StorageError: as for `open_prompt`.
    """
    each = [names] if Path(names).is_file() else [name.strip() for name in names.split(",") if name.strip()]
    if not each:
        raise ConfigError(f"`{names}` names no prompt; give one, or several with commas: sentiment,spam")
    found = [open_prompt(reference) for reference in each]
    called = [opened.name for opened in found]
    twice = next((name for name in called if called.count(name) > 1), None)
    if twice:
        raise ConfigError(f"two of the prompts `{names}` are called `{twice}`; name each once")
    return found


def open_backbone(
    asked: str | None, opened: Sequence[Opened], device: str | None, dtype: str | None, *, allow_other_weights: bool
) -> Backbone:
    """Load the backbone that was asked for, else the one the prompts say, and check that all of them belong to it.

    Raises:
        ConfigError: none was asked for, and the prompt's own can be loaded by its path only.
        IncompatiblePromptError: a prompt of another backbone.
        BackboneError, MissingExtraError, UnknownNameError: the backbone cannot be loaded.
    """
    from softprompt.backbones.backbone import load_backbone
    from softprompt.modeling.bound import FEATURES

    backbone = load_backbone(asked or _own_backbone(opened), device=device, dtype=dtype)
    for each in opened:
        try:
            news = each.prompt.check(backbone.fingerprint, allow_other_weights, name=backbone.name, features=FEATURES)
        except IncompatiblePromptError as error:
            raise IncompatiblePromptError(f"`{each.name}`: {error}") from error
        if news:
            say(f"warning: `{each.name}`: {news}")
    return backbone


def _own_backbone(opened: Sequence[Opened]) -> str:
    """The backbone that the first prompt was trained on, if it can be loaded by its name."""
    from softprompt.backbones.hub import is_hub_id
    from softprompt.backbones.packaged import PACKAGED

    first = opened[0]
    recorded = first.prompt.provenance.get("backbone")
    name = recorded.get("name") if isinstance(recorded, dict) else recorded
    if not isinstance(name, str):
        return DEFAULT_BACKBONE
    if name in PACKAGED or is_hub_id(name):
        return name
    raise ConfigError(
        f"`{first.name}` was trained on `{name}`, which can be loaded by its path only; give that with --backbone"
    )


def check_output(path: Path) -> None:
    """Refuse, before the work begins, a file that could not be written at its end.

    Raises:
        ConfigError: it is a folder, or its folder may not be written.
    """
    if path.is_dir():
        raise ConfigError(f"`{path}` is a folder; name the file to write in it")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"`{path}` cannot be written: no permission for `{folder}`; name another place")
