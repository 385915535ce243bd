"""The rivals' training, by `softprompt.methods.tuning`, and what they reach on the test rows."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from rival_rows import RivalRows

from softprompt.evaluation import metrics, statistics
from softprompt.methods.method import Point
from softprompt.methods.tuning import Plan, Rival, all_logits, scored, tune


class RivalTraining:
    """Trains one rival and tells what it reached; the state of the lowest validation loss is the one tested."""

    def __init__(self, rival: Rival, rows: RivalRows, plan: Plan) -> None:
        self._rival, self._rows, self._plan = rival, rows, plan
        self._curve: list[dict[str, float]] = []
        self._watching = 0.0

    def run(self) -> dict[str, Any]:
        self._began = time.perf_counter()
        course = tune(self._rival, self._rows, self._plan, watch=self._watch)
        whole = time.perf_counter() - self._began - self._watching
        return {
            "trained parameters": sum(p.numel() for group in self._rival.groups(1.0) for p in group["params"]),
            "steps": course.steps, "examples": course.examples, "stopped": course.stopped,
            "chosen": min(self._curve, key=lambda point: point["loss"]), "training seconds": course.seconds,
            "validation seconds": whole - course.seconds, "curve": self._curve, "test": tested(self._rival, self._rows),
        }  # fmt: skip

    def _watch(self, point: Point) -> None:
        """Look at test rows, outside all times that are told."""
        began = time.perf_counter()
        told = {
            "step": point.step, "examples": point.examples, "seconds": began - self._began - self._watching,
            "training seconds": point.seconds, "loss": point.loss, "accuracy": point.accuracy,
            "watched test accuracy": scored(self._rival, self._rows.watched)[1],
        }  # fmt: skip
        self._curve.append(told)
        print("   " + ", ".join(f"{k} {v:.4g}" for k, v in told.items()), file=sys.stderr, flush=True)
        self._watching += time.perf_counter() - began


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
