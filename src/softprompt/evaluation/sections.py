"""The parts of a report card as lines of plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from softprompt.evaluation.calibration import Temperature
from softprompt.evaluation.figures import ClassRow, Figures, Measures, RaceRow, RivalResult, Trained, Variant
from softprompt.evaluation.measure_sections import measures_table
from softprompt.evaluation.measure_sections import remarks as measure_remarks
from softprompt.evaluation.tables import percent, percent_interval, shortened, table, wrapped

OURS, WITH_ROWS, ALONE = "soft prompt", "prompt + learned rows", "prompt alone"
AnyFigures = Figures | Measures
_MATRIX_LABELS = 8  # a larger confusion matrix does not fit the width
_CLASS_ROWS = 20
_WORST = 10


def words(task: str, sentences: Sequence[str]) -> list[str]:
    """The verdict, each sentence on a line of its own, the first behind the task's name."""
    first, *others = sentences or ["no reference was run, so there is nothing to compare with"]
    return [line for sentence in (f"{task}: {first}", *others) for line in wrapped(sentence)]


def identity(trained: Trained, rows: int, overlap: int = 0) -> list[str]:
    """What was trained on what, and where the rows of the figures come from."""
    what = [f"{trained.length} virtual tokens", f"{trained.steps:,} steps"]
    what = [trained.backbone, *what] if trained.backbone else what
    what = [*what, f"prompt {trained.digest[:12]}"] if trained.digest else what
    what = [*what, f"{trained.size:,} bytes"] if trained.size else what
    sizes = ", ".join(f"{split} {size:,}" for split, size in trained.sizes.items())
    return [
        *wrapped(" · ".join(what)),
        *(wrapped(f"Rows: {sizes}.") if sizes else []),
        *wrapped(_origin(trained, rows, overlap)),
    ]


def _origin(trained: Trained, rows: int, overlap: int) -> str:
    if trained.cross_fitted:
        return f"Cross-fitted: each of the {rows:,} rows was scored by a prompt that was trained without it."
    if trained.test_given and overlap:
        found = f"Figures are on the {rows:,} test rows as given"
        if overlap == rows:
            return f"{found}, all of which also stand in train."
        return f"{found}; {overlap:,} of them also stand in train, the others took part in no choice."
    if trained.test_given:
        return f"Figures are on the {rows:,} test rows as given; they took part in no choice."
    return f"No test split was given: figures are on a held-out fifth, {rows:,} rows that took part in no choice."


def results(
    figures: AnyFigures, rivals: Iterable[RivalResult], variants: Iterable[Variant] = (), title: str = OURS
) -> list[str]:
    """The table of figures: the soft prompt, other readings of it, then the references as they were run."""
    others = [*((each.name, each.figures) for each in variants), *((each.name, each.figures) for each in rivals)]
    named = [(title, figures), *others]
    return _any_table([(name, own) for name, own in named if own is not None])


def without_overlap(
    overlap: int, figures: AnyFigures | None, rivals: Iterable[RivalResult], title: str = OURS
) -> list[str]:
    """The same table without the rows that also stand in train, where there are some."""
    if not overlap:
        return []
    if figures is None:
        return wrapped(f"Warning: all {overlap:,} of these rows also stand in train; no figure here is on unseen rows.")
    said = f"Warning: {overlap:,} of these rows also stand in train. Without them, on {figures.rows:,} rows:"
    named = [(title, figures), *((rival.name, rival.without_overlap) for rival in rivals)]
    return [*wrapped(said), *_any_table([(name, own) for name, own in named if own is not None])]


def _any_table(rows: Sequence[tuple[str, AnyFigures]]) -> list[str]:
    labels = [(name, own) for name, own in rows if isinstance(own, Figures)]
    others = [(name, own) for name, own in rows if isinstance(own, Measures)]
    return _figures_table(labels) if labels else measures_table(others)


def _figures_table(rows: Sequence[tuple[str, Figures]]) -> list[str]:
    header = ["", "accuracy %", "95 %", "macro-F1 %", "95 %", "MCC", "log loss", "ECE"]
    return table(header, ([shortened(name, 24), *_cells(figures)] for name, figures in rows))


def _cells(figures: Figures) -> list[str]:
    return [
        percent(figures.accuracy),
        percent_interval(figures.accuracy_interval),
        percent(figures.macro_f1),
        percent_interval(figures.macro_f1_interval),
        f"{figures.mcc:.3f}",
        f"{figures.log_loss:.3f}",
        f"{figures.ece:.3f}",
    ]


def remarks(
    figures: AnyFigures,
    rivals: Iterable[RivalResult],
    validation: AnyFigures | None,
    variants: Iterable[Variant] = (),
) -> list[str]:
    """What the table cannot say: how rivals were chosen, and the validation figures, labelled for what they are."""
    said = [f"{each.name}: {each.note}." for each in variants if each.note]
    said += [f"{rival.name}: {rival.note}." for rival in rivals if rival.note and rival.figures is not None]
    lines = [line for sentence in said for line in wrapped(sentence)]
    if isinstance(figures, Measures):
        return [*lines, *measure_remarks(figures, validation if isinstance(validation, Measures) else None)]
    return [*lines, *_label_remarks(figures, validation if isinstance(validation, Figures) else None)]


