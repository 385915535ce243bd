"""One cell of a study: a training, measured row by row, and the file that remembers it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from softprompt import durable
from softprompt.backbones.backbone import Backbone
from softprompt.errors import ConfigError, StorageError
from softprompt.evaluation.evaluate import Evaluation, evaluate
from softprompt.experiments.study_grid import Cell
from softprompt.experiments.trials import FAILURES, failure, learn, without_test
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.tasks.task import Example, Task
from softprompt.training.config import TrainConfig


@dataclass(frozen=True)
class Measured:
    """What a cell gave.

    Attributes:
        backbone, value, seed: which cell.
        parameters: of the backbone.
        fingerprint: of the backbone's weights, tokenizer and architecture.
        right: one character a row, `1` where the answer is right; empty: the cell failed.
        loss: log-loss of the rows at the prompt's temperature, in nats.
        step, steps: the step that was chosen, and how many were done.
        examples: rows learned from, each time counted.
        seconds: spent training.
        digest: of the prompt.
        failed: why there is no figure.
        again: it failed for want of memory or of a library, and the next run of the study tries it again.
        method: what was trained instead of a soft prompt; empty: a soft prompt.
        dtype: of the backbone; empty where an earlier release did not write it.
    """

    backbone: str
    value: Any
    seed: int
    parameters: int
    fingerprint: dict[str, Any] = field(default_factory=dict)
    right: str = ""
    loss: float = 0.0
    step: int = 0
    steps: int = 0
    examples: int = 0
    seconds: float = 0.0
    digest: str = ""
    failed: str | None = None
    again: bool = False
    method: str = ""
    dtype: str = ""

    @property
    def accuracy(self) -> float:
        """Share of the rows that are right, in [0, 1]."""
        return self.right.count("1") / len(self.right)

    def is_of(self, backbone: Backbone) -> bool:
        """Tell whether it was measured on these weights, with this tokenizer and in this dtype."""
        about = {"fingerprint": self.fingerprint, "dtype": self.dtype}
        return all(not value or _about(backbone)[name] == value for name, value in about.items())

    @classmethod
    def read(cls, file: Path) -> Measured | None:
        """Read a cell's file; `None` where it has not ended.

        Raises:
            StorageError: the file is damaged.
        """
        if not file.exists():
            return None
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise StorageError(f"`{file}` is damaged ({error}); take it away, and its cell is trained again") from error

    def write(self, file: Path) -> None:
        """Write it, whole or not at all."""
        durable.write_text(file, json.dumps(asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def judged_rows(task: Task, split: str, most: int) -> tuple[Example, ...]:
    """Return the rows on which every cell of a study is judged: at most `most`, the same for all.

    Raises:
        UnknownNameError: the task has no such split.
        ConfigError: the split is what prompts learn from, or has no rows.
    """
    rows = task.rows(split)
    if split == "train" or not rows:
        why = "prompts learn from them" if rows else "there are none"
        raise ConfigError(f"a study cannot be judged on the rows of `{split}`: {why}; take validation or test")
    if len(rows) <= most:
        return rows
    return tuple(rows[i] for i in sorted(random.Random(0).sample(range(len(rows)), most)))


def subject(cell: Cell, backbone: Backbone) -> dict[str, Any]:
    """Return what `Measured` says of a cell whether or not it could be trained."""
    return {
        "backbone": cell.backbone,
        "value": cell.value,
        "seed": cell.seed,
        "method": cell.method,
        "parameters": sum(weight.numel() for weight in backbone.model.parameters()),
        **_about(backbone),
    }


def _about(backbone: Backbone) -> dict[str, Any]:
    """What tells one backbone from another of the same name, as it stands in a file."""
    told = {"fingerprint": backbone.fingerprint.to_json(), "dtype": str(backbone.dtype).removeprefix("torch.")}
    found: dict[str, Any] = json.loads(json.dumps(told))
    return found


def measure_cell(
    cell: Cell, backbone: Backbone, task: Task, config: TrainConfig, rows: Sequence[Example], folder: Path
) -> Measured:
    """Train one cell and judge it; a cell that cannot be trained says why.

    Args:
        cell: which.
        backbone: its backbone.
        task: with its template; its test rows are not handed to the training.
        config: its settings.
        rows: labelled rows to judge it on.
        folder: of its run.
    """
    about = subject(cell, backbone)
    try:
        result = learn(backbone, without_test(task), config, folder)
        result.prompt.save(folder / "prompt.safetensors")
        seen, fit = evaluate(PromptedModel(backbone), result.prompt, rows), result.fit
    except FAILURES as error:
        return Measured(**about, **failure(error))
    if not isinstance(seen, Evaluation):
        return Measured(**about, failed=f"a study needs answers that are right or wrong, and `{task.kind}` has none")
    return Measured(
        **about,
        right="".join("01"[int(right)] for right in seen.right),
        loss=seen.figures().log_loss,
        step=fit.step,
        steps=fit.steps,
        examples=fit.examples,
        seconds=fit.seconds,
        digest=result.prompt.digest,
    )


def row_interval(cells: Sequence[Measured], *, seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval, over the rows, of the mean accuracy of some seeds.

    Rows are drawn with replacement, each with what all seeds made of it: seeds are not independent rows.

    Args:
        cells: of one value, judged on the same rows; at least one.
        seed: of the resampling.
        resamples: how many.
    """
    each = np.mean([[sign == "1" for sign in cell.right] for cell in cells], axis=0)  # [B]
    values, counts = np.unique(each, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(each), counts / len(each), size=resamples)
    low, high = np.percentile(drawn @ values / len(each), [2.5, 97.5])
    return float(low), float(high)
