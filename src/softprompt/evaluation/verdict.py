"""The report in words: what the soft prompt loses to, what is as good, what it beats; losses come first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from softprompt.evaluation.figures import Comparison, Difference, Figures, Measure
from softprompt.evaluation.tables import percent, points, signed, written


class Rival(NamedTuple):
    """A reference that was run, and the soft prompt's figures beside its own."""

    name: str
    ours: Figures
    theirs: Figures
    against: Comparison


def verdict(rivals: Sequence[Rival], first: str) -> tuple[str, ...]:
    """Return the verdict in sentences, in the order in which an honest reader needs them.

    Losses come first (the paired 95 % interval of the difference, in accuracy or in macro-F1, lies below 0), then
    rivals that are as good (it includes 0), then what is beaten.

    Args:
        rivals: the references that were run.
        first: the rival that matters most: a loss to it, or a mere lag behind it, goes before everything else.
    """
    ranked = sorted(rivals, key=lambda rival: (_rank(rival, first), rival.name != first))
    said = [_sentence(rival) for rival in ranked if _rank(rival, first) < _BEATEN]
    beaten = [rival for rival in ranked if _rank(rival, first) == _BEATEN]
    if beaten:
        gains = "; ".join(f"{rival.name} ({_against(rival.against.accuracy)})" for rival in beaten)
        said.append(f"Better in accuracy than {gains}.")
    return tuple(said)


_HEADLINE, _LOSS, _EVEN, _BEATEN = range(4)


def _rank(rival: Rival, first: str) -> int:
    accuracy, macro_f1 = rival.against.accuracy, rival.against.macro_f1
    lost = "worse" in (accuracy.outcome, macro_f1.outcome)
    lags = accuracy.outcome == "even" and accuracy.value < 0
    if rival.name == first and (lost or lags):
        return _HEADLINE
    if lost:
        return _LOSS
    return _BEATEN if accuracy.outcome == "better" else _EVEN


def _sentence(rival: Rival) -> str:
    accuracy = _numbers("accuracy", rival.ours.accuracy, rival.theirs.accuracy, rival.against.accuracy)
    macro_f1 = _numbers("macro-F1", rival.ours.macro_f1, rival.theirs.macro_f1, rival.against.macro_f1)
    if rival.against.accuracy.outcome == "worse":
        return f"LOSS to the {rival.name}: {accuracy}."
    if rival.against.macro_f1.outcome == "worse":
        return f"LOSS to the {rival.name} in macro-F1: {macro_f1}. Beside it: {accuracy}."
    ahead = ", and ahead on these rows" if rival.against.accuracy.value < 0 else ""
    text = f"The {rival.name} is as good{ahead}: {accuracy}; the interval includes 0."
    return f"{text} It is beaten in macro-F1: {macro_f1}." if rival.against.macro_f1.outcome == "better" else text


class MeasuredRival(NamedTuple):
    """A reference that was run where answers are not one label, and the soft prompt's headline beside its own."""

    name: str
    ours: Measure
    theirs: Measure
    against: Difference


def measured_verdict(rivals: Sequence[MeasuredRival], first: Sequence[str]) -> tuple[str, ...]:
    """Return the verdict in sentences, losses first, as `verdict` does, by the headline figure alone.

    Args:
        rivals: the references that were run.
        first: those that matter most, at most one of which is there.
    """

    def rank(rival: MeasuredRival) -> int:
        lags = rival.against.outcome == "even" and rival.against.value < 0
        if rival.name in first and (rival.against.outcome == "worse" or lags):
            return _HEADLINE
        return {"worse": _LOSS, "even": _EVEN, "better": _BEATEN}[rival.against.outcome]

    ranked = sorted(rivals, key=lambda rival: (rank(rival), rival.name not in first))
    said = [_measured_sentence(rival) for rival in ranked if rank(rival) < _BEATEN]
    beaten = [rival for rival in ranked if rank(rival) == _BEATEN]
    if beaten:
        gains = "; ".join(f"{rival.name} ({_measured_difference(rival)})" for rival in beaten)
        said.append(f"Better in {beaten[0].ours.name} than {gains}.")
    return tuple(said)


def _measured_sentence(rival: MeasuredRival) -> str:
    both = f"{written(rival.ours)} against {written(rival.theirs)} {rival.ours.name}, {_measured_difference(rival)}"
    if rival.against.outcome == "worse":
        return f"LOSS to the {rival.name}: {both}."
    ahead = ", and ahead on these rows" if rival.against.value < 0 else ""
    return f"The {rival.name} is as good{ahead}: {both}; the interval includes 0."


def _measured_difference(rival: MeasuredRival) -> str:
    """By how much the prompt is better, whichever way the figure points."""
    form = rival.ours.form
    low, high = (signed(end, form) for end in rival.against.interval)
    unit = " points" if form == "percent" else ""
    better = "" if rival.ours.higher else " to the better"
    return f"{signed(rival.against.value, form)}{unit}{better}, 95 % {low} to {high}"


def _numbers(metric: str, ours: float, theirs: float, difference: Difference) -> str:
    return f"{percent(ours)} % against {percent(theirs)} % {metric}, {_against(difference)}"


def _against(difference: Difference) -> str:
    low, high = difference.interval
    return f"{points(difference.value)} points, 95 % {points(low)} to {points(high)}"
