"""A comparison: the plan, the search, what is kept, what is run again, and what is told apart."""

from __future__ import annotations

import json
import math
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from softprompt.errors import BackboneError, ConfigError, DataError, StorageError, UnknownNameError
from softprompt.experiments.compare import setup as comparison_setup
from softprompt.experiments.compare.cells import name_of
from softprompt.experiments.compare.comparison import Comparison, compare, planned
from softprompt.experiments.compare.outcomes import CompareCell, Outcome
from softprompt.experiments.compare.plan import Chosen
from softprompt.experiments.compare.rows import cut, drawn
from softprompt.methods import catalogue
from softprompt.tasks.load import load_task
from softprompt.testing.toy import toy_rows

sys.path.insert(0, str(Path(__file__).parent))
import methods_that_pretend as pretend
import pretend_cell


@pytest.fixture(autouse=True)
def methods(monkeypatch):
    made = pretend.catalogue()
    monkeypatch.setattr(catalogue, "method", made.__getitem__)
    monkeypatch.setattr(catalogue, "names", lambda: tuple(made))


@pytest.fixture
def toy(tmp_path):
    """Two tasks, each a file."""
    made = []
    for name, seed in (("first", 0), ("second", 1)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in toy_rows(100, seed)))
        made.append(file)
    return made


class InProcess:
    """Runs what is pretended right here, and remembers it."""

    def __init__(self, found=pretend_cell.pretended, most=10**6):
        self.found, self.most, self.asks = found, most, []

    def run(self, take):
        while len(self.asks) < self.most and (ask := take()) is not None:
            self.asks.append(ask)
            yield self.found(ask)

    @property
    def names(self):
        return [f"{ask.cell.task} {name_of(ask.cell)}" for ask in self.asks]


def laid_out(toy, out, **more):
    settings = {"methods": ["plain-free", "tuned:words", "tuned-high"], "seeds": [0, 1], "data_rows": [16]}
    return Comparison.of("tiny", toy, out=out, command=pretend_cell.COMMAND, **{**settings, **more})


def test_cheap_cells_first_then_each_search_before_its_main_then_seeds_and_few_rows(toy, tmp_path):
    runner, asked = InProcess(), laid_out(toy[:1], tmp_path / "out")
    found = asked.run(runner)
    assert runner.names == [
        "first main-plain-free-seed-0",
        "first search-tuned-words-rate-0.3", "first search-tuned-words-rate-1", "first search-tuned-words-rate-3",
        "first main-tuned-words-seed-0",
        "first search-tuned-high-words-rate-0.3", "first search-tuned-high-words-rate-1",
        "first search-tuned-high-words-rate-3", "first main-tuned-high-words-seed-0",
        "first main-plain-free-seed-1", "first main-tuned-words-seed-1", "first main-tuned-high-words-seed-1",
        "first data-plain-free-rows16-seed-0", "first data-tuned-words-rows16-seed-0",
        "first data-tuned-high-words-rows16-seed-0",
    ]  # fmt: skip
    assert [ask.share for ask in runner.asks[:4]] == [1.0, 1 / 3, 1 / 3, 1 / 3]
    assert [name_of(ask.cell) for ask in runner.asks if ask.measured] == [
        "main-plain-free-seed-0", "main-tuned-words-seed-0", "main-tuned-high-words-seed-0",
    ]  # fmt: skip
    rates = {ask.cell.method: ask.cell.rate for ask in runner.asks if ask.cell.role != "search"}
    assert rates == {"plain-free": 1.0, "tuned": 1.0, "tuned-high": 3.0}
    (border,) = {note for outcome in found.outcomes for note in outcome.notes}
    assert border == (
        "its rate, ×3, is the highest of those that were searched (×0.3, ×1, ×3): a higher one may be better"
    )
    assert {outcome.cell.method for outcome in found.outcomes if outcome.notes} == {"tuned-high"}
    assert (found.missing, found.failed, len(found.outcomes)) == ((), (), 15)


