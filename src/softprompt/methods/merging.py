"""Adapters that can be merged into the weights beside which they stand: how a single task is served by them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone

NOTE = (
    "alone and in batches of one task its adapters are merged into the weights, as PEFT does it; where tasks are mixed "
    "they stand beside them"
)


@contextmanager
def merged(backbone: Backbone) -> Iterator[bool]:
    """Merge PEFT's adapters (LoRA, (IA)³) into the weights, and put the weights back at the end, to the last bit.

    PEFT's own `unmerge` subtracts or divides, which leaves rounding behind: here they are put back from a copy in main
    memory. Quantised weights are not merged.

    Args:
        backbone: with its adapters in place, if it has some.

    Yields:
        Whether there was anything to merge.
    """
    layers = [module for module in backbone.model.modules() if _mergeable(module)]
    kept = [{name: p.detach().to("cpu", copy=True) for name, p in _own(layer)} for layer in layers]
    try:
        for layer in layers:
            layer.merge()
        yield bool(layers)
    finally:
        for layer, before in zip(layers, kept, strict=True):
            layer.merged_adapters.clear()
            for name, parameter in _own(layer):
                parameter.data.copy_(before[name])


def _mergeable(module: Any) -> bool:
    if not all(hasattr(module, name) for name in ("base_layer", "merge", "merged_adapters")):
        return False
    return bool(module.base_layer.weight.is_floating_point())


def _own(layer: Any) -> Iterator[tuple[str, Any]]:
    found: Iterator[tuple[str, Any]] = layer.base_layer.named_parameters(recurse=False)
    return found
