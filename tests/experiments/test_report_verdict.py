"""The words of a comparison: losses to a probe first, then when something else is worth its price."""

from __future__ import annotations

import pytest

from softprompt.evaluation.figures import Difference, Interval
from softprompt.experiments.report.figures import Against, Cost, Figure, Line, TaskFigures
from softprompt.experiments.report.names import OURS, Key
from softprompt.experiments.report.verdict import standing, summary

OUR, LORA, PROBE, FULL = OURS[0], Key("lora", "words"), Key("probe-hidden"), Key("full", "words")


def line(key, accuracy, gap=None, macro_f1=None, kept=50_000, seconds=100.0, corrected=0.001, **changes):
    """A line at an accuracy; `gap` is (difference, low, high) to the soft prompt."""
    figure = Figure(accuracy, Interval(accuracy - 0.02, accuracy + 0.02), 0.01, accuracy - 0.01)
    against = None
    if gap is not None:
        pairs = (("accuracy", gap), ("macro_f1", macro_f1 or gap))
        differences = {metric: Difference(value=g[0], interval=Interval(*g[1:])) for metric, g in pairs}
        against = Against(differences, 0.001, "bootstrap", corrected)
    cost = Cost(10, 0.1, kept, seconds, 200.0, 100, 2048.0 if kept > 1e6 else 1024.0, 500.0, None, None)
    return Line(key, seeds=(0,), figures={"accuracy": figure}, against=against, cost=cost, **changes)


def task(*lines, name="mood", ours=OUR, rows=400):
    return TaskFigures(name, ("a", "b"), rows, (line(OUR, 0.9), *lines), ours)


def test_a_loss_to_a_probe_is_said_first():
    one = task(line(LORA, 0.95, (0.05, 0.03, 0.07), kept=2_000_000, seconds=300.0))
    two = task(line(PROBE, 0.94, (0.04, 0.02, 0.06), kept=5_000, seconds=None), name="trec")
    said = summary([one, two])
    assert said[0] == (
        "LOSS to the linear probe (hidden states) on trec: the soft prompt + learned rows has 90.0 % against 94.0 % "
        "accuracy, -4.0 points, 95 % -6.0 to -2.0."
    )
    assert said[1] == (
        "Use the soft prompt (soft prompt + learned rows, our default) unless the gain of LoRA or linear probe (hidden "
        "states) is worth its price to you:"
    )
    assert said[2] == (
        "LoRA gains +5.0 points, 95 % +3.0 to +7.0 on mood; it keeps 2 MB a task instead of 50 kB, trains 5 min "
        "instead of 1 min 40 s and peaks at 2.0 GiB instead of 1.0 GiB."
    )
    assert said[3] == (
        "Linear probe (hidden states) gains +4.0 points, 95 % +2.0 to +6.0 on trec; it is cheaper too: it keeps 5 kB a "
        "task instead of 50 kB, trains nothing instead of 1 min 40 s and peaks at 1.0 GiB, as we do."
    )


def test_a_loss_in_macro_f1_alone_and_a_lag_within_chance_come_first_too():
    lag = line(PROBE, 0.91, (0.01, -0.01, 0.03))
    lost = line(Key("probe-sentence"), 0.9, (0.0, -0.02, 0.02), macro_f1=(0.05, 0.02, 0.08))
    said = summary([task(lag, lost)])
    assert said[0] == (
        "LOSS to the linear probe (sentence embeddings) on mood in macro-F1: +5.0 points, 95 % +2.0 to +8.0; in "
        "accuracy 0.0 points, 95 % -2.0 to +2.0."
    )
    assert said[1].startswith("Behind the linear probe (hidden states) on mood, within chance: ")
    assert said[2].startswith("Use the soft prompt")


