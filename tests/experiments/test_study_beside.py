"""A study of sizes with full fine-tuning as its second line: fresh weights, the same rows, the gap in words."""

from __future__ import annotations

import json

import pytest
import torch

from softprompt.errors import ConfigError, TrainingError, UnknownNameError
from softprompt.experiments import study as study_module
from softprompt.experiments import study_beside
from softprompt.experiments.study import Study
from softprompt.experiments.study_cells import Measured
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.training.config import TrainConfig

BARE = TrainConfig(steps=2, batch_size=4, validate_every=2, validation_rows=8)


def test_full_fine_tuning_is_the_second_line_and_changes_nobody_s_weights(task, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the `report` extra")
    loaded, given = [], tiny_backbone("gpt2")
    before = given.fingerprint
    kept = [weight.clone() for weight in given.model.parameters()]

    def load(name):
        loaded.append(name)
        return tiny_backbone(name)

    def asked():
        more = {"folder": tmp_path, "load": load, "beside": ["full"]}
        return Study.of("size", ["llama", given], task, seeds=[0, 1], config=BARE, **more)

    assert "to do  llama  full  seed 1" in str(asked().plan())
    found = asked().run()
    assert loaded == ["llama"] * 3  # once for the prompts, anew for each that changes it
    assert all(torch.equal(a, b) for a, b in zip(kept, given.model.parameters(), strict=True))
    assert [(point.backbone, point.method, point.seeds) for point in found.points] == [
        ("llama", "", 2), ("llama", "full", 2), ("tiny-gpt2", "", 2), ("tiny-gpt2", "full", 2),
    ]  # fmt: skip
    told = json.loads((tmp_path / "cells" / "llama" / "llama" / "full-seed-0" / "cell.json").read_text())
    assert (told["method"], len(told["right"]), told["failed"]) == ("full", 8, None)
    assert told["examples"] == 24  # one step of the method's own, for less there is not
    copied = json.loads((tmp_path / "cells" / "tiny-gpt2" / "tiny-gpt2" / "full-seed-0" / "cell.json").read_text())
    assert copied["fingerprint"] == before.to_json()
    drawing = (tmp_path / "study.svg").read_text()
    assert "soft prompt" in drawing
    assert "full" in drawing
    assert "llama, full" in str(found)
    notes = "\n".join(found.notes)
    assert "llama (61,296 parameters): full is" in notes
    assert "points from the soft prompt" in notes
    assert "`full` trained every backbone anew at its own learning rate" in notes
    asked().run()
    assert loaded == ["llama"] * 3


def test_what_a_method_cannot_do_is_a_cell_that_says_why(task, tmp_path):
    asked = Study.of(
        "size", [tiny_backbone("llama")], task, seeds=[0], config=BARE, folder=tmp_path, beside=["bitfit"]
    )  # fmt: skip
    found = asked.run()
    assert [point.method for point in found.points] == [""]
    assert any("bitfit, seed 0: `tiny-llama` (Llama) has no biases" in note for note in found.notes)


def test_a_cell_that_diverges_says_so(task, tmp_path, monkeypatch):
    from softprompt.errors import TrainingError

    class Broken:
        def refuses(self, backbone, task):
            return None

        def fit(self, *given):
            raise TrainingError("the loss is nan")

    monkeypatch.setattr(study_beside, "method", lambda name: Broken())
    found = Study.of(
        "size", [tiny_backbone("llama")], task, seeds=[0], config=BARE, folder=tmp_path, beside=["lora"]
    ).run()  # fmt: skip
    assert any("lora, seed 0: the loss is nan" in note for note in found.notes)


def test_a_library_that_is_missing_is_a_cell_that_says_so_and_is_tried_again(task, tmp_path, monkeypatch):
    how = {"seeds": [0], "config": BARE, "folder": tmp_path, "beside": ["peft-prompt-tuning"]}
    with monkeypatch.context() as patch:
        patch.setattr("softprompt.methods.peft_encoders.find_spec", lambda name: None)
        found = Study.of("size", [tiny_backbone("llama")], task, **how).run()
    assert any('pip install "softprompt[baselines]"' in note for note in found.notes)
    again = [
        cell
        for cell, measured in Study.of("size", [tiny_backbone("llama")], task, **how).done().items()
        if measured.again
    ]
    assert [cell.method for cell in again] == ["peft-prompt-tuning"]


def test_only_a_study_of_sizes_has_other_methods(task):
    with pytest.raises(ConfigError, match="`full` is to train beside prompts, which is for a study of sizes"):
        Study.of("length", ["m"], task, beside=["full"])
    with pytest.raises(UnknownNameError, match="unknown method `ful`; did you mean `full`"):
        Study.of("size", ["m"], task, beside=["ful"])
    with pytest.raises(ConfigError, match="stands twice among the methods"):
        Study.of("size", ["m"], task, beside=["full", "full"])


def test_a_method_learns_from_as_many_rows_as_the_prompts_beside_it(task, tmp_path, monkeypatch):
    asked = []

    class Asked:
        def refuses(self, backbone, task):
            return None

        def fit(self, backbone, task, seed, effort):
            asked.append(effort.examples)
            raise TrainingError("enough")

    monkeypatch.setattr(study_beside, "method", lambda name: Asked())
    six = load_task({
        split: [{"text": f"film {i}", "label": f"kind {i % 6}"} for i in range(n)]
        for split, n in (("train", 300), ("validation", 30), ("test", 12))
    })  # fmt: skip
    found = Study.of("size", [tiny_backbone("llama")], six, seeds=[0], folder=tmp_path, beside=["lora"])
    monkeypatch.setattr(
        study_module, "measure_cell", lambda cell, *_: Measured(cell.backbone, cell.value, cell.seed, 1, right="1")
    )
    found.run()
    assert asked == [found.plan().config.steps * found.plan().config.batch_size]


def test_cells_of_other_weights_under_the_same_name_are_refused(task, tmp_path):
    how = {"seeds": [0], "config": BARE, "folder": tmp_path}
    Study.of("size", [tiny_backbone("llama", seed=0)], task, **how).run()
    Study.of("size", [tiny_backbone("llama", seed=0)], task, **how).run()
    with pytest.raises(ConfigError, match="was measured on other weights"):
        Study.of("size", [tiny_backbone("llama", seed=1)], task, **how).run()
    with pytest.raises(ConfigError, match="in another dtype than `tiny-llama` has now"):
        Study.of("size", [tiny_backbone("llama", seed=0, dtype=torch.bfloat16)], task, **how).run()