def test_a_default_comparison_of_what_there_is(toy, tmp_path, monkeypatch):
    third = tmp_path / "third.jsonl"
    third.write_text(toy[0].read_text())
    monkeypatch.setattr(comparison_setup, "MAIN", ("tuned:words", "tuned:rows"))
    monkeypatch.setattr(comparison_setup, "QUICK", ("plain-free", "tuned"))
    asked = laid_out([*toy, third], tmp_path / "out", methods=None, seeds=None, data_rows=None)
    main = {(c.task, c.method, c.readout, c.seed) for c in asked.layout if c.role == "main" and c.method == "tuned"}
    assert len(main) == 3 * 2 * 3
    others = [(c.task, c.method, c.seed) for c in asked.layout if c.role == "main" and c.method != "tuned"]
    assert {seed for *_, seed in others} == {0}
    assert {task for task, *_ in others} == {"first", "second"}
    assert {method for _, method, _ in others} == {*pretend.catalogue()} - {"tuned"}
    assert {(c.task, c.rows) for c in asked.layout if c.role == "data"} == {("first", 16), ("second", 16)} | {
        ("first", 64), ("second", 64)
    }  # fmt: skip
    quick = laid_out(toy, tmp_path / "out", methods=None, seeds=None, data_rows=None, quick=True)
    assert [(c.method, c.readout, c.role) for c in quick.layout if c.task == "first"] == [
        ("plain-free", "", "main"), ("tuned", "rows", "main"),
    ]  # fmt: skip
    assert (quick.bounds.examples, quick.bounds.seconds, quick.bounds.test_rows) == (4_000, 150.0, 500)


def test_what_has_ended_is_not_run_again_wherever_it_was_stopped(toy, tmp_path):
    calm, seen = laid_out(toy, tmp_path / "calm").run(InProcess()), []
    asked = laid_out(toy, tmp_path / "out")
    for _ in range(30):
        runner = InProcess(most=1)
        found = asked.run(runner)
        seen += runner.names
    assert len(seen) == len(set(seen)) == 30
    assert (found.missing, found.outcomes) == ((), calm.outcomes)
    nothing = InProcess()
    laid_out(toy, tmp_path / "out").run(nothing)
    assert nothing.asks == []


def test_the_folder_says_what_was_planned_and_which_rows_are_judged(toy, tmp_path):
    asked = laid_out(toy, tmp_path / "out")
    asked.run(InProcess(most=0))
    assert planned(tmp_path / "out") == tuple(asked.layout)
    laid_out(toy[:1], tmp_path / "out", methods=["whole"], seeds=[0], data_rows=[]).run(InProcess(most=0))
    assert len(planned(tmp_path / "out")) == len(asked.layout) + 4
    rows = [json.loads(line) for line in (tmp_path / "out" / "first" / "rows.jsonl").read_text().splitlines()]
    task = load_task(str(toy[0]))
    assert [row["fields"] for row in rows] == [dict(row.fields) for row in task.splits["test"]]
    assert planned(tmp_path) == ()
    (tmp_path / "out" / "comparison.json").write_text("{")
    with pytest.raises(StorageError, match=r"comparison.json` is damaged .* take it away, and the next run writes"):
        planned(tmp_path / "out")


def test_what_was_planned_by_other_bounds_is_not_missing(toy, tmp_path):
    laid_out(toy, tmp_path / "out").run(InProcess(most=0))
    quick = laid_out(toy[:1], tmp_path / "out", methods=["whole"], seeds=[0], data_rows=[], quick=True)
    quick.run(InProcess(most=0))
    cells = planned(tmp_path / "out")
    assert tuple(cell for cell in cells if cell.task == "first") == tuple(quick.layout)
    assert {cell.method for cell in cells if cell.task == "second"} == {"plain-free", "tuned", "tuned-high"}


def test_cells_of_other_rows_or_another_backbone_count_as_missing(toy, tmp_path, monkeypatch):
    few = {"methods": ["plain-free"], "seeds": [0], "data_rows": []}
    laid_out(toy[:1], tmp_path / "out", **few).run(InProcess())
    assert laid_out(toy[:1], tmp_path / "out", **few).plan().seconds == 0
    assert laid_out(toy[:1], tmp_path / "out", **few, rows=50).plan().seconds > 0
    other = laid_out(toy[:1], tmp_path / "out", **few)
    subject = other.subjects["first"]
    changed = replace(subject, origin={**subject.origin, "fingerprint": {"weights": "v"}})
    assert replace(other, subjects={"first": changed}).plan().seconds > 0
    with monkeypatch.context() as release:
        release.setattr(comparison_setup, "__version__", "0.0.9")
        assert laid_out(toy[:1], tmp_path / "out", **few).plan().seconds > 0
    toy[0].write_text(toy[0].read_text().replace("film", "play"))
    assert laid_out(toy[:1], tmp_path / "out", **few).plan().seconds > 0


