"""Probabilities that mean what they say: one temperature, and the probability below which to abstain."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from softprompt.errors import ConfigError
from softprompt.evaluation.answer_evaluation import AnswerEvaluation
from softprompt.evaluation.figures import Record
from softprompt.evaluation.metrics import calibrated, log_loss
from softprompt.modeling.answers import log_no
from softprompt.shapes import Float, Int
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import Readout
from softprompt.tasks.readout_kinds import YesNo
from softprompt.tasks.tags import TokenTags

BOUNDS = (0.05, 20.0)
MIN_ROWS = 50  # below this one temperature is fitted to noise
MIN_ANSWERED = 20  # an accuracy over fewer answered rows promises nothing


class Temperature(Record):
    """A fitted temperature, or 1 with the reason why none was fitted.

    Attributes:
        value: T, in [0.05, 20].
        fitted: whether T comes from the rows.
        rows: how many rows it was fitted on.
        log_loss_before: on those rows with T = 1, in nats; None without rows.
        log_loss_after: on those rows with `value`.
        reason: why T is 1 or at its bound; empty otherwise.
    """

    value: float = 1.0
    fitted: bool = False
    rows: int = 0
    log_loss_before: float | None = None
    log_loss_after: float | None = None
    reason: str = ""


class Abstention(Record):
    """The abstain threshold chosen on validation rows.

    Attributes:
        target: accuracy asked of the answered rows.
        threshold: answers below this probability are held back; None when the target is out of reach.
        coverage: share of the validation rows that are answered.
        accuracy: accuracy on those rows.
        reason: why there is no threshold; empty otherwise.
    """

    target: float
    threshold: float | None = None
    coverage: float = 0.0
    accuracy: float | None = None
    reason: str = ""


def fit_temperature(log_probabilities: Float[np.ndarray, "B C"], gold: Int[np.ndarray, " B"]) -> Temperature:
    """Fit T so that softmax(l / T) has the smallest log loss on validation rows.

    One number cannot change which label wins, so accuracy stays as it is (Guo et al. 2017, arXiv 1706.04599).
    The loss is convex in 1 / T, hence has one valley in log T, which golden sections find.

    Args:
        log_probabilities: l of each row's labels, uncalibrated.
        gold: right label of each row.
    """
    rows = len(gold)
    if rows < MIN_ROWS:
        return Temperature(rows=rows, reason=f"{rows} validation rows are too few to fit one ({MIN_ROWS} are needed)")

    def loss(log_temperature: float) -> float:
        return log_loss(calibrated(log_probabilities, math.exp(log_temperature)), gold)

    low, high = (math.log(bound) for bound in BOUNDS)
    value, before = math.exp(_valley(loss, low, high)), loss(0.0)
    after = loss(math.log(value))
    if after >= before:
        return Temperature(rows=rows, log_loss_before=before, log_loss_after=before, reason="1 is already the best")
    if value < BOUNDS[0] * 1.01:
        reason = f"every temperature down to {BOUNDS[0]} lowers the loss: the {rows} validation rows are all told apart"
        return Temperature(rows=rows, log_loss_before=before, log_loss_after=before, reason=reason)
    flat = value > BOUNDS[1] / 1.01
    reason = "at its upper bound: the probabilities hold next to no information" if flat else ""
    return Temperature(value=value, fitted=True, rows=rows, log_loss_before=before, log_loss_after=after, reason=reason)


def fit_answer_temperature(evaluation: AnswerEvaluation, readout: Readout) -> Temperature:
    """Fit the temperature of answers that are tags or several labels; numbers and text have none.

    Every word's choice among the tags counts as a row of `fit_temperature`, and every label's yes or no.

    Args:
        evaluation: on validation rows, as `evaluate` gives it.
        readout: what its scores are scores of.
    """
    rows = len(evaluation.gold)
    if not isinstance(readout, TokenTags | YesNo):
        what = "text has no probability of a choice" if isinstance(readout, Text) else "a number has no probability"
        return Temperature(rows=rows, reason=f"{what} to calibrate")
    if rows < MIN_ROWS:
        return Temperature(rows=rows, reason=f"{rows} validation rows are too few to fit one ({MIN_ROWS} are needed)")
    choices = _words(evaluation, readout) if isinstance(readout, TokenTags) else _decisions(evaluation, readout)
    return fit_temperature(*choices).model_copy(update={"rows": rows})


def _words(evaluation: AnswerEvaluation, readout: TokenTags) -> tuple[np.ndarray, np.ndarray]:
    """Scores and right tags of all words that the rows had room for."""
    position = {tag: i for i, tag in enumerate(readout.tags)}
    gold = [
        position[tag]
        for scores, tags in zip(evaluation.scores, evaluation.gold, strict=True)
        for tag, _ in zip(tags if isinstance(tags, tuple) else (), scores, strict=False)
    ]
    return np.concatenate([*evaluation.scores]), np.asarray(gold, dtype=np.int64)


def _decisions(evaluation: AnswerEvaluation, readout: YesNo) -> tuple[np.ndarray, np.ndarray]:
    """Scores of no and yes, and which is right, for every label of every row."""
    yes = torch.from_numpy(np.stack([*evaluation.scores]))
    pairs = torch.stack([log_no(yes), yes], dim=-1).reshape(-1, 2).numpy()
    held = [set(labels) if isinstance(labels, tuple) else set() for labels in evaluation.gold]
    gold = [label in each for each in held for label in readout.labels]
    return pairs, np.asarray(gold, dtype=np.int64)


def _valley(function: Callable[[float], float], low: float, high: float, tolerance: float = 1e-6) -> float:
    """Return where a function with one valley is smallest, by golden sections."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > tolerance:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2


def choose_abstention(
    log_probabilities: Float[np.ndarray, "B C"], gold: Int[np.ndarray, " B"], target: float
) -> Abstention:
    """Choose the smallest probability below which to abstain so that answered rows reach an accuracy.

    The threshold is put midway between the least confident row that is answered and the next one, so that
    rounding does not move a row across it.

    Args:
        log_probabilities: of each row's labels, at the temperature that will be used (`calibrated`).
        gold: right label of each row.
        target: accuracy asked of the answered rows, in (0, 1].

    Raises:
        ConfigError: `target` is not in (0, 1].
    """
    if not 0 < target <= 1:
        raise ConfigError(f"an abstain target of {target:g} was asked; it is an accuracy, give one above 0 and up to 1")
    confidence = np.exp(log_probabilities.max(axis=1))
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    accuracies = np.cumsum(log_probabilities.argmax(axis=1)[order] == gold[order]) / np.arange(1, len(gold) + 1)
    next_lower = np.append(sorted_confidence[1:], 0.0)
    possible = (accuracies >= target) & (
        sorted_confidence - next_lower > 1e-9
    )  # equal confidences stand or fall together
    possible[: MIN_ANSWERED - 1] = False
    if not possible.any():
        found = f"no threshold leaves at least {MIN_ANSWERED} of the {len(gold)} validation rows"
        return Abstention(target=target, reason=f"{found} answered at an accuracy of {target:.1%}")
    last = int(np.flatnonzero(possible)[-1])
    everyone = last == len(gold) - 1
    threshold = 0.0 if everyone else float((sorted_confidence[last] + next_lower[last]) / 2)
    return Abstention(
        target=target, threshold=threshold, coverage=(last + 1) / len(gold), accuracy=float(accuracies[last])
    )
