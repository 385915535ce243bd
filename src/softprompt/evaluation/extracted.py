"""Short answers against the accepted ones: exact match and F1 of words."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from softprompt.evaluation.measures import Statistic
from softprompt.evaluation.statistics import Weighted
from softprompt.tasks.task import Example, Label

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_SIGNS = str.maketrans("", "", string.punctuation)


def statistics_of(examples: Sequence[Example], answers: Sequence[Label]) -> list[Statistic]:
    """Return the mean F1 of words and the share of exact matches, each with the best accepted answer of a row.

    Both are those of SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250): lower case, no punctuation, no English
    articles, spaces alike. Where the right answer is no text, only no text is right.

    Args:
        examples: B rows with their accepted answers.
        answers: B texts.
    """
    texts = [answer if isinstance(answer, str) else "" for answer in answers]
    pairs = [(text, row.accepted or ("",)) for text, row in zip(texts, examples, strict=True)]
    return [Statistic("F1", _mean(token_f1, pairs)), Statistic("exact match", _mean(exact_match, pairs))]


def normalized(text: str) -> str:
    """Return a text as answers are compared.

    >>> normalized("The  Denver Broncos!")
    'denver broncos'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_SIGNS)).split())


def exact_match(text: str, accepted: str) -> float:
    """Return 1 where both are the same after `normalized`, else 0."""
    return float(normalized(text) == normalized(accepted))


def token_f1(text: str, accepted: str) -> float:
    """Return the harmonic mean of precision and recall of words, in [0, 1].

    >>> token_f1("the big cat", "a cat")
    0.6666666666666666
    """
    ours, theirs = normalized(text).split(), normalized(accepted).split()
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (Counter(ours) & Counter(theirs)).total() / (len(ours) + len(theirs))


def _mean(score: Callable[[str, str], float], pairs: Sequence[tuple[str, Sequence[str]]]) -> Weighted:
    values = np.asarray([max(score(text, one) for one in accepted) for text, accepted in pairs], dtype=np.float64)
    return lambda weights: np.asarray(weights @ values / weights.sum(axis=1))
