"""A prompt's training as a method of a comparison: how hard it may try, its run's folder, and how it went."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt.evaluation.evaluation import Evaluation
from softprompt.evaluation.metrics import log_loss
from softprompt.methods.method import Course, Effort, Fitted, Point
from softprompt.methods.scoring import Scoring, validation_loss
from softprompt.training.batches import BatchOrder
from softprompt.training.candidates import EXTENSIONS, default_steps, even_labels
from softprompt.training.config import TrainConfig
from softprompt.training.fitting import Fitted as Trained
from softprompt.training.runs import RunFolder

if TYPE_CHECKING:
    from softprompt.modeling.prompted_model import PromptedModel
    from softprompt.tasks.task import Task

_LENGTHS = (1, 3, 7)
"""How long a run is after no, one and two extensions, in its first length."""


def first_examples(labels: int | float, rows: int) -> int:
    """Return how many rows our prompts learn from before any extension, each time counted.

    >>> first_examples(2, 2000), first_examples(77, 2000)
    (4320, 26880)

    Args:
        labels: answers to choose from, were they even.
        rows: training rows.
    """
    batch = TrainConfig().batch_size
    return default_steps(labels, rows, batch) * min(batch, rows)


def most_examples(labels: int | float, rows: int) -> int:
    """Return how many rows our prompts learn from in full, when every extension is taken; as `first_examples`."""
    return _LENGTHS[-1] * first_examples(labels, rows)


def with_effort(config: TrainConfig, task: Task, seed: int, effort: Effort) -> TrainConfig:
    """Return the settings of one training of a prompt, as long as it may be.

    In full the default stands: its steps, and extensions while validation still improves. A part of it is so many of
    those steps and no extension. A bound on examples takes extensions first, then steps; one on seconds leaves no
    extension.

    >>> from softprompt.tasks.task import Example
    >>> rows = {"train": [Example({}, "a"), Example({}, "b")] * 3000}
    >>> class Binary:
    ...     labels, splits = ("a", "b"), rows
    >>> found = with_effort(TrainConfig(), Binary, 3, Effort(share=0.5))
    >>> found.steps, found.extend, found.seed
    (90, 0, 3)
    >>> found = with_effort(TrainConfig(), Binary, 0, Effort(examples=14_000))
    >>> found.steps, found.extend
    (180, 1)

    Args:
        config: what the method sets.
        task: what is learned.
        seed: of the order of the rows and of random first values.
        effort: how hard it may try; its rate is the method's own business.
    """
    changes: dict[str, Any] = {"seed": seed, "report": False}
    train, batch = task.splits["train"], config.batch_size
    rows = len(train)
    full = config.steps or default_steps(even_labels(task.labels, train), rows, batch)
    steps = max(1, round(effort.share * full))
    most = None if effort.examples is None else max(1, effort.examples // min(batch, rows))
    if effort.share < 1 or (most is not None and most < full * _LENGTHS[-1]):
        longer = 0 if effort.share < 1 else sum(most >= full * length for length in _LENGTHS[1:]) if most else 0
        changes |= {"steps": min(steps, most or steps), "extend": min(longer, EXTENSIONS)}
    if effort.seconds is not None:  # a budget is no reason to train for longer than the default
        changes |= {"budget": f"{effort.seconds:g} seconds", "extend": None, "steps": changes.get("steps", full)}
    return config.model_copy(update=changes)


@contextmanager
def run_folder(effort: Effort) -> Iterator[tuple[RunFolder, bool]]:
    """Give the folder of a run and whether there is a run in it to go on with; without one, a folder that goes away."""
    if effort.folder is not None:
        folder = RunFolder(effort.folder)
        yield folder, any(path.exists() for path in (folder.checkpoint, folder.path / "folds" / "run.json"))
        return
    with tempfile.TemporaryDirectory(prefix="softprompt-") as path:
        yield RunFolder(Path(path)), False


def fitted(
    model: PromptedModel, task: Task, kept: Trained, course: Course, trained: int, notes: Sequence[str] = ()
) -> Fitted:
    """Return a trained prompt as a comparison wants it.

    Args:
        model: the backbone.
        task: what was learned.
        kept: what the training gave.
        course: how it went.
        trained: parameters that were trained.
        notes: what a reader must know.
    """
    predictor = Scoring(model, model.bind(kept.prompt))
    seen = kept.validation
    loss = log_loss(seen.calibrated, seen.gold) if isinstance(seen, Evaluation) else validation_loss(predictor, task)
    said = (f"it started from {kept.fit.init}", *notes)
    return Fitted(predictor, trained, len(kept.prompt.to_bytes()), loss, course, notes=said)


def course_of(kept: Trained, folder: RunFolder, rows: int) -> Course:
    """Return how a training went, what raced beside its winner counted too.

    Args:
        kept: what the training gave.
        folder: of its run, where the measurements are.
        rows: training rows.
    """
    events = folder.events()
    winner = next((event["winner"] for event in events if event["event"] == "race"), None)
    clock = _Clock(events, BatchOrder(rows, kept.config.batch_size, kept.config.seed))
    before = max(0, kept.spent.examples - clock.examples)  # on folds, before the run itself
    folds = _Clock(RunFolder(folder.path / "folds").events(), clock.order)
    points = []
    for event in events:
        if event["event"] == "validation" and event.get("prompt", winner) == winner:
            examples, seconds = clock.at(event["step"])
            loss, accuracy = event["loss"], event.get("accuracy", float("nan"))
            points.append(Point(event["step"], before + examples, folds.seconds + seconds, loss, accuracy))
    seconds = folds.seconds + clock.seconds
    return Course(kept.fit.steps, before + clock.examples, seconds, kept.fit.stopped, tuple(points))


class _Clock:
    """What the steps of a run took, by its measurements; prompts that trained side by side all counted.

    Args:
        events: of the run.
        order: of its batches.
    """

    def __init__(self, events: Sequence[Mapping[str, Any]], order: BatchOrder) -> None:
        self.order = order
        steps = [event for event in events if event["event"] == "step"]
        side_by_side = Counter(event["step"] for event in steps)
        speed = {event["step"]: event["examples_per_second"] for event in steps}
        self._after = {0: (0, 0.0)}
        self.examples, self.seconds = 0, 0.0
        for step in sorted(side_by_side):
            learned = side_by_side[step] * len(order.at(step - 1))
            self.examples += learned
            self.seconds += learned / speed[step]
            self._after[step] = (self.examples, self.seconds)

    def at(self, step: int) -> tuple[int, float]:
        """Return the rows learned from, each time counted, and the seconds of training until a step was done."""
        return self._after[step]
