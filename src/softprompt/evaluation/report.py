"""The report card of one training: its figures on rows that took part in no choice, beside what costs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from softprompt.errors import DataError
from softprompt.evaluation import sections, statistics
from softprompt.evaluation.answer_evaluation import AnswerEvaluation, Judged
from softprompt.evaluation.calibration import Temperature
from softprompt.evaluation.evaluation import Evaluation
from softprompt.evaluation.figures import (
    ClassRow,
    Comparison,
    Difference,
    Figures,
    Measures,
    Record,
    RivalResult,
    Trained,
    Variant,
)
from softprompt.evaluation.references import LINEAR_PROBE, PROBES, Reference
from softprompt.evaluation.verdict import MeasuredRival, Rival, measured_verdict, verdict


class ReportCard(Record):
    """How good a prompt is, said honestly; printing it gives a table for a terminal.

    Attributes:
        trained: what was trained, and on what.
        figures: on all rows of the report: `Figures` where an answer is one label, else `Measures`.
        without_overlap: on the rows that do not stand in train, where some do.
        overlap: how many rows of the report also stand in train.
        truncated: how many rows of the report were shortened to fit the backbone.
        classes: how each label fared.
        confusion: counts by right label (rows) and predicted label (columns); none where an answer is not one label.
        variants: other readings of what was trained: the prompt without its learned rows, an ensemble.
        rivals: the references on the same rows.
        validation: on the rows used for selection, where there are some.
        temperature: how the calibration went.
    """

    trained: Trained
    figures: Figures | Measures
    without_overlap: Figures | Measures | None = None
    overlap: int = 0
    truncated: int = 0
    classes: tuple[ClassRow, ...]
    confusion: tuple[tuple[int, ...], ...] = ()
    variants: tuple[Variant, ...] = ()
    rivals: tuple[RivalResult, ...] = ()
    validation: Figures | Measures | None = None
    temperature: Temperature | None = None

    @property
    def verdict(self) -> tuple[str, ...]:
        """The report in words: losses first."""
        missing = [
            f"The {r.name} was not run: {r.note or 'no reason given'}." for r in self.rivals if r.figures is None
        ]
        said = self._of_labels(self.figures) if isinstance(self.figures, Figures) else self._of_measures(self.figures)
        return (*said, *missing)

    def _of_labels(self, ours: Figures) -> tuple[str, ...]:
        run = [
            Rival(rival.name, ours, rival.figures, rival.against)
            for rival in self.rivals
            if isinstance(rival.figures, Figures) and isinstance(rival.against, Comparison)
        ]
        return verdict(run, first=LINEAR_PROBE)

    def _of_measures(self, ours: Measures) -> tuple[str, ...]:
        run = [
            MeasuredRival(rival.name, ours.headline, rival.figures.headline, rival.against)
            for rival in self.rivals
            if isinstance(rival.figures, Measures) and isinstance(rival.against, Difference)
        ]
        return measured_verdict(run, first=PROBES)

    def to_json(self) -> dict[str, Any]:
        """Return the card, its verdict included, as plain JSON."""
        return {"verdict": [*self.verdict], **super().to_json()}

    @classmethod
    def from_json(cls, data: Any) -> ReportCard:
        """Rebuild a card from `to_json`; the verdict is worked out again.

        Raises:
            DataError: `data` is not what `to_json` writes.
        """
        own = {key: value for key, value in data.items() if key != "verdict"} if isinstance(data, Mapping) else data
        return super().from_json(own)

    def render(self) -> str:
        """Return the card as plain text, at most 100 columns wide, a loss to the linear probe in its first line."""
        title = sections.WITH_ROWS if self.trained.learned_rows else sections.OURS
        blocks = [
            sections.words(self.trained.task, self.verdict),
            sections.identity(self.trained, self.figures.rows, self.overlap),
            sections.results(self.figures, self.rivals, self.variants, title),
            sections.without_overlap(self.overlap, self.without_overlap, self.rivals, title),
            sections.remarks(self.figures, self.rivals, self.validation, self.variants),
            sections.race(self.trained.race),
            sections.calibration(self.figures, self.temperature),
            sections.class_table(self.classes),
            sections.confusion_matrix([row.label for row in self.classes], self.confusion),
            sections.notes(self.trained, self.truncated),
            sections.cost(self.trained.cost, self.rivals),
        ]
        return "\n\n".join("\n".join(block) for block in blocks if block)

    def __str__(self) -> str:
        return self.render()


def report_card(
    evaluation: Judged,
    references: Sequence[Reference],
    trained: Trained,
    *,
    validation: Judged | None = None,
    temperature: Temperature | None = None,
    variants: Sequence[Variant] = (),
    seed: int = 0,
) -> ReportCard:
    """Put a prompt's evaluation and its references, on the same rows, into a report card.

    Args:
        evaluation: the soft prompt's, on rows that took part in no choice.
        references: the rivals' on the same rows in the same order.
        trained: what was trained, and on what.
        validation: the soft prompt's on the rows used for selection.
        temperature: how the calibration went.
        variants: other readings of what was trained, on the same rows.
        seed: of all resampling.

    Raises:
        DataError: a reference was evaluated on other rows.
    """
    apart = evaluation.without_overlap() if evaluation.overlap else None
    counts = evaluation.confusion_matrix().tolist() if isinstance(evaluation, Evaluation) else []
    return ReportCard(
        trained=trained,
        figures=evaluation.figures(seed=seed),
        without_overlap=apart.figures(seed=seed) if apart else None,
        overlap=len(evaluation.overlap),
        truncated=evaluation.truncated,
        classes=evaluation.class_table(),
        confusion=tuple(tuple(row) for row in counts),
        variants=tuple(variants),
        rivals=tuple(_result(evaluation, reference, seed) for reference in references),
        validation=validation.figures(seed=seed) if validation else None,
        temperature=temperature,
    )


def _result(ours: Judged, reference: Reference, seed: int) -> RivalResult:
    theirs = reference.evaluation
    if theirs is None:
        return RivalResult(name=reference.name, seconds=reference.seconds, note=reference.note)
    against = _compared(ours, theirs, seed)
    if against is None:
        raise DataError(
            f"the {reference.name} was evaluated on {len(theirs.gold)} rows that are not the {len(ours.gold)} rows of "
            "the prompt; a report compares on the same rows in the same order"
        )
    apart = theirs.without_overlap() if ours.overlap else None
    return RivalResult(
        name=reference.name,
        figures=theirs.figures(seed=seed),
        without_overlap=apart.figures(seed=seed) if apart else None,
        against=against,
        seconds=reference.seconds,
        note=reference.note,
    )


def _compared(ours: Judged, theirs: Judged, seed: int) -> Comparison | Difference | None:
    """The paired difference of two predictors; None where they did not answer the same rows."""
    if isinstance(ours, Evaluation) and isinstance(theirs, Evaluation):
        if not np.array_equal(ours.gold, theirs.gold) or ours.labels != theirs.labels:
            return None
        return statistics.compare(ours.gold, ours.predicted, theirs.predicted, seed=seed)
    if isinstance(ours, AnswerEvaluation) and isinstance(theirs, AnswerEvaluation) and ours.gold == theirs.gold:
        return ours.against(theirs, seed=seed)
    return None