def test_outcomes_of_another_origin_are_put_aside_and_come_back(toy, tmp_path, capsys):
    few = {"methods": ["plain-free"], "seeds": [0], "data_rows": []}
    laid_out(toy[:1], tmp_path / "out", **few).run(InProcess())
    before = (tmp_path / "out" / "first" / "main-plain-free-seed-0.json").read_bytes()
    laid_out(toy[:1], tmp_path / "out", **few, rows=50).run(InProcess(most=0))
    assert (
        "first: 1 outcome of other rows, bounds, backbone or release put aside, in `aside`" in capsys.readouterr().err
    )
    assert list((tmp_path / "out").glob("*/*.json")) == []
    nothing = InProcess()
    laid_out(toy[:1], tmp_path / "out", **few).run(nothing)
    assert (nothing.asks, (tmp_path / "out" / "first" / "main-plain-free-seed-0.json").read_bytes()) == ([], before)


def test_a_rate_searched_later_may_take_the_place_of_the_one_before(toy, tmp_path):
    few = {"methods": ["tuned-high"], "seeds": [0], "data_rows": []}
    laid_out(toy[:1], tmp_path / "out", **few, rates=[0.3, 1.0]).run(InProcess())
    runner = InProcess()
    laid_out(toy[:1], tmp_path / "out", **few, rates=[0.3, 1.0, 3.0, 10.0]).run(runner)
    assert runner.names == [
        "first search-tuned-high-words-rate-3", "first search-tuned-high-words-rate-10",
        "first main-tuned-high-words-seed-0",
    ]  # fmt: skip
    (main,) = (tmp_path / "out" / "first").glob("main-*.json")
    outcome = Outcome.read(main)
    assert (outcome.cell.rate, outcome.notes) == (3.0, ())


def test_one_rate_is_taken_without_a_search(toy, tmp_path):
    runner = InProcess()
    laid_out(toy[:1], tmp_path / "out", methods=["tuned-low"], seeds=[0], data_rows=[], rates=[0.5]).run(runner)
    assert [(name_of(ask.cell), ask.cell.rate, ask.notes) for ask in runner.asks] == [
        ("main-tuned-low-seed-0", 0.5, ())
    ]


def test_a_search_whose_trials_all_fail_is_the_failure_of_what_follows(toy, tmp_path):
    few = {"methods": ["refused"], "seeds": [0], "data_rows": []}
    found = laid_out(toy[:1], tmp_path / "out", **few).run(InProcess())
    assert [outcome.cell.role for outcome in found.failed] == ["search"] * 3 + ["main"]
    assert found.failed[-1].failed == "every rate of its search failed: it cannot"
    nothing = InProcess()
    laid_out(toy[:1], tmp_path / "out", **few).run(nothing)
    assert nothing.asks == []


def test_trials_that_failed_for_want_of_memory_are_tried_once_in_every_run(toy, tmp_path):
    few = {"methods": ["tuned"], "seeds": [0], "data_rows": []}
    full = InProcess(lambda ask: Outcome(ask.cell, failed="memory is full", again=True, origin=ask.origin))
    found = laid_out(toy[:1], tmp_path / "out", **few).run(full)
    assert len(full.asks) == 3
    assert found.failed[-1].again
    assert {state for _, state, _ in laid_out(toy[:1], tmp_path / "out", **few).plan().cells} == {"to do"}
    better = InProcess()
    laid_out(toy[:1], tmp_path / "out", **few).run(better)
    assert len(better.asks) == 4


