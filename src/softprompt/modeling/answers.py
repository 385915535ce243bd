"""What a prompt says of one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.shapes import Float


@dataclass(frozen=True)
class Answer:
    """The label of one row and how sure it is.

    Attributes:
        label: the likeliest label.
        probability: its probability, calibrated by the prompt's temperature.
        probabilities: of every label.
        abstained: the probability is below the prompt's abstain threshold, so the label is a guess.
        cut: tokens removed from the row to make it fit.
    """

    label: str
    probability: float
    probabilities: Mapping[str, float]
    abstained: bool = False
    cut: int = 0


def answer(prompt: SoftPrompt, log_probabilities: Float[Tensor, " C"], cut: int) -> Answer:
    """Turn a row's label log-probabilities into an answer: p = softmax(log p / temperature)."""
    calibrated = torch.softmax(log_probabilities.double() / prompt.temperature, dim=-1).tolist()
    best = max(range(len(calibrated)), key=calibrated.__getitem__)
    probabilities = dict(zip(prompt.readout.labels, calibrated, strict=True))
    abstained = prompt.abstain is not None and calibrated[best] < prompt.abstain
    return Answer(prompt.readout.labels[best], calibrated[best], probabilities, abstained, cut)
