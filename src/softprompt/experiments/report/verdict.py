"""A comparison in words: losses to a linear probe first, then when to use the soft prompt and when something else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from softprompt.evaluation.figures import Difference
from softprompt.evaluation.tables import percent, points
from softprompt.experiments.report.figures import Against, Cost, Line, TaskFigures
from softprompt.experiments.report.names import (
    HEAVY,
    OURS,
    PROBES,
    Key,
    amount_of_bytes,
    amount_of_memory,
    amount_of_time,
    counted,
    listed,
)

WITHIN = 0.01
"""How far below the best of LoRA, adapters and full fine-tuning the default may be, as a share."""
TOO_WIDE = 0.05
"""An interval that reaches this far to both sides of 0 cannot tell methods apart."""
SIGNIFICANT = 0.05

Standing = Literal["better", "even", "unclear", "worse"]


class Rival(NamedTuple):
    """A method beside the soft prompt on one task."""

    task: TaskFigures
    line: Line
    against: Against

    @property
    def standing(self) -> Standing:
        """How the method stands beside the soft prompt, by the paired interval of their accuracies."""
        return standing(self.against.differences["accuracy"])


def standing(difference: Difference) -> Standing:
    """Return how a method stands by its accuracy minus the soft prompt's.

    `better` or `worse` when the interval leaves 0 out; `unclear` when it reaches 5 points and more to both sides;
    else `even`.
    """
    low, high = difference.interval
    if difference.outcome == "even":
        return "unclear" if low <= -TOO_WIDE and high >= TOO_WIDE else "even"
    return difference.outcome


def summary(tasks: Sequence[TaskFigures]) -> tuple[str, ...]:
    """Return what a comparison found in sentences, in the order in which an honest reader needs them.

    Losses to a linear probe; where the soft prompt has no figure and others have; when to use the soft prompt; what
    cannot be told from it; where the rows are too few to tell; what it beats; whether the default is within a point
    of the heavy methods; and what failed or is missing.

    Args:
        tasks: all of the comparison.
    """
    rivals = [Rival(task, line, line.against) for task in tasks for line in task.measured if line.against is not None]
    first = [*_losses_to_probes(rivals), *_without_ours(tasks)]
    said = [*first, _advice(tasks, rivals), *_gains(rivals), *_as_good(rivals), *_too_few(rivals)]
    return (*said, *_beaten(rivals), _beside_heavy(tasks), *_gaps(tasks))


def _losses_to_probes(rivals: Iterable[Rival]) -> list[str]:
    """Losses in accuracy, then in macro-F1 alone, then what is ahead within chance."""
    ranked: tuple[list[str], list[str], list[str]] = ([], [], [])
    for rival in (rival for rival in rivals if rival.line.key.method in PROBES):
        gap, other = rival.against.differences["accuracy"], rival.against.differences["macro_f1"]
        name = f"the {rival.line.key.title} on {rival.task.name}"
        if gap.outcome == "better":
            ranked[0].append(f"LOSS to {name}: {_both(rival)}{_caveat(rival)}.")
        elif other.outcome == "better":
            ranked[1].append(f"LOSS to {name} in macro-F1: {_interval(other)}; in accuracy {_interval(gap)}.")
        elif gap.value > 0:
            ranked[2].append(f"Behind {name}, within chance: {_both(rival)}; the interval includes 0.")
    return [sentence for group in ranked for sentence in group]


def _absent(tasks: Sequence[TaskFigures]) -> list[TaskFigures]:
    """The tasks on which something else has a figure and the soft prompt has none."""
    return [task for task in tasks if task.ours is not None and task.measured and task.reference is None]


def _without_ours(tasks: Sequence[TaskFigures]) -> list[str]:
    said = []
    for task in _absent(tasks):
        best = task.best_rival()
        assert best is not None, "something has a figure"
        why = next((line.why for line in task.lines if line.key == task.ours), "")
        because = f" ({why})" if why else ""
        said.append(
            f"The {_ours(task)} has no figure on {task.name}{because}, where {best.key.title} has "
            f"{percent(best.accuracy.value)} % accuracy."
        )
    return said


def _advice(tasks: Sequence[TaskFigures], rivals: Sequence[Rival]) -> str:
    ours = next((task.ours for task in tasks if task.ours is not None), None)
    if ours is None:
        return "No soft prompt has a figure in this comparison, so it cannot say whether to use one."
    if not rivals:
        return "Nothing else has a figure beside the soft prompt, so this comparison cannot say whether to use it."
    default = ", our default" if ours == OURS[0] else ""
    named = f"the soft prompt ({ours.title}{default})"
    better = [rival for rival in rivals if rival.standing == "better"]
    if better:
        names = _unique(rival.line.key.title for rival in better)
        return f"Use {named} unless the gain of {' or '.join(names)} is worth its price to you:"
    if all(rival.standing == "unclear" for rival in rivals):
        return f"Whether to use {named} cannot be said: the test rows are too few to tell it from anything else."
    where = "any task where it has a figure" if _absent(tasks) else "any task"
    said = f"Use {named}: nothing else was more accurate beyond chance on {where}"
    cheap = _cheaper(rivals)
    if not cheap:
        return f"{said}."
    less = "which costs less" if len(cheap) == 1 else "which cost less"
    return f"{said}; but it cannot be told from {listed(cheap)} either, {less}."


def _cheaper(rivals: Sequence[Rival]) -> list[str]:
    """What is even with the soft prompt wherever both have figures, keeps fewer bytes and trains no longer."""
    each: dict[str, list[Rival]] = {}
    for rival in rivals:
        each.setdefault(rival.line.key.title, []).append(rival)
    return [title for title, group in each.items() if all(r.standing == "even" and _costs_less(r) for r in group)]


def _costs_less(rival: Rival) -> bool:
    ours, theirs = rival.task.reference, rival.line.cost
    if ours is None or ours.cost is None or theirs is None:
        return False
    return theirs.kept_bytes < ours.cost.kept_bytes and (theirs.seconds or 0.0) <= (ours.cost.seconds or 0.0)


def _gains(rivals: Sequence[Rival]) -> list[str]:
    """For every method that is better somewhere: by how much, and what it costs instead."""
    better: dict[str, list[Rival]] = {}
    for rival in rivals:
        if rival.standing == "better":
            better.setdefault(rival.line.key.title, []).append(rival)
    ordered = sorted(better.items(), key=lambda item: -max(_gain(rival) for rival in item[1]))
    return [f"{_begun(title)} gains {_gained(group)}; {_price(group)}." for title, group in ordered]


def _begun(title: str) -> str:
    return title[:1].upper() + title[1:]


def _gain(rival: Rival) -> float:
    return rival.against.differences["accuracy"].value


def _gained(group: Sequence[Rival]) -> str:
    each = [
        f"{_interval(rival.against.differences['accuracy'])} on {rival.task.name}{_caveat(rival)}"
        for rival in sorted(group, key=_gain, reverse=True)
    ]
    return listed(each)


def _caveat(rival: Rival) -> str:
    if rival.against.corrected < SIGNIFICANT:
        return ""
    return f" (after Holm's correction for all methods of the task no longer beyond chance, p = {_p(rival)})"


def _p(rival: Rival) -> str:
    return f"{rival.against.corrected:.2g}"


def _price(group: Sequence[Rival]) -> str:
    """Bytes, time and memory instead of the soft prompt's, on the task where most is gained."""
    rival = max(group, key=_gain)
    ours = rival.task.reference
    if ours is None or ours.cost is None or rival.line.cost is None:
        return "what it costs is not known"
    theirs = rival.line.cost
    parts = [f"keeps {amount_of_bytes(theirs.kept_bytes)} a task instead of {amount_of_bytes(ours.cost.kept_bytes)}"]
    parts.append(_times(theirs, ours.cost))
    if theirs.peak and ours.cost.peak:
        memory = amount_of_memory(theirs.peak), amount_of_memory(ours.cost.peak)
        parts.append(f"peaks at {memory[0]}" + (f" instead of {memory[1]}" if memory[0] != memory[1] else ", as we do"))
    cheap = _costs_less(rival)
    where = f" (on {rival.task.name})" if len(group) > 1 else ""
    return f"it {'is cheaper too: it ' if cheap else ''}{listed(parts)}{where}"


