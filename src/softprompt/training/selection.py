"""Choosing by validation rows, and not choosing where the rows are too few to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softprompt.shapes import Float, Int

FEW = 200
"""Below this many validation rows candidates are not judged by them."""
_NO_NUMBER = -100.0


@dataclass(frozen=True, eq=False)
class Seen:
    """What a prompt did on validation rows.

    Attributes:
        terms: each row's log-probability of its right answer, in nats.
        figures: `loss`, and where an answer is one of some labels `accuracy` and `macro-f1`.
    """

    terms: Float[Tensor, " B"]
    figures: Mapping[str, float]

    @classmethod
    def of(cls, log_probabilities: Float[Tensor, "B C"], gold: Int[Tensor, " B"]) -> Seen:
        """Measure rows of which every label is scored."""
        terms = _scored(log_probabilities.gather(1, gold[:, None])[:, 0])
        predicted = log_probabilities.argmax(1)
        figures = {
            "loss": -terms.mean().item(),
            "accuracy": (predicted == gold).float().mean().item(),
            "macro-f1": _macro_f1(predicted, gold),
        }
        return cls(terms, figures)

    @classmethod
    def by_loss(cls, terms: Float[Tensor, " B"]) -> Seen:
        """Measure rows by the log-probability of their right answers alone."""
        scored = _scored(terms)
        return cls(scored, {"loss": -scored.mean().item()})

    @classmethod
    def pooled(cls, parts: Sequence[Seen]) -> Seen:
        """Join what was seen on different rows, as on the folds of one candidate; figures are means over rows."""
        counts = [len(part.terms) for part in parts]
        figures = {
            name: sum(part.figures[name] * count for part, count in zip(parts, counts, strict=True)) / sum(counts)
            for name in parts[0].figures
        }
        return cls(torch.cat([part.terms for part in parts]), figures)

    def better_than(self, best: Mapping[str, float], by: str) -> bool:
        """Tell whether this is better than `best`: a lower loss, or a higher figure of another name."""
        if by == "loss" or by not in self.figures:
            return self.figures["loss"] < best["loss"]
        return self.figures[by] > best[by]


def beyond_chance(gain: Float[Tensor, " B"], errors: float = 1.0) -> bool:
    """Tell whether a paired gain, row by row, is above zero by more than so many standard errors of its mean."""
    return len(gain) >= 2 and bool(gain.mean() > errors * gain.std() / len(gain) ** 0.5)


def last_stands(best: Float[Tensor, " rows"], last: Float[Tensor, " rows"]) -> bool:
    """Tell whether an earlier prompt is no better than the last one by more than one standard error, row by row."""
    return len(last) >= 2 and not beyond_chance(best - last)


def survivors(terms: Sequence[Float[Tensor, " rows"]], keep: int, *, default: int | None = 0) -> list[int]:
    """Choose who goes on: the `keep` lowest losses; the default stays unless beaten for sure.

    The default gives way only where as many others as there are places are each better than it, row by row, by more
    than one standard error.

    Args:
        terms: each candidate's log-probabilities of the right answers, on the same rows.
        keep: places, at least 1.
        default: which of them is the default; None: it has left.

    >>> good, bad = torch.tensor([-0.1, -0.2, -0.1]), torch.tensor([-1.1, -1.0, -0.9])
    >>> survivors([bad, good, bad], 1), survivors([good, bad, good], 2)
    ([1], [0, 2])
    """
    order = sorted(range(len(terms)), key=lambda i: (-float(terms[i].mean()), i))
    chosen = order[:keep]
    if default is None or default in chosen:
        return sorted(chosen)
    if not all(beyond_chance(terms[i] - terms[default]) for i in chosen):
        chosen = [default, *chosen[:-1]]
    return sorted(chosen)


def _scored(terms: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Take a score that is no number for a very bad one: compared with others, NaN would win or stay."""
    return torch.where(terms.isfinite(), terms, _NO_NUMBER)


def _macro_f1(predicted: Int[Tensor, " B"], gold: Int[Tensor, " B"]) -> float:
    """Mean F1 over the labels that are there, right or predicted."""
    labels = torch.cat([predicted, gold]).unique()
    hits = [((predicted == label) & (gold == label)).sum() for label in labels]
    sizes = [(predicted == label).sum() + (gold == label).sum() for label in labels]
    return float(torch.stack([2 * hit / size for hit, size in zip(hits, sizes, strict=True)]).mean())
