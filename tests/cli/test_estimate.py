"""`softprompt estimate`: a name, a few numbers, a page or JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from softprompt.backbones.blank import config_settings


def test_a_page(ok):
    said = ok("estimate", "gpt2", "--tasks", 100, "--rows", 4, "--tokens", 8, "--gpu", "t4")
    assert said.startswith("gpt2: 124,439,808 parameters (gpt2, decoder)")
    assert "Soft prompt, 20 tokens" in said
    assert "T4, 16 GB" in said
    assert "A100" not in said


def test_json_with_the_operators_of_this_machine(ok, tmp_path):
    small = {"model_type": "gpt2", "n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": 300}
    (tmp_path / "config.json").write_text(json.dumps(small))
    told = json.loads(
        ok("estimate", "config.json", "--length", 3, "--rows", 2, "--tokens", 4, "--gpu", "laptop", "--memory", 1,
           "--measure", "--json")
    )  # fmt: skip
    assert told["sizes"][0]["trained"] == 3 * 48
    assert told["training"][0]["measured"]["seconds"] > 0
    assert told["serving"]["fits"]["laptop"] > 1000


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["gtp2"], "error: unknown model `gtp2`; did you mean `gpt2`"),
        (["gpt2", "--gpu", "h10"], "error: unknown machine `h10`; did you mean `h100`"),
        (["gpt2", "--length", "0"], "error: `virtual_tokens` is 0; an estimate needs at least 1"),
    ],
)
def test_what_cannot_be_estimated(call, words, text):
    result = call("estimate", *words)
    assert result.exit_code == 2
    assert text in result.stderr


@pytest.mark.parametrize("page", ["README.md", "README.es.md"])
def test_the_readme_names_models_that_there_are(page):
    named = re.findall(r"softprompt estimate (\S+)", (Path(__file__).parents[2] / page).read_text(encoding="utf-8"))
    assert named
    assert all(config_settings(name) for name in named)


def test_help_shows_an_example(ok):
    assert "Example: softprompt estimate" in " ".join(ok("estimate", "--help").split())
