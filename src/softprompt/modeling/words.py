"""Readings by words: label words as a token trie, and independent yes or no behind each label's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softprompt.modeling.labels import LabelTrie, Logits
from softprompt.modeling.readings import Gold, Place, States, at_ends
from softprompt.modeling.rows import ToGold, expected
from softprompt.shapes import Float
from softprompt.tasks.task import Example

_AT_ONCE = 8
"""Continuations run together, so that memory follows the batch and not the number of labels."""


@dataclass(frozen=True, eq=False)
class WordsReading:
    """Label words on one backbone: a choice at each node of their trie, from rows of the output matrix.

    Attributes:
        trie: the label words.
        logits: the backbone's output rows.
        to_gold: gives the right answer of a labelled row: a label's number, or the share of the second of two.
    """

    trie: LabelTrie
    logits: Logits
    to_gold: ToGold
    questions: int = 1

    @property
    def depth(self) -> int:
        """Most tokens that scoring ever puts behind a row."""
        return self.trie.depth

    def gold(self, example: Example, question: int) -> Gold:
        """Return the number of the right label, or the share of the second of two."""
        return self.to_gold(example)

    def units(self, gold: Gold) -> int:
        """Return 1: one choice among the labels."""
        return 1

    def behind(self, gold: Gold) -> tuple[int, ...]:
        """Return the tokens on the way to the gold label's last choice."""
        return self.trie.path(gold) if isinstance(gold, int) else ()

    def gold_log_probabilities(
        self, hidden: Float[Tensor, "B T D"], places: Sequence[Place], gold: Sequence[Gold]
    ) -> Float[Tensor, " B"]:
        """Return the sum of the log-probabilities of each gold label's choices.

        With `full` it is not yet normalised over the labels: the usual language-modelling objective.
        """
        if not all(isinstance(answer, int) for answer in gold):
            return self._of_shares(hidden, places, gold)
        total = hidden.new_zeros(len(gold), dtype=torch.float32)
        for node, (path, _) in enumerate(self.trie.nodes):
            takes = [
                (row, step.child)
                for row, label in enumerate(gold)
                for step in self.trie.steps[label]
                if step.node == node
            ]
            if not takes:
                continue
            at = torch.tensor([row for row, _ in takes], device=hidden.device)
            columns = torch.tensor([places[row].end + len(path) for row, _ in takes], device=hidden.device)
            child = torch.tensor([c for _, c in takes], device=hidden.device)
            logp = self.trie.node_log_probabilities(node, hidden[at, columns], self.logits)
            total = total.index_add(0, at, logp.gather(1, child[:, None])[:, 0])
        return total

    def log_probabilities(self, states: States) -> Sequence[Tensor]:
        """Return label log-probabilities that sum to one, [C] a row."""
        trie = self.trie
        found: dict[tuple[int, ...], Tensor] = {(): states.last}  # path -> hidden states [M, D] behind it
        for at in range(0, len(trie.continuations) if trie.depth else 0, _AT_ONCE):
            paths = trie.continuations[at : at + _AT_ONCE]
            hidden = states.go_on(paths)
            found |= {p[: n + 1]: hidden[q, :, n] for q, p in enumerate(paths) for n in range(len(p))}
        scored = [trie.node_log_probabilities(i, found[node.path], self.logits) for i, node in enumerate(trie.nodes)]
        return list(trie.combine(scored))

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> WordsReading:
        """Return the same: label words learn nothing."""
        return self

    def _of_shares(self, hidden: Tensor, places: Sequence[Place], gold: Sequence[Gold]) -> Tensor:
        """The two words of a number must differ in their first token: a share has no single way to go."""
        states = at_ends(hidden, places)
        return expected(self.trie.combine([self.trie.node_log_probabilities(0, states, self.logits)]), gold)


@dataclass(frozen=True, eq=False)
class YesNoReading:
    """Independent yes or no for each label: its words come behind the row, then a choice between two words.

    Each label takes a pass of its own, so a row asks one question a label while it is learned.

    Attributes:
        asked: the tokens of each label's words.
        answers: no and yes, as a trie that branches at once.
        logits: the backbone's output rows.
        labels: the labels' names.
    """

    asked: tuple[tuple[int, ...], ...]
    answers: LabelTrie
    logits: Logits
    labels: tuple[str, ...]

    @property
    def depth(self) -> int:
        """Most tokens that scoring ever puts behind a row."""
        return max(map(len, self.asked))

    @property
    def questions(self) -> int:
        """How many labels there are, C."""
        return len(self.labels)

    def gold(self, example: Example, question: int) -> Gold:
        """Return the label that is asked for, and 1 where it holds."""
        return question, int(self.labels[question] in example.labels)

    def units(self, gold: Gold) -> int:
        """Return 1: yes or no."""
        return 1

    def behind(self, gold: Gold) -> tuple[int, ...]:
        """Return the words of the label that is asked for."""
        return self.asked[gold[0]]

    def gold_log_probabilities(
        self, hidden: Float[Tensor, "B T D"], places: Sequence[Place], gold: Sequence[Gold]
    ) -> Float[Tensor, " B"]:
        """Return the log-probability of each right yes or no."""
        columns = [place.end + len(self.asked[label]) for place, (label, _) in zip(places, gold, strict=True)]
        rows = torch.arange(len(gold), device=hidden.device)
        states = hidden[rows, torch.tensor(columns, device=hidden.device)]
        return expected(self.answers.node_log_probabilities(0, states, self.logits), [holds for _, holds in gold])

    def log_probabilities(self, states: States) -> Sequence[Tensor]:
        """Return log p(yes) of every label, [C] a row; they do not sum to one."""
        out: list[Tensor] = []
        for at in range(0, len(self.asked), _AT_ONCE):
            paths = self.asked[at : at + _AT_ONCE]
            hidden = states.go_on(paths)
            for q, path in enumerate(paths):
                scored = self.answers.node_log_probabilities(0, hidden[q, :, len(path) - 1], self.logits)
                out.append(scored[:, 1])
        return list(torch.stack(out, dim=-1))

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> YesNoReading:
        """Return the same: words learn nothing."""
        return self
