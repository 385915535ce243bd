"""Shared prefixes: the keys and values of everything before a template's first field."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import torch

from softprompt.backbones.backbone import Backbone, KeyValues
from softprompt.modeling.bound import BoundPrompt, Prefix
from softprompt.modeling.forward import Batch, Pass, run_rows

_HEADS, _WORDS = 16, 64
"""Heads of words that stay, and the tokens of each at most: `{bos}`, or a short instruction."""


class Prefixes:
    """Runs the shared prefixes of prompts over one backbone.

    Gradients reach virtual tokens through the keys and values of their slots; a prompt that is keys and values puts
    them there as they are, and only the words around them are run: a few in front of it, which no prompt changes, once
    for all. Where rows are not read from left to right there is nothing to run before them: a prefix is a prompt's
    keys and values alone.

    Args:
        backbone: the frozen transformer.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._before = lru_cache(_HEADS)(partial(_run_words, backbone))

    def run(self, bounds: Sequence[BoundPrompt], *, far: bool = False) -> list[Prefix]:
        """Run everything before the first field, once a prompt and all prompts together.

        Args:
            bounds: the prompts.
            far: rows lie beyond the backbone's `position_switch`.
        """
        heads = [self.head(bound, far) for bound in bounds]
        rests = [self.rest(bound) for bound in bounds]
        running = [i for i, rest in enumerate(rests) if rest]
        if running:
            some = [bounds[i] for i in running]
            batch = Batch(some, [heads[i] for i in running], range(len(some)), [rests[i] for i in running], far)
            done = run_rows(self._backbone, batch, keep=True)
            for row, i in enumerate(running):
                heads[i] = _of_row(done, row, heads[i].length + len(rests[i]))
        return heads

    def rest(self, bound: BoundPrompt) -> tuple[int, ...]:
        """Return the tokens of a prompt's prefix that are run behind its head."""
        if "shared-prefix" not in self._backbone.capabilities:
            return ()
        return bound.template.prefix if bound.layers is None else bound.split[1]

    def head(self, bound: BoundPrompt, far: bool) -> Prefix:
        """Return what stands in front of the tokens to run: nothing, or a prompt's own keys and values behind words."""
        own = self._own(bound)
        if own.past is None or "shared-prefix" not in self._backbone.capabilities or not bound.split[0]:
            return own
        words = bound.split[0]
        before = self._before(words, far) if len(words) <= _WORDS else _run_words(self._backbone, words, far)
        pairs = zip(before, own.past, strict=True)
        joined = [(torch.cat([k0, k], 2), torch.cat([v0, v], 2)) for (k0, v0), (k, v) in pairs]
        return Prefix(joined, len(words) + own.length)

    def carried(self, bound: BoundPrompt, done: Pass, row: int) -> Prefix | None:
        """Return the prefix that a row of a pass carried itself, in memory of its own.

        None where it has a value that is no number: the row may have overflowed, and its prompt did not.
        """
        found = _of_row(done, row, len(bound.template.prefix))
        assert found.past is not None, "a row carries tokens"
        if not all(bool(tensor.isfinite().all()) for tensor in found.past[-1]):
            return None
        return Prefix([(k.clone(), v.clone()) for k, v in found.past], found.length)

    def _own(self, bound: BoundPrompt) -> Prefix:
        """A prompt's keys and values by themselves; nothing where it is rows at the input."""
        if bound.layers is None:
            return Prefix(None, 0)
        dtype = self._backbone.dtype
        return Prefix([(k.to(dtype), v.to(dtype)) for k, v in bound.layers], bound.layers[0][0].shape[2])


def _run_words(backbone: Backbone, words: tuple[int, ...], far: bool) -> KeyValues:
    """Keys and values of words that nothing stands in front of, made so that training can use them too."""
    with torch.inference_mode(False), torch.no_grad():
        past = run_rows(backbone, Batch([], [Prefix(None, 0)], [0], [words], far), keep=True).past
    assert past is not None, "keep=True returns keys and values"
    return past


def _of_row(done: Pass, row: int, tokens: int) -> Prefix:
    """The keys and values of the first tokens of a row of a pass, what stands behind its prefix included."""
    assert done.past is not None, "the pass kept its keys and values"
    first = int(done.mask[row].argmax())
    slots = slice(first, first + tokens)
    past = [(k[row : row + 1, :, slots], v[row : row + 1, :, slots]) for k, v in done.past]
    assert past[0][0].shape[2] == tokens, "the backbone did not keep the whole prefix"
    return Prefix(past, tokens)
