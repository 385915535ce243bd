"""What a fit trains: the default or its rivals, on which rows, for how many steps, and who goes on when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from softprompt.backbones.backbone import Backbone
from softprompt.backbones.compiling import can_compile
from softprompt.errors import ConfigError
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.progress import say
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.splits import carve, source_of_chance
from softprompt.tasks.task import Example, Task
from softprompt.training import candidates
from softprompt.training.budget import Course, Spent, allowed, parse
from softprompt.training.config import TrainConfig
from softprompt.training.folds import FOLDS, ROWS, chosen_by_folds
from softprompt.training.lesson import Lesson
from softprompt.training.provenance import FEW as FEW_ROWS
from softprompt.training.provenance import pooled_rows
from softprompt.training.race import Race, halving
from softprompt.training.runs import RunFolder
from softprompt.training.selection import FEW


@dataclass(frozen=True)
class Parts:
    """The rows of one fit: to learn from, and to choose by."""

    train: Sequence[Example]
    validation: Sequence[Example]

    @classmethod
    def of_all(cls, task: Task, seed: int) -> Parts:
        """Every row of the task, to choose by the validation rows that were given, else a seeded part of them all."""
        return cls.carved(task, pooled_rows(task), seed)

    @classmethod
    def carved(cls, task: Task, rows: Sequence[Example], seed: int) -> Parts:
        """Some of a task's `pooled_rows`, to choose by the given validation rows, else by a seeded 15 % of them."""
        if "validation" in task.given:
            return cls(rows, task.splits["validation"])
        kept, aside = carve(rows, 0.15, 1000, source_of_chance(seed, "validation"), by_label=task.by_label)
        return cls(kept, aside)


def refuse_misfits(backbone: Backbone, lessons: Sequence[Lesson]) -> None:
    """Begin lessons and forget that again, so that what cannot be begun is said before anything is overwritten.

    Raises:
        ConfigError, TemplateError, UnknownNameError: settings, template and backbone do not go together.
    """
    config = lessons[0].config
    if config.compile_layers and config.checkpoint_layers:
        raise ConfigError(
            "compile_layers and checkpoint_layers were both asked for, and layers that are run again in the backward "
            "pass are not compiled; leave out one of them"
        )
    if config.compile_layers and not can_compile(backbone):
        raise ConfigError(
            f"compile_layers was asked for, and the layers of `{backbone.name}` ({backbone.family.title}, "
            f"{backbone.device}) cannot be compiled: those of decoders with `grouped` attention can, on a CPU"
        )
    for lesson in lessons:
        module, _ = lesson.begin(backbone)
        lesson.bind(backbone, module.materialize())


@dataclass(frozen=True)
class Entry:
    """What all candidates of a fit have in common."""

    model: PromptedModel
    task: Task
    parts: Parts
    start: SoftPrompt | None

    def lesson(self, name: str, config: TrainConfig) -> Lesson:
        """Return the lesson of one candidate."""
        task, parts = self.task, self.parts
        return Lesson(name, config, task.template, task.readout, parts.train, parts.validation, self.start)

    def field(self, config: TrainConfig, *, tell: bool = True) -> dict[str, TrainConfig]:
        """Return the candidates by name, the default first; what can be refused is, before the run's folder is.

        `tell` says why none race where they could; the folds of a task would all say the same.
        """
        backbone, template, readout = self.model.backbone, self.task.template, self.task.readout
        if config.budget is not None:
            parse(config.budget)
        default = candidates.settled(config, template, readout, backbone, self.parts.train)
        refuse_misfits(backbone, [self.lesson("default", default)])
        if not config.race:
            return {"default": default}
        needed = candidates.needs_rows(backbone, template, readout)
        found = candidates.field(config, default, rows_needed=needed)
        if Course(len(found)).has_winner(default.length):
            return found
        if len(found) > 1 and tell:
            say(f"no race: {default.length:,} steps are too few to choose among {len(found)} candidates")
        return {"default": default}


class Plan(NamedTuple):
    """The lessons of a fit, who goes on when, and what choosing them took."""

    lessons: list[Lesson]
    race: Race
    spent: Spent


def planned(
    entry: Entry,
    config: TrainConfig,
    tried: dict[str, TrainConfig],
    folder: RunFolder,
    settings: Mapping[str, Any],
    *,
    resume: bool,
) -> Plan:
    """Lay out a fit: the candidates that race in it, or the one that stands, or that won on folds before it."""
    task, rows = entry.task, [*entry.parts.train, *entry.parts.validation]
    default = next(iter(tried))
    by_folds = len(tried) > 1 and len(entry.parts.validation) < FEW
    steps = None
    if by_folds and len(rows) < FEW_ROWS:
        if "fold" not in settings:
            say(f"no race: {len(rows):,} rows are fewer than the {FEW_ROWS} that candidates can be told apart by")
        tried, by_folds = {default: tried[default]}, False
    if config.budget is not None:
        trial, folds, raced = entry.lesson(default, tried[default]), FOLDS if by_folds else 0, min(ROWS, len(rows))
        steps, race = allowed(config.budget, entry.model, trial, len(tried), folder.plan, folds=folds, raced=raced)
        steps = min(steps, config.steps or steps)
        tried = tried if race else {default: tried[default]}
    table: list[dict[str, Any]] = []
    spent = Spent()
    if by_folds and len(tried) > 1:
        name, table, spent = chosen_by_folds(
            entry.model, rows, task.template, task.readout, tried, RunFolder(folder.path / "folds"), settings,
            resume=resume, start=entry.start, by_label=task.by_label,
        )  # fmt: skip
        tried = {name: tried[name]}
    chosen = {name: each.model_copy(update={"steps": steps or each.steps}) for name, each in tried.items()}
    lessons = [entry.lesson(name, each) for name, each in chosen.items()]
    rungs = halving(len(lessons), lessons[0].config.length, max(config.validation_rows, 2 * FEW))
    return Plan(lessons, Race(rungs, table=table), spent)