def test_where_two_rates_are_alike_the_lower_one_is_chosen_and_failed_trials_do_not_count():
    def trial(rate, loss, failed=None):
        return Outcome(CompareCell("t", "m", "", 0, "search", rate), validation_loss=loss, failed=failed)

    assert Chosen.of([trial(0.3, 0.5), trial(1.0, 0.4), trial(3.0, 0.4)]) == Chosen(1.0)
    low = Chosen.of([trial(0.3, 0.3), trial(1.0, 0.4), trial(3.0, None, "not finite")])
    assert (low.rate, low.notes[0].endswith("a lower one may be better")) == (0.3, True)


def test_a_budget_ends_before_a_cell_and_says_what_is_left(toy, tmp_path, capsys):
    found = laid_out(toy, tmp_path / "out").run(InProcess(), budget=0.0)
    assert len(found.missing) == 30
    assert "the time is over with 30 cells to do; the same command goes on" in capsys.readouterr().err


def test_news_say_which_cell_how_it_went_and_how_long_the_rest_takes(toy, tmp_path, capsys):
    laid_out(toy[:1], tmp_path / "out").run(InProcess())
    told = capsys.readouterr().err
    assert "compare, cell 5 of 15: first  tuned:words  seed 0; about " in told
    assert "compare, first  tuned:words  search at rate ×0.3: validation loss 1.2000, 0 s\n" in told
    assert "compare, first  plain-free  seed 0: accuracy " in told


def test_a_plan_shows_cells_and_hours_and_does_nothing(toy, tmp_path):
    asked = laid_out(toy, tmp_path / "out")
    told = str(asked.plan())
    assert not (tmp_path / "out").exists()
    assert "first  tuned:words  search at rate ×0.3\n" in told
    assert "first: 68 training rows; 12 validation rows; judged on 20 test rows, the same for all\n" in told
    assert "30 cells, 0 done; about " in told
    asked.run(InProcess(lambda ask: replace(pretend_cell.pretended(ask), seconds=7200.0), most=1))
    plan = laid_out(toy, tmp_path / "out").plan()
    assert "done      2.0 h  first  plain-free  seed 0\n" in str(plan)
    free = [seconds for cell, _, seconds in plan.cells if cell.method == "plain-free" and cell.seed == 1]
    assert all(seconds > 1000 for seconds in free)  # as long as the one that was measured, which measured speed too
    assert plan.to_json()["cells"][0]["state"] == "done"


def test_two_at_one_folder_are_kept_apart(toy, tmp_path):
    asked = laid_out(toy, tmp_path / "out")
    (tmp_path / "out" / "work" / "locks").mkdir(parents=True)
    with (
        FileLock(tmp_path / "out" / "work" / "locks" / "comparison.lock"),
        pytest.raises(ConfigError, match="another process runs a comparison in"),
    ):
        asked.run(InProcess())


def test_a_damaged_cell_says_which_file_to_take_away(toy, tmp_path):
    few = {"methods": ["plain-free"], "seeds": [0], "data_rows": []}
    laid_out(toy[:1], tmp_path / "out", **few).run(InProcess())
    (tmp_path / "out" / "first" / "main-plain-free-seed-0.json").write_text("{")
    with pytest.raises(StorageError, match=r"main-plain-free-seed-0.json` is damaged .* take it away"):
        laid_out(toy[:1], tmp_path / "out", **few).run(InProcess())


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"methods": ["tunde"]}, UnknownNameError, "unknown method `tunde`; did you mean `tuned`"),
        ({"methods": ["tuned-high:rows"]}, ConfigError, "does not offer; it offers `tuned-high:words`"),
        ({"methods": ["plain-free:rows"]}, ConfigError, "does not offer; it offers only `plain-free`"),
        ({"methods": ["tuned", "tuned:rows"]}, ConfigError, "the method `tuned:rows` stands twice"),
        ({"seeds": [1, 1]}, ConfigError, "the seed `1` stands twice"),
        ({"seeds": []}, ConfigError, "the comparison has no seed; give at least one"),
        ({"seeds": [-1]}, ConfigError, "the seed `-1` is out of range; give 0 or more"),
        ({"rates": [0.0, 1.0]}, ConfigError, "the rate `0.0` is out of range; give more than 0"),
        ({"rates": [math.nan]}, ConfigError, "the rate `nan` is out of range; give more than 0"),
        ({"rates": [math.inf]}, ConfigError, "the rate `inf` is out of range; give more than 0"),
        ({"methods": []}, ConfigError, "the comparison has no method; give at least one"),
        ({"data_rows": [0]}, ConfigError, "the number of rows `0` is out of range"),
        ({"rows": 0}, ConfigError, "asked for 2 tasks and 0 training rows"),
    ],
)
def test_what_cannot_be_compared(toy, tmp_path, change, kind, text):
    with pytest.raises(kind, match=text):
        laid_out(toy, tmp_path / "out", **change)


