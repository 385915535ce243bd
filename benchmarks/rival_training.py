"""The rivals' training: AdamW in fp32, validation at fixed distances, until its loss stops improving."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from rival_methods import Rival
from rival_rows import RivalRows, TokenRow
from torch import Tensor
from torch.nn.functional import cross_entropy

from softprompt.evaluation import metrics, statistics
from softprompt.modeling.layout import by_length

CLIP = 1.0
TOKENS = 2048  # padded tokens whose graph is held at once, as in our trainer
REDUCTION = 0.2


@dataclass(frozen=True)
class Plan:
    """How long and at what rate a rival trains.

    Attributes:
        rate: the highest.
        every: steps between validations.
        patience: validations without a better loss before the rate is cut, and again before the end; None: no end.
        second_patience: the same after the cut; 0: the first plateau ends it.
        warmup: steps of a rising rate.
        most_steps: an end in any case.
        linear_to: step at which a rate that falls in a straight line would be 0; None: constant.
        seconds: an end in any case, of training and validation.
    """

    rate: float
    every: int
    patience: int | None
    second_patience: int
    warmup: int
    most_steps: int
    linear_to: int | None = None
    seconds: float = float("inf")

    def share(self, step: int) -> float:
        """The share of the highest rate at a step, counted from 0."""
        rising = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return rising if self.linear_to is None else rising * max(0.0, 1 - step / self.linear_to)


class Masters:
    """AdamW in fp32: a parameter of lower precision gets a master copy, from which it is rounded after each step."""

    def __init__(self, groups: Sequence[dict[str, Any]]) -> None:
        self._groups = groups
        self._own = [p for group in groups for p in group["params"]]
        self.masters = [p.detach() if p.dtype == torch.float32 else p.detach().float() for p in self._own]
        self._fresh()

    def _fresh(self) -> None:
        masters = iter(self.masters)
        groups = [{**group, "params": [next(masters) for _ in group["params"]]} for group in self._groups]
        self._rates = [group["lr"] for group in groups]
        self._adam = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)

    def step(self, share: float) -> None:
        """Take one step at a share of each group's rate, the gradient's norm clipped."""
        for own, master in zip(self._own, self.masters, strict=True):
            master.grad = None if own.grad is None else own.grad.float()
            own.grad = None
        torch.nn.utils.clip_grad_norm_(self.masters, CLIP)
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group["lr"] = rate * share
        self._adam.step()
        self._round()

    def kept(self) -> list[Tensor]:
        return [master.clone() for master in self.masters]

    def go_back(self, kept: Sequence[Tensor]) -> None:
        """Take up an earlier state, with a fresh optimizer."""
        for master, earlier in zip(self.masters, kept, strict=True):
            master.copy_(earlier)
        self._round()
        self._fresh()

    @torch.no_grad()
    def _round(self) -> None:
        for own, master in zip(self._own, self.masters, strict=True):
            if own.dtype != torch.float32:
                own.copy_(master)

    @property
    def count(self) -> int:
        return sum(master.numel() for master in self.masters)


@dataclass
class Course:
    """How one training goes."""

    curve: list[dict[str, float]] = field(default_factory=list)
    training: float = 0.0
    validation: float = 0.0
    waited: int = 0
    phase: int = 0
    phase_began: int = 0
    best: float = float("inf")
    stopped: str = ""


class RivalTraining:
    """Trains one rival and tells what it reached; the state of the lowest validation loss is the one tested."""

    def __init__(self, rival: Rival, rows: RivalRows, plan: Plan) -> None:
        self._rival, self._rows, self._plan = rival, rows, plan
        self._masters, self._course = Masters(rival.groups(plan.rate)), Course()
        self._kept = self._masters.kept()

    def run(self) -> dict[str, Any]:
        course, step = self._course, 0
        self._validate(step, {})
        while not course.stopped:
            began = time.perf_counter()
            loss = self._step(step)
            course.training += time.perf_counter() - began
            step += 1
            if step % self._plan.every == 0 or step == self._plan.most_steps:
                self._validate(step, {"training loss": loss})
                self._decide(step)
        self._masters.go_back(self._kept)
        return {"trained parameters": self._masters.count, **self._told(step), "test": tested(self._rival, self._rows)}

    def _told(self, step: int) -> dict[str, Any]:
        course = self._course
        chosen = min(course.curve, key=lambda point: point["loss"])
        return {
            "steps": step, "examples": self._rows.examples(step), "stopped": course.stopped, "chosen": chosen,
            "training seconds": course.training, "validation seconds": course.validation, "curve": course.curve,
        }  # fmt: skip

    def _step(self, step: int) -> float:
        """One optimizer step; long rows go a few at a time, for memory."""
        batch, total = self._rows.batch(step), 0.0
        for part in by_length([len(row.ids) for row in batch], len(batch), TOKENS):
            loss = self._rival.loss([batch[i] for i in part]) * (len(part) / len(batch))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        if not np.isfinite(total):
            self._course.stopped = f"the loss is not finite at step {step + 1}"
        else:
            self._masters.step(self._plan.share(step - self._course.phase_began) * REDUCTION**self._course.phase)
        return total

    def _validate(self, step: int, more: dict[str, float]) -> None:
        course = self._course
        began = time.perf_counter()
        loss, accuracy = scored(self._rival, self._rows.validation)
        course.validation += time.perf_counter() - began
        course.waited += 1
        if loss < course.best:
            course.best, course.waited, self._kept = loss, 0, self._masters.kept()
        point = {
            "step": step, "examples": self._rows.examples(step), "seconds": course.training + course.validation,
            "training seconds": course.training, "loss": loss, "accuracy": accuracy, **more,
            "watched test accuracy": scored(self._rival, self._rows.watched)[1],
        }  # fmt: skip
        course.curve.append(point)
        print(f"   step {step}: {', '.join(f'{k} {v:.4g}' for k, v in point.items())}", file=sys.stderr, flush=True)

    def _decide(self, step: int) -> None:
        """After a plateau go back to the best at a fifth of the rate; after a second one, or at a limit, end."""
        plan, course = self._plan, self._course
        patience = plan.second_patience if course.phase else plan.patience
        if step >= plan.most_steps:
            course.stopped = course.stopped or f"{step} steps, the most that were planned"
        elif course.training + course.validation > plan.seconds:
            course.stopped = course.stopped or f"{plan.seconds:.0f} seconds, the most that were planned"
        elif patience is not None and course.waited >= patience:
            if course.phase or not plan.second_patience:
                course.stopped = course.stopped or "the validation loss no longer improved"
                return
            course.phase, course.phase_began, course.waited = 1, step, 0
            self._masters.go_back(self._kept)


@torch.inference_mode()
def all_logits(rival: Rival, rows: Sequence[TokenRow]) -> Tensor:
    """Logits of the labels of some rows, in their order, batched by length: [N, C]."""
    out: list[Tensor | None] = [None] * len(rows)
    for part in by_length([len(row.ids) for row in rows], 64, 2 * TOKENS):
        for i, logits in zip(part, rival.label_logits([rows[i] for i in part]).cpu(), strict=True):
            out[i] = logits
    return torch.stack([logits for logits in out if logits is not None])


def scored(rival: Rival, rows: Sequence[TokenRow]) -> tuple[float, float]:
    """Mean loss over the labels, and accuracy."""
    logits, gold = all_logits(rival, rows), torch.tensor([row.gold for row in rows])
    return float(cross_entropy(logits, gold)), float((logits.argmax(1) == gold).float().mean())


def tested(rival: Rival, rows: RivalRows) -> dict[str, Any]:
    """Accuracy with its interval and macro-F1 on the test rows, and every label's F1."""
    gold = np.asarray([row.gold for row in rows.test])
    predicted = np.asarray(all_logits(rival, rows.test).argmax(1))
    return {
        "rows": len(gold), "accuracy": metrics.accuracy(gold, predicted),
        "accuracy_interval": list(statistics.accuracy_interval(gold, predicted)),
        "macro_f1": metrics.macro_f1(gold, predicted),
        "f1": {row.label: row.f1 for row in metrics.class_table(gold, predicted, rows.labels)},
    }  # fmt: skip
