"""What the rows of a comparison say: figures over seeds, paired differences on the same rows, Holm's correction.

All methods of a task answered the same rows, so one set of resamples serves them all: resample r draws the same rows
for every method and every seed, and the difference of two methods in resample r is a paired one. It draws seeds too,
the same ones for methods that have equally many: another training would have come out otherwise, as other rows would.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from softprompt.errors import DataError
from softprompt.evaluation import metrics
from softprompt.evaluation.figures import Difference, Interval
from softprompt.evaluation.statistics import RESAMPLES, mcnemar
from softprompt.shapes import Float, Int

K = TypeVar("K", bound=Hashable)

METRICS = ("accuracy", "macro_f1", "mcc", "log_loss", "ece")
LEAST_LOG = float(np.log(1e-12))
"""Log-probabilities are cut here: one row that was held to be impossible would else make the log loss infinite."""
_CHUNK = 4_000_000  # numbers held at once while resampling


@dataclass(frozen=True)
class Answers:
    """What one method answered, by each of its S seeds, on the B test rows of a task.

    Attributes:
        predicted: places of labels.
        gold_log: log-probability of the right label, in nats.
        confidence: probability of the predicted label.

    Raises:
        DataError: the three differ in shape, or hold no row.
    """

    predicted: Int[np.ndarray, "S B"]
    gold_log: Float[np.ndarray, "S B"]
    confidence: Float[np.ndarray, "S B"]

    def __post_init__(self) -> None:
        shapes = {each.shape for each in (self.predicted, self.gold_log, self.confidence)}
        if len(shapes) > 1 or self.predicted.ndim != 2 or not self.predicted.size:
            raise DataError(f"answers of shapes {sorted(shapes)} were given; give one row a seed, all of one length")


@dataclass(frozen=True)
class Sampled:
    """The figures of one method: of each seed, and of their mean in each of R resamples of the rows.

    Attributes:
        seeds: by metric, one a seed.
        drawn: by metric, the mean over the seeds drawn, on the rows drawn, in each resample, [R].
    """

    seeds: Mapping[str, tuple[float, ...]]
    drawn: Mapping[str, Float[np.ndarray, " R"]]

    def value(self, metric: str) -> float:
        """Return the mean over the seeds."""
        return float(np.mean(self.seeds[metric]))

    def interval(self, metric: str) -> Interval:
        """Return the 95 % percentile bootstrap interval of that mean, over rows and seeds."""
        return _percentiles(self.drawn[metric])

    def deviation(self, metric: str) -> float | None:
        """Return the standard deviation over the seeds (n - 1); None with one seed."""
        each = self.seeds[metric]
        return float(np.std(each, ddof=1)) if len(each) > 1 else None

    def worst(self, metric: str) -> float:
        """Return the figure of the seed that came out worst."""
        return (max if metric in ("log_loss", "ece") else min)(self.seeds[metric])


def sampled(
    gold: Int[np.ndarray, " B"],
    answers: Mapping[K, Answers],
    classes: int,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[K, Sampled]:
    """Return the figures of several methods on the same rows, all from the same resamples.

    Args:
        gold: right label of each row, in [0, classes).
        answers: of each method, on the same rows.
        classes: how many labels there are, C.
        seed: of the resampling.
        resamples: how many, R.

    Raises:
        DataError: a method answered another number of rows.
    """
    for name, each in answers.items():
        if each.predicted.shape[1] != len(gold):
            found = f"{each.predicted.shape[1]} rows were answered by {name}, and the task has {len(gold)}"
            raise DataError(f"{found}; compare what answered the same rows")
    parts: dict[K, list[np.ndarray]] = {name: [] for name in answers}
    for weights in _weights(len(gold), seed, resamples):
        truth = weights @ _one_hot(gold, classes)  # [R, C]
        for name, each in answers.items():
            parts[name].append(_drawn(weights, truth, gold, each))
    whole = {name: _over_seeds(np.concatenate(each, axis=2), seed) for name, each in parts.items()}
    return {
        name: Sampled(_of_seeds(gold, each), dict(zip(METRICS, whole[name], strict=True)))
        for name, each in answers.items()
    }


def difference(first: Sampled, second: Sampled, metric: str) -> Difference:
    """Return the first method's figure minus the second's, with its paired 95 % bootstrap interval."""
    gaps = first.drawn[metric] - second.drawn[metric]
    return Difference(value=first.value(metric) - second.value(metric), interval=_percentiles(gaps))


def bootstrap_p(first: Sampled, second: Sampled, metric: str) -> float:
    """Return the two-sided p-value of the paired bootstrap that two figures are alike.

    p = min(1, 2 (1 + min(#{d <= 0}, #{d >= 0})) / (R + 1)), d being the differences in R resamples.
    """
    gaps = first.drawn[metric] - second.drawn[metric]
    fewer = min(int(np.sum(gaps <= 0)), int(np.sum(gaps >= 0)))
    return min(1.0, 2 * (1 + fewer) / (len(gaps) + 1))


def mcnemar_p(gold: Int[np.ndarray, " B"], first: Answers, second: Answers) -> float | None:
    """Return McNemar's exact p-value that two methods of one seed each are right equally often; None with more."""
    if len(first.predicted) != 1 or len(second.predicted) != 1:
        return None
    return mcnemar(first.predicted[0] == gold, second.predicted[0] == gold)


def holm(p_values: Mapping[K, float]) -> dict[K, float]:
    """Return p-values corrected for their number, so that one false alarm among all of them is as rare as asked.

    The k-th smallest of m is multiplied by m - k + 1, and is never below the one before (Holm 1979).

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    corrected: dict[K, float] = {}
    highest = 0.0
    for place, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p))
        corrected[name] = highest
    return corrected


def disagreements(
    gold: Int[np.ndarray, " B"], first: Int[np.ndarray, " B"], second: Int[np.ndarray, " B"]
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " M"]]:
    """Return the places of rows that only the first has right, and of those that only the second has right.

    >>> disagreements(np.array([0, 1, 1]), np.array([0, 0, 1]), np.array([1, 1, 1]))
    (array([0]), array([1]))
    """
    one, other = first == gold, second == gold
    return np.flatnonzero(one & ~other), np.flatnonzero(other & ~one)


def _percentiles(drawn: Float[np.ndarray, " R"]) -> Interval:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(low), float(high))


def _weights(rows: int, seed: int, resamples: int) -> Iterator[Float[np.ndarray, "R B"]]:
    """Yield, some resamples at a time, how often each row was drawn."""
    generator, step = np.random.default_rng(seed), max(1, _CHUNK // rows)
    for start in range(0, resamples, step):
        drawn = generator.multinomial(rows, np.full(rows, 1 / rows), size=min(step, resamples - start))
        yield drawn.astype(np.float32)  # whole numbers, exact up to 2**24


def _one_hot(places: Int[np.ndarray, " B"], classes: int) -> Float[np.ndarray, "B C"]:
    return np.asarray(places[:, None] == np.arange(classes), dtype=np.float32)


def _drawn(
    weights: Float[np.ndarray, "R B"], truth: Float[np.ndarray, "R C"], gold: Int[np.ndarray, " B"], answers: Answers
) -> Float[np.ndarray, "S M R"]:
    """Every metric of every seed in every resample of the rows."""
    rows = len(gold)
    each = []
    for predicted, gold_log, confidence in zip(answers.predicted, answers.gold_log, answers.confidence, strict=True):
        right, said = predicted == gold, _one_hot(predicted, truth.shape[1])
        hits = (weights @ (said * right[:, None])).astype(np.float64)  # [R, C]
        counts = (weights @ said).astype(np.float64)
        gaps = weights @ (_one_hot(_bins(confidence), metrics.ECE_BINS) * (right - confidence)[:, None])
        loss = weights @ -np.maximum(gold_log, LEAST_LOG) / rows
        scores = hits.sum(axis=1) / rows, _macro_f1(hits, truth, counts), _mcc(hits, truth, counts)
        each.append(np.stack([*scores, loss, np.abs(gaps).sum(axis=1) / rows]))
    return np.asarray(each, dtype=np.float64)


def _over_seeds(found: Float[np.ndarray, "S M R"], seed: int) -> Float[np.ndarray, "M R"]:
    """The mean over as many seeds as there are, drawn with replacement in each resample."""
    seeds, _, resamples = found.shape
    counts = np.random.default_rng([seed, seeds]).multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
    return np.asarray(np.einsum("smr,rs->mr", found, counts / seeds))


def _bins(confidence: Float[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
    return np.asarray(np.clip(np.ceil(confidence * metrics.ECE_BINS).astype(np.int64) - 1, 0, metrics.ECE_BINS - 1))


def _macro_f1(
    hits: Float[np.ndarray, "R C"], truth: Float[np.ndarray, "R C"], counts: Float[np.ndarray, "R C"]
) -> Float[np.ndarray, " R"]:
    seen = truth + counts  # 2 TP + FP + FN
    scores = np.divide(2 * hits, seen, out=np.zeros_like(hits), where=seen > 0)
    return np.asarray(scores.sum(axis=1) / (seen > 0).sum(axis=1))


def _mcc(
    hits: Float[np.ndarray, "R C"], truth: Float[np.ndarray, "R C"], counts: Float[np.ndarray, "R C"]
) -> Float[np.ndarray, " R"]:
    """Matthews' correlation for any number of labels; 0 where either side is constant."""
    rows, real = counts.sum(axis=1), truth.astype(np.float64)
    both = hits.sum(axis=1) * rows - (real * counts).sum(axis=1)
    spread = (rows**2 - (real**2).sum(axis=1)) * (rows**2 - (counts**2).sum(axis=1))
    scores = np.divide(both, np.sqrt(np.maximum(spread, 0)), out=np.zeros_like(both), where=spread > 0)
    return np.asarray(scores)


def _of_seeds(gold: Int[np.ndarray, " B"], answers: Answers) -> dict[str, tuple[float, ...]]:
    each: Sequence[tuple[float, ...]] = [
        (
            metrics.accuracy(gold, predicted),
            metrics.macro_f1(gold, predicted),
            metrics.mcc(gold, predicted),
            float(-np.maximum(gold_log, LEAST_LOG).mean()),
            metrics.expected_calibration_error(confidence, predicted == gold),
        )
        for predicted, gold_log, confidence in zip(answers.predicted, answers.gold_log, answers.confidence, strict=True)
    ]
    return dict(zip(METRICS, zip(*each, strict=True), strict=True))
