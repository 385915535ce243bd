"""Readings by rows, one a choice: log softmax(W h + b), or each row for itself.

The rows are learned (the method's optional light head), or, for tags without a learned head, the means of output rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from softprompt.modeling.readings import Gold, Place, States, at_ends
from softprompt.shapes import Float
from softprompt.tasks.tags import TaggedRow
from softprompt.tasks.task import Example

ToGold = Callable[[Example], Gold]
"""Gives the right answer of a labelled row."""


def as_they_are(states: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
    """Return states as they are: what a backbone without a head of its own gives to rows."""
    return states


@dataclass(frozen=True, eq=False)
class RowsReading:
    """One choice a row, by the state that it is read by: log softmax(W t(h) + b).

    t is what the backbone's own head does to a state before its output rows: nothing in most decoders. Whatever the
    answers' words are, one pass reads all of them. The right answer is a choice's number, or the share of the second
    of two choices (a number between two bounds).

    Attributes:
        weight: W, [C, D] in fp32.
        bias: b, [C] in fp32.
        to_gold: gives the right answer of a labelled row.
        learned: the rows are the prompt's own; else they stay as they are.
        before: t.
    """

    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]
    to_gold: ToGold
    learned: bool = True
    before: Callable[[Tensor], Tensor] = as_they_are
    depth: int = 0
    questions: int = 1

    def gold(self, example: Example, question: int) -> Gold:
        """Return the number of the right choice, or the share of the second of two."""
        return self.to_gold(example)

    def units(self, gold: Gold) -> int:
        """Return 1: one choice."""
        return 1

    def behind(self, gold: Gold) -> tuple[int, ...]:
        """Return nothing: the states of the row say it all."""
        return ()

    def gold_log_probabilities(
        self, hidden: Float[Tensor, "B T D"], places: Sequence[Place], gold: Sequence[Gold]
    ) -> Float[Tensor, " B"]:
        """Return the log-probability of each row's right answer; of a share, the mean over the two choices."""
        return expected(self._read(at_ends(hidden, places)), gold)

    def log_probabilities(self, states: States) -> Sequence[Tensor]:
        """Return the log-probabilities of all choices, [C] a row."""
        return list(self._read(states.last))

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> RowsReading:
        """Return a reading by the rows among `tensors`."""
        if not self.learned:
            return self
        return replace(self, weight=tensors["readout.weight"], bias=tensors["readout.bias"])

    def _scores(self, states: Float[Tensor, "M D"]) -> Float[Tensor, "M C"]:
        return self.before(states).float() @ self.weight.T + self.bias

    def _read(self, states: Float[Tensor, "M D"]) -> Float[Tensor, "M C"]:
        return torch.log_softmax(self._scores(states), dim=-1)


class SwitchesReading(RowsReading):
    """Several answers a row, each for itself: log sigmoid(W h + b); the right answer is a 0 or 1 for each."""

    def units(self, gold: Gold) -> int:
        """Return C: each label is a choice."""
        return len(gold)

    def gold_log_probabilities(
        self, hidden: Float[Tensor, "B T D"], places: Sequence[Place], gold: Sequence[Gold]
    ) -> Float[Tensor, " B"]:
        """Return the log-probability of each row's yeses and noes, added up."""
        signs = torch.tensor([*gold], device=hidden.device) * 2 - 1
        return logsigmoid(self._scores(at_ends(hidden, places)) * signs).sum(-1)

    def _read(self, states: Float[Tensor, "M D"]) -> Float[Tensor, "M C"]:
        """Log p(yes) of each label."""
        return logsigmoid(self._scores(states))


class TagsReading(RowsReading):
    """A choice for each word of a row, by the state at the word's last token; the right answer is a tag for each."""

    def units(self, gold: Gold) -> int:
        """Return the number of words."""
        return max(1, len(gold))

    def gold_log_probabilities(
        self, hidden: Float[Tensor, "B T D"], places: Sequence[Place], gold: Sequence[Gold]
    ) -> Float[Tensor, " B"]:
        """Return the log-probability of each row's tags, added up; words that the row has no room for do not count."""
        rows, columns, tags = [], [], []
        for number, (place, answer) in enumerate(zip(places, gold, strict=True)):
            for column, tag in zip(_word_ends(place), answer, strict=False):
                rows.append(number)
                columns.append(column)
                tags.append(tag)
        total = torch.zeros(len(places), device=hidden.device)
        at = torch.tensor(rows, device=hidden.device, dtype=torch.long)
        states = hidden[at, torch.tensor(columns, device=hidden.device, dtype=torch.long)]
        chosen = self._read(states).gather(1, torch.tensor(tags, device=hidden.device, dtype=torch.long)[:, None])
        return total.index_add(0, at, chosen[:, 0])

    def log_probabilities(self, states: States) -> Sequence[Tensor]:
        """Return the log-probabilities of all tags for each word, [words, C] a row."""
        return [
            self._read(hidden[_word_ends(place)]) for hidden, place in zip(states.hidden, states.places, strict=True)
        ]


def expected(log_probabilities: Float[Tensor, "B C"], gold: Sequence[Gold]) -> Float[Tensor, " B"]:
    """Return the log-probability of the right choice, or its mean over two choices of which the second has a share."""
    if all(isinstance(answer, int) for answer in gold):
        return log_probabilities.gather(1, torch.tensor(gold, device=log_probabilities.device)[:, None])[:, 0]
    share = torch.tensor(gold, device=log_probabilities.device, dtype=torch.float32)
    return (1 - share) * log_probabilities[:, 0] + share * log_probabilities[:, 1]


def _word_ends(place: Place) -> list[int]:
    assert isinstance(place.row, TaggedRow), "tags are read from rows whose words are known"
    return [place.start + end for end in place.row.ends]
