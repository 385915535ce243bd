"""The report of a comparison: everything from the files, whole or in part, and the same bytes every time."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softprompt.errors import DataError, MissingExtraError, StorageError
from softprompt.experiments.compare.outcomes import CompareCell, Outcome
from softprompt.experiments.folder import named
from softprompt.experiments.report import page as report_page
from softprompt.experiments.report.content import content_of
from softprompt.experiments.report.folder import read_folder
from softprompt.experiments.report.names import METHODS, Key
from softprompt.experiments.report.report import write_report
from softprompt.methods import catalogue
from softprompt.methods.costs import Forgetting, Speed

DRAWS = importlib.util.find_spec("jinja2") is not None and importlib.util.find_spec("matplotlib") is not None
needs_page = pytest.mark.skipif(not DRAWS, reason="the page needs the `report` extra")


RIVALS = {  # name: (readouts, accuracy, trained, kept bytes, seconds)
    "majority": (("",), 0.3, 0, 60, 0.0),
    "probe-hidden": (("",), 0.86, 1_282, 5_128, 0.0),
    "soft-prompt": (("words", "rows"), 0.88, 12_800, 51_200, 240.0),
    "deep-prompt": (("rows",), 0.915, 184_320, 738_000, 310.0),
    "peft-prompt-tuning": (("words",), 0.82, 12_800, 51_200, 700.0),
    "lora": (("words",), 0.92, 380_000, 1_540_000, 520.0),
    "houlsby": (("words",), 0.915, 1_100_000, 4_400_000, 560.0),
    "full": (("words",), 0.925, 268_000_000, 536_000_000, 900.0),
}


def outcome(
    method="soft-prompt",
    readout="words",
    *,
    task="mood",
    seed=0,
    accuracy=0.9,
    rows=200,
    labels=("bad", "good"),
    right=None,
    role="main",
    rate=1.0,
    used=0,
    **changes,
):
    """A cell whose answers are right at some rate, or just where `right` says; the same every time."""
    generator = np.random.default_rng([rows, len(labels)])
    gold = generator.integers(len(labels), size=rows)
    name = sum(ord(c) * (i + 1) for i, c in enumerate(method + readout + task))
    generator = np.random.default_rng([seed, name, used])
    hard = np.random.default_rng([rows, 7]).random(rows)  # the same rows are hard for everyone
    correct = 0.7 * hard + 0.3 * generator.random(rows) < np.quantile(hard * 0.7 + 0.15, min(accuracy, 1.0))
    correct = correct if right is None else np.asarray(right, dtype=bool)
    predicted = np.where(correct, gold, (gold + 1) % len(labels))
    confidence = np.clip(0.75 + 0.25 * generator.random(rows), 0, 1)
    gold_log = np.where(correct, np.log(confidence), np.log1p(-confidence * 0.98))
    fields = {
        "labels": tuple(labels),
        "gold": tuple(int(g) for g in gold),
        "predicted": tuple(int(p) for p in predicted),
        "gold_log": tuple(round(float(x), 6) for x in gold_log),
        "confidence": tuple(round(float(x), 6) for x in confidence),
    }
    cell = CompareCell(task, method, readout, seed, role, rate, used)
    if role == "search" or changes.get("failed"):
        fields = dict.fromkeys(fields, ())
    return Outcome(cell, **{**fields, **changes})


def course(accuracy, seconds, looks=8):
    """How a training that ends at an accuracy went."""
    points = [
        {
            "step": 20 * look,
            "examples": 320 * look,
            "seconds": seconds * look / looks,
            "loss": 0.15 + 0.9 * 0.6**look,
            "accuracy": accuracy * (1 - 0.5 * 0.55**look),
        }
        for look in range(looks + 1)
    ]
    return {
        "steps": 20 * looks,
        "examples": 320 * looks,
        "seconds": seconds,
        "stopped": "no longer better",
        "points": points,
    }


def keep(folder, *outcomes):
    """Write cells to the folder of a comparison."""
    for number, each in enumerate(outcomes):
        cell = each.cell
        name = f"{cell.method}-{cell.readout}-{cell.role}-{cell.rows}-{cell.rate:g}-{cell.seed}-{number}"
        (folder / cell.task).mkdir(parents=True, exist_ok=True)
        # Not by `Outcome.write`, which waits for the disk: there are many.
        (folder / cell.task / f"{name}.json").write_text(json.dumps(asdict(each)), encoding="utf-8")
    return folder


def comparison(folder, tasks=None, seeds=3, rows=300):
    """Write a whole comparison: 8 methods, searched rates, some of the training rows, a failure and a gap."""
    tasks = tasks or {"sst2": ("negative", "positive"), "trec": ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")}
    for place, (task, labels) in enumerate(tasks.items()):
        for method, (readouts, accuracy, trained, kept, seconds) in RIVALS.items():
            for readout in readouts:
                reached = (
                    accuracy - 0.03 * place + 0.02 * (readout == "rows") + 0.12 * place * (method == "probe-hidden")
                )
                found = {"task": task, "labels": labels, "rows": rows}
                if (method, place) == ("full", 1):
                    keep(
                        folder,
                        outcome(method, readout, **found, failed="it does not fit: 3.1 GiB were asked", again=True),
                    )
                    continue
                if (method, place) == ("houlsby", 2):
                    continue
                keep(folder, *_cells(method, readout, found, reached, trained, kept, seconds, seeds))
        with (folder / task / "rows.jsonl").open("w", encoding="utf-8") as stream:
            for row in range(rows):
                text = f"row {row} of <b>{task}</b>: a film that | some *like* & some do not, told at length " * 3
                stream.write(json.dumps({"fields": {"text": text}}) + "\n")
    return folder


def _cells(method, readout, found, reached, trained, kept, seconds, seeds):
    trains = seconds > 0
    origin = {"backbone": "gemma-3-270m", "dtype": "bfloat16", "device": "cpu"}
    common = {"trained": trained, "share": trained / 268e6, "kept_bytes": kept, "origin": origin}
    for rate in (0.3, 1.0, 3.0) if trains else ():
        loss = 0.3 + abs(np.log(rate)) / 10
        yield outcome(
            method, readout, **found, role="search", rate=rate, validation_loss=loss, seconds=seconds / 3, **common
        )
    for seed in range(seeds if trains else 1):
        extra = {"course": course(reached, seconds * (1 + seed / 20)) if trains else {}, "seconds": seconds + 12}
        if seed == 0:
            extra["speed"] = Speed(
                20 + trained**0.2, 55.5, None if method == "full" else 44.4, 0.0 if kept < 1e6 else 35.0
            )
            extra["forgetting"] = Forgetting(21.4, 21.4, 21.4 if "prompt" in method or not trains else 22.9)
        notes = ("The backbone is copied for each task.",) if method == "full" else ()
        yield outcome(method, readout, **found, seed=seed, accuracy=reached, peak=1400.0 + trained / 3e5, loaded=700.0,
                      notes=notes, provenance={"version": "0.5", "machine": "4 cores"}, **common, **extra)  # fmt: skip
    for used in (16, 64, 256) if trains else ():
        yield outcome(method, readout, **found, role="data", used=used, accuracy=reached - 0.9 / used**0.5, **common)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return comparison(tmp_path_factory.mktemp("compared"), rows=150, seeds=2)


@pytest.fixture(scope="module")
def report(folder, tmp_path_factory):
    return write_report(folder, tmp_path_factory.mktemp("out"), html=DRAWS, resamples=200)


class Elements(HTMLParser):
    """What stands in a page: elements with their attributes, and whether all were closed."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_knows_every_method_of_the_catalogue():
    assert tuple(METHODS) == catalogue.names()


