"""What a readout becomes on one backbone: how hidden states turn into log-probabilities of answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from softprompt.backbones.bidirectional import pool
from softprompt.shapes import Float
from softprompt.tasks.chat import ChatRow
from softprompt.tasks.tags import TaggedRow
from softprompt.tasks.task import Example
from softprompt.tasks.template import TokenRow

EncodedRow = TokenRow | TaggedRow | ChatRow
"""A row's own tokens, with what a reading needs to find in them."""

Gold = Any
"""The right answer of a row in a reading's own terms: a label's number, a share, the tokens of a text, tags."""

GoOn = Callable[[Sequence[tuple[int, ...]]], Tensor]
"""Goes on from M rows with each of Q token sequences: hidden states [Q, M, T, D] behind every row."""


class Place(NamedTuple):
    """Where a row stands in a pass.

    Attributes:
        row: the row's own tokens.
        start: the column of the first of them.
        read: the columns that the row is read at, where that is not its end: one, such as a mask's, or several whose
            states are averaged.
    """

    row: EncodedRow
    start: int
    read: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        """The column that the row is read at, and that answers follow: of its last own token, unless `read` tells."""
        return self.read[-1] if self.read else self.start + len(self.row.ids) - 1


class States(NamedTuple):
    """What a pass leaves for reading.

    Attributes:
        hidden: states of the columns, [M, T, D].
        places: where each of the M rows stands in them.
        go_on: runs more tokens behind every row.
    """

    hidden: Float[Tensor, "M T D"]
    places: Sequence[Place]
    go_on: GoOn

    @property
    def last(self) -> Float[Tensor, "M D"]:
        """The state that each row is read by."""
        return at_ends(self.hidden, self.places)


def at_ends(hidden: Float[Tensor, "M T D"], places: Sequence[Place]) -> Float[Tensor, "M D"]:
    """Return the state that each row is read by: at its end or its mask, or the mean of several, in fp32."""
    rows = torch.arange(len(places), device=hidden.device)
    if all(len(place.read) < 2 for place in places):
        return hidden[rows, torch.tensor([place.end for place in places], device=hidden.device)]
    columns = torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)
    for number, place in enumerate(places):
        columns[number, list(place.read or (place.end,))] = 1
    return pool(hidden, columns, "mean")


def read_again(reading: Reading, last: Float[Tensor, "N D"], dtype: torch.dtype) -> Float[Tensor, "N C"] | None:
    """Read other answers out of the states that rows were read by, without running a row again.

    Args:
        reading: of the same rows behind the same prompt, such as its words where learned rows were read.
        last: the states, as `PromptedModel.score_labels` returns them.
        dtype: of the backbone.

    Returns:
        The log-probabilities; `None` where the reading asks for more than those states: tokens behind a row.
    """
    if reading.depth:
        return None

    def go_on(paths: Sequence[tuple[int, ...]]) -> Tensor:
        raise AssertionError("a reading of depth 0 puts nothing behind a row")

    place = Place(TokenRow((0,), 0), 0)
    states = States(last[:, None].to(dtype), [place] * len(last), go_on)
    return torch.stack(list(reading.log_probabilities(states)))


@runtime_checkable
class Reading(Protocol):
    """Reads answers out of hidden states; the same in training and in use."""

    @property
    def depth(self) -> int:
        """Most tokens that reading ever puts behind a row."""
        ...

    @property
    def questions(self) -> int:
        """How many questions one row asks while it is learned; 1 unless each takes a pass of its own."""
        ...

    def gold(self, example: Example, question: int) -> Gold:
        """Return the right answer of a labelled row to one of its questions."""
        ...

    def units(self, gold: Gold) -> int:
        """Return how many choices an answer is made of, each of which counts the same in a loss."""
        ...

    def behind(self, gold: Gold) -> tuple[int, ...]:
        """Return the tokens that ride behind a row while its answer is learned."""
        ...

    def gold_log_probabilities(
        self, hidden: Float[Tensor, "B T D"], places: Sequence[Place], gold: Sequence[Gold]
    ) -> Float[Tensor, " B"]:
        """Return the log-probability of each row's right answer, its choices added up."""
        ...

    def log_probabilities(self, states: States) -> Sequence[Tensor]:
        """Return the log-probabilities of each row's answers, fp32: [C] a row, in tagging [words, C]."""
        ...

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Reading:
        """Return the same reading with other learned tensors, as at each step of training."""
        ...
