"""Reading a folder that `save_pretrained` wrote: config, safetensors weights, tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from softprompt.backbones.attention import choose_attention
from softprompt.backbones.digests import remembered
from softprompt.backbones.families import family_of
from softprompt.backbones.fingerprint import weights_digest
from softprompt.backbones.quiet import quiet_transformers
from softprompt.errors import BackboneError, UnsupportedBackboneError

# One version of the weights digest; a change of its rule must not meet digests of the old one in the cache.
_WEIGHTS_RULE = "weights/1"


@dataclass(frozen=True)
class Parts:
    """What a folder holds: a transformers model, its tokenizer, and the files of its weights."""

    model: Any
    tokenizer: Any
    files: tuple[Path, ...]

    def weights(self) -> str:
        """Return the digest of the weights, remembered while the files do not change."""
        return remembered(_WEIGHTS_RULE, self.files, lambda: weights_digest(self.model))


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


def read_folder(folder: Path, name: str, *, device: torch.device, dtype: torch.dtype, attention: str | None) -> Parts:
    """Load the model and the tokenizer of a folder.

    Args:
        folder: written by `save_pretrained`.
        name: what the user asked for, for the messages.
        device: where the weights go.
        dtype: the compute dtype.
        attention: `grouped`, `sdpa` or `eager`; None: the fastest for the family and the device.

    Raises:
        BackboneError: a file is missing or damaged.
        ConfigError: an attention implementation that the family does not have.
        UnsupportedBackboneError: the family is not served.
    """
    family = family_of(read_config(folder, name), name)
    implementation = choose_attention(family, attention, device.type)
    files = tuple(sorted(folder.glob("*.safetensors")))
    if not files:
        raise BackboneError(f"`{name}` holds no .safetensors weights; convert them (softprompt reads no pickled files)")
    with quiet_transformers():
        model = _model(folder, name, dtype, implementation)
        return Parts(model.to(device), _tokenizer(folder, name), files)


def _model(folder: Path, name: str, dtype: torch.dtype, attention: str) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except SafetensorError as error:
        raise BackboneError(f"the weights of `{name}` are damaged ({error}); take a fresh copy") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BackboneError(
            f"the model of `{name}` cannot be read ({_first_line(error)}); take a fresh copy"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise BackboneError(
            f"the weights of `{name}` lack {len(missing)} tensors (`{missing[0]}` …); take a fresh copy"
        )
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