@needs_page
def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(report):
    text = report.html.read_text(encoding="utf-8")
    page = Elements(text)
    assert page.open == []
    assert {tag for tag, _ in page.found}.isdisjoint({"script", "link", "img", "iframe", "object", "base", "form"})
    outside = [value for _, attrs in page.found for name, value in attrs.items() if name in ("href", "src")]
    assert outside
    assert all(value.startswith("#") for value in outside)
    assert not re.search(r"url\((?!#)|@import", text)
    assert not [name for _, attrs in page.found for name in attrs if name.startswith("on")]
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


@needs_page
def test_the_page_can_be_read_aloud(report):
    page = Elements(report.html.read_text(encoding="utf-8"))
    pictures = [attrs for tag, attrs in page.found if tag == "svg"]
    assert len(pictures) == 12
    assert all(attrs["role"] == "img" and attrs["aria-labelledby"] for attrs in pictures)
    assert {attrs.get("scope") for tag, attrs in page.found if tag == "th"} == {"col", "row"}
    tables = [tag for tag, _ in page.found if tag in ("table", "caption")]
    assert tables.count("table") == tables.count("caption") > 10
    names = [attrs["id"] for _, attrs in page.found if "id" in attrs]
    assert len(names) == len(set(names))
    pointed = {name for _, attrs in page.found for name in attrs.get("aria-labelledby", "").split()}
    assert pointed <= set(names)


