"""Reading a folder that `save_pretrained` wrote: config, safetensors weights, tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from softprompt.backbones.attention import choose_attention
from softprompt.backbones.digests import file_digest, remembered
from softprompt.backbones.families import Family, family_of
from softprompt.backbones.fingerprint import canonical_digest, weights_digest
from softprompt.backbones.fusing import fuse
from softprompt.backbones.hardware import choose_dtype
from softprompt.backbones.heads import HEAD_TENSORS
from softprompt.backbones.quantised import loading_settings, quantisation_of
from softprompt.backbones.quiet import quiet_transformers
from softprompt.backbones.sharding import check_shardable, shard
from softprompt.errors import BackboneError, UnsupportedBackboneError

# One version of the weights digest; a change of its rule must not meet digests of the old one in the cache.
_WEIGHTS_RULE = "weights/1"
# What a checkpoint may lack, because it is taken off again.
_UNUSED = ("pooler.",)


@dataclass(frozen=True)
class Parts:
    """What a folder holds: a transformers model, its tokenizer, and how the digest of its weights is found."""

    model: Any
    tokenizer: Any
    weights: Callable[[], str]


@dataclass(frozen=True)
class _Folder:
    """A folder that can be loaded from: its path, what the user called it, its settings and its weight files."""

    path: Path
    name: str
    config: Mapping[str, Any]
    family: Family
    files: tuple[Path, ...]


def read_config(folder: Path, name: str) -> Mapping[str, Any]:
    """Read a folder's `config.json`.

    Args:
        folder: where it is.
        name: what the user asked for, for the messages.

    Raises:
        BackboneError: there is none, or it is not JSON.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise BackboneError(f"`{name}` holds no config.json, so it is no backbone{_instead(folder)}")
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise BackboneError(f"the config.json of `{name}` is not JSON ({error}); take a fresh copy") from error
    if not isinstance(config, dict):
        raise BackboneError(f"the config.json of `{name}` holds no settings; take a fresh copy")
    return config


def _instead(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return ": it is a PEFT adapter; load the model it was trained on, and import the adapter as a prompt"
    ggufs = sorted(path.name for path in folder.glob("*.gguf"))
    return (
        f"; did you mean the file `{folder / ggufs[0]}`?" if ggufs else ": give a folder that `save_pretrained` wrote"
    )


def read_folder(
    folder: Path,
    name: str,
    *,
    device: torch.device,
    dtype: str | None,
    attention: str | None,
    mesh: DeviceMesh | None = None,
) -> Parts:
    """Load the model and the tokenizer of a folder.

    Args:
        folder: written by `save_pretrained`.
        name: what the user asked for, for the messages.
        device: where the weights go.
        dtype: the compute dtype; None: what the device and the family compute best in.
        attention: `grouped`, `sdpa` or `eager`; None: the fastest for the family and the device.
        mesh: the processes that the layers' weights are laid over; None: this one holds all of them.

    Raises:
        BackboneError: a file is missing or damaged.
        ConfigError: a dtype or an attention implementation that cannot be.
        MissingExtraError: the package of its quantisation is not installed.
        UnknownNameError: a dtype of another name.
        UnsupportedBackboneError: the family is not served.
    """
    opened = _open(folder, name)
    if mesh is not None:
        check_shardable(opened.config, name)
    compute = choose_dtype(dtype, device, overflows=None if opened.family.fp16 else opened.family.title)
    implementation = choose_attention(opened.family, attention, device.type)
    with quiet_transformers():
        model = _model(opened, device, compute, implementation)
        if mesh is not None:
            digest = _weights(opened, model)  # while they are whole
            fuse(model)
            shard(model, device, mesh)
            return Parts(model, _tokenizer(folder, name), lambda: digest)
        if quantisation_of(opened.config) is None:  # packed weights are put where they belong while they are read
            model = model.to(device)
        return Parts(model, _tokenizer(folder, name), lambda: _weights(opened, model))


def _open(folder: Path, name: str) -> _Folder:
    config = read_config(folder, name)
    family = family_of(config, name)
    files = tuple(sorted(folder.glob("*.safetensors")))
    if not files:
        raise BackboneError(f"`{name}` holds no .safetensors weights; convert them (softprompt reads no pickled files)")
    return _Folder(folder, name, config, family, files)


def _weights(opened: _Folder, model: Any) -> str:
    """The digest of a folder's weights, remembered while its files do not change.

    Quantised weights are told by the bytes of their files: their scales are no parameters. fp16 drops digits that
    bf16 keeps, so the digest of a model in fp16 is made from a second reading of its files.
    """
    if quantisation_of(opened.config) is not None:
        return canonical_digest([file_digest(path) for path in opened.files])
    if next(model.parameters()).dtype != torch.float16:
        return remembered(_WEIGHTS_RULE, opened.files, lambda: weights_digest(model))

    def again() -> str:
        with quiet_transformers():
            return weights_digest(_model(opened, torch.device("cpu"), torch.bfloat16, "eager"))

    return remembered(_WEIGHTS_RULE, opened.files, again)


def _model(opened: _Folder, device: torch.device, dtype: torch.dtype, attention: str) -> Any:
    from safetensors import SafetensorError

    name = opened.name
    quantised = loading_settings(opened.config, name, device)
    try:
        model, info = _class_of(opened).from_pretrained(
            opened.path,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **quantised,
        )
    except SafetensorError as error:
        raise BackboneError(f"the weights of `{name}` are damaged ({error}); take a fresh copy") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BackboneError(
            f"the model of `{name}` cannot be read ({_first_line(error)}); take a fresh copy"
        ) from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(_UNUSED))
    if missing:
        raise BackboneError(
            f"the weights of `{name}` lack {len(missing)} tensors (`{missing[0]}` …); take a fresh copy"
        )
    return without_pooler(model)


def _class_of(opened: _Folder) -> Any:
    """The transformers class of a folder: with a head for words wherever its weights have one."""
    from safetensors import safe_open
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    if opened.family.kind == "decoder":
        return AutoModelForCausalLM
    if opened.family.kind == "encoder-decoder":
        return AutoModelForSeq2SeqLM
    wanted = HEAD_TENSORS[opened.family.model_type]
    for path in opened.files:
        with safe_open(path, "pt") as file:
            if wanted in file.keys():  # noqa: SIM118  (it is no mapping)
                return AutoModelForMaskedLM
    return AutoModel


def without_pooler(model: Any) -> Any:
    """Take off the layer that BERT's next-sentence objective put on top: nothing here reads it."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


def _tokenizer(folder: Path, name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare `Exception` for a damaged file
        raise BackboneError(
            f"the tokenizer of `{name}` cannot be read ({_first_line(error)}); take a fresh copy"
        ) from error
    if not tokenizer.is_fast:
        raise UnsupportedBackboneError(
            f"the tokenizer of `{name}` has no fast (tokenizers) form, which softprompt needs"
        )
    return tokenizer


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
