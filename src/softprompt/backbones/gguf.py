"""GGUF files: dequantised once into the cache as bf16 safetensors, checked by hash, and read from there ever after."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from softprompt import durable
from softprompt.backbones.digests import file_digest, hashed
from softprompt.backbones.families import family_of
from softprompt.backbones.gguf_header import check_config, check_header, read_header
from softprompt.backbones.quiet import quiet_transformers, unheard_bars
from softprompt.errors import BackboneError, MissingExtraError, StorageError
from softprompt.home import cache_dir
from softprompt.progress import meter, say

MANIFEST = "softprompt-manifest.json"
# What a folder in the cache was made by; a change of the recipe makes a new rule, and old folders are made again.
_RULE = "gguf to bf16 safetensors/1"


@dataclass(frozen=True)
class GgufSource:
    """A GGUF file, on the disk or still to be put there.

    Args:
        name: what the user asked for.
        sha256: of the file's bytes, in hex.
        provide: returns the path of the file: where it lies already, or made in the folder that it is given, which is
            removed afterwards.
    """

    name: str
    sha256: str
    provide: Callable[[Path], Path]


def from_file(path: Path, name: str) -> GgufSource:
    """Return the source that a `.gguf` file on the disk is.

    Raises:
        BackboneError: the file cannot be read.
    """
    try:
        return GgufSource(name, file_digest(path), lambda folder: path)
    except OSError as error:
        raise BackboneError(
            f"`{name}` cannot be read ({error.strerror}); check the path and the permissions"
        ) from error


def converted(source: GgufSource) -> Path:
    """Return the folder of safetensors that a GGUF file was dequantised into, making it if need be.

    The folder appears whole or not at all. Of several processes that need it at once one makes it and the others wait.

    Args:
        source: the file.

    Raises:
        BackboneError: the file is no GGUF, or a damaged one.
        MissingExtraError: the `gguf` package is not installed.
        StorageError: the cache cannot be written.
        UnsupportedBackboneError: a family that is not served, or settings that transformers drops.
    """
    folder = cache_dir() / "backbones" / source.sha256[:16]
    if damage(folder, source.sha256) is None:
        return folder
    with _writing(folder), _locked(folder, source.name):
        found = damage(folder, source.sha256)
        if found is not None:
            _make_again(source, folder, found)
    return folder


def damage(folder: Path, sha256: str) -> str | None:
    """Say what is wrong with a converted folder, or None: every file of its manifest has the bytes it had."""
    if not folder.exists():
        return "absent"
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        if (manifest["rule"], manifest["source"]) != (_RULE, sha256):
            return "its manifest is of another conversion"
        return next(
            (f"{name} has changed" for name, sha in manifest["files"].items() if file_digest(folder / name) != sha),
            None,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be read ({type(error).__name__})"


def _make_again(source: GgufSource, folder: Path, found: str) -> None:
    if found != "absent":
        say(f"the converted copy of {source.name} is damaged ({found}); making it again")
    if find_spec("gguf") is None:
        raise MissingExtraError(
            f'`{source.name}` is a GGUF file, which needs a package: pip install "softprompt[gguf]"'
        )
    for left in folder.parent.glob(f".{folder.name}.*.part"):  # of a process that was killed: we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    say(f"converting {source.name} to bf16, once; later loads take seconds")
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        _convert(source, temporary)
        os.replace(temporary / "made", folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _convert(source: GgufSource, temporary: Path) -> None:
    """Write `temporary/made`: weights, configuration, tokenizer and the manifest of their hashes."""
    made = temporary / "made"
    with meter(f"converting {source.name}", total=4) as progress, quiet_transformers():
        path = source.provide(temporary)
        progress.advance(note="header")
        header = read_header(path, source.name)
        check_header(header, source.name)
        with _parsed_once():
            tokenizer = _read(path, source.name, tokenizer=True)
            progress.advance(note="tokenizer")
            model = _read(path, source.name, tokenizer=False)
        check_config(header, model.config, source.name)
        progress.advance(note="weights")
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        _write_manifest(made, source.sha256)
        progress.advance(note="written")


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Let the three readings (tokenizer, configuration, weights) share one parse of the file, of six seconds each."""
    import gguf

    reader = gguf.GGUFReader
    gguf.GGUFReader = cache(reader)
    try:
        yield
    finally:
        gguf.GGUFReader = reader


def _read(path: Path, name: str, *, tokenizer: bool) -> Any:
    try:
        return _read_tokenizer(path) if tokenizer else _read_model(path, name)
    except (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, AttributeError) as error:
        part = "tokenizer" if tokenizer else "weights"
        raise BackboneError(f"the {part} of `{name}` cannot be read ({error}); take a fresh copy") from error


def _read_tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)


def _read_model(path: Path, name: str) -> Any:
    """Dequantise to fp32, and only then round: a norm is stored as w+1, and must lose the 1 before its digits."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    family_of({**config.to_dict(), "quantization_config": None}, name)
    with unheard_bars():
        model, info = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
    if info["missing_keys"]:
        raise KeyError(f"no tensor for {sorted(info['missing_keys'])[0]}")
    return _as_plain(model.bfloat16())


def _as_plain(model: Any) -> Any:
    """Take off the marks of a quantised model, which it no longer is: `save_pretrained` would refuse it."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized, model.hf_quantizer, model.config.dtype = False, None, "bfloat16"
    return model


def _write_manifest(folder: Path, sha256: str) -> None:
    files = {path.name: hashed(path) for path in sorted(folder.iterdir())}
    text = json.dumps({"rule": _RULE, "source": sha256, "files": files}, indent=1, sort_keys=True)
    durable.write_text(folder / MANIFEST, text)


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock of one converted folder; the system drops it if this process is killed."""
    from filelock import FileLock, Timeout

    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f"{folder.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is converting {name}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say in our words that the cache cannot be written."""
    from safetensors import SafetensorError

    try:
        yield
    except (BackboneError, MissingExtraError, StorageError):
        raise
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"the converted backbone cannot be written to `{folder}` ({error}); nothing was left half-written: "
            "make room, or set SOFTPROMPT_HOME to another disk"
        ) from error
