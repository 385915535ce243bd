"""The folder of an experiment: one definition, parts that one process holds at a time."""

from __future__ import annotations

import re

import pytest

from softprompt.errors import ConfigError, StorageError
from softprompt.experiments.folder import ExperimentFolder, digest_of, named


def test_it_may_be_begun_again_but_not_as_something_else(tmp_path):
    folder = ExperimentFolder(tmp_path / "x")
    folder.begin({"experiment": "sweep", "seed": 1})
    folder.begin({"seed": 1, "experiment": "sweep"})
    message = "holds an experiment with seed = 1, this one has 2; repeat its settings, or name another folder"
    with pytest.raises(ConfigError, match=re.escape(message)):
        folder.begin({"experiment": "sweep", "seed": 2})


def test_a_damaged_definition_is_said(tmp_path):
    (tmp_path / "experiment.json").write_text("{")
    with pytest.raises(StorageError, match=r"`.*experiment.json` is damaged \(.*\); name another folder"):
        ExperimentFolder(tmp_path).begin({})


def test_a_part_is_held_by_one_at_a_time(tmp_path):
    first, second = ExperimentFolder(tmp_path), ExperimentFolder(tmp_path)
    with first.held("a") as mine, second.held("a") as theirs, second.held("b") as other:
        assert (mine, theirs, other) == (True, False, True)
    with second.held("a") as mine:
        assert mine


def test_names_are_safe_and_different():
    names = [named(text) for text in ("a/b", "a-b", "../x", "ä:b", "x" * 100, "y" + "x" * 100)]
    assert len(set(names)) == 6
    assert all("/" not in name and not name.startswith(".") and len(name) < 80 for name in names)
    assert digest_of({"a": 1}) != digest_of({"a": 2})