@needs_page
def test_texts_of_rows_are_cut_and_escaped(report):
    text = report.html.read_text(encoding="utf-8")
    assert "&lt;b&gt;sst2&lt;/b&gt;" in text
    assert "<b>" not in text
    shown = [row for task in json.loads(report.json.read_text())["tasks"] for row in _shown(task)]
    assert 0 < len(shown) <= 40
    assert all(len(row["text"]) <= 160 for row in shown)
    markdown = report.markdown.read_text(encoding="utf-8")
    assert "&lt;b>sst2&lt;/b>" in markdown
    assert r"\| some \*like\*" in markdown


def _shown(task):
    return [*task["found"]["ours_right"], *task["found"]["theirs_right"]]


def test_the_same_files_give_the_same_bytes(tmp_path):
    for method in ("deep-prompt", "lora"):
        keep(
            tmp_path,
            outcome(method, "rows", rows=40, course=course(0.9, 60.0)),
            outcome(method, "rows", role="data", used=16, rows=40),
        )
    once, again = (write_report(tmp_path, tmp_path / out, html=DRAWS, resamples=50) for out in ("a", "b"))
    assert once.markdown.read_bytes() == again.markdown.read_bytes()
    assert once.json.read_bytes() == again.json.read_bytes()
    assert not DRAWS or once.html.read_bytes() == again.html.read_bytes()


def test_a_report_in_the_folder_is_not_read_as_an_outcome(tmp_path):
    keep(tmp_path, outcome(rows=20))
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "experiment.json").write_text("{}")
    first = write_report(tmp_path, html=False, resamples=20)
    assert (first.markdown, first.html) == (tmp_path / "report.md", None)
    write_report(tmp_path, tmp_path / "out", html=False, resamples=20)
    kept = first.markdown.read_bytes()
    assert write_report(tmp_path, html=False, resamples=20).markdown.read_bytes() == kept


def test_json_holds_every_figure(report):
    told = json.loads(report.json.read_text(encoding="utf-8"))
    assert told["summary"] == [*report.summary]
    assert [task["figures"]["name"] for task in told["tasks"]] == ["sst2", "trec"]
    lines = {(line["key"]["method"], line["key"]["readout"]): line for line in told["tasks"][0]["figures"]["lines"]}
    lora = lines["lora", "words"]
    assert lora["figures"].keys() == {"accuracy", "macro_f1", "mcc", "log_loss", "ece"}
    assert lora["seeds"] == [0, 1]
    assert lora["cost"]["kept_bytes"] == 1_540_000
    assert lora["search"]["losses"].keys() == {"0.3", "1.0", "3.0"}
    assert [point["rows"] for point in lora["data"]] == [16, 64, 256, 0]
    assert lines["soft-prompt", "rows"]["against"] is None
    assert told["made_with"]["backbone"] == "gemma-3-270m"


def test_what_failed_is_a_row_that_says_why(report):
    markdown = report.markdown.read_text(encoding="utf-8")
    why = "failed: it does not fit: 3.1 GiB were asked (the next run tries it again)"
    assert f"| full fine-tuning | label words | {why} |" in markdown
    assert "Failed, and so without a figure: full fine-tuning on trec." in markdown
    if report.html:
        assert why in report.html.read_text(encoding="utf-8")


def test_the_search_and_forgetting_and_speed_stand_in_tables(report):
    markdown = report.markdown.read_text(encoding="utf-8")
    assert "| LoRA | label words | 0.420 | 0.300 ✓ | 0.410 | 8 min 40 s | 0 |" in markdown
    assert "| full fine-tuning | label words | 68.5 ms | 55.5 | – | 35 ms | 21.40 | 21.40 | 22.90 |" in markdown
    assert "The search for rates took" in markdown
    assert "- full fine-tuning: The backbone is copied for each task." in markdown


