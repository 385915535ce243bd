"""The report card: its words, its order, its text to the letter, and its JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from softprompt.errors import DataError
from softprompt.evaluation.calibration import Temperature
from softprompt.evaluation.evaluation import Evaluation
from softprompt.evaluation.figures import Trained
from softprompt.evaluation.references import LINEAR_PROBE, MAJORITY, ZERO_SHOT, Reference
from softprompt.evaluation.report import ReportCard, report_card
from softprompt.evaluation.tables import wrapped

LABELS = ("negative", "positive")
TRAINED = Trained(
    task="films",
    backbone="gemma-3-270m",
    digest="0123456789abcdef" * 4,
    length=20,
    steps=150,
    sizes={"train": 6920, "validation": 872, "test": 400},
    notes=("the most frequent label has 52 % of the train rows",),
    cost={"training seconds": 118.23, "examples": 4800},
)


def predictor(wrong, rows=400, labels=LABELS, **changes):
    """A predictor that errs on the rows in `wrong`, at a confidence of 0.9."""
    gold = np.arange(rows) % len(labels)
    said = gold.copy()
    said[list(wrong)] = (gold[list(wrong)] + 1) % len(labels)
    shares = np.full((rows, len(labels)), 0.1 / (len(labels) - 1))
    shares[np.arange(rows), said] = 0.9
    return Evaluation(labels, gold, np.log(shares), **changes)


def flat(found):
    """The text with its line breaks taken out."""
    return " ".join(str(found).split())


def card(ours, probe, *others, trained=TRAINED, **more):
    references = [Reference(MAJORITY, predictor(range(0, 400, 2))), *others]
    references.append(Reference(LINEAR_PROBE, probe, 12.34, "on sentence embeddings"))
    return report_card(ours, references, trained, **more)


def test_a_loss_to_the_linear_probe_is_the_first_line():
    found = card(predictor(range(60)), predictor(range(20)), Reference(ZERO_SHOT, predictor(range(30))))
    first = str(found).splitlines()[0]
    assert first.startswith("films: LOSS to the linear probe: 85.0 % against 95.0 % accuracy, -10.0 points, 95 % -")
    assert found.verdict[1].startswith("LOSS to the zero-shot: 85.0 % against 92.5 % accuracy, -7.5 points")
    assert found.verdict[2].startswith("Better in accuracy than majority class (+35.0 points, 95 % +")


def test_a_lag_behind_the_probe_within_noise_is_first_too_and_called_as_good():
    found = card(predictor(range(40)), predictor(range(2, 40)), Reference(ZERO_SHOT, predictor(range(10))))
    assert found.verdict[0].startswith(
        "The linear probe is as good, and ahead on these rows: 90.0 % against 90.5 % accuracy, -0.5 points, 95 % "
    )
    assert found.verdict[0].endswith("; the interval includes 0.")
    assert found.verdict[1].startswith("LOSS to the zero-shot")


def test_a_rival_that_is_as_good_is_said_before_those_that_are_beaten():
    found = card(predictor(range(40)), predictor(range(1, 41)))
    assert found.verdict[0].startswith("The linear probe is as good: 90.0 % against 90.0 % accuracy, 0.0 points")
    assert found.verdict[1].startswith("Better in accuracy than majority class")


def test_a_loss_in_macro_f1_alone_is_a_loss():
    gold = np.r_[np.zeros(380, dtype=np.int64), np.ones(20, dtype=np.int64)]

    def uneven(said):
        return Evaluation(LABELS, gold, np.log(np.where(np.eye(2)[said] > 0, 0.9, 0.1)))

    lazy, keen = np.zeros(400, dtype=np.int64), gold.copy()
    keen[:20] = 1  # finds every rare row at the price of as many false alarms
    found = report_card(uneven(lazy), [Reference(LINEAR_PROBE, uneven(keen))], TRAINED)
    assert found.verdict[0].startswith("LOSS to the linear probe in macro-F1: 48.7 % against 82.0 % macro-F1, -33.3 ")
    assert "Beside it: 95.0 % against 95.0 % accuracy, 0.0 points" in found.verdict[0]
    other = report_card(uneven(keen), [Reference(LINEAR_PROBE, uneven(lazy))], TRAINED)
    assert "It is beaten in macro-F1: 82.0 % against 48.7 % macro-F1, +33.3 points" in other.verdict[0]


def test_a_rival_that_was_not_run_is_said():
    found = report_card(predictor([]), [Reference(LINEAR_PROBE, None, note="no encoder")], TRAINED)
    assert found.verdict == ("The linear probe was not run: no encoder.",)
    assert "films: The linear probe was not run: no encoder." in str(found)
    assert str(report_card(predictor([]), [], TRAINED)).startswith("films: no reference was run, so there is nothing")


def test_where_the_rows_come_from_is_said():
    def text(**changes):
        return str(report_card(predictor([0]), [], TRAINED.model_copy(update=changes)))

    assert "Figures are on the 400 test rows as given; they took part in no choice." in text()
    assert "No test split was given: figures are on a held-out fifth, 400 rows that took part in no choice." in text(
        test_given=False
    )
    assert "Cross-fitted: each of the 400 rows was scored by a prompt that was trained without it." in text(
        test_given=False, cross_fitted=True
    )


def test_rows_that_stand_in_train_are_warned_of_and_left_out_once():
    found = card(predictor(range(40), overlap=tuple(range(20))), predictor(range(30), overlap=tuple(range(20))))
    assert found.figures.accuracy == 0.9
    assert found.without_overlap.accuracy == pytest.approx(360 / 380)
    assert found.rivals[-1].without_overlap.accuracy == pytest.approx(370 / 380)
    assert "Warning: 20 of these rows also stand in train. Without them, on 380 rows:" in str(found)
    everything = report_card(predictor([1], overlap=tuple(range(400))), [], TRAINED)
    assert "Warning: all 400 of these rows also stand in train; no figure here is on unseen rows." in str(everything)
    assert "Figures are on the 400 test rows as given, all of which also stand in train." in flat(everything)
    assert "took part in no choice" not in flat(everything)
    assert "as given; 20 of them also stand in train, the others took part in no choice." in flat(found)


def test_no_error_at_all_is_not_taken_for_certainty():
    text = flat(report_card(predictor([]), [], TRAINED))
    assert (
        "no error in 400 rows: a bootstrap sees no further; the true rate of one is below 0.8 % (rule of three)."
        in text
    )


@pytest.mark.parametrize(
    ("temperature", "said"),
    [
        (None, "Calibration: ECE 0.000."),
        (
            Temperature(rows=9, reason="9 are too few"),
            "Calibration: ECE 0.000; no temperature was fitted: 9 are too few.",
        ),
        (
            Temperature(value=1.5, fitted=True, rows=872),
            "Calibration: ECE 0.000 before and 0.000 after temperature 1.50 (fitted on 872 validation rows).",
        ),
        (
            Temperature(value=20.0, fitted=True, rows=872, reason="at its upper bound"),
            "after temperature 20.00 (fitted on 872 validation rows); at its upper bound.",
        ),
    ],
)
def test_calibration_is_said(temperature, said):
    assert said in flat(report_card(predictor(range(40)), [], TRAINED, temperature=temperature))


def test_abstention_is_said():
    text = str(report_card(predictor(range(40), abstain=0.95), [], TRAINED))
    assert "Answers below a probability of 0.950 are held back: 0.0 % answered, none of them." in text
    text = str(report_card(predictor(range(40), abstain=0.5), [], TRAINED))
    assert "Answers below a probability of 0.500 are held back: 100.0 % answered, 90.0 % of them right." in text


def test_references_on_other_rows_are_refused():
    with pytest.raises(
        DataError, match="the linear probe was evaluated on 10 rows that are not the 400 rows of the prom"
    ):
        report_card(predictor([]), [Reference(LINEAR_PROBE, predictor([], rows=10))], TRAINED)


def test_a_card_comes_back_from_json():
    ours = predictor(range(40), overlap=(1,), abstain=0.3, truncated=2)
    before = card(ours, predictor(range(30), overlap=(1,)), validation=ours, temperature=Temperature())
    data = json.loads(json.dumps(before.to_json()))
    assert data["verdict"] == [*before.verdict]
    after = ReportCard.from_json(data)
    assert after == before
    assert str(after) == str(before)


@pytest.mark.parametrize("data", [{}, [], "card", {"trained": 3}, None])
def test_json_of_something_else_is_refused(data):
    with pytest.raises(
        DataError, match=r"cannot read this JSON as a ReportCard: .* fault.*; give what `to_json` wrote"
    ):
        ReportCard.from_json(data)


def test_an_unknown_key_is_named():
    data = {**report_card(predictor([]), [], TRAINED).to_json(), "verdicts": []}
    with pytest.raises(DataError, match=r"1 fault\(s\), the first at `verdicts`: "):
        ReportCard.from_json(data)


def test_labels_cannot_steer_the_terminal_and_wide_ones_stay_aligned():
    lines = report_card(predictor([1], labels=("\x1b[2Jgood\n", "とても良い")), [], TRAINED).render().splitlines()
    table = lines[lines.index(next(line for line in lines if line.startswith("label "))) :][:3]
    assert "?[2Jgood " in table[1]
    assert len({cell_len(line) for line in table}) == 1


@pytest.mark.parametrize("length", range(60, 110))
def test_wide_signs_are_wrapped_by_the_columns_that_they_take(length):
    for text in ("\u2f00" * length, "0" * 27 + "\u27b0\u2f00 " + "x" * length, "\u3068 " * length):
        assert max(cell_len(line) for line in wrapped(text)) <= 100
        assert "".join(wrapped(text)).replace(" ", "") == text.replace(" ", "")


names = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=60)


@given(
    st.lists(names, min_size=2, max_size=30, unique=True),
    st.integers(1, 60),
    st.floats(1e-3, 50),
    names,
    st.lists(names, max_size=3),
)
@settings(max_examples=15, deadline=None)
def test_any_card_fits_a_hundred_columns_and_survives_json(labels, rows, temperature, task, said):
    generator = np.random.default_rng(rows)
    scores = generator.normal(size=(rows, len(labels))) * 5
    ours = Evaluation(tuple(labels), generator.integers(0, len(labels), rows), scores, temperature, overlap=(0,))
    theirs = replace(ours, log_probabilities=generator.normal(size=scores.shape))
    trained = Trained(task=task, notes=tuple(said), length=rows, sizes={"train": rows})
    found = report_card(ours, [Reference("rival", theirs, note="x " * 90)], trained, validation=theirs)
    assert max(cell_len(line) for line in found.render().splitlines()) <= 100
    assert ReportCard.from_json(json.loads(json.dumps(found.to_json()))).render() == found.render()


GOLDEN = """\
films: The zero-shot is as good: 91.0 % against 90.5 % accuracy, +0.5 points, 95 % -0.7 to +1.8; the
  interval includes 0.