def _times(theirs: Cost, ours: Cost) -> str:
    if theirs.seconds is None:
        return "trains nothing" if ours.seconds is None else f"trains nothing instead of {amount_of_time(ours.seconds)}"
    instead = "not at all" if ours.seconds is None else amount_of_time(ours.seconds)
    return f"trains {amount_of_time(theirs.seconds)} instead of {instead}"


def _as_good(rivals: Iterable[Rival]) -> list[str]:
    """By task: which methods' intervals meet the soft prompt's, those that keep less told apart."""
    said = []
    for task, group in _by_task(rival for rival in rivals if rival.standing == "even"):
        each = [f"{rival.line.key.title} ({_interval(rival.against.differences['accuracy'])})" for rival in group]
        lighter = [rival.line.key.title for rival in group if _lighter(rival)]
        keep = "keeps" if len(lighter) == 1 else "keep"
        also = f" {_begun(listed(lighter))} {keep} fewer bytes." if lighter else ""
        said.append(
            f"Not to be told from the {_ours(task)} on {task.name}, for the interval includes 0: "
            f"{'; '.join(each)}.{also}"
        )
    return said


def _lighter(rival: Rival) -> bool:
    ours = rival.task.reference
    return bool(ours and ours.cost and rival.line.cost and rival.line.cost.kept_bytes < ours.cost.kept_bytes)


