"""What a sweep may search: read from flags and files, checked against the settings of training."""

from __future__ import annotations

import re

import pytest

from softprompt.errors import ConfigError, UnknownNameError
from softprompt.experiments.sweep_space import DEFAULT, FIXED, Choice, Space, Span
from softprompt.training.config import TrainConfig


def test_flags_and_file_say_the_same(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text("learning_rate: log:0.003:0.1\ninit: [text, labels]\nvirtual_tokens: int:5:100\n")
    flags = ["learning-rate=log:0.003:0.1", "init=text,labels", "virtual_tokens=int:5:100"]
    expected = {
        "learning_rate": Span(0.003, 0.1, log=True, whole=False),
        "init": Choice(("text", "labels")),
        "virtual_tokens": Span(5, 100, log=False, whole=True),
    }
    assert Space.of(file, []).axes == Space.of(None, flags).axes == expected


def test_flags_come_on_top_of_the_file_and_the_default_where_neither_is(tmp_path):
    (tmp_path / "space.yaml").write_text("steps: int:5:10\nclip: float:0.5:2\n")
    found = Space.of(tmp_path / "space.yaml", ["steps=1,2"]).axes
    assert found == {"steps": Choice((1, 2)), "clip": Span(0.5, 2, log=False, whole=False)}
    assert Space.of(None, []) == Space.read(DEFAULT)


def test_what_may_not_vary_is_there():
    assert set(FIXED) <= set(TrainConfig.model_fields)


def test_whole_numbers_stay_whole_on_a_log_scale():
    assert Space.read({"virtual_tokens": "log:5:100"}).axes["virtual_tokens"] == Span(5, 100, log=True, whole=True)


def test_it_is_plain_json():
    space = Space.read({"init": ["text", "random"], "clip": "float:0.5:2"})
    assert space.to_json() == {
        "init": ["text", "random"], "clip": {"low": 0.5, "high": 2, "log": False, "whole": False}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "the search space is empty; name at least one setting"),
        ({"learning_rate": "log:-1:1"}, "option `learning_rate` is -1: Input should be greater than 0"),
        ({"weight_decay": "log:0:1"}, "`weight_decay` goes from 0, which has no logarithm; start above 0, or write f"),
        ({"clip": "float:2:1"}, "`clip` goes from 2 to 1, and nothing lies between; put the lower end first"),
        ({"clip": "float:2"}, "`clip` is `float:2`; write its two ends as float:LOW:HIGH, for instance int:5:100"),
        ({"steps": "float:1:9"}, "`steps` takes whole numbers; write int:1:9"),
        ({"steps": "int:1:9.5"}, "option `steps` is 9.5: Input should be a valid integer"),
        ({"init": "text,nowhere"}, "option `init` is 'nowhere': Input should be"),
        ({"init": ["text"]}, "`init` has 1 value(s) to choose from; give at least two, or fix it as a flag"),
        ({"init": "{"}, "`{` cannot be read as values with commas between them; write a,b,c"),
        ({"seed": "int:1:9"}, "`seed` may not vary: the trials of a sweep are compared on one measure; fix it instead"),
        ({"race": "true,false"}, "`race` may not vary: each trial of a sweep is one plain run; take it out of the sea"),
        ({"ensemble": "int:1:3"}, "`ensemble` may not vary: each trial of a sweep is one plain run"),
        ({"init_prompt": "a,b"}, "`init_prompt` may not vary: a sweep opens one prompt at most"),
    ],
)
def test_what_cannot_be_searched(given, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        Space.read(given)


@pytest.mark.parametrize(
    ("flag", "kind", "text"),
    [
        ("learning_rte=1,2", UnknownNameError, "unknown option `learning_rte`; did you mean `learning_rate`"),
        ("clip=lgo:1:2", UnknownNameError, "unknown kind of range `lgo`; did you mean `log`"),
        ("clip", ConfigError, "--search is `clip`; write it as learning_rate=log:0.003:0.1 or init=text,labels"),
        ("=1,2", ConfigError, "--search is `=1,2`; write it as"),
    ],
)
def test_flags_that_cannot_be(flag, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        Space.of(None, [flag])


def test_files_that_cannot_be(tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    with pytest.raises(ConfigError, match=r"`.*list.yaml` holds no search space; write `name: value`, one a line"):
        Space.of(tmp_path / "list.yaml", [])
    for name in ("broken.yaml", "none.yaml"):
        with pytest.raises(ConfigError, match=f"cannot read the search space in `.*{name}`: "):
            Space.of(tmp_path / name, [])
