"""Layers compiled by torch for long trainings: one graph for all layers of a kind, made once and kept for later runs.

Between its products a layer does little arithmetic on much memory; compiled, what stands between two products is done
in one go. torch would compile every layer by itself, as each knows its own number; here a layer is shown that part of
the cache that is its own, under one number for all, and so the first of its kind is compiled for the others too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from softprompt.backbones.attention import GROUPED
from softprompt.progress import say

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone

_FLOP = 1e13
"""Work of a thread from which on compiling is tried: about a minute of training on a core. It saves a quarter of that
each time, and takes half a minute the first time, a few seconds later."""
_GRAPHS = 64
"""Graphs that a process may hold: of the kinds of layers of all its backbones."""


def can_compile(backbone: Backbone) -> bool:
    """Say whether a backbone's layers can be compiled: on a CPU, with `grouped` attention, and whole."""
    return backbone.device.type == "cpu" and backbone.attention == GROUPED and not backbone.sharded


def is_worth_compiling(backbone: Backbone, tokens: int) -> bool:
    """Say whether a training is long enough to compile the layers for, where they can be.

    It goes by the work there is to do and not by a clock, so that the same run is computed in the same way every time.

    Args:
        backbone: the frozen transformer.
        tokens: that will run through it with gradients.
    """
    if not can_compile(backbone):
        return False
    weights: int = sum(parameter.numel() for layer in _layers(backbone.model) for parameter in layer.parameters())
    return bool(4 * weights * tokens >= _FLOP * torch.get_num_threads())  # forward, and back to what a layer was given


@contextmanager
def compiled(backbone: Backbone, warm_up: Callable[[], object]) -> Iterator[bool]:
    """Run the layers compiled, in the block, in every pass that gradients are wanted of and that keeps nothing.

    Where they cannot be compiled (there is no C++ compiler, say), a sentence says so, and they run as ever. What does
    not fit what was compiled while warming up runs as ever too, so that no number depends on what came before.

    Args:
        backbone: a decoder whose attention is `grouped`.
        warm_up: makes passes of all the kinds that the block will make.

    Yields:
        Whether the layers are compiled.
    """
    layers = _layers(backbone.model)
    try:
        if _compile(layers, warm_up):
            with torch.compiler.set_stance("eager_on_recompile"):
                yield True
        else:
            yield False
    finally:
        _as_they_were(layers)


def _compile(layers: list[Any], warm_up: Callable[[], object]) -> bool:
    """Compile the layers; lengths that happen to be equal while warming up are no reason to take them for one."""
    say("compiling the backbone's layers for a long training: half a minute, and a few seconds the next time")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's compiler uses what torch calls outdated
            fast = torch.compile(_run, dynamic=True)
            for number, layer in enumerate(layers):
                layer.forward = _Forward(layer, number, fast)
            with (
                torch.fx.experimental._config.patch(use_duck_shape=False),  # type: ignore[attr-defined]
                torch._dynamo.config.patch(recompile_limit=_GRAPHS),
            ):
                warm_up()
    except Exception as error:  # noqa: BLE001 - whatever a compiler says, training goes on without
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        say(f"warning: the layers could not be compiled, and run as they are: {reason}")
        _as_they_were(layers)
        return False
    return True


def _layers(model: Any) -> list[Any]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _as_they_were(layers: list[Any]) -> None:
    for layer in layers:
        layer.__dict__.pop("forward", None)


def _run(layer: Any, *arguments: Any, **settings: Any) -> Any:
    return type(layer).forward(layer, *arguments, **settings)


class _Forward:
    """What one layer does in the block.

    Args:
        layer: its forward pass is its class's.
        number: its place among the layers, and in the cache.
        fast: `_run`, compiled.
    """

    def __init__(self, layer: Any, number: int, fast: Callable[..., Any]) -> None:
        self._layer, self._number, self._fast = layer, number, fast
        self._numbered = [module for module in layer.modules() if hasattr(module, "layer_idx")]

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        own = None
        if _wants_gradients((*arguments, *settings.values())) and not self._layer.gradient_checkpointing:
            own = _with_own_part((arguments, settings), self._number)
        if own is None:
            return _run(self._layer, *arguments, **settings)
        for module in self._numbered:
            module.layer_idx = 0
        try:
            return self._fast(self._layer, *own[0], **own[1])
        finally:
            for module in self._numbered:
                module.layer_idx = self._number


def _wants_gradients(given: tuple[Any, ...]) -> bool:
    """Whether the states that a layer is given want gradients.

    Where all that is learned stands in a prefix, those of the first layer do not; a graph of its own is not worth it.
    """
    return torch.is_grad_enabled() and any(isinstance(each, torch.Tensor) and each.requires_grad for each in given)


def _with_own_part(
    given: tuple[tuple[Any, ...], dict[str, Any]], number: int
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Put a layer's own part of the cache in the cache's place; None where the cache is to be written to."""
    from transformers.cache_utils import Cache

    from softprompt.backbones.replay import ReplayLayer

    arguments, settings = given
    caches = [each for each in (*arguments, *settings.values()) if isinstance(each, Cache)]
    if not caches:
        return given
    cache = caches[0]  # of a pass that nothing stands before, it makes its layers as they are asked for
    part = cache.layers[number] if number < len(cache.layers) else cache.layer_class_to_replicate()
    if not isinstance(part, ReplayLayer) or (own := part.laid_out()) is None:
        return None

    def swapped(each: Any) -> Any:
        return own if isinstance(each, Cache) else each

    return tuple(map(swapped, arguments)), {name: swapped(each) for name, each in settings.items()}
