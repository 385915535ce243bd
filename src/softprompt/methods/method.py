"""What a method is: (backbone, task, seed) → a predictor, with what it cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import numpy as np

from softprompt.shapes import Float
from softprompt.tasks.task import Example, Task

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone

Readout: TypeAlias = Literal["words", "rows"]
"""How a row is answered: by the label words' own output rows, or by learned rows that begin as them."""


@dataclass(frozen=True)
class Effort:
    """How hard a method may try; the same for every method of a comparison.

    Attributes:
        rate: the learning rate, as a multiple of the method's own `base_rate`; methods without one ignore it.
        readout: how rows are answered; methods without a choice ignore it.
        share: of the full length of a training, in (0, 1]: a search takes shorter ones.
        examples: rows learned from at most, each time counted; None: until validation stops improving.
        seconds: of training at most; None: no bound.
        folder: where the run keeps its checkpoints; the same folder goes on where it was.
    """

    rate: float = 1.0
    readout: Readout = "words"
    share: float = 1.0
    examples: int | None = None
    seconds: float | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class Point:
    """One look at the validation rows during a training.

    Attributes:
        step: optimizer steps taken.
        examples: rows learned from, each time counted.
        seconds: spent training, without the looks.
        loss: log loss on validation rows, in nats.
        accuracy: there, in [0, 1].
    """

    step: int
    examples: int
    seconds: float
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Course:
    """How a training went; empty for what does not train.

    Attributes:
        steps: optimizer steps taken.
        examples: rows learned from, each time counted.
        seconds: of training, without the looks at validation rows.
        stopped: why it ended, in words.
        points: its looks at validation rows, in order.
    """

    steps: int = 0
    examples: int = 0
    seconds: float = 0.0
    stopped: str = ""
    points: tuple[Point, ...] = ()

    @property
    def loss(self) -> float | None:
        """The lowest validation log loss, in nats; None: it never looked."""
        return min((point.loss for point in self.points), default=None)


class Predictor(Protocol):
    """What answers rows of the task that it was fitted to."""

    def log_probabilities(self, examples: Sequence[Example]) -> Float[np.ndarray, "B C"]:
        """Return each row's log-probabilities of the task's labels, in their order."""
        ...


@dataclass(frozen=True)
class Fitted:
    """A method that was fitted to a task.

    Attributes:
        predictor: answers rows.
        trained: parameters that were trained.
        kept_bytes: what has to be kept for the task beside the backbone.
        course: how the training went.
        off: a context in which the backbone answers as if never adapted; None: it always does.
        switch: makes the backbone ready for this task again, after another; None: nothing is to be done.
        loss: log loss on validation rows, in nats: what a search chooses by.
        notes: what else a reader must know, a sentence each.
    """

    predictor: Predictor
    trained: int
    kept_bytes: int
    loss: float
    course: Course = field(default_factory=Course)
    off: Callable[[], AbstractContextManager[None]] | None = None
    switch: Callable[[], None] | None = None
    notes: tuple[str, ...] = ()


class Method(Protocol):
    """A way to make a frozen or unfrozen model do a task.

    Attributes:
        name: as it is asked for, such as `lora`.
        title: as it is read, such as `LoRA (r = 8)`.
        family: what it is one of; the order in which reports show methods.
        base_rate: the learning rate in the middle of its search; None: there is no rate to search.
        readouts: the readouts that it can be given; empty: it has no choice.
        changes: whether fitting changes the backbone, which is then of no use to another method.
        source: the paper or library that it follows.
    """

    name: str
    title: str
    family: Literal["free", "probe", "prompt", "adapter", "weights"]
    base_rate: float | None
    readouts: tuple[Readout, ...]
    changes: bool
    source: str

    def refuses(self, backbone: Backbone, task: Task) -> str | None:
        """Say why it cannot do this task with this backbone; None: it can."""
        ...

    def fit(self, backbone: Backbone, task: Task, seed: int, effort: Effort) -> Fitted:
        """Fit it to the task's training rows, choosing by its validation rows; test rows are never looked at.

        Args:
            backbone: a fresh one where the method `changes` it.
            task: classification with label words; its splits are the same for every method.
            seed: of the order of the rows and of first values.
            effort: how hard it may try.

        Raises:
            TrainingError: the loss is not finite, or nothing was learned.
            OutOfMemoryError: it does not fit.
            MissingExtraError: a library is not installed.
        """
        ...
