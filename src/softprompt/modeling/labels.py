"""The token trie of a verbalizer, and the probabilities of its labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from softprompt.errors import DataError, TemplateError
from softprompt.shapes import Float
from softprompt.tasks.readout import LabelWords, Scoring
from softprompt.tasks.template import Tokenizer


@runtime_checkable
class LabelTokenizer(Tokenizer, Protocol):
    """What a trie needs of a tokenizer."""

    eos_token_id: int | None


class Node(NamedTuple):
    """A place in the trie where a choice is scored: the tokens that lead there and those that may follow."""

    path: tuple[int, ...]
    children: tuple[int, ...]


class Step(NamedTuple):
    """One choice on the way to a label: which node, and which of its children."""

    node: int
    child: int


@dataclass(frozen=True)
class LabelTrie:
    """The label words of a readout as a tree of tokens.

    A word that begins another word ends in the end-of-sequence token, so that stopping is a choice too.
    With `trie` scoring only branching nodes are kept (elsewhere the probability is one); with `full` all are.

    Attributes:
        nodes: the scored places, the root first whenever it is scored.
        steps: for each label, its choices from the root down.
        scoring: `trie` or `full`, as in `LabelWords`.
    """

    nodes: tuple[Node, ...]
    steps: tuple[tuple[Step, ...], ...]
    scoring: Scoring

    @classmethod
    def build(cls, readout: LabelWords, tokenizer: LabelTokenizer) -> LabelTrie:
        """Tokenise the label words and grow the trie.

        Raises:
            DataError: two labels become the same tokens.
            TemplateError: one word begins another and the tokenizer has no end-of-sequence token.
        """
        words = _terminated(readout, tokenizer)
        children: dict[tuple[int, ...], list[int]] = {}
        for word in words:
            for depth, token in enumerate(word):
                siblings = children.setdefault(word[:depth], [])
                if token not in siblings:
                    siblings.append(token)
        kept = [p for p, c in children.items() if readout.scoring == "full" or len(c) > 1]
        nodes = tuple(Node(path, tuple(children[path])) for path in sorted(kept, key=len))
        where = {node.path: i for i, node in enumerate(nodes)}
        return cls(nodes, tuple(_steps(word, nodes, where) for word in words), readout.scoring)

    @cached_property
    def continuations(self) -> tuple[tuple[int, ...], ...]:
        """The fewest token sequences after a row that pass through every node; `()` alone if the root suffices."""
        paths = {node.path for node in self.nodes}
        begun = {path[:n] for path in paths for n in range(len(path))}
        return tuple(sorted(paths - begun, key=lambda path: (len(path), path)))

    @cached_property
    def depth(self) -> int:
        """Most tokens that scoring ever puts behind a row."""
        return max(len(node.path) for node in self.nodes)

    def path(self, label: int) -> tuple[int, ...]:
        """Return the tokens behind a row that scoring `label` needs: the way to its last choice."""
        return self.nodes[self.steps[label][-1].node].path

    def node_log_probabilities(self, node: int, hidden: Float[Tensor, "M D"], logits: Logits) -> Float[Tensor, "M A"]:
        """Return log-probabilities of the A children of one node, given the hidden states there.

        Over the children alone with `trie`, over the vocabulary with `full`.
        """
        children = torch.tensor(self.nodes[node].children, device=hidden.device)
        chosen = logits(hidden, children)
        if self.scoring == "trie":
            return torch.log_softmax(chosen, dim=-1)
        return chosen - _vocabulary_log_sum(hidden, logits)

    def combine(self, per_node: Sequence[Float[Tensor, "M _"]]) -> Float[Tensor, "M C"]:
        """Return label log-probabilities that sum to one, from those of every node."""
        columns = [
            sum((per_node[s.node][:, s.child] for s in steps[1:]), per_node[steps[0].node][:, steps[0].child])
            for steps in self.steps
        ]
        total = torch.stack(columns, dim=-1)  # [M, C]
        return torch.log_softmax(total, dim=-1) if self.scoring == "full" else total


Logits = Callable[[Tensor, Tensor | None], Tensor]
"""`Backbone.logits`: hidden states [M, D] and the output rows wanted (`None`: all) to fp32 logits."""


def _terminated(readout: LabelWords, tokenizer: LabelTokenizer) -> list[tuple[int, ...]]:
    """The tokens of every word, with the end of sequence behind those that begin another."""
    words = [tuple(tokenizer.encode(word, add_special_tokens=False)) for word in readout.words]
    for i, word in enumerate(words):
        if word in words[:i]:
            other = readout.labels[words.index(word)]
            raise DataError(
                f"the labels `{other}` and `{readout.labels[i]}` have the same tokens; give them other words"
            )
    out = []
    for i, word in enumerate(words):
        begins_another = any(other[: len(word)] == word for j, other in enumerate(words) if j != i)
        if begins_another and tokenizer.eos_token_id is None:
            raise TemplateError(
                f"the words of `{readout.labels[i]}` begin those of another label and this tokenizer has no "
                "end-of-sequence token to tell them apart; give it other words"
            )
        out.append((*word, tokenizer.eos_token_id) if begins_another and tokenizer.eos_token_id is not None else word)
    return out


def _steps(word: tuple[int, ...], nodes: Sequence[Node], where: dict[tuple[int, ...], int]) -> tuple[Step, ...]:
    depths = (depth for depth in range(len(word)) if word[:depth] in where)
    return tuple(Step(where[word[:d]], nodes[where[word[:d]]].children.index(word[d])) for d in depths)


def _vocabulary_log_sum(hidden: Tensor, logits: Logits, rows: int = 64) -> Tensor:
    """log-sum-exp over the vocabulary, a few rows at a time: [M, D] -> [M, 1]."""
    return torch.cat([torch.logsumexp(logits(part, None), dim=-1, keepdim=True) for part in hidden.split(rows)])
