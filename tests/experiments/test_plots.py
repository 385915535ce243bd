"""Pictures of runs: drawn whole, or refused with a reason."""

from __future__ import annotations

import json
import re

import pytest

from softprompt.errors import DataError, MissingExtraError, StorageError, UnknownNameError
from softprompt.experiments import plots
from softprompt.experiments.sweep_result import Trial

pytest.importorskip("matplotlib", reason="pictures need the `report` extra")


@pytest.fixture
def run(tmp_path):
    def make(name, tokens=3, steps=4, **changes):
        folder = tmp_path / name
        folder.mkdir()
        events = []
        for step in range(1, steps + 1):
            norms = [0.1 * step * (token + 1) for token in range(tokens)]
            events.append({"event": "step", "step": step, "loss": 1 / step, "token_gradient_norms": norms, **changes})
            if step % 2 == 0:
                events.append({"event": "validation", "step": step, "loss": 0.5, "accuracy": 0.8})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        return folder

    return make


def test_a_picture_of_two_runs_of_different_lengths(run, tmp_path):
    path = tmp_path / "out" / "two.png"
    assert plots.training_curves({"a": run("a"), "b": run("b", tokens=1, steps=1)}, str(path), title="Two") == path
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == ["two.png"]


def test_what_stands_in_the_picture(run, tmp_path):
    path = plots.training_curves({"mood": run("a")}, tmp_path / "one.svg", title="A title")
    text = path.read_text()
    for words in (
        "A title",
        "mood",
        "Training loss",
        "Validation accuracy",
        "mood: gradient norm of each virtual token",
    ):
        assert f"<!-- {words}" in text
    assert len(re.findall("<!-- step -->", text)) == 3


def test_gradients_that_are_all_zero_can_be_drawn(run, tmp_path):
    plots.training_curves({"still": run("a", token_gradient_norms=[0.0, 0.0])}, tmp_path / "still.png")


def test_more_runs_than_colours(run, tmp_path):
    runs = {str(i): run(str(i), steps=1) for i in range(len(plots.COLOURS) + 1)}
    assert plots.training_curves(runs, tmp_path / "many.png").exists()


def test_a_study_of_names_and_one_of_numbers(tmp_path):
    def curve(name, places):
        return plots.Curve(name, places, [0.5, 0.75], [(0.4, 0.6), (0.7, 0.8)], [(0.45, 0.55), (0.7, 0.8)])

    named = {"title": "A title", "measure": "accuracy in %, test rows"}
    lengths = [curve("small", [1, 100]), curve("large", [1, 100])]
    starts = [curve("small", ["random", "text"]), curve("large", ["text", "labels"])]
    for curves, words in ((lengths, ["small", "large", "100"]), (starts, ["random", "text", "labels"])):
        path = plots.study_curves(curves, tmp_path / "x.svg", axis="what varies", log=True, **named)
        text = path.read_text()
        assert all(word in text for word in [*words, "what varies", "A title", "accuracy in %, test rows"])


def test_a_search_over_more_settings_than_a_line_of_the_picture_holds(tmp_path):
    settings = [{"a": 1, "b": 0.001, "c": "x", "d": [1]}, {"a": 2, "b": 1.0, "c": "y", "d": [2]}]
    done = [Trial(i, each, loss=0.5 - i / 10) for i, each in enumerate(settings)]
    text = plots.search_history(done, [*"abcd"], tmp_path / "x.svg", title="A title").read_text()
    assert all(f"<!-- {word} -->" in text for word in ("a", "b", "c", "d", "x", "y", "[2]", "best so far", "A title"))


def test_a_study_of_nothing_cannot_be_drawn(tmp_path):
    empty = plots.Curve("a", [], [], [], [])
    with pytest.raises(DataError, match="asked to draw a study of no cells; let at least one of them end"):
        plots.study_curves([empty], tmp_path / "x.png", title="", axis="", measure="")


def test_smoothing_starts_at_the_first_value_and_follows():
    assert plots.smoothed([4.0, 0.0], share=0.5) == [4.0, pytest.approx(4 / 3)]


def test_what_cannot_be_drawn(run, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="asked to draw no run; give the folder of at least one"):
        plots.training_curves({}, tmp_path / "x.png")
    with pytest.raises(DataError, match=r"the run `a` in `.*` has measured no step; give the folder of a training run"):
        plots.training_curves({"a": tmp_path / "nothing"}, tmp_path / "x.png")
    with pytest.raises(UnknownNameError, match=r"unknown picture format `pgn`; did you mean .*`png`"):
        plots.training_curves({"a": run("a")}, tmp_path / "x.pgn")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write `.*file/x.png`: "):
        plots.training_curves({"b": run("b")}, tmp_path / "file" / "x.png")
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pictures need matplotlib, .* pip install "softprompt\[report\]"'):
        plots.training_curves({"c": run("c")}, tmp_path / "x.png")
    assert not list(tmp_path.glob("x.*"))