Better in accuracy than linear probe (+6.0 points, 95 % +1.5 to +10.8); majority class (+41.0
  points, 95 % +35.5 to +46.5).

gemma-3-270m · 20 virtual tokens · 150 steps · prompt 0123456789ab
Rows: train 6,920, validation 872, test 400.
Figures are on the 400 test rows as given; 2 of them also stand in train, the others took part in no
  choice.

                accuracy %       95 %  macro-F1 %       95 %    MCC  log loss    ECE
soft prompt           91.0  88.0-93.8        91.0  88.0-93.7  0.820     0.317  0.057
majority class        50.0  45.2-55.0        33.3  31.2-35.5  0.000     1.204  0.400
zero-shot             90.5  87.5-93.2        90.5  87.5-93.2  0.810     0.314  0.005
linear probe          85.0  81.5-88.5        85.0  81.3-88.5  0.700     0.435  0.050

Warning: 2 of these rows also stand in train. Without them, on 398 rows:
                accuracy %       95 %  macro-F1 %       95 %    MCC  log loss    ECE
soft prompt           91.5  88.7-94.0        91.5  88.6-94.0  0.829     0.309  0.062
majority class        50.0  45.2-55.0        33.3  31.2-35.5  0.000     1.204  0.400
zero-shot             90.7  87.7-93.5        90.7  87.7-93.5  0.814     0.310  0.007
linear probe          84.9  81.4-88.4        84.9  81.3-88.4  0.698     0.437  0.051

