"""Always the most frequent label: what any method has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from softprompt.evaluation.evaluation import Score
from softprompt.evaluation.references import Rows, majority
from softprompt.methods.method import Effort, Fitted, Readout
from softprompt.methods.scoring import Family, refuses_answers, validation_loss
from softprompt.shapes import Float
from softprompt.tasks.task import Example, Task

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone

_COUNT_BYTES = 4


@dataclass(frozen=True, eq=False)
class Shares:
    """Answers every row with the label shares of train.

    Attributes:
        score: gives them, one row of them for each example.
    """

    score: Score

    def log_probabilities(self, examples: Sequence[Example]) -> Float[np.ndarray, "B C"]:
        """Return the same log-probabilities for each row."""
        return self.score(examples)


@dataclass(eq=False)
class Majority:
    """The label shares of the training rows, whatever the text."""

    name: str = "majority"
    title: str = "Majority class"
    family: Family = "free"
    base_rate: float | None = None
    readouts: tuple[Readout, ...] = ()
    changes: bool = False
    source: str = "counts of the training rows"

    def refuses(self, backbone: Backbone, task: Task) -> str | None:
        """Refuse answers that are not one label."""
        return refuses_answers(task)

    def fit(self, backbone: Backbone, task: Task, seed: int, effort: Effort) -> Fitted:
        """Count the labels of the training rows; seed and effort change nothing."""
        rows = Rows(task.labels, task.splits["train"], (), ())
        predictor = Shares(majority(rows))
        return Fitted(predictor, 0, _COUNT_BYTES * len(task.labels), validation_loss(predictor, task))


MAJORITY = Majority()
