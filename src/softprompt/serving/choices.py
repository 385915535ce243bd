"""Label words read from an engine that only tells how likely tokens are: a question for each place where words part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from softprompt.errors import IncompatiblePromptError
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.words import WordsReading
from softprompt.shapes import Float


class Choice(NamedTuple):
    """A question: behind a row and these tokens, how likely is each of the others?"""

    behind: tuple[int, ...]
    tokens: tuple[int, ...]


def choices_of(bound: BoundPrompt) -> tuple[Choice, ...]:
    """Return the questions whose answers together are a row's label probabilities.

    Raises:
        IncompatiblePromptError: the prompt is not read out by label words.
    """
    if not isinstance(bound.reading, WordsReading):
        raise IncompatiblePromptError(
            f"the prompt's answers are read as `{bound.readout.kind}`, and other engines tell the probabilities of "
            "label words only; use softprompt itself"
        )
    return tuple(Choice(node.path, node.children) for node in bound.reading.trie.nodes)


def read_choices(bound: BoundPrompt, found: Sequence[Mapping[int, float]]) -> Float[Tensor, " C"]:
    """Return the label log-probabilities of a row, exactly those that `modeling` reads.

    Args:
        bound: the prompt.
        found: for each of its choices, the log-probability of each token over the vocabulary, in nats.

    Raises:
        IncompatiblePromptError: the engine did not tell one of them, without which the rest would be a guess.
    """
    choices = choices_of(bound)
    assert isinstance(bound.reading, WordsReading)
    trie = bound.reading.trie
    scored = []
    for choice, told in zip(choices, found, strict=True):
        missing = [token for token in choice.tokens if token not in told]
        if missing:
            raise IncompatiblePromptError(
                f"the engine did not tell the log-probability of {len(missing)} of {len(choice.tokens)} tokens that "
                f"the labels part at (the first is {missing[0]}), and without all of them no label has a probability; "
                "use a newer version of it"
            )
        over_all = torch.tensor([[told[token] for token in choice.tokens]], dtype=torch.float32)
        scored.append(torch.log_softmax(over_all, dim=-1) if trie.scoring == "trie" else over_all)
    return trie.combine(scored)[0]
