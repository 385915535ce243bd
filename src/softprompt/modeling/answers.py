"""What a prompt says of one row: a label, several of them, a number, a tag for each word, or a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softprompt.modeling.spans import Span, spans_of, write_spans
from softprompt.modeling.writing import Written
from softprompt.shapes import Float
from softprompt.tasks.readout import Readout
from softprompt.tasks.readout_kinds import Scalar, YesNo
from softprompt.tasks.tags import TokenTags, words_of
from softprompt.tasks.task import Label

SEPARATOR = "|"
"""What stands between the labels of an answer with several."""
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "label-words": ("probability",),
    "yes-no": ("probability", "probabilities"),
    "token-tags": ("spans",),
}
"""What an answer adds to a table behind its own column, by the kind of its readout; none for numbers and text."""


@dataclass(frozen=True)
class Answer:
    """The answer to one row and how sure it is; here one label, the base of all other answers.

    Attributes:
        label: the answer as text: the likeliest label; several labels with `|` between them; the number; the tags
            with spaces between them; the text that was written.
        probability: of that answer, calibrated by the prompt's temperature; `None` for numbers and text.
        probabilities: of every label; empty for answers that are not labels.
        abstained: the probability is below the prompt's abstain threshold, so the label is a guess.
        cut: tokens removed from the row to make it fit.
    """

    label: str
    probability: float | None
    probabilities: Mapping[str, float]
    abstained: bool = False
    cut: int = 0

    @property
    def value(self) -> Label:
        """The answer itself, of the type that `Example.label` has."""
        return self.label

    def cells(self) -> dict[str, Any]:
        """Return what stands in the columns of a table, as plain JSON: under no name the answer, then `COLUMNS`."""
        return {"": None if self.abstained else self.label, "probability": _rounded(self.probability)}


@dataclass(frozen=True, kw_only=True)
class LabelSet(Answer):
    """Several labels or none, each for itself; `probability` is that of the whole set, as of independent choices."""

    labels: tuple[str, ...]

    @property
    def value(self) -> Label:
        """The labels that hold."""
        return self.labels

    def cells(self) -> dict[str, Any]:
        """Return the labels, and the probability of each that there is."""
        each = {label: _rounded(share) for label, share in self.probabilities.items()}
        return {**super().cells(), "probabilities": each}


@dataclass(frozen=True, kw_only=True)
class NumberAnswer(Answer):
    """A number between the readout's bounds."""

    number: float

    @property
    def value(self) -> Label:
        """The number."""
        return self.number

    def cells(self) -> dict[str, Any]:
        """Return the number."""
        return {"": _rounded(self.number)}


@dataclass(frozen=True, kw_only=True)
class TagsAnswer(Answer):
    """A tag for each word.

    Attributes:
        tags: one for each word; words that the row had no room for are outside.
        words: the words.
        spans: what the tags write, where they write spans.
    """

    tags: tuple[str, ...]
    words: tuple[str, ...]
    spans: tuple[Span, ...]

    @property
    def value(self) -> Label:
        """The tags."""
        return self.tags

    def cells(self) -> dict[str, Any]:
        """Return the tags, and every span with its words."""
        spans = [{**span._asdict(), "text": " ".join(self.words[span.begin : span.end])} for span in self.spans]
        return {"": self.label, "spans": spans}


@dataclass(frozen=True, kw_only=True)
class TextAnswer(Answer):
    """A text; `finished` tells whether it ended by itself, and not at the most tokens an answer may have."""

    finished: bool

    def cells(self) -> dict[str, Any]:
        """Return the text."""
        return {"": self.label}


def answer(
    readout: Readout,
    temperature: float,
    log_probabilities: Float[Tensor, "*words C"],
    cut: int,
    text: str = "",
    abstain: float | None = None,
) -> Answer:
    """Turn what was read behind a row into an answer.

    Args:
        readout: what the numbers mean.
        temperature: log-probabilities are divided by it; numbers know none.
        log_probabilities: of the choices, [C], in tagging [words, C].
        cut: tokens removed from the row.
        text: in tagging, the text whose words are tagged.
        abstain: one label that is less probable is held back.
    """
    scores = log_probabilities.double()
    if isinstance(readout, Scalar):
        number = readout.low + (readout.high - readout.low) * torch.softmax(scores, dim=-1)[1].item()
        return NumberAnswer(f"{number:g}", None, {}, cut=cut, number=number)
    if isinstance(readout, YesNo):
        return label_set(readout.labels, yes_shares(scores, temperature).tolist(), cut)
    if isinstance(readout, TokenTags):
        return _tags(readout, scores, cut, text)
    shares = torch.softmax(scores / temperature, dim=-1).tolist()
    return one_label(dict(zip(readout.labels, shares, strict=True)), abstain, cut)


def one_label(probabilities: Mapping[str, float], abstain: float | None = None, cut: int = 0) -> Answer:
    """Return the likeliest label as an answer, held back where its probability is below `abstain`."""
    best = max(probabilities, key=lambda label: probabilities[label])
    abstained = abstain is not None and probabilities[best] < abstain
    return Answer(best, probabilities[best], dict(probabilities), abstained, cut)


def label_set(labels: tuple[str, ...], shares: list[float], cut: int = 0) -> LabelSet:
    """Return the labels whose probability is one half at least."""
    held = tuple(label for label, share in zip(labels, shares, strict=True) if share >= 0.5)
    sure = 1.0
    for share in shares:
        sure *= max(share, 1 - share)
    each = dict(zip(labels, shares, strict=True))
    return LabelSet(SEPARATOR.join(held), sure, each, cut=cut, labels=tuple(sorted(held)))


def yes_shares(log_yes: Float[Tensor, "*rows C"], temperature: float) -> Float[Tensor, "*rows C"]:
    """Return p(yes) at a temperature: sigmoid((log p(yes) - log p(no)) / T)."""
    return torch.sigmoid((log_yes - log_no(log_yes)) / temperature)


def log_no(log_yes: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows C"]:
    """Return log(1 - p) of log p, which is below 0; next to 0 as near as double precision tells it."""
    near = log_yes.double().clamp(max=-1e-12)
    return torch.log(-torch.expm1(near)).to(log_yes.dtype)


def text_answer(found: Written, cut: int) -> TextAnswer:
    """Return a text that was written as an answer."""
    return TextAnswer(found.text.strip(), None, {}, cut=cut, finished=found.finished)


def _tags(readout: TokenTags, scores: Float[Tensor, "words C"], cut: int, text: str) -> TagsAnswer:
    words = words_of(text)
    found = [readout.tags[place] for place in scores.argmax(dim=-1).tolist()] if len(scores) else []
    tags = (*found, *[readout.outside] * (len(words) - len(found)))
    spans = spans_of(tags) if write_spans(readout.tags) else ()
    return TagsAnswer(" ".join(tags), None, {}, cut=cut, tags=tags, words=words, spans=spans)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
