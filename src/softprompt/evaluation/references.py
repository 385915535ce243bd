"""What costs nothing, on the same rows: majority, zero-shot, the text as a hard prompt, the linear probe."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from softprompt.errors import MissingExtraError, UnsupportedBackboneError
from softprompt.evaluation.answer_evaluation import Judged, pooled
from softprompt.evaluation.evaluation import Evaluation, Score, gold_indices, measure
from softprompt.evaluation.probe import Labelled, fit_probe
from softprompt.tasks.task import Example

Features = Callable[[Sequence[Example]], np.ndarray]
"""What describes rows: B examples to features [B, D]."""

MAJORITY, ZERO_SHOT, HARD_TEXT, LINEAR_PROBE = "majority class", "zero-shot", "hard text", "linear probe"
RIDGE_PROBE = "ridge probe"
PROBES = (LINEAR_PROBE, RIDGE_PROBE)
"""The rivals that matter most: a loss to one of them comes first."""


@dataclass(frozen=True, eq=False)
class Reference:
    """A rival and how it did on the rows of the report.

    Attributes:
        name: what it is, in a word or two.
        evaluation: its scores; None where it was not run.
        seconds: what it took, training included.
        note: what was chosen, or why it was not run.
    """

    name: str
    evaluation: Judged | None
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Rows:
    """The rows that rivals learn from, choose on and are judged on.

    Attributes:
        labels: the C answers.
        train: the rows that the soft prompt was trained on.
        validation: rows for choices.
        test: rows that took part in no choice.
        overlap: which test rows also stand in train.
    """

    labels: tuple[str, ...]
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    overlap: tuple[int, ...] = ()

    def labelled(self, features: Features) -> tuple[Labelled, Labelled, np.ndarray]:
        """Return train and validation rows as numbers, and the features of the test rows."""
        parts = [self.train, self.validation, self.test]
        everything = features([example for part in parts for example in part])  # one call: better batches
        train, validation, test = np.split(everything, np.cumsum([len(part) for part in parts])[:-1])
        return (
            Labelled(train, gold_indices(self.train, self.labels)),
            Labelled(validation, gold_indices(self.validation, self.labels)),
            test,
        )


def run_references(
    rows: Rows,
    *,
    zero_shot: Score | None = None,
    hard_text: Score | None = None,
    features: Iterable[tuple[str, Features]] = (),
    seed: int = 0,
) -> tuple[Reference, ...]:
    """Run every rival that costs nothing, and say which were not run and why.

    Args:
        rows: what they learn from and are judged on.
        zero_shot: scores rows with the template alone, no virtual token in it.
        hard_text: scores rows with the initial text written where the virtual tokens stand.
        features: by name, what a linear probe may stand on; the best on validation is reported. A source whose
            package is missing is named as not run.
        seed: of the folds that choose the probe's penalty when validation is small.
    """
    return (
        _timed(MAJORITY, lambda: measure(majority(rows), rows.test, rows.labels, overlap=rows.overlap)),
        _scored(ZERO_SHOT, zero_shot, rows, "not asked for"),
        _scored(HARD_TEXT, hard_text, rows, "training did not start from a text"),
        linear_probe(rows, features, seed=seed),
    )


def majority(rows: Rows) -> Score:
    """Return what scores every row with the label shares of train, so that the most frequent one wins."""
    counts = np.bincount(gold_indices(rows.train, rows.labels), minlength=len(rows.labels))
    shares = np.log((counts + 1) / (counts.sum() + len(counts)))  # one row more each, so that none is impossible
    return lambda examples: np.tile(shares, (len(examples), 1))


def linear_probe(rows: Rows, features: Iterable[tuple[str, Features]], *, seed: int = 0) -> Reference:
    """Fit logistic regression on each kind of features and report the one with the lower validation log loss."""

    def fit(describe: Features) -> tuple[float, str, Evaluation]:
        train, validation, test = rows.labelled(describe)
        probe, loss = fit_probe(train, validation, len(rows.labels), seed=seed)
        gold = gold_indices(rows.test, rows.labels)
        evaluation = Evaluation(rows.labels, gold, probe.log_probabilities(test), overlap=rows.overlap)
        unfinished = "" if probe.converged else ", solver stopped before it converged"
        return loss, f" (C={probe.strength:g}{unfinished})", evaluation

    return best_features(LINEAR_PROBE, "log loss", features, fit)


def best_features(
    title: str,
    error: str,
    features: Iterable[tuple[str, Features]],
    fit: Callable[[Features], tuple[float, str, Judged]],
) -> Reference:
    """Fit on each kind of features, and report the one that does best where its penalty was chosen.

    Args:
        title: what the reference is called.
        error: what is lowest for the best.
        features: by name; those that need an extra that is not installed are said to be left out.
        fit: gives the error, what else there is to say of the fit, and its answers on the test rows.
    """
    started = time.perf_counter()
    best: tuple[float, str, Judged] | None = None
    said = []
    for name, describe in features:
        try:
            loss, more, judged = fit(describe)
        except MissingExtraError as missing:
            said.append(f"not run on {name}: {missing}")
            continue
        said.append(f"{name} {loss:.3f}{more}")
        if best is None or loss < best[0]:
            best = (loss, name, judged)
    seconds = time.perf_counter() - started
    if best is None:
        return Reference(title, None, seconds, "; ".join(said) or "no features were given")
    note = f"on {best[1]}; {error} where its penalty was chosen: {'; '.join(said)}"
    return Reference(title, replace(best[2], seconds=seconds), seconds, note)


def pool_references(folds: Sequence[Sequence[Reference]]) -> tuple[Reference, ...]:
    """Join the rivals of a cross-fit, fold by fold in the same order, into one set over all rows."""
    return tuple(_pooled(same) for same in zip(*folds, strict=True))


def _pooled(same: Sequence[Reference]) -> Reference:
    evaluations = [reference.evaluation for reference in same if reference.evaluation is not None]
    complete = len(evaluations) == len(same)
    notes = list(dict.fromkeys(reference.note for reference in same if reference.note))
    note = notes[0] if len(notes) == 1 else "; ".join(f"fold {i}: {n}" for i, n in enumerate(notes, start=1))
    seconds = sum(reference.seconds for reference in same)
    return Reference(same[0].name, pooled(evaluations) if complete else None, seconds, note)


def _scored(name: str, score: Score | None, rows: Rows, absent: str) -> Reference:
    if score is None:
        return Reference(name, None, note=absent)
    try:
        return _timed(name, lambda: measure(score, rows.test, rows.labels, overlap=rows.overlap))
    except UnsupportedBackboneError as error:
        return Reference(name, None, note=str(error))


def _timed(name: str, run: Callable[[], Evaluation]) -> Reference:
    evaluation = run()
    return Reference(name, evaluation, evaluation.seconds)


@dataclass(frozen=True, eq=False)
class Remembered:
    """Features or scores that are computed once for each distinct row, whatever is asked again (folds, both uses).

    >>> calls = []
    >>> remembered = Remembered(lambda rows: calls.append(len(rows)) or np.ones((len(rows), 2)))
    >>> row = Example({"text": "again"})
    >>> remembered([row, row]).shape, remembered([row]).shape, calls
    ((2, 2), (1, 2), [1])
    """

    compute: Callable[[Sequence[Example]], np.ndarray]
    _known: dict[Hashable, np.ndarray] = field(default_factory=dict)

    def __call__(self, examples: Sequence[Example]) -> np.ndarray:
        """Return one row of numbers for each example."""
        new = {example.key: example for example in examples if example.key not in self._known}
        if new:
            self._known.update(zip(new, self.compute(list(new.values())), strict=True))
        return np.stack([self._known[example.key] for example in examples])
