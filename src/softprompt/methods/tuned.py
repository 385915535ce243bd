"""Methods that train weights or put some beside them: one loop, one way to read labels, one way to keep and go back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from softprompt.backbones.compiling import compiled, is_worth_compiling
from softprompt.errors import UnsupportedBackboneError
from softprompt.evaluation.metrics import calibrated
from softprompt.methods.label_reader import LabelReader, Translate
from softprompt.methods.method import Course, Effort, Fitted, Readout
from softprompt.methods.scoring import tempered
from softprompt.methods.token_rows import TokenRows
from softprompt.methods.tuning import Plan, Rival, all_logits, tune
from softprompt.shapes import Float
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.task import Example, Task

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone


def _nothing() -> None:
    """Leave everything as it is."""


@dataclass
class Opened:
    """A backbone that has been made ready for training.

    Attributes:
        backbone: what the labels are read by while it trains.
        parameters: what trains.
        trained: how many numbers that is to a reader, where not all of `parameters`' (see `full`); None: theirs.
        kept: what has to be kept for the task; None: `parameters`.
        off: a context in which the backbone answers as if never opened; None: there is none.
        translate: from the tokens of the task's rows to those of `backbone`.
        close: what is to be done when the training has ended.
        notes: what a reader must know, a sentence each.
    """

    backbone: Backbone
    parameters: Sequence[nn.Parameter]
    trained: int | None = None
    kept: Sequence[Tensor] | None = None
    off: Callable[[], AbstractContextManager[None]] | None = None
    translate: Translate | None = None
    close: Callable[[], None] = _nothing
    notes: tuple[str, ...] = ()


@dataclass
class Tuned:
    """A method that trains weights of the backbone, or some that it puts beside them; see `Method`.

    Attributes:
        open: makes a backbone ready; random first values come from torch's generator, which is seeded before.
        cannot: says why a backbone cannot be opened; None: it can.
        rows_factor: by which the rate of learned rows is greater than the method's own.
    """

    name: str
    title: str
    family: Literal["free", "probe", "prompt", "adapter", "weights"]
    base_rate: float | None
    source: str
    open: Callable[[Backbone, TokenRows], Opened]
    cannot: Callable[[Backbone], str | None] = lambda backbone: None
    rows_factor: float = 1.0
    readouts: tuple[Readout, ...] = ("words", "rows")
    changes: bool = True

    def refuses(self, backbone: Backbone, task: Task) -> str | None:
        """Say why it cannot do this task with this backbone; None: it can."""
        if not isinstance(task.readout, LabelWords):
            return f"`{self.name}` learns one of several labels for a row, and the task `{task.name}` is {task.kind}"
        if backbone.head is None:
            return f"`{backbone.name}` has no head that scores words, by whose rows `{self.name}` begins"
        if backbone.dtype == torch.float16:
            return (
                f"`{self.name}` has no loss scale, and gradients vanish in fp16: load `{backbone.name}` in bf16 or fp32"
            )
        if backbone.sharded:
            return f"the weights of `{backbone.name}` lie in shards over several processes; load it without shard"
        return self.cannot(backbone)

    def fit(self, backbone: Backbone, task: Task, seed: int, effort: Effort) -> Fitted:
        """Train it on the task's training rows until the validation loss stops improving.

        Args:
            backbone: a fresh one; it is changed.
            task: classification with label words.
            seed: of the order of the rows and of first values.
            effort: how hard it may try.

        Raises:
            UnsupportedBackboneError: it `refuses`.
            TemplateError: an encoder is to read words that a mask does not hold.
            TrainingError: the loss is not finite.
            OutOfMemoryError: it does not fit.
            MissingExtraError: peft is not installed, where the method needs it.
        """
        if (refused := self.refuses(backbone, task)) is not None:
            raise UnsupportedBackboneError(refused)
        rows = TokenRows(backbone, task, seed)
        opened, reader = self.prepare(backbone, rows, seed, effort.readout)
        try:
            plan = Plan.of(rows.count, rows.even_labels, self.base_rate or 0.0, effort)
            began = time.monotonic()
            with _compiled(opened.backbone, reader, rows, plan):
                compiling = time.monotonic() - began
                course = tune(reader, rows, plan, effort, title=self.title)
            course = replace(course, seconds=course.seconds + compiling)
        finally:
            opened.close()
        reader.read_by(backbone)
        return self._fitted(backbone, opened, reader, rows, course, seed)

    def prepare(self, backbone: Backbone, rows: TokenRows, seed: int, readout: Readout) -> tuple[Opened, LabelReader]:
        """Return a backbone that is ready to be trained, and what `tune` takes.

        Args:
            backbone: a fresh one; it is changed.
            rows: of the task.
            seed: of first values.
            readout: `words` or `rows`.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            opened = self.open(backbone, rows)
        reader = LabelReader(opened.backbone, rows, readout, opened.translate)
        reader.learn(opened.parameters, self.rows_factor)
        return opened, reader

    def _fitted(
        self, backbone: Backbone, opened: Opened, reader: LabelReader, rows: TokenRows, course: Course, seed: int
    ) -> Fitted:
        learned = [*reader.learned.values()]
        kept = Kept([*(opened.parameters if opened.kept is None else opened.kept), *learned], backbone.dtype)
        own = sum(parameter.numel() for parameter in opened.parameters) if opened.trained is None else opened.trained
        predictor, loss = tempered(RowsPredictor(reader, rows), rows.task, seed)
        return Fitted(
            predictor=predictor,
            trained=own + sum(parameter.numel() for parameter in learned),
            kept_bytes=kept.bytes,
            loss=loss,
            course=course,
            off=opened.off,
            switch=kept.put,
            notes=opened.notes,
        )


