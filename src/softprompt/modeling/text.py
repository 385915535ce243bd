"""Free text: the log-probability of each target token over the whole vocabulary, at target positions only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from softprompt.backbones.backbone import Backbone
from softprompt.modeling.readings import Gold, Place, States
from softprompt.shapes import Float, Int
from softprompt.tasks.free_text import Text
from softprompt.tasks.task import Example

_AT_ONCE = 64
"""Positions whose logits over the vocabulary exist at a time."""


@dataclass(frozen=True, eq=False)
class TextReading:
    """Text written behind the row; the loss is on the answer's tokens and its end alone.

    Attributes:
        backbone: its output rows and its tokenizer.
        readout: how long an answer may be, and the texts that end it.
        lead: what an answer begins with that is no part of it.
        ends: the tokens that end an answer.
    """

    backbone: Backbone
    readout: Text
    lead: str = ""
    ends: frozenset[int] = frozenset()
    questions: int = 1

    @property
    def depth(self) -> int:
        """The tokens kept free behind a row."""
        return self.readout.max_new_tokens

    def gold(self, example: Example, question: int) -> Gold:
        """Return the tokens of the target and its end, at most as many as an answer may have."""
        return self.readout.target(str(example.label), self.backbone.tokenizer)[: self.readout.max_new_tokens]

    def units(self, gold: Gold) -> int:
        """Return the number of tokens to predict."""
        return len(gold)

    def behind(self, gold: Gold) -> tuple[int, ...]:
        """Return all tokens of the target but the last, which nothing is predicted from."""
        return tuple(gold[:-1])

    def gold_log_probabilities(
        self, hidden: Float[Tensor, "B T D"], places: Sequence[Place], gold: Sequence[Gold]
    ) -> Float[Tensor, " B"]:
        """Return the log-probability of each row's target, its tokens added up."""
        rows = [row for row, target in enumerate(gold) for _ in target]
        columns = [place.end + step for place, target in zip(places, gold, strict=True) for step in range(len(target))]
        tokens = torch.tensor([token for target in gold for token in target], device=hidden.device)
        at = torch.tensor(rows, device=hidden.device)
        states = hidden[at, torch.tensor(columns, device=hidden.device)]
        total = torch.zeros(len(places), device=hidden.device)
        return total.index_add(0, at, token_log_probabilities(self.backbone, states, tokens))

    def log_probabilities(self, states: States) -> Sequence[Tensor]:
        """Return the log-probabilities of the first token of each answer, [V] a row."""
        return list(torch.log_softmax(self.backbone.logits(states.last), dim=-1))

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> TextReading:
        """Return the same: text is read by the backbone's own output rows."""
        return self


class ChatReading(TextReading):
    """Every assistant turn of a conversation: the loss is on the words of each and on what ends it."""

    def gold(self, example: Example, question: int) -> Gold:
        """Return nothing: what is to be predicted are spans of the row itself (`PromptedModel.lesson`)."""
        return ()

    def units(self, gold: Gold) -> int:
        """Return the number of tokens to predict, those of all spans (begin, end)."""
        return sum(end - begin for begin, end in gold)

    def behind(self, gold: Gold) -> tuple[int, ...]:
        """Return nothing: the answers are in the row."""
        return ()

    def gold_log_probabilities(
        self, hidden: Float[Tensor, "B T D"], places: Sequence[Place], gold: Sequence[Gold]
    ) -> Float[Tensor, " B"]:
        """Return the log-probability of each row's spans, their tokens added up."""
        wanted = [
            (number, place.start + at - 1, place.row.ids[at])
            for number, (place, spans) in enumerate(zip(places, gold, strict=True))
            for begin, end in spans
            for at in range(begin, end)
        ]
        rows, columns, tokens = (torch.tensor(each, device=hidden.device) for each in zip(*wanted, strict=True))
        total = torch.zeros(len(places), device=hidden.device)
        return total.index_add(0, rows, token_log_probabilities(self.backbone, hidden[rows, columns], tokens))


def token_log_probabilities(
    backbone: Backbone, states: Float[Tensor, "M D"], tokens: Int[Tensor, " M"]
) -> Float[Tensor, " M"]:
    """Return the log-probability of one token at each state, over the vocabulary.

    A few positions at a time, computed again in the backward pass, so that memory does not follow V·M.
    """

    def some(part: Tensor, wanted: Tensor) -> Tensor:
        return torch.log_softmax(backbone.logits(part), dim=-1).gather(1, wanted[:, None])[:, 0]

    out: list[Tensor] = []
    for part, wanted in zip(states.split(_AT_ONCE), tokens.split(_AT_ONCE), strict=True):
        learning = torch.is_grad_enabled() and part.requires_grad
        found: Tensor = checkpoint(some, part, wanted, use_reentrant=False) if learning else some(part, wanted)
        out.append(found)
    return torch.cat(out)
