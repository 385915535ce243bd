"""Quantised checkpoints: which can be trained through, and how those are loaded.

A prompt is trained by gradients that pass through every frozen layer. `bitsandbytes` (4 and 8 bits) computes them, and
block-wise `fp8` is turned back into bf16 while it is read. The other ways have kernels without a backward pass, or
one that rounds the gradient, and are refused by name.

Measured on a CPU: both. On a GPU: neither yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from softprompt.errors import MissingExtraError

if TYPE_CHECKING:
    import torch

TRAINABLE = ("bitsandbytes", "fp8")


def quantisation_of(config: Mapping[str, Any]) -> str | None:
    """Return transformers' name of how a checkpoint is quantised, or None.

    >>> quantisation_of({"quantization_config": {"quant_method": "gptq"}})
    'gptq'
    """
    settings = config.get("quantization_config")
    if not settings:
        return None
    method = str(settings.get("quant_method") or "unknown")
    either = settings.get("load_in_4bit") or settings.get("load_in_8bit")
    return "bitsandbytes" if either else method  # old files name no method


def quantisation_refusal(config: Mapping[str, Any]) -> str | None:
    """Say why a checkpoint's quantisation is not served, or None if it is, or is not quantised."""
    method = quantisation_of(config)
    if method is None or method in TRAINABLE:
        return None
    return (
        f"with weights quantised by `{method}`, through which gradients are not exact: take the original, a GGUF, "
        f"or one quantised by {' or '.join(f'`{name}`' for name in TRAINABLE)}"
    )


def loading_settings(config: Mapping[str, Any], name: str, device: torch.device) -> dict[str, Any]:
    """Return what `from_pretrained` must be told of a checkpoint's quantisation; nothing where it has none.

    Args:
        config: the parsed `config.json`, of a checkpoint that `quantisation_refusal` lets pass.
        name: what the user asked for, for the messages.
        device: where the weights go.

    Raises:
        MissingExtraError: the package of its quantisation is not installed.
    """
    method = quantisation_of(config)
    if method is None:
        return {}
    if method == "fp8":
        from transformers import FineGrainedFP8Config

        return {"quantization_config": FineGrainedFP8Config(dequantize=True)}
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError(
            f"the weights of `{name}` are quantised by `bitsandbytes`, which needs an extra: "
            'pip install "softprompt[quantised]"'
        )
    return {"device_map": {"": device}}
