"""Activation checkpointing that keeps the cache: layers are run again in the backward pass instead of remembered.

Chen et al. 2016, arXiv 1604.06174. transformers has the seam, `GradientCheckpointingLayer`, and two conditions on it
that would not do here: it takes effect in training mode, where dropout is on, and it takes the cache away, since a
layer that runs twice would write twice. So only the switches of the layers themselves are turned; while a layer runs
it and all its parts are in `eval()`; and the caches of `backbones/caches.py` are written once. Gradients, those that
go through a prefix's keys and values included, are bit for bit what they are without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.utils.checkpoint import checkpoint

from softprompt.errors import UnsupportedBackboneError

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone


@contextmanager
def checkpointed(backbone: Backbone) -> Iterator[None]:
    """Forget what happens inside the layers of every pass in the block, and run them again when gradients are asked.

    A pass then holds one hidden state a layer and token instead of all that is computed there, and costs about a
    third more time. Forward and backward pass both belong in the block.

    Args:
        backbone: any; of an encoder-decoder both stacks, its decoder without keys and values from outside.

    Raises:
        UnsupportedBackboneError: the layers of its family have no such switch in transformers.
    """
    layers = _layers(backbone)
    for layer in layers:
        layer.gradient_checkpointing = layer.training = layer._can_checkpoint_with_cache = True
        layer._gradient_checkpointing_func = _run_again
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = layer._can_checkpoint_with_cache = False


def _layers(backbone: Backbone) -> list[Any]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [module for module in backbone.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UnsupportedBackboneError(
            f"the layers of `{backbone.name}` ({backbone.family.title}) cannot be run again in the backward pass: "
            "leave checkpoint_layers alone, and set tokens_at_once lower if memory is short"
        )
    return layers


def _run_again(run: partial[Any], *arguments: Any) -> Any:
    """Run a layer through torch's checkpoint; `run` is its plain forward, the layer itself being its first argument."""
    layer = run.args[0]

    def in_eval(*given: Any) -> Any:
        layer.training = False  # it was on for transformers' condition only: some layers drop out by it themselves
        try:
            return run(*given)
        finally:
            layer.training = True

    return checkpoint(in_eval, *arguments, use_reentrant=False, preserve_rng_state=False)