def test_no_gain_beyond_chance_means_the_soft_prompt():
    said = summary([task(line(LORA, 0.91, (0.01, -0.01, 0.03), kept=1_000), line(FULL, 0.8, (-0.1, -0.12, -0.08)))])
    assert said == (
        "Use the soft prompt (soft prompt + learned rows, our default): nothing else was more accurate beyond chance "
        "on any task; but it cannot be told from LoRA either, which costs less.",
        "Not to be told from the soft prompt + learned rows on mood, for the interval includes 0: LoRA (+1.0 "
        "points, 95 % -1.0 to +3.0). LoRA keeps fewer bytes.",
        "On mood the soft prompt + learned rows is, in points, more accurate than full fine-tuning (+10.0).",
        "Our default is within 1.0 point of the best of LoRA, adapters and full fine-tuning on 1 of 1 task: on mood "
        "(-1.0 to LoRA, without Houlsby adapters).",
    )


def test_too_few_rows_are_called_that():
    said = summary([task(line(LORA, 0.92, (0.02, -0.06, 0.1)), rows=40)])
    assert said[0] == (
        "Whether to use the soft prompt (soft prompt + learned rows, our default) cannot be said: the test rows are "
        "too few to tell it from anything else."
    )
    assert said[1] == (
        "Too few rows to tell on mood: its 40 test rows leave open whether LoRA is up to 6.0 points better or worse."
    )


def test_what_does_not_survive_holms_correction_says_so():
    said = summary([task(line(LORA, 0.92, (0.02, 0.001, 0.04), corrected=0.31))])
    assert "(after Holm's correction for all methods of the task no longer beyond chance, p = 0.31)" in said[1]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, 0.02, "better"), (-0.02, -0.01, "worse"), (-0.04, 0.06, "even"), (-0.05, 0.05, "unclear")],
)
def test_standing(low, high, expected):
    assert standing(Difference(value=(low + high) / 2, interval=Interval(low, high))) == expected


def test_the_default_a_point_behind_is_near_and_more_is_not():
    near = task(line(FULL, 0.91, (0.01, -0.01, 0.03)), name="near")
    far = task(line(FULL, 0.911, (0.011, -0.01, 0.03)), line(LORA, 0.9, (0.0, -0.01, 0.01)), name="far")
    unknown = task(line(PROBE, 0.8, (-0.1, -0.2, -0.05)), name="bare")
    told = next(each for each in summary([near, far, unknown]) if each.startswith("Our default is within"))
    assert told == (
        "Our default is within 1.0 point of the best of LoRA, adapters and full fine-tuning on 1 of 2 tasks: on near "
        "(-1.0 to full fine-tuning, without LoRA and Houlsby adapters); not on far (-1.1 to full fine-tuning, without "
        "Houlsby adapters); not known on bare (none of the three has a figure)."
    )


def test_without_a_soft_prompt_or_a_rival_nothing_is_advised():
    said = summary([TaskFigures("mood", ("a", "b"), 9, (line(LORA, 0.9),), None)])
    assert said[0] == "No soft prompt has a figure in this comparison, so it cannot say whether to use one."
    assert said[1].endswith("cannot be said: not known on mood (the default has no figure).")
    assert summary([task()])[0] == (
        "Nothing else has a figure beside the soft prompt, so this comparison cannot say whether to use it."
    )


def test_where_the_soft_prompt_has_no_figure_is_said_before_any_advice():
    lost = TaskFigures("web", ("a", "b"), 400, (Line(OUR, why="failed: the loss is nan"), line(LORA, 0.95)), OUR)
    said = summary([task(line(LORA, 0.8, (-0.1, -0.12, -0.08))), lost])
    assert said[0] == (
        "The soft prompt + learned rows has no figure on web (failed: the loss is nan), where LoRA has 95.0 % accuracy."
    )
    assert said[1].endswith("nothing else was more accurate beyond chance on any task where it has a figure.")


def test_what_failed_is_missing_or_lacks_seeds_is_said_last():
    lines = [
        Line(FULL, why="failed: it does not fit"),
        Line(Key("houlsby", "words"), why="missing: it has not been run, or has not ended"),
        line(LORA, 0.9, (0.0, -0.01, 0.01), missing=(1, 2)),
    ]
    assert summary([task(*lines)])[-3:] == (
        "Failed, and so without a figure: full fine-tuning on mood.",
        "Missing, and so without a figure: Houlsby adapters on mood.",
        "Seeds are still missing of: LoRA on mood.",
    )
