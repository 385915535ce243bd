"""`softprompt compare`: a plan, a run, a report, and the same command going on."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import pytest

from softprompt.errors import MissingExtraError
from softprompt.experiments.compare import setup as comparison_setup
from softprompt.experiments.compare.comparison import Comparison
from softprompt.experiments.compare.executors import LocalExecutor
from softprompt.experiments.report import report as report_compare
from softprompt.methods import catalogue

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import methods_that_pretend as pretend
import pretend_cell

FEW = ["--methods", "plain-free,tuned:words", "--seeds", "0", "--data-rows", "0", "--out", "kept"]


@pytest.fixture(autouse=True)
def methods(monkeypatch):
    made = pretend.catalogue()
    monkeypatch.setattr(catalogue, "method", made.__getitem__)
    monkeypatch.setattr(catalogue, "names", lambda: tuple(made))
    monkeypatch.setattr(Comparison, "of", partial(Comparison.of, command=pretend_cell.COMMAND))
    write = report_compare.write_report
    monkeypatch.setattr(
        report_compare, "write_report", lambda folder, **how: write(folder, **{**how, "html": False, "resamples": 20})
    )


@pytest.fixture
def toy(tmp_path, csv_of):
    file = tmp_path / "toy.csv"
    file.write_text(csv_of(50))
    return file


def test_it_plans_then_compares_then_prints(ok, call, toy):
    words = ["compare", toy, "--text", "review", *FEW, "--rates", "0.5,1"]
    plan = ok(*words, "--plan")
    assert "to do" in plan
    assert "toy  tuned:words  search at rate ×0.5\n" in plan
    assert not Path("kept").exists()
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert "compare, cell 4 of 4: toy  tuned:words  seed 0; about " in result.stderr
    assert "| method |" in result.stdout or "| toy |" in result.stdout
    assert "kept/report.md · kept/report.json\n" in result.stdout
    assert json.loads(ok(*words, "--plan", "--json"))["seconds left"] == 0
    again = call(*words)
    assert "cell 4 of 4" not in again.stderr
    assert again.stdout == result.stdout
    assert ok("compare", "--report-only", "--out", "kept") == result.stdout
    told = json.loads(ok("compare", "--report-only", "--out", "kept", "--json"))
    assert told["folder"] == "kept"


def test_quick_rows_minutes_and_a_budget(ok, call, toy, monkeypatch):
    monkeypatch.setattr(comparison_setup, "QUICK", ("plain-free", "tuned"))
    told = json.loads(ok("compare", toy, "--text", "review", "--quick", "--plan", "--json", "--rows", 20))
    assert [cell["role"] for cell in told["cells"]] == ["main", "main"]
    assert told["notes"] == [
        "toy: 20 of 34 training rows, drawn by seed; 6 validation rows; judged on 10 test rows, the same for all"
    ]
    words = ["compare", toy, "--text", "review", *FEW, "--minutes", "2", "--budget", "0.000001 s"]
    result = call(*words)
    assert "the time is over with 5 cells to do; the same command goes on" in result.stderr
    assert "5 cells are missing; the same command goes on" in result.stderr
    assert (result.exit_code, result.stdout) == (0, "")


def test_without_what_a_page_needs_there_are_words_and_tables(call, toy, monkeypatch):
    write = report_compare.write_report

    def bare(folder, *, html=True, **how):
        if html:
            raise MissingExtraError("no jinja2")
        return write(folder, **how)

    monkeypatch.setattr(report_compare, "write_report", bare)
    result = call("compare", toy, "--text", "review", *FEW, "--rates", "1")
    assert "without a page: no jinja2\n" in result.stderr
    assert "kept/report.md" in result.stdout


def test_an_interruption_says_how_to_go_on(call, toy, monkeypatch):
    def stopped(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalExecutor, "run", stopped)
    result = call("compare", toy, "--text", "review", *FEW)
    assert result.exit_code == 130
    assert result.stderr.endswith("the same command goes on from there\ninterrupted\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["toy.csv", "--methods", "tunde"], "error: unknown method `tunde`; did you mean `tuned`"),
        (["toy.csv", "--seeds", "one"], "error: --seeds is `one`; write numbers with commas between them"),
        (["toy.csv", "--budget", "5 steps"], "error: the budget is `5 steps`; a comparison needs one of time, as `8h`"),
        (["toy.csv", *FEW, "--executor", "rai"], "error: unknown executor `rai`; did you mean `ray`"),
        (["--report-only"], "error: --report-only needs --out"),
        ([], "error: asked for 0 tasks"),
    ],
)
def test_what_cannot_be_compared(call, toy, words, text):
    result = call("compare", *words)
    assert result.exit_code == 2
    assert text in result.stderr


def test_help_shows_an_example_and_the_flags_of_the_task(ok):
    shown = " ".join(ok("compare", "--help").split())
    assert "Example: softprompt compare" in shown
    for flag in ("--template", "--methods", "--executor", "--report-only", "--budget"):
        assert flag in shown