def test_what_was_planned_and_is_not_there_is_missing(tmp_path):
    keep(tmp_path, outcome(rows=20))
    planned = [CompareCell("mood", "soft-prompt", "words", seed, "main") for seed in (0, 1)]
    planned += [CompareCell("mood", "lora", "words", 0, "main"), CompareCell("other", "lora", "words", 0, "main")]
    report = write_report(tmp_path, html=False, planned=planned, resamples=20)
    markdown = report.markdown.read_text(encoding="utf-8")
    assert "| LoRA | label words | missing: it has not been run, or has not ended |" in markdown
    assert "| label words | 1 of 2 |" in markdown
    assert report.summary[-2:] == (
        "Missing, and so without a figure: LoRA on mood; LoRA on other.",
        "Seeds are still missing of: soft prompt on mood.",
    )


@needs_page
def test_a_page_of_failures_alone_can_be_written(tmp_path):
    keep(tmp_path, outcome("lora", failed="the loss is not finite"))
    text = write_report(tmp_path, resamples=20).html.read_text(encoding="utf-8")
    assert "failed: the loss is not finite" in text
    assert "<svg" not in text


def test_cells_that_are_not_alike_are_told(tmp_path):
    first, second = (outcome(m, rows=20, origin={"dtype": d}) for m, d in (("lora", "fp32"), ("full", "bf16")))
    keep(tmp_path, first, second)
    found = content_of(read_folder(tmp_path), resamples=20)
    assert found.cautions[-1] == 'mood: its cells differ in dtype: "bf16" in 1; "fp32" in 1.'


def test_what_code_machine_and_rates_differ_in_is_told(tmp_path):
    first, second = (
        outcome("lora", rows=20, seed=seed, rate=rate, provenance={"versions": {"torch": torch, "peft": "1"}})
        for seed, rate, torch in ((0, 1.0, "2.13"), (1, 3.0, "2.14"))
    )
    keep(tmp_path, first, second, outcome(rows=20))
    assert content_of(read_folder(tmp_path), resamples=20).cautions == (
        "mood: its cells differ in the rate of LoRA: 1.0 in 1; 3.0 in 1.",
        'mood: its cells differ in versions: torch: "2.13" in 1; "2.14" in 1.',
    )


def test_what_bounds_may_have_cut_short_is_told(tmp_path):
    origin = {"examples": 4000, "seconds": 150.0}
    late, soon = ({**course(0.9, seconds), "points": ()} for seconds in (149.0, 20.0))
    cells = outcome("lora", rows=20, course=late, origin=origin), outcome(rows=20, course=soon, origin=origin)
    keep(tmp_path, *cells, outcome("majority", "", rows=20, origin=origin))
    cautions = content_of(read_folder(tmp_path), resamples=20).cautions
    assert cautions[1:] == (
        "No training learned from more than 4,000 rows, each time counted: some methods may reach more in full.",
        "Time ended trainings of LoRA: on a quicker machine, or with more minutes, they may reach more.",
    )


def test_texts_are_found_where_a_comparison_puts_them(tmp_path):
    keep(tmp_path, outcome(rows=2, task="my reviews"))
    (tmp_path / "my reviews").rename(tmp_path / named("my reviews"))
    (tmp_path / named("my reviews") / "rows.jsonl").write_text('{"fields": {"text": "a"}}\n{"fields": {"text": "b"}}\n')
    (task,) = read_folder(tmp_path)
    assert task.texts == ({"text": "a"}, {"text": "b"})


def test_seeds_that_failed_beside_others_are_notes(tmp_path):
    failed = outcome("lora", seed=1, failed="diverged")
    keep(tmp_path, outcome("lora", rows=20), failed)
    section = content_of(read_folder(tmp_path), resamples=20).sections[0]
    assert section.notes == ("LoRA: seed 1 failed: diverged",)
    assert section.figures.line(Key("lora", "words")).seeds == (0,)


