"""YAML file = flags = Python arguments: three ways to say the same settings."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest
import yaml
from typer.testing import CliRunner

from softprompt.cli.app import app
from softprompt.cli.task_flags import TASK
from softprompt.cli.train import train as verb
from softprompt.experiments.recipes import load_recipe
from softprompt.training.config import TrainConfig

VALUES = {
    "virtual_tokens": 7, "init": "labels", "init_text": "say it", "init_prompt": "other", "learning_rate": 0.5,
    "steps": 3, "batch_size": 5, "warmup": 0.25, "weight_decay": 0.125, "clip": 2.0, "seed": 9, "validate_every": 2,
    "validation_rows": 11, "patience": 4, "checkpoint_every": 6, "report": False, "test_rows": 13, "probe_rows": 17,
    "abstain_accuracy": 0.75, "race": False, "budget": "9 steps", "parameterization": "residual",
    "settings": {"bottleneck": 8}, "learned_rows": True, "exportable": True, "class_weights": "balanced",
    "select": "macro-f1", "tokens_at_once": 512, "extend": 1, "ensemble": 2,
    "batch_tokens": 300, "checkpoint_layers": True, "compile_layers": False,
}  # fmt: skip


@pytest.fixture
def chosen(monkeypatch):
    """The settings that `train` arrives at, before it does anything."""
    seen = []

    def stop(config):
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("softprompt.cli.train._start", stop)
    return seen


def flags(values):
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, dict):
            yield from (part for pair in value.items() for part in (f"--{flag}", "=".join(map(str, pair))))
            continue
        yield from ([f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", value])


def test_every_field_is_a_flag_and_a_line_of_yaml_and_an_argument(call, chosen, tmp_path):
    assert set(VALUES) == set(TrainConfig.model_fields)
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(VALUES))
    call("train", "x.csv", "--config", file)
    call("train", "x.csv", *flags(VALUES))
    assert chosen == [TrainConfig(**VALUES)] * 2


def test_the_verb_has_the_fields_and_nothing_else_of_that_kind():
    own = {
        "source", "text", "label", "kind", "template", "words", "scoring", "bounds", "max_new_tokens", "shots",
        "max_tokens", "backbone", "device", "dtype", "shard", "save", "out", "config", "recipe", "run", "resume",
        "as_json",
    }  # fmt: skip
    assert set(inspect.signature(verb).parameters) == own | set(TrainConfig.model_fields)


@pytest.mark.parametrize("name", ["train.train", "sweep.sweep", "study.study", "compare.compare", "tasks.show"])
def test_every_verb_that_reads_a_task_has_all_flags_of_a_task(name):
    module, _, function = name.partition(".")
    verb = getattr(import_module(f"softprompt.cli.{module}"), function)
    assert {"kind", "bounds", "max_new_tokens"} <= set(TASK) <= set(inspect.signature(verb).parameters)


def test_without_flags_the_defaults_stand_and_flags_come_on_top_of_the_file(call, chosen, tmp_path):
    (tmp_path / "s.yaml").write_text("steps: 9\nseed: 4\n")
    call("train", "x.csv")
    call("train", "x.csv", "--config", "s.yaml", "--steps", 2)
    assert chosen == [TrainConfig(), TrainConfig(steps=2, seed=4)]


def test_help_says_description_and_default(ok):
    shown = " ".join(ok("train", "--help").replace("│", " ").split())
    for name, field in TrainConfig.model_fields.items():
        assert f"--{name.replace('_', '-')} " in shown
        assert str(field.description)[1:] in shown
    assert "Rows a step. Default: 24." in shown


def test_help_cuts_no_flag_on_a_narrow_terminal_and_names_all_choices():
    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).output
    assert "…" not in shown
    assert "--no-checkpoint-layers " in shown
    assert "text | labels | vocabulary | random | prompt." in " ".join(shown.replace("│", " ").split())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--steps", "0"], "error: option `steps` is 0: Input should be greater than or equal to 1"),
        (["--config", "bad.yaml"], "error: unknown option `stepz`; did you mean `steps`"),
        (["--config", "none.yaml"], "error: cannot read the settings in `none.yaml`"),
        (["--init", "prompt", "--init-prompt", "nosuch"], "error: unknown prompt `nosuch`"),
        (["--init-prompt", "other"], "error: init_prompt is `other`, but init is `text`; set init to `prompt`"),
        (["--words", "good"], "error: --words is `good`; write it as name=value"),
        (["--save", "No Name"], "error: no prompt can be called `No Name`"),
        (["--out", "."], "error: `.` is a folder; name the file to write in it"),
    ],
)
def test_settings_that_cannot_be_are_said_before_anything_is_loaded(call, tmp_path, folder, words, text):
    (tmp_path / "bad.yaml").write_text("stepz: 3\n")
    result = call("train", folder, *words)
    assert result.exit_code == 2
    assert result.stderr.startswith(text)
    assert not (tmp_path / "home").exists()


def test_a_recipe_is_settings_with_flags_on_top(call, chosen):
    call("train", "x.csv", "--recipe", "default", "--seed", 3)
    assert chosen == [load_recipe("default").config(seed=3)]
    result = call("train", "x.csv", "--recipe", "lester-2021-t5-bas")
    assert "did you mean `lester-2021-t5-base" in result.stderr
    result = call("train", "x.csv", "--recipe", "default", "--config", "s.yaml")
    assert "--config `s.yaml` and --recipe `default` were both given; give one of them" in result.stderr
