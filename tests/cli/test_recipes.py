"""`softprompt recipes`: what there is, and what one of them says."""

from __future__ import annotations

import json
from pathlib import Path

from softprompt.experiments import recipes
from softprompt.experiments.recipes import shipped


def test_the_list_has_every_recipe_with_its_source_and_variants(ok):
    lines = ok("recipes", "list").splitlines()
    assert [line.split()[0] for line in lines] == [*shipped()]
    line = next(line for line in lines if line.startswith("p-tuning-v2-roberta-large "))
    assert line.endswith("(arXiv 2110.07602); variants: boolq, copa, rte, wic, wsc, conll03")
    assert [recipe["name"] for recipe in json.loads(ok("recipes", "list", "--json"))] == [*shipped()]


def test_one_is_shown_with_its_variant_paper_and_notes(ok):
    shown = ok("recipes", "show", "p-tuning-v2-roberta-large/rte")
    assert shown.startswith("p-tuning-v2-roberta-large/rte: P-tuning v2, RoBERTa-large: rte\npaper:\n  title: P-Tuning")
    assert "\n  virtual_tokens: 128\n" in shown
    assert "\nbackbones:\n  - FacebookAI/roberta-large\n" in shown
    assert "\n  absolute_rates: boolq 0.007, copa 0.009" in shown
    assert "\n  - head: the paper's linear head starts at random" in shown
    assert "\nvariants: boolq" in ok("recipes", "show", "p-tuning-v2-roberta-large")
    assert json.loads(ok("recipes", "show", "ulpt-t5-base/rank2", "--json"))["settings"]["settings"] == {"rank": 2}
    assert "\n  ranks: 2, 16, 64, 256\n" in ok("recipes", "show", "ulpt-t5-base")


def test_what_this_version_lacks_is_said(ok, monkeypatch):
    monkeypatch.setattr(recipes, "PENDING", frozenset({"levitate"}))
    Path("later.yaml").write_text("settings: {levitate: true}\n")
    assert ok("recipes", "show", "later.yaml").endswith("not in this version: levitate\n")


def test_an_unknown_one_is_met_with_the_nearest(call):
    result = call("recipes", "show", "ulpt-t5-bse")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: unknown recipe `ulpt-t5-bse`; did you mean `ulpt-t5-base`")


def test_help_shows_an_example(ok):
    assert "Example: softprompt recipes show" in " ".join(ok("recipes", "show", "--help").split())
