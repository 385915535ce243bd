"""What costs nothing where an answer is not one label: the commonest answer, zero-shot, the text, a linear probe."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from softprompt.errors import TemplateError, UnsupportedBackboneError
from softprompt.evaluation.answer_evaluation import AnswerEvaluation
from softprompt.evaluation.probe import Labelled, fit_probe
from softprompt.evaluation.references import (
    HARD_TEXT,
    LINEAR_PROBE,
    RIDGE_PROBE,
    ZERO_SHOT,
    Features,
    Reference,
    Rows,
    best_features,
)
from softprompt.evaluation.ridge import fit_ridge
from softprompt.tasks.task import Example, Label

Answers = Callable[[Sequence[Example]], Sequence[Label]]
"""What answers rows: B examples to B answers."""
WordFeatures = Callable[[Sequence[Example]], list[np.ndarray]]
"""What describes the words of rows: B examples to B arrays [words, D]."""

COMMONEST = {
    "multi-label": "majority labels",
    "regression": "mean of train",
    "tagging": "majority tag",
}


def run_answer_references(
    kind: str,
    rows: Rows,
    *,
    zero_shot: Answers,
    hard_text: Answers,
    probe: Callable[[], Reference],
) -> tuple[Reference, ...]:
    """Run every rival that costs nothing, and say which were not run and why.

    Args:
        kind: of the task: anything but classification and choice.
        rows: what they learn from and are judged on.
        zero_shot: answers with the template alone, no virtual token in it.
        hard_text: answers with the initial text written where the virtual tokens stand.
        probe: fits a linear model on frozen features: `linear_probes`, `ridge_probe`, `word_probe` or `no_probe`.
    """
    return (
        _timed(COMMONEST.get(kind, "commonest answer"), kind, rows, commonest(kind, rows.train)),
        _timed(ZERO_SHOT, kind, rows, zero_shot),
        _timed(HARD_TEXT, kind, rows, hard_text),
        probe(),
    )


def commonest(kind: str, train: Sequence[Example]) -> Answers:
    """Return what answers every row alike: labels on half of the rows, the mean, the commonest tag or text of train."""
    if kind == "regression":
        mean = float(np.mean([_number(row) for row in train]))
        return lambda examples: [mean] * len(examples)
    counts = Counter(label for row in train for label in row.labels)
    if kind == "multi-label":
        held = tuple(sorted(label for label, count in counts.items() if 2 * count >= len(train)))
        return lambda examples: [held] * len(examples)
    most = counts.most_common(1)[0][0]
    if kind == "tagging":
        return lambda examples: [(most,) * len(row.labels) for row in examples]
    return lambda examples: [most] * len(examples)


def linear_probes(rows: Rows, features: Iterable[tuple[str, Features]], *, seed: int = 0) -> Reference:
    """Fit one logistic regression a label on each kind of features; the better by validation log loss is reported."""

    def fit(train: np.ndarray, validation: np.ndarray, test: np.ndarray) -> tuple[float, list[Label]]:
        held, losses = [], []
        for label in rows.labels:
            learned, judged = (
                Labelled(x, np.asarray([label in row.labels for row in part], dtype=np.int64))
                for x, part in ((train, rows.train), (validation, rows.validation))
            )
            found, loss = fit_probe(learned, judged, 2, seed=seed)
            held.append(found.log_probabilities(test).argmax(axis=1) == 1)
            losses.append(loss)
        chosen = [tuple(sorted(n for n, yes in zip(rows.labels, row, strict=True) if yes)) for row in np.stack(held, 1)]
        return float(np.mean(losses)), [*chosen]

    return _best("multi-label", LINEAR_PROBE, "log loss", rows, features, fit)


def ridge_probe(rows: Rows, features: Iterable[tuple[str, Features]], *, seed: int = 0) -> Reference:
    """Fit ridge regression on each kind of features; the better by validation error is reported."""

    def fit(train: np.ndarray, validation: np.ndarray, test: np.ndarray) -> tuple[float, list[Label]]:
        gold = [np.asarray([_number(row) for row in part]) for part in (rows.train, rows.validation)]
        found, error = fit_ridge(train, gold[0], validation, gold[1], seed=seed)
        return error, [*found.predict(test).clip(gold[0].min(), gold[0].max()).tolist()]

    return _best("regression", RIDGE_PROBE, "mean squared error", rows, features, fit)


def word_probe(rows: Rows, name: str, describe: WordFeatures, most: int, *, seed: int = 0) -> Reference:
    """Fit logistic regression on the hidden state of each word, at most `most` words of train.

    Args:
        rows: what it learns from and is judged on.
        name: of the features.
        describe: gives the features.
        most: words to learn from at most; whole rows are taken while they last.
        seed: of the folds that choose the penalty when validation is small.
    """
    started = time.perf_counter()
    position = {tag: i for i, tag in enumerate(rows.labels)}

    def labelled(part: Sequence[Example]) -> tuple[Labelled, int]:
        kept = _while_they_last(part, most)
        found = describe(kept)
        gold = [position[tag] for states, row in zip(found, kept, strict=True) for tag in row.labels[: len(states)]]
        return Labelled(np.concatenate(found), np.asarray(gold, dtype=np.int64)), len(gold)

    (train, words), (validation, _) = labelled(rows.train), labelled(rows.validation)
    probe, _ = fit_probe(train, validation, len(rows.labels), seed=seed)
    outside = rows.labels[position.get("O", 0)]
    answers: list[Label] = []
    for states, row in zip(describe(rows.test), rows.test, strict=True):
        found = [rows.labels[i] for i in probe.log_probabilities(states).argmax(axis=1)] if len(states) else []
        answers.append((*found, *[outside] * (len(row.labels) - len(found))))
    seconds = time.perf_counter() - started
    judged = AnswerEvaluation.of("tagging", rows.test, answers, overlap=rows.overlap, seconds=seconds)
    return Reference(LINEAR_PROBE, judged, seconds, f"on {name} at the end of each word, learned from {words:,} words")


def no_probe(reason: str) -> Reference:
    """Return a probe that was not run, and why."""
    return Reference(LINEAR_PROBE, None, note=reason)


_Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[float, list[Label]]]


def _best(
    kind: str, title: str, error: str, rows: Rows, features: Iterable[tuple[str, Features]], fit: _Fit
) -> Reference:
    """Fit on each kind of features, and keep the answers of the one that does best where its penalty was chosen."""

    def judged(describe: Features) -> tuple[float, str, AnswerEvaluation]:
        loss, answers = fit(*_described(rows, describe))
        return loss, "", AnswerEvaluation.of(kind, rows.test, answers, overlap=rows.overlap)

    return best_features(title, error, features, judged)


def _described(rows: Rows, describe: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    parts = [rows.train, rows.validation, rows.test]
    everything = describe([example for part in parts for example in part])  # one call: better batches
    train, validation, test = np.split(everything, np.cumsum([len(part) for part in parts])[:-1])
    return train, validation, test


def _while_they_last(rows: Sequence[Example], most: int) -> list[Example]:
    kept: list[Example] = []
    words = 0
    for row in rows:
        if kept and words + len(row.labels) > most:
            break
        kept.append(row)
        words += len(row.labels)
    return kept


def _timed(name: str, kind: str, rows: Rows, answers: Answers) -> Reference:
    """Answer the test rows, or say why that cannot be: the words cannot be scored on this backbone."""
    started = time.perf_counter()
    try:
        found = list(answers(rows.test))
    except (UnsupportedBackboneError, TemplateError) as error:
        return Reference(name, None, note=str(error))
    seconds = time.perf_counter() - started
    judged = AnswerEvaluation.of(kind, rows.test, found, overlap=rows.overlap, seconds=seconds)
    return Reference(name, judged, seconds)


def _number(row: Example) -> float:
    assert isinstance(row.label, int | float), "the rows of a regression are labelled with numbers"
    return float(row.label)
