"""Schedules by which rows join and leave a flight, and what each row must come to whatever flies with it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.flight import Flight
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.sampling import Sampling
from softprompt.modeling.writing import Writing
from softprompt.prompts.soft_prompt import SoftPrompt

SAMPLINGS = (
    Sampling(),
    Sampling(temperature=0.8, seed=1),
    Sampling(repetition_penalty=1.6),
    Sampling(temperature=1.2, top_p=0.9, repetition_penalty=1.3, seed=2),
    Sampling(temperature=1.0, top_k=9, min_p=0.02, seed=3),
)
"""Greedy rows and drawn ones, with every filter and penalties."""


@dataclass(frozen=True, eq=False)
class Passenger:
    """A row and what becomes of it.

    Attributes:
        prompt: what it is asked with.
        row: its columns.
        sampling: how its tokens are chosen.
        number: of its stream of random numbers.
        joins: the step before which it joins.
        leaves: after so many tokens it is cancelled; `None`: it is written to its end.
    """

    prompt: SoftPrompt | BoundPrompt
    row: Mapping[str, str]
    sampling: Sampling = SAMPLINGS[0]
    number: int = 0
    joins: int = 0
    leaves: int | None = None


class Airfield:
    """Flies passengers over one backbone, together or alone.

    Args:
        backbone: in fp32, so that a token chosen otherwise is a mistake.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.model = PromptedModel(backbone)

    def fly(self, passengers: Sequence[Passenger]) -> list[Writing | Tensor]:
        """Let passengers join and leave as they are to.

        Returns:
            What was written behind each, or the log-probabilities that were read, [C].
        """
        flight, step = Flight(self.model.backbone), 0
        out: list[Writing | Tensor | None] = [None] * len(passengers)
        while len(flight) or any(each.joins >= step for each in passengers):
            self._board(flight, passengers, step, out)
            flight.step()
            for each, found in zip(passengers, out, strict=True):
                if isinstance(found, Writing) and len(found.tokens) == each.leaves:
                    flight.leave(found)
            step += 1
        assert not flight.tokens, "an empty flight takes no room"
        return [found for found in out if found is not None]

    def _board(
        self, flight: Flight, passengers: Sequence[Passenger], step: int, out: list[Writing | Tensor | None]
    ) -> None:
        """Begin, in one pass, with those who join now."""
        joining = [number for number, each in enumerate(passengers) if each.joins == step]
        if not joining:
            return
        bounds = [self._bound(passengers[i]) for i in joining]
        encoded = [self.model.encode(passengers[i].row, bound) for i, bound in zip(joining, bounds, strict=True)]
        writings = [self._writing(passengers[i], bound) for i, bound in zip(joining, bounds, strict=True)]
        read = self.model.begin(encoded, bounds, writings, flight)
        for i, found, writing in zip(joining, read, writings, strict=True):
            out[i] = found if writing is None else writing

    def _bound(self, each: Passenger) -> BoundPrompt:
        return each.prompt if isinstance(each.prompt, BoundPrompt) else self.model.bind(each.prompt)

    def _writing(self, each: Passenger, bound: BoundPrompt) -> Writing | None:
        if bound.readout.kind != "text":
            return None
        return Writing(bound, number=each.number, sampling=each.sampling, likeliest=2)


def at_random(
    texts: Sequence[SoftPrompt | BoundPrompt],
    others: Sequence[SoftPrompt | BoundPrompt],
    rows: Sequence[Mapping[str, str]],
    seed: int,
) -> list[Passenger]:
    """Return one passenger a row, two of three to be written, who join and leave at random."""
    dice = random.Random(seed)
    return [
        Passenger(
            (others if number % 3 == 2 else texts)[number % len(others if number % 3 == 2 else texts)],
            row,
            SAMPLINGS[number % len(SAMPLINGS)],
            number,
            dice.randrange(6),
            dice.choice((None, None, 1, 3)),
        )
        for number, row in enumerate(rows)
    ]


def check_passengers(backbone: Backbone, passengers: Sequence[Passenger]) -> None:
    """Hold what passengers come to together to what each comes to alone: tokens equal, log-probabilities to 1e-5."""
    field = Airfield(backbone)
    for number, (each, found) in enumerate(zip(passengers, field.fly(passengers), strict=True)):
        (alone,) = Airfield(backbone).fly([Passenger(each.prompt, each.row, each.sampling, each.number)])
        if isinstance(found, Writing):
            assert isinstance(alone, Writing)
            _check_written(found, alone, f"passenger {number}", each.leaves)
        else:
            assert isinstance(alone, Tensor)
            _close(found, alone, f"labels of passenger {number}")


def _check_written(found: Writing, alone: Writing, who: str, leaves: int | None) -> None:
    count = len(found.tokens)
    assert count == min(len(alone.tokens), leaves or len(alone.tokens)), f"{who} has {count} tokens"
    assert found.tokens == alone.tokens[:count], f"tokens of {who}: {found.tokens}, alone {alone.tokens}"
    _close(torch.tensor(found.log_probabilities), torch.tensor(alone.log_probabilities[:count]), f"tokens of {who}")
    told = [torch.tensor([[p for _, p in each] for each in writing.likeliest[:count]]) for writing in (found, alone)]
    _close(told[0], told[1], f"likeliest of {who}")


def _close(found: Tensor, expected: Tensor, what: str) -> None:
    scale = expected.double().abs().clamp(min=1)  # then probabilities agree to 1e-5: l·exp(-l) is below 1
    difference = float(((found.double() - expected.double()).abs() / scale).max())
    assert difference < 1e-5, f"{what}: log-probabilities differ by {difference:.1e}"