def test_tasks_that_cannot_be_compared(toy, tmp_path):
    with pytest.raises(ConfigError, match="asked for 0 tasks"):
        laid_out([], tmp_path / "out")
    with pytest.raises(ConfigError, match="two tasks are called `first`"):
        laid_out([toy[0], toy[0]], tmp_path / "out")
    with pytest.raises(ConfigError, match="a task is called `work`"):
        laid_out([toy[0].rename(tmp_path / "work.jsonl")], tmp_path / "out")
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("text,score\n" + "".join(f"row {n},{n / 7:.3f}\n" for n in range(60)))
    with pytest.raises(
        ConfigError, match="`numbers` is regression, and a comparison needs rows with one of few labels"
    ):
        laid_out([numbers], tmp_path / "out")
    with pytest.raises(DataError, match="no file"):
        laid_out([tmp_path / "nowhere.csv"], tmp_path / "out")


def test_a_backbone_that_cannot_be_loaded(toy, tmp_path):
    with pytest.raises(BackboneError, match="no `nowhere`"):
        Comparison.of("nowhere", toy, methods=["tuned"], out=tmp_path, command=pretend_cell.COMMAND)
    with pytest.raises(BackboneError, match="`tiny` could not be loaded: its process ended with exit code 1"):
        Comparison.of("tiny", toy, methods=["tuned"], out=tmp_path, command=("false",))


def test_the_default_folder_is_that_of_backbone_rows_and_bounds(toy, home):
    place = laid_out(toy, None).folder.path
    assert place.parent == home / "runs"
    assert place == laid_out(toy, None, methods=["whole"]).folder.path
    assert place != laid_out(toy, None, rows=20).folder.path


def test_rows_are_drawn_by_label_nested_and_alike_for_all():
    rows = load_task({"train": toy_rows(99), "validation": toy_rows(30, 1), "test": toy_rows(30, 2)}, name="t")
    few, more = drawn(rows.splits["train"], 16, 0), drawn(rows.splits["train"], 64, 0)
    assert {row.key for row in few} < {row.key for row in more}
    assert sorted(row.label for row in few).count("negative") == 8
    assert few != drawn(rows.splits["train"], 16, 1)
    cell = cut(rows, 3, 16, all_rows=50, test_rows=20)
    assert {split: len(found) for split, found in cell.splits.items()} == {"train": 16, "validation": 16, "test": 20}
    main = cut(rows, 3, 0, all_rows=50, test_rows=20)
    assert {split: len(found) for split, found in main.splits.items()} == {"train": 50, "validation": 30, "test": 20}
    assert main.splits["test"] == cell.splits["test"]
    assert main.data_hash != rows.data_hash


def test_cells_in_processes_of_their_own_die_alone(toy, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PRETEND_DEATHS", json.dumps({"dies": -9, "killed": int(signal.SIGKILL)}))
    settings = {"methods": ["dies", "killed", "plain-free"], "seeds": [0], "data_rows": [], "out": tmp_path / "out"}
    found = compare("tiny", toy[:1], command=pretend_cell.COMMAND, **settings)
    assert [outcome.failed for outcome in found.outcomes] == [
        "its process ended with exit code 9 and no answer",
        "its process was ended by SIGKILL, most likely because the machine had no memory left",
        None,
    ]
    assert [outcome.again for outcome in found.outcomes] == [True, True, False]
    assert found.outcomes[2].seconds > 0
    assert capfd.readouterr().out == ""
    monkeypatch.delenv("PRETEND_DEATHS")
    again = compare("tiny", toy[:1], command=pretend_cell.COMMAND, **settings)
    assert again.failed == ()
    assert again.outcomes[2] == found.outcomes[2]
    assert [path.name for path in (tmp_path / "out" / "work").iterdir()] == ["locks"]