def _label_remarks(figures: Figures, validation: Figures | None) -> list[str]:
    said = []
    if validation is not None:
        interval = percent_interval(validation.accuracy_interval)
        numbers = f"accuracy {percent(validation.accuracy)} % ({interval}), log loss {validation.log_loss:.3f}"
        said.append(f"validation, used for selection: {numbers} on {validation.rows:,} rows.")
    if figures.accuracy in (0.0, 1.0):
        bound = f"below {percent(min(1.0, 3 / figures.rows))} % (rule of three)"
        what = "error" if figures.accuracy else "right answer"
        said.append(
            f"no {what} in {figures.rows:,} rows: a bootstrap sees no further; the true rate of one is {bound}."
        )
    return [line for sentence in said for line in wrapped(sentence)]


def unmeasured(figures: AnyFigures) -> list[str]:
    """What was not measured, and why."""
    return wrapped(f"{figures.note}.") if isinstance(figures, Measures) and figures.note else []


def race(rows: Sequence[RaceRow]) -> list[str]:
    """How the candidates stood at each rung, on validation rows; nothing where none raced."""
    if not rows:
        return []
    accuracy = any(row.accuracy is not None for row in rows)
    heads = ["the race, on validation rows", "step", "loss", *(["accuracy %"] if accuracy else []), ""]
    body = (
        [
            shortened(row.candidate, 52),
            f"{row.step:,}",
            f"{row.loss:.3f}",
            *([percent(row.accuracy)] if accuracy else []),
            "goes on" if row.goes_on else "",
        ]
        for row in rows
    )
    return table(heads, body)


def calibration(figures: AnyFigures, temperature: Temperature | None) -> list[str]:
    """Calibration before and after the temperature, and what an abstain threshold leaves."""
    if isinstance(figures, Measures):
        return _answer_calibration(temperature)
    said = []
    if temperature is None:
        said.append(f"Calibration: ECE {figures.ece:.3f}.")
    elif temperature.fitted:
        fitted = f"temperature {temperature.value:.2f} (fitted on {temperature.rows:,} validation rows)"
        why = f"; {temperature.reason}" if temperature.reason else ""
        said.append(f"Calibration: ECE {figures.ece_raw:.3f} before and {figures.ece:.3f} after {fitted}{why}.")
    else:
        said.append(
            f"Calibration: ECE {figures.ece:.3f}; no temperature was fitted: {temperature.reason or 'not asked'}."
        )
    if figures.answered is not None:
        held = figures.answered
        right = f"{percent(held.accuracy)} % of them right" if held.accuracy is not None else "none of them"
        answered = f"{percent(held.coverage)} % answered, {right}"
        said.append(f"Answers below a probability of {held.threshold:.3f} are held back: {answered}.")
    return [line for sentence in said for line in wrapped(sentence)]


def _answer_calibration(temperature: Temperature | None) -> list[str]:
    """The temperature of tags and of several labels, or why there is none."""
    if temperature is None:
        return []
    if not temperature.fitted:
        return wrapped(f"Calibration: no temperature was fitted: {temperature.reason or 'not asked'}.")
    why = f"; {temperature.reason}" if temperature.reason else ""
    before, after = temperature.log_loss_before or 0.0, temperature.log_loss_after or 0.0
    fitted = f"temperature {temperature.value:.2f} (fitted on {temperature.rows:,} validation rows)"
    return wrapped(f"Calibration: {fitted}, log loss {before:.3f} there before and {after:.3f} after{why}.")


def class_table(classes: Sequence[ClassRow]) -> list[str]:
    """Precision, recall and F1 of each label; of many labels, the ones that fare worst; nothing without labels."""
    if not classes:
        return []
    shown, said = list(classes), []
    if len(classes) > _CLASS_ROWS:
        shown = sorted(classes, key=lambda row: 1.0 if row.f1 is None else row.f1)[:_WORST]
        said = [f"The {_WORST} of {len(classes)} labels with the lowest F1 (all are in the JSON):"]
    rows = (
        [shortened(r.label, 40), percent(r.precision), percent(r.recall), percent(r.f1), f"{r.support:,}"]
        for r in shown
    )
    return [*said, *table(["label", "precision %", "recall %", "F1 %", "rows"], rows)]


def confusion_matrix(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> list[str]:
    """The confusion matrix of a few labels; nothing for many."""
    if not counts or len(labels) > _MATRIX_LABELS:
        return []
    rows = ([shortened(label, 16), *(f"{n:,}" for n in row)] for label, row in zip(labels, counts, strict=True))
    return table(["right \\ predicted", *(shortened(label, 8) for label in labels)], rows)


def notes(trained: Trained, truncated: int) -> list[str]:
    """What the reader should know of the data."""
    cut = [f"{truncated:,} rows of this report were shortened to fit the backbone"] if truncated else []
    return [line for note in (*trained.notes, *cut) for line in wrapped(f"note: {note}")]


def cost(costs: Mapping[str, float], rivals: Iterable[RivalResult]) -> list[str]:
    """What it took, and what each reference took."""
    spent = [f"{name} {_amount(amount)}" for name, amount in costs.items()]
    took = [f"{rival.name} {rival.seconds:.1f}" for rival in rivals if rival.figures is not None]
    own = wrapped(f"Cost: {', '.join(spent)}.") if spent else []
    return [*own, *(wrapped(f"Seconds that references took: {', '.join(took)}.") if took else [])]


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"