def _too_few(rivals: Iterable[Rival]) -> list[str]:
    said = []
    for task, group in _by_task(rival for rival in rivals if rival.standing == "unclear"):
        names = listed([rival.line.key.title for rival in group])
        least = max(min(-r.against.differences["accuracy"].interval.low, _high(r)) for r in group)
        said.append(
            f"Too few rows to tell on {task.name}: its {counted(task.rows, 'test row')} leave open whether {names} "
            f"{'is' if len(group) == 1 else 'are'} up to {points(least).lstrip('+')} points better or worse."
        )
    return said


def _high(rival: Rival) -> float:
    return rival.against.differences["accuracy"].interval.high


def _beaten(rivals: Iterable[Rival]) -> list[str]:
    said = []
    for task, group in _by_task(rival for rival in rivals if rival.standing == "worse"):
        each = [f"{rival.line.key.title} ({points(-_gain(rival))})" for rival in group]
        said.append(f"On {task.name} the {_ours(task)} is, in points, more accurate than {'; '.join(each)}.")
    return said


def _ours(task: TaskFigures) -> str:
    return task.ours.title if task.ours else "soft prompt"


def _beside_heavy(tasks: Sequence[TaskFigures]) -> str:
    """Say on how many tasks the default is within a point of the best of LoRA, adapters and full fine-tuning."""
    found: dict[str, list[str]] = {"on": [], "not on": [], "not known on": []}
    for task in tasks:
        where, said = _beside_best(task)
        found[where].append(said)
    compared = len(found["on"]) + len(found["not on"])
    best_of = "within 1.0 point of the best of LoRA, adapters and full fine-tuning"
    told = "; ".join(f"{where} {listed(each)}" for where, each in found.items() if each)
    if not compared:
        return f"Whether our default is {best_of} cannot be said: {told}."
    return f"Our default is {best_of} on {len(found['on'])} of {counted(compared, 'task')}: {told}."


def _beside_best(task: TaskFigures) -> tuple[str, str]:
    """Whether the default is near the best of the heavy methods of a task, and by how much; which have no figure."""
    ours = task.line(OURS[0])
    heavy = [line for line in task.measured if line.key.method in HEAVY]
    best = max(heavy, key=lambda line: line.accuracy.value, default=None)
    if ours is None or best is None:
        why = "the default has no figure" if ours is None else "none of the three has a figure"
        return "not known on", f"{task.name} ({why})"
    gap = round(ours.accuracy.value - best.accuracy.value, 9)
    there = {line.key.method for line in heavy}
    absent = [Key(method).title for method in HEAVY if method not in there]
    lacking = f", without {listed(absent)}" if absent else ""
    return "on" if gap >= -WITHIN else "not on", f"{task.name} ({points(gap)} to {best.key.title}{lacking})"


def _gaps(tasks: Sequence[TaskFigures]) -> list[str]:
    said = []
    for how, what in (("failed", "Failed"), ("missing", "Missing")):
        each = [f"{line.key.title} on {task.name}" for task in tasks for line in task.lines if line.why.startswith(how)]
        if each:
            said.append(f"{what}, and so without a figure: {'; '.join(each)}.")
    seeds = [f"{line.key.title} on {task.name}" for task in tasks for line in task.lines if line.missing]
    return [*said, *([f"Seeds are still missing of: {'; '.join(seeds)}."] if seeds else [])]


def _by_task(rivals: Iterable[Rival]) -> list[tuple[TaskFigures, list[Rival]]]:
    found: dict[str, tuple[TaskFigures, list[Rival]]] = {}
    for rival in rivals:
        found.setdefault(rival.task.name, (rival.task, []))[1].append(rival)
    return list(found.values())


def _both(rival: Rival) -> str:
    ours = rival.task.reference
    shown = percent(ours.accuracy.value if ours else None)
    gap = rival.against.differences["accuracy"]
    low, high = -gap.interval.high, -gap.interval.low
    difference = f"{points(-gap.value)} points, 95 % {points(low)} to {points(high)}"
    against = f"{shown} % against {percent(rival.line.accuracy.value)} % accuracy"
    return f"the {_ours(rival.task)} has {against}, {difference}"


def _interval(difference: Difference) -> str:
    low, high = difference.interval
    return f"{points(difference.value)} points, 95 % {points(low)} to {points(high)}"


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
