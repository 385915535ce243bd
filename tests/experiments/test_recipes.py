"""Recipes: each shipped one loads, is about settings that exist, and says where it comes from."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import softprompt
from softprompt.errors import ConfigError, UnknownNameError
from softprompt.experiments import recipes
from softprompt.experiments.recipes import PENDING, all_recipes, load_recipe, shipped
from softprompt.training.config import TrainConfig

ALL = {recipe.name: recipe for recipe in all_recipes()}
PAPERS = {name: recipe for name, recipe in ALL.items() if name != "default"}
FOLDER = Path(softprompt.__file__).parent / "recipes"


def test_every_file_of_the_room_is_shipped():
    assert {f"{name}.yaml" for name in shipped()} == {path.name for path in FOLDER.iterdir()}


@pytest.mark.parametrize("name", ALL)
def test_every_setting_exists_or_is_listed_as_pending(name):
    recipe = ALL[name]
    assert set(recipe.settings) <= set(TrainConfig.model_fields) | PENDING
    assert set(recipe.missing) == set(recipe.settings) - set(TrainConfig.model_fields)
    if not recipe.missing:
        config = recipe.config()
        assert config.model_dump(include=set(recipe.settings)) == dict(recipe.settings)


def test_the_list_of_pending_settings_is_not_stale():
    assert not PENDING & set(TrainConfig.model_fields), "these exist now: take them out of PENDING"
    used = {setting for recipe in ALL.values() for setting in recipe.settings}
    assert used >= PENDING, "no recipe names these: take them out of PENDING"


@pytest.mark.parametrize("name", PAPERS)
def test_every_paper_is_cited_and_the_differences_are_told(name):
    recipe = PAPERS[name]
    assert re.fullmatch(r"\d{4}\.\d{5}", recipe.paper["arxiv"])
    assert {"title", "authors", "year"} <= set(recipe.paper)
    assert recipe.notes
    assert recipe.backbone == recipe.backbones[0]
    assert all(re.fullmatch(r"[\w-]+/[\w.-]+", backbone) for backbone in recipe.backbones)


@pytest.mark.parametrize("name", PAPERS)
def test_every_parameterization_builds_with_its_settings(name):
    registry = pytest.importorskip("softprompt.prompts.parameterizations.registry")
    import torch

    from softprompt.prompts.parameterizations.build import build
    from softprompt.prompts.parameterizations.spec import Spec

    settings = PAPERS[name].settings
    kind = settings["parameterization"]
    assert kind in registry.PARAMETERIZATIONS
    rows = {"input": torch.ones(4, 8)}
    pairs = {f"layers.0.{half}": torch.ones(1, 4, 8) for half in ("key", "value")}
    start = pairs if kind.startswith("deep") else rows
    spec = Spec(start, 1.0, torch.Generator(), torch.ones(3, 8), settings.get("settings", {}))
    assert build(kind, spec).materialize().keys() == start.keys()


@pytest.mark.parametrize("name", PAPERS)
def test_no_recipe_lets_settings_race_or_stops_before_its_first_validation(name):
    config = PAPERS[name].config()
    assert config.validate_every <= config.length
    assert PAPERS[name].settings["race"] is False


def test_the_papers_rate_is_made_relative_where_it_is_of_the_input():
    recipe = load_recipe("lester-2021-t5-base/sst2")
    assert recipe.relative_rate(10.0) == pytest.approx(0.03)
    assert recipe.config(embedding_rms=10.0).learning_rate == pytest.approx(0.03)
    assert recipe.config(embedding_rms=10.0, learning_rate=0.5, steps=3).learning_rate == 0.5
    assert recipe.config().learning_rate == TrainConfig().learning_rate
    assert recipe.config().batch_size == 128
    deep = load_recipe("p-tuning-v2-roberta-large/rte")
    assert deep.relative_rate(10.0) is None
    assert deep.config(embedding_rms=10.0).learning_rate == 0.005


def test_a_recipe_of_your_own(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("title: Mine\nbackbones: [gemma-3-270m]\nsettings: {steps: 7}\nnotes: [short]\n")
    for given in (file, str(file)):
        recipe = load_recipe(given)
        assert (recipe.name, recipe.backbone, recipe.config().steps) == ("mine", "gemma-3-270m", 7)
    assert recipe.to_json() == {
        "name": "mine", "title": "Mine", "backbones": ["gemma-3-270m"], "settings": {"steps": 7}, "missing": [],
        "paper": {}, "notes": ["short"], "variants": [],
    }  # fmt: skip


def test_settings_of_a_later_version_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "PENDING", frozenset({"levitate"}))
    file = tmp_path / "later.yaml"
    file.write_text("settings: {levitate: true, steps: 7}\n")
    recipe = load_recipe(file)
    assert recipe.missing == ("levitate",)
    with pytest.raises(ConfigError, match="the recipe `later` needs `levitate`, which this version of softprompt does"):
        recipe.config()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("- a\n", ConfigError, "` holds no recipe; write `name: value`, one a line"),
        ("a: [\n", ConfigError, "cannot read the recipe in `"),
        ("setings: {}\n", UnknownNameError, "unknown part of a recipe `setings`; did you mean `settings`?"),
        ("settings: {stepz: 3}\n", UnknownNameError, "unknown option `stepz`; did you mean `steps`"),
        ("settings: {steps: 0}\n", ConfigError, "option `steps` is 0: Input should be greater than or equal to 1"),
        ("settings: [1]\n", ConfigError, "`settings` of the recipe `bad` is [1]; write `name: value`, one a line"),
    ],
)
def test_files_that_are_no_recipes(tmp_path, text, error, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(error, match=re.escape(message)):
        load_recipe(tmp_path / "bad.yaml")


def test_unknown_names_are_met_with_the_nearest(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown recipe `lester-2021-t5-bse`; did you mean `lester-2021"):
        load_recipe("lester-2021-t5-bse")
    with pytest.raises(UnknownNameError, match="unknown variant of the recipe `p-tuning-v2-bert-large` `bolq`; "):
        load_recipe("p-tuning-v2-bert-large/bolq")
    with pytest.raises(ConfigError, match=r"cannot read the recipe in `nowhere\.yaml`: .*No such file"):
        load_recipe("nowhere.yaml")


def test_a_wheel_carries_them(tmp_path):
    root = FOLDER.parents[2]
    hatchling = pytest.importorskip("hatchling", reason="builds a wheel where the build tool is installed")
    if not (root / "pyproject.toml").exists():
        pytest.skip("the package is installed, not checked out")
    assert hatchling
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    carried = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {f"softprompt/recipes/{name}.yaml" for name in shipped()} <= set(carried)
