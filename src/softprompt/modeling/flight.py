"""Rows that are being written, of any prompts: they join and leave between any two tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from softprompt.backbones.backbone import Backbone, Growing, KeyValues
from softprompt.modeling.encoded import Source, decode
from softprompt.modeling.forward import Pass, run_laid_out
from softprompt.modeling.layout import Layout
from softprompt.modeling.sampling import choose
from softprompt.modeling.slots import Slots
from softprompt.modeling.writing import Likeliest, Writing
from softprompt.shapes import Float


class Flight:
    """Rows in flight: each step gives every one of them its next token, in one pass of the backbone.

    Their keys and values stand in one cache, `[left pad][prefix][row][answer]`, in which all rows end together, so that
    the next token of each stands right behind its last. A row is copied into it once, after the pass that read it, and
    what it gets from then on is written in place. Rows on either side of the backbone's `position_switch` are kept and
    run apart. A row's answer depends on nothing that flies with it. One thread at a time.

    Args:
        backbone: the frozen transformer.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._sides = [_Side(backbone, far) for far in (False, True)]

    def __len__(self) -> int:
        """Return how many rows are in flight."""
        return sum(len(side.writings) for side in self._sides)

    @property
    def tokens(self) -> int:
        """Slots of the cache that the rows take, padding counted."""
        return sum(side.tokens for side in self._sides)

    @torch.inference_mode()
    def join(
        self, done: Pass, last: Float[Tensor, "B D"], writings: Sequence[Writing | None], *, far: bool = False
    ) -> None:
        """Take in rows of a pass (`PromptedModel.begin` does).

        Args:
            done: the pass, its keys and values kept.
            last: the state that each row is read by.
            writings: what is written behind each row; a row without is left.
            far: the rows lie beyond the backbone's `position_switch`.
        """
        self._sides[far].join(done, last, writings)

    @torch.inference_mode()
    def step(self) -> list[Writing]:
        """Give every row its next token and let those go that have ended.

        Returns:
            All that have got a token; `Writing.ended` tells which have left.
        """
        return [writing for side in self._sides for writing in side.step()]

    @torch.inference_mode()
    def leave(self, writing: Writing) -> None:
        """Let a row go that has not ended; one that is not in flight has gone already."""
        for side in self._sides:
            if writing in side.writings:
                side.drop(side.writings.index(writing))


class _Side:
    """The rows on one side of the backbone's `position_switch`.

    Attributes:
        writings: of each row; their order is that of the cache.
    """

    def __init__(self, backbone: Backbone, far: bool) -> None:
        self.writings: list[Writing] = []
        self._backbone, self._far = backbone, far
        self._own, self._source = Slots(), Slots(grows=False)
        self._last: list[Tensor] = []  # the state of each row that its next token is read from, [D]

    @property
    def tokens(self) -> int:
        return len(self.writings) * (self._own.width + self._source.width)

    def join(self, done: Pass, last: Float[Tensor, "B D"], writings: Sequence[Writing | None]) -> None:
        assert done.past is not None, "the pass kept its keys and values"
        joining = [(row, writing) for row, writing in enumerate(writings) if writing is not None]
        if not joining:
            return
        firsts, lengths = done.mask.argmax(1).tolist(), done.mask.sum(1).tolist()
        self._own.add(_flat(done.past), [(row, firsts[row], lengths[row]) for row, _ in joining])
        if done.source is not None:
            read = done.source.mask.sum(1).tolist()
            self._source.add(_columns_of(done.source), [(row, 0, read[row]) for row, _ in joining])
        self._last += [last[row] for row, _ in joining]
        self.writings += [writing for _, writing in joining]

    def drop(self, row: int) -> None:
        self._own.drop(row)
        if self._source.lengths:
            self._source.drop(row)
        self._last[row], self.writings[row] = self._last[-1], self.writings[-1]
        self._last.pop()
        self.writings.pop()

    def step(self) -> list[Writing]:
        if not self.writings:
            return []
        drawing = [
            (each, len(each.tokens), each.stream.get_state()) for each in self.writings if not each.sampling.greedy
        ]
        try:
            logits = self._backbone.logits(torch.stack(self._last))
            tokens = _next(logits, self.writings)
            for writing, (token, log_probability, likeliest) in zip(self.writings, tokens, strict=True):
                writing.take(token, log_probability, likeliest)
        except BaseException:
            for writing, count, state in drawing:
                if len(writing.tokens) == count:  # what it drew is no token: the next is drawn from the same numbers
                    writing.stream.set_state(state)
            raise
        got = [*self.writings]
        for row in reversed(range(len(got))):
            if got[row].ended is not None:
                self.drop(row)
        if self.writings:
            self._run()
        return got

    def _run(self) -> None:
        """Run the newest token of every row."""
        device = self._backbone.device
        ids = torch.tensor([[writing.tokens[-1]] for writing in self.writings], device=device)
        self._own.reserve(2 if self._far else 1)  # the far side's passes have one column more
        past = Growing(_pairs(self._own.rows), self._own.start, self._own.end)
        mask = self._own.mask(device)
        if self._source.lengths:
            states, *cross = self._source.columns
            source = Source(states[:, 0], self._source.mask(device), _pairs(cross))
            hidden, _, _ = decode(self._backbone, ids, source, past, mask, keep=False)
        else:
            layout = Layout(torch.cat([mask, torch.ones_like(ids)], dim=1), mask.sum(1, keepdim=True))
            embedded = self._backbone.embed(ids)
            hidden, _ = run_laid_out(self._backbone, embedded, layout, past, keep=False, far=self._far)
        self._own.advance()
        self._last = list(hidden[:, 0])


def _next(logits: Float[Tensor, "M V"], writings: Sequence[Writing]) -> list[tuple[int, float, Likeliest]]:
    """Choose each row's next token, and say how likely it and the likeliest ones are before anything is filtered."""
    chosen = choose(
        logits,
        [writing.sampling for writing in writings],
        [writing.seen for writing in writings],
        [writing.stream for writing in writings],
    )
    total = _total(logits)
    terms = (logits.gather(1, chosen[:, None])[:, 0] - total).tolist()
    likeliest = _likeliest(logits, total, [writing.asked for writing in writings])
    return list(zip(chosen.tolist(), terms, likeliest, strict=True))


def _total(logits: Float[Tensor, "M V"]) -> Float[Tensor, " M"]:
    """The logarithm of each row's sum; on a CPU a row at a time, which its cache holds: a third of the time."""
    if logits.device.type != "cpu":
        return logits.logsumexp(dim=-1)
    return torch.stack([row.logsumexp(dim=-1) for row in logits])


def _likeliest(logits: Float[Tensor, "M V"], total: Float[Tensor, " M"], asked: Sequence[int]) -> list[Likeliest]:
    """Of each row as many of the likeliest tokens as it asks for, with their log-probabilities."""
    if not any(asked):
        return [()] * len(asked)
    top = logits.topk(max(asked), dim=-1)
    values = (top.values - total[:, None]).tolist()
    return [
        tuple(zip(ids[:count], own[:count], strict=True))
        for ids, own, count in zip(top.indices.tolist(), values, asked, strict=True)
    ]


def _flat(past: KeyValues) -> list[Tensor]:
    return [tensor for pair in past for tensor in pair]


def _pairs(tensors: Sequence[Tensor]) -> KeyValues:
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def _columns_of(source: Source) -> list[Tensor]:
    """What the decoder reads a row from, as columns: the states, and their keys and values."""
    assert source.cross is not None, "the decoder has run"
    return [source.states[:, None], *_flat(source.cross)]
