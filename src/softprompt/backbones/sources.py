"""Finding a backbone: what a user typed, and the folder of safetensors that it stands for."""

from __future__ import annotations

from pathlib import Path

from softprompt.backbones.gguf import converted, from_file
from softprompt.backbones.hub import download, is_hub_id
from softprompt.backbones.packaged import PACKAGED, PackagedBackbone, packaged_folder, packaged_source
from softprompt.errors import BackboneError, ConfigError, UnknownNameError
from softprompt.registry import unknown_name


def locate(source: str | Path, revision: str | None = None) -> Path:
    """Return the folder of safetensors for a packaged name, a folder, a `.gguf` file or a hub id.

    Args:
        source: what the user typed; a folder or file that exists wins over a name of the same spelling.
        revision: of a hub id.

    Raises:
        BackboneError: there is no such file, or it cannot be used.
        ConfigError: a revision of something that has none.
        UnknownNameError: a name that is none of these; the message offers the nearest packaged one.
    """
    text, path = str(source), Path(source).expanduser()
    if revision is not None and (path.exists() or text in PACKAGED):
        raise ConfigError(f"revision `{revision}` was asked for, but `{text}` is no hub id: only those have revisions")
    if path.is_dir():
        return path
    if path.is_file():
        return _file(path, text)
    if text in PACKAGED:
        return _packaged_folder(PACKAGED[text])
    if _is_written_as_path(text):
        raise BackboneError(f"`{text}` does not exist; give a folder, a .gguf file, a hub id or one of {_packaged()}")
    if is_hub_id(text):
        return download(text, revision)
    unknown = unknown_name("backbone", text, PACKAGED)
    raise UnknownNameError(f"{unknown} A hub id is written `owner/name`; a folder or a .gguf file by its path")


def _packaged_folder(entry: PackagedBackbone) -> Path:
    return packaged_folder(entry) if entry.folder else converted(packaged_source(entry))


def _file(path: Path, text: str) -> Path:
    if path.suffix.lower() != ".gguf":
        raise BackboneError(f"`{text}` is a file, but no .gguf; give the folder it is in, or a .gguf file")
    return converted(from_file(path, text))


def _is_written_as_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or text.lower().endswith(".gguf") or "\\" in text or text.count("/") > 1


def _packaged() -> str:
    return ", ".join(f"`{name}`" for name in sorted(PACKAGED))
