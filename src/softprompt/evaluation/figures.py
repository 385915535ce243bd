"""The values that an evaluation hands out: frozen, and plain JSON both ways."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softprompt.errors import DataError

R = TypeVar("R", bound="Record")
Outcome = Literal["better", "even", "worse"]
Form = Literal["percent", "score", "number"]
"""How a figure is written: a share of one as per cent, a score from 0 to 100, or a number as it is."""


class Record(BaseModel):
    """A frozen value that turns into plain JSON and back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls: type[R], data: Any) -> R:
        """Rebuild a record from `to_json`.

        Raises:
            DataError: `data` is not what `to_json` writes.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            found = f"{len(error.errors())} fault(s), the first at `{where}`: {first['msg']}"
            raise DataError(f"cannot read this JSON as a {cls.__name__}: {found}; give what `to_json` wrote") from error


class Interval(NamedTuple):
    """A 95 % interval, both ends included."""

    low: float
    high: float


class Difference(Record):
    """One predictor's figure minus another's on the same rows, with its paired 95 % interval."""

    value: float
    interval: Interval

    @property
    def outcome(self) -> Outcome:
        """`better` or `worse` when the interval leaves 0 out, else `even`."""
        if self.interval.low > 0:
            return "better"
        return "worse" if self.interval.high < 0 else "even"


class Measure(Record):
    """One figure of answers that are not one label, with its 95 % bootstrap interval.

    Attributes:
        name: what it is called.
        value: the figure.
        interval: its 95 % bootstrap interval over the rows.
        higher: more is better.
        form: how it is written: a share as `percent`, a `score` from 0 to 100, or a `number`.
    """

    name: str
    value: float
    interval: Interval
    higher: bool = True
    form: Form = "percent"


class Measures(Record):
    """The figures of one predictor on one set of rows.

    Attributes:
        kind: of the task.
        rows: how many rows.
        measures: the figures, the headline first.
        note: what was not measured, and why.
    """

    kind: str
    rows: int
    measures: tuple[Measure, ...]
    note: str = ""

    @property
    def headline(self) -> Measure:
        """The figure that verdicts are about."""
        return self.measures[0]


class Comparison(Record):
    """The soft prompt against one rival on the same rows.

    Attributes:
        accuracy: difference of the accuracies, positive when the soft prompt is ahead.
        macro_f1: the same of macro-F1.
        mcnemar_p: exact two-sided p-value that the two are right equally often.
    """

    accuracy: Difference
    macro_f1: Difference
    mcnemar_p: float


class ClassRow(Record):
    """How one label fared; None where a figure is not defined (never predicted, or no such row)."""

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


class Answered(Record):
    """What is left when answers below a probability are held back.

    Attributes:
        threshold: answers below this probability are abstentions.
        coverage: share of the rows that were answered.
        accuracy: accuracy on those rows, None when there are none.
    """

    threshold: float
    coverage: float
    accuracy: float | None


class Figures(Record):
    """Every headline number of one predictor on one set of rows.

    Attributes:
        rows: how many rows.
        accuracy, macro_f1: in [0, 1], each with its 95 % bootstrap interval.
        mcc: Matthews correlation, in [-1, 1].
        log_loss: mean negative log-probability of the right label, in nats, at the predictor's temperature.
        ece: expected calibration error at the predictor's temperature, in [0, 1].
        ece_raw: the same before the temperature.
        answered: coverage and accuracy under the abstain threshold, where there is one.
    """

    rows: int
    accuracy: float
    accuracy_interval: Interval
    macro_f1: float
    macro_f1_interval: Interval
    mcc: float
    log_loss: float
    ece: float
    ece_raw: float
    answered: Answered | None = None


class RivalResult(Record):
    """How a reference did on the rows of the report.

    Attributes:
        name: what it is.
        figures: on all rows; None where it was not run.
        without_overlap: on the rows that do not stand in train, where some do.
        against: the soft prompt's figures minus its own, paired; of measures that of the headline, positive where
            the soft prompt is the better.
        seconds: what it took.
        note: what was chosen, or why it was not run.
    """

    name: str
    figures: Figures | Measures | None = None
    without_overlap: Figures | Measures | None = None
    against: Comparison | Difference | None = None
    seconds: float = 0.0
    note: str = ""


class Variant(Record):
    """Another reading of what was trained, on the rows of the report: without its learned rows, or as an ensemble.

    Attributes:
        name: what it is.
        figures: on all rows; None where it could not be run.
        note: what the figures cannot say, or why there are none.
    """

    name: str
    figures: Figures | Measures | None = None
    note: str = ""


class RaceRow(Record):
    """How one candidate stood at one rung of the race, on validation rows."""

    candidate: str
    step: int
    loss: float
    accuracy: float | None = None
    goes_on: bool


class Trained(Record):
    """What was trained, and on what.

    Attributes:
        task: its name.
        backbone: its name.
        digest: sha256 of the prompt file.
        length: virtual tokens, P.
        steps: optimizer steps.
        sizes: rows by split.
        test_given: whether the user gave the test rows; else they are a fifth held out.
        cross_fitted: whether each row was scored by a prompt trained without it.
        notes: what the reader should know of the data.
        size: bytes of the prompt's file; 0: not known.
        learned_rows: whether the prompt has a light head, one learned row an answer.
        race: how the candidates stood when they raced; empty where none did.
        cost: what it took, by name with unit, for instance `{"training seconds": 118.2, "examples": 4800}`.
    """

    task: str
    backbone: str = ""
    digest: str = ""
    length: int = 0
    steps: int = 0
    sizes: dict[str, int] = Field(default_factory=dict)
    test_given: bool = True
    cross_fitted: bool = False
    notes: tuple[str, ...] = ()
    size: int = 0
    learned_rows: bool = False
    race: tuple[RaceRow, ...] = ()
    cost: dict[str, float] = Field(default_factory=dict)