linear probe: on sentence embeddings.
validation, used for selection: accuracy 92.5 % (89.8-95.0), log loss 0.270 on 400 rows.

Calibration: ECE 0.010 before and 0.057 after temperature 1.25 (fitted on 872 validation rows).
Answers below a probability of 0.800 are held back: 100.0 % answered, 91.0 % of them right.

label     precision %  recall %  F1 %  rows
negative         91.0      91.0  91.0   200
positive         91.0      91.0  91.0   200

right \\ predicted  negative  positive
negative                182        18
positive                 18       182

note: the most frequent label has 52 % of the train rows
note: 3 rows of this report were shortened to fit the backbone

Cost: training seconds 118.2, examples 4,800.
Seconds that references took: majority class 0.0, zero-shot 3.2, linear probe 12.3.
"""


def test_the_text_of_a_card_to_the_letter():
    """Change the text on purpose, then paste what `print` gives."""
    ours = predictor(range(36), overlap=(0, 7), temperature=1.25, abstain=0.8, truncated=3)
    probe = predictor(range(30, 90), overlap=(0, 7))
    zero_shot = Reference(ZERO_SHOT, predictor(range(2, 40), overlap=(0, 7)), 3.21)
    found = card(
        ours,
        probe,
        zero_shot,
        validation=predictor(range(30)),
        temperature=Temperature(value=1.25, fitted=True, rows=872),
    )
    assert str(found) + "\n" == GOLDEN