def _compiled(backbone: Backbone, reader: LabelReader, rows: TokenRows, plan: Plan) -> AbstractContextManager[object]:
    """Compile the layers where there is enough to train and no clock to pay for it, as our own trainer does."""
    first = rows.batch(0)
    if plan.seconds is not None or not is_worth_compiling(
        backbone, plan.most * sum(len(row.ids) for row in first) // len(first)
    ):
        return nullcontext()

    def warm_up() -> None:
        reader.loss(first).backward()
        for group in reader.groups(1.0):
            for parameter in group["params"]:
                parameter.grad = None

    return compiled(backbone, warm_up)


@dataclass
class RowsPredictor:
    """Answers rows of the task by whatever learned it.

    Attributes:
        rival: what reads labels.
        rows: of the task, whose template writes rows.
        temperature: log-probabilities are divided by it.
    """

    rival: Rival
    rows: TokenRows
    temperature: float = 1.0

    def log_probabilities(self, examples: Sequence[Example]) -> Float[np.ndarray, "B C"]:
        """Return each row's log-probabilities of the task's labels, in their order."""
        logits = all_logits(self.rival, self.rows.read(examples))
        return calibrated(np.asarray(logits), self.temperature)


@dataclass
class Kept:
    """What is kept for a task, in the backbone's precision, which the tensors are rounded to at once.

    Attributes:
        tensors: where the values stand while the task is answered.
        dtype: of what is kept.
    """

    tensors: Sequence[Tensor]
    dtype: torch.dtype
    _copies: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        with torch.no_grad():
            for tensor in self.tensors:
                if tensor.dtype != self.dtype:
                    tensor.copy_(tensor.to(self.dtype))

    @property
    def bytes(self) -> int:
        """How many bytes they take."""
        return sum(tensor.numel() for tensor in self.tensors) * self.dtype.itemsize

    @torch.no_grad()
    def put(self) -> None:
        """Put the values in place, from copies in memory that the first call makes."""
        if not self._copies:
            self._copies = [tensor.detach().to(self.dtype, copy=True) for tensor in self.tensors]
        for tensor, copy in zip(self.tensors, self._copies, strict=True):
            tensor.copy_(copy)