def test_rows_are_counted_by_who_is_right(tmp_path):
    right = [True] * 6 + [False] * 4, [True] * 5 + [False] * 2 + [True] * 3
    for (method, readout), each in zip((("deep-prompt", "rows"), ("lora", "words")), right, strict=True):
        keep(tmp_path, outcome(method, readout, rows=10, right=each))
    found = content_of(read_folder(tmp_path), resamples=20).sections[0].found
    count = found.counts[0]
    assert (count.both, count.ours, count.theirs, count.neither, count.seed) == (5, 1, 3, 1, 0)
    assert [row.place for row in found.ours_right] == [5]
    assert [row.place for row in found.theirs_right] == [7, 8, 9]
    assert found.rival == Key("lora", "words")
    assert sum(map(sum, found.confusion[found.rival])) == 10


def test_mcnemar_is_used_where_there_is_one_seed(tmp_path):
    keep(tmp_path, outcome("deep-prompt", "rows"), outcome("lora", accuracy=0.7))
    figures = content_of(read_folder(tmp_path), resamples=20).tasks[0]
    assert figures.line(Key("lora", "words")).against.test == "McNemar"
    keep(tmp_path, outcome("lora", accuracy=0.7, seed=1))
    figures = content_of(read_folder(tmp_path), resamples=20).tasks[0]
    assert figures.line(Key("lora", "words")).against.test == "bootstrap"


def test_what_cannot_be_compared_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no outcome; give the folder of a comparison, one folder a task in it"):
        write_report(tmp_path, html=False)
    keep(tmp_path, outcome(rows=20), outcome("lora", rows=21))
    with pytest.raises(DataError, match="answered different test rows or labels; compare cells of one comparison"):
        write_report(tmp_path, html=False)


def test_two_main_cells_of_one_seed_are_refused(tmp_path):
    keep(tmp_path, outcome(rows=20), outcome(rows=20, rate=3.0))
    with pytest.raises(DataError, match="seed 0 of soft prompt has more than one main cell"):
        write_report(tmp_path, html=False)


def test_a_cell_without_an_answer_a_row_is_damaged(tmp_path):
    keep(tmp_path, replace(outcome(rows=20), gold_log=(0.0,)))
    with pytest.raises(StorageError, match="does not hold one answer a row; take it away, and its cell is run again"):
        write_report(tmp_path, html=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "rows.jsonl` is damaged"),
        ('{"fields": {"text": "a"}}', "holds 1 rows, and 20 were answered; take it away"),
    ],
)
def test_texts_that_do_not_belong_are_refused(tmp_path, text, message):
    keep(tmp_path, outcome(rows=20))
    (tmp_path / "mood" / "rows.jsonl").write_text(text)
    with pytest.raises((DataError, StorageError), match=message):
        write_report(tmp_path, html=False)


def test_a_page_without_its_extra_is_refused_and_the_rest_is_not(tmp_path, monkeypatch):
    keep(tmp_path, outcome(rows=20))
    monkeypatch.setattr(report_page, "find_spec", lambda name: None)
    message = r'a report as HTML needs jinja2 and matplotlib, .* not installed: pip install "softprompt\[report\]"'
    with pytest.raises(MissingExtraError, match=message):
        write_report(tmp_path)
    assert write_report(tmp_path, html=False, resamples=20).json.exists()


words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="/\0"), min_size=1, max_size=12)


@settings(max_examples=10, deadline=None)
@given(
    rows=st.integers(1, 30),
    labels=st.lists(words, min_size=2, max_size=5, unique=True),
    methods=st.lists(st.tuples(st.sampled_from([*METHODS, "<b>a|b"]), st.integers(0, 2), st.booleans()), max_size=6),
    failed=words,
)
def test_any_comparison_can_be_told(tmp_path_factory, rows, labels, methods, failed):
    folder = tmp_path_factory.mktemp("any")
    cells = {(name, seed): (bad, rows) for name, seed, bad in methods} or {("full", 0): (True, rows)}
    for (name, seed), (bad, count) in cells.items():
        cell = outcome(name, "words", labels=labels, rows=count, seed=seed, failed=failed if bad else None)
        cell.write(folder / "mood" / f"{abs(hash((name, seed)))}.json")
    content = content_of(read_folder(folder), resamples=20)
    for line in content.tasks[0].measured:
        for figure in line.figures.values():
            assert figure.interval.low <= figure.interval.high
    text = json.dumps(content.to_json(), allow_nan=False)
    assert json.loads(text)["tasks"][0]["figures"]["rows"] in (0, rows)
