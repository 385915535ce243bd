"""Generated text against its references: BLEU and chrF by sacrebleu, ROUGE-L by rouge-score."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from softprompt.errors import MissingExtraError
from softprompt.evaluation import extracted
from softprompt.evaluation.measures import Statistic
from softprompt.evaluation.statistics import Weighted
from softprompt.shapes import Float
from softprompt.tasks.task import Example, Label

ORDER = 4  # of words, in BLEU
LETTERS = 6  # of characters, in chrF


def statistics_of(examples: Sequence[Example], answers: Sequence[Label]) -> list[Statistic]:
    """Return corpus BLEU, corpus chrF (both 0 to 100) and mean ROUGE-L (0 to 1) with all references of each row.

    Behind them the F1 of words and the exact matches of short answers.

    BLEU (Papineni et al. 2002) and chrF2 (Popović 2015) are sacrebleu's with its default settings, all references
    counted at once; ROUGE-L (Lin 2004) is the F-measure of the best reference, words in lower case, no stemming.
    A resample adds up the counts that the rows have.

    Args:
        examples: B rows with their references.
        answers: B texts.

    Raises:
        MissingExtraError: the extra `text-metrics` is not installed.
    """
    texts = [answer if isinstance(answer, str) else "" for answer in answers]
    accepted = [row.accepted for row in examples]
    return [
        Statistic("BLEU", bleu_statistic(texts, accepted), form="score"),
        Statistic("chrF", chrf_statistic(texts, accepted), form="score"),
        Statistic("ROUGE-L", _mean(rouge_l(texts, accepted))),
        *extracted.statistics_of(examples, answers),
    ]


def signatures(examples: Sequence[Example]) -> tuple[str, ...]:
    """Return sacrebleu's signatures of the BLEU and the chrF that are counted on these rows, for a table's footnote.

    Raises:
        MissingExtraError: the extra `text-metrics` is not installed.
    """
    metrics = _library("sacrebleu.metrics", "BLEU and chrF")
    counts = {len(row.accepted) for row in examples}
    varying = len(counts) > 1
    streams = [["a", "a"], ["a", None]] if varying else [["a"]] * counts.pop()
    found = []
    for metric in (metrics.BLEU(), metrics.CHRF()):
        metric.corpus_score(["a"] * (1 + varying), streams)
        found.append(str(metric.get_signature()))
    return tuple(found)


def bleu_statistic(texts: Sequence[str], accepted: Sequence[Sequence[str]]) -> Weighted:
    """Return corpus BLEU of B texts as a function of row weights.

    BLEU = 100 BP exp(mean over n = 1..4 of log p_n), p_n the clipped n-gram precision, BP = min(1, exp(1 - r / h)),
    r the length of each row's closest reference. An n-gram order without a hit gets half the count of the last one
    that had none (sacrebleu's `exp` smoothing).

    Raises:
        MissingExtraError: the extra `text-metrics` is not installed.
    """
    metric = _library("sacrebleu.metrics", "BLEU").BLEU(effective_order=True)  # asked row by row, for the counts only
    scores = [metric.sentence_score(text, [*references]) for text, references in zip(texts, accepted, strict=True)]
    counts = np.asarray([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores], dtype=np.float64)
    return lambda weights: _bleu(weights @ counts)


def _bleu(counts: Float[np.ndarray, "R 10"]) -> Float[np.ndarray, " R"]:
    """Corpus BLEU from summed hits and totals by order, text length and reference length."""
    hits, totals = counts[:, :ORDER], counts[:, ORDER : 2 * ORDER]
    length, reference = counts[:, -2], counts[:, -1]
    missed = (hits == 0) & (totals > 0)
    smoothed = 1.0 / 2.0 ** np.cumsum(missed, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(missed, smoothed, hits) / totals
        brevity = np.where(length < reference, np.exp(1 - reference / length), 1.0)
        found = 100 * brevity * np.exp(np.log(precision).mean(axis=1))
    return np.where((hits.sum(axis=1) > 0) & (totals > 0).all(axis=1), found, 0.0)


def chrf_statistic(texts: Sequence[str], accepted: Sequence[Sequence[str]]) -> Weighted:
    """Return corpus chrF2 of B texts as a function of row weights.

    F = (1 + b²) P R / (b² P + R), P and R the mean precision and recall of character n-grams, n = 1..6, b = 2,
    spaces left out, on the counts of each row's best reference: sacrebleu's, whose class does not give out counts.
    """
    counts = np.stack([_best_counts(text, found) for text, found in zip(texts, accepted, strict=True)])
    return lambda weights: _chrf(weights @ counts)


def _best_counts(text: str, references: Sequence[str]) -> Float[np.ndarray, " 18"]:
    """n-grams in the text, in the reference and in both, by order, against the reference of the highest F."""
    ours = _character_ngrams(text)
    every = np.asarray([_shared(ours, _character_ngrams(reference)) for reference in references], dtype=np.float64)
    return np.asarray(every[_chrf(every).argmax()])


def _character_ngrams(text: str) -> list[Counter[str]]:
    letters = "".join(text.split())
    return [Counter(letters[i : i + n] for i in range(len(letters) - n + 1)) for n in range(1, LETTERS + 1)]


def _shared(ours: Sequence[Counter[str]], theirs: Sequence[Counter[str]]) -> list[int]:
    pairs = list(zip(ours, theirs, strict=True))
    hits = [sum(min(count, right[gram]) for gram, count in left.items() if gram in right) for left, right in pairs]
    return [*(left.total() if right else 0 for left, right in pairs), *(right.total() for _, right in pairs), *hits]


def _chrf(counts: Float[np.ndarray, "R 18"]) -> Float[np.ndarray, " R"]:
    """F from summed n-grams of texts, of references and of both; orders that one side has none of are left out."""
    ours, theirs, hits = np.split(counts, 3, axis=1)
    known = (ours > 0) & (theirs > 0)
    orders = np.maximum(1, known.sum(axis=1))
    precision, recall = (
        np.divide(hits, side, out=np.zeros_like(hits), where=known).sum(axis=1) / orders for side in (ours, theirs)
    )
    below = 4 * precision + recall
    found = np.divide(500 * precision * recall, below, out=np.zeros_like(below), where=below > 0)
    return np.asarray(found)


def rouge_l(texts: Sequence[str], accepted: Sequence[Sequence[str]]) -> Float[np.ndarray, " B"]:
    """Return the ROUGE-L F-measure of each text against its best reference, in [0, 1].

    Words are runs of letters and digits in lower case. For ASCII they are those of the rouge-score package, which
    drops all other letters; here letters of every script count.

    Raises:
        MissingExtraError: the extra `text-metrics` is not installed.
    """
    scorer = _library("rouge_score.rouge_scorer", "ROUGE-L").RougeScorer(["rougeL"], tokenizer=_Words())
    pairs = zip(texts, accepted, strict=True)
    found = [scorer.score_multi([*references], text)["rougeL"].fmeasure for text, references in pairs]
    return np.asarray(found, dtype=np.float64)


class _Words:
    """A tokenizer as rouge-score wants it."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())


def _mean(values: Float[np.ndarray, " B"]) -> Weighted:
    return lambda weights: np.asarray(weights @ values / weights.sum(axis=1))


def _library(module: str, what: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        package = {"sacrebleu": "sacrebleu", "rouge_score": "rouge-score"}[module.partition(".")[0]]
        raise MissingExtraError(
            f'{what} needs the `{package}` package; install it with pip install "softprompt[text-metrics]"'
        ) from error
