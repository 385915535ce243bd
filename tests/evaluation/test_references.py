"""Rivals on the same rows: each does what its name says, and says so when it was not run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from softprompt.errors import MissingExtraError
from softprompt.evaluation.references import (
    HARD_TEXT,
    LINEAR_PROBE,
    MAJORITY,
    ZERO_SHOT,
    Remembered,
    Rows,
    linear_probe,
    majority,
    pool_references,
    run_references,
)
from softprompt.evaluation.sources import Passes, SentenceFeatures
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone

LABELS = ("bad", "good")


def examples(count, start=0):
    return [Example({"text": f"row {i}"}, LABELS[i % 3 == 0]) for i in range(start, start + count)]


@pytest.fixture
def rows():
    return Rows(LABELS, examples(60), examples(30, 100), examples(30, 200), overlap=(4,))


def telling(found):
    """Features that give the answer away."""
    return np.array([[1.0 if row.label == "good" else -1.0, 0.5] for row in found])


def silent(found):
    """Features that say nothing."""
    return np.random.default_rng(0).normal(size=(len(found), 2))


def missing(found):
    raise MissingExtraError("the sentence encoder is not installed")


def test_majority_answers_with_the_most_frequent_label_of_train(rows):
    scores = majority(rows)(rows.test)
    assert np.exp(scores[0]) == pytest.approx([41 / 62, 21 / 62])
    assert (scores.argmax(axis=1) == 0).all()


def test_all_references_are_run_on_the_test_rows(rows):
    found = run_references(rows, zero_shot=lambda r: np.zeros((len(r), 2)), features=[("hidden states", telling)])
    assert [reference.name for reference in found] == [MAJORITY, ZERO_SHOT, HARD_TEXT, LINEAR_PROBE]
    by_name = {reference.name: reference for reference in found}
    assert by_name[MAJORITY].evaluation.accuracy == pytest.approx(2 / 3)
    assert by_name[LINEAR_PROBE].evaluation.accuracy == 1.0
    assert (by_name[HARD_TEXT].evaluation, by_name[HARD_TEXT].note) == (None, "training did not start from a text")
    assert all(r.evaluation.overlap == (4,) for r in found if r.evaluation)
    assert by_name[LINEAR_PROBE].seconds > 0


@pytest.mark.parametrize("order", [1, -1])
def test_the_probe_stands_on_the_better_features(rows, order):
    found = linear_probe(rows, [("hidden states", silent), ("sentence embeddings", telling)][::order])
    assert found.evaluation.accuracy == 1.0
    assert found.note.startswith("on sentence embeddings; log loss where its penalty was chosen: ")
    assert "hidden states 0." in found.note


def test_a_missing_encoder_is_said_and_the_other_features_are_used(rows):
    found = linear_probe(rows, [("hidden states", telling), ("sentence embeddings", missing)])
    assert found.evaluation.accuracy == 1.0
    assert "not run on sentence embeddings: the sentence encoder is not installed" in found.note


def test_without_any_features_the_probe_is_not_run(rows):
    found = linear_probe(rows, [("sentence embeddings", missing)])
    assert found.evaluation is None
    assert found.note == "not run on sentence embeddings: the sentence encoder is not installed"
    assert linear_probe(rows, []).note == "no features were given"


def test_folds_of_references_are_pooled(rows):
    def score(found):
        return np.zeros((len(found), 2))

    folds = [run_references(rows, zero_shot=score, features=[("hidden", telling)]) for _ in range(2)]
    pooled = pool_references(folds)
    assert [reference.name for reference in pooled] == [MAJORITY, ZERO_SHOT, HARD_TEXT, LINEAR_PROBE]
    assert [None if r.evaluation is None else len(r.evaluation.gold) for r in pooled] == [60, 60, None, 60]
    assert pooled[3].seconds == pytest.approx(sum(fold[3].seconds for fold in folds))


def test_rows_are_described_once_however_often_they_are_asked_for():
    asked = []
    remembered = Remembered(lambda found: asked.append(len(found)) or telling(found))
    first, second = examples(5), examples(8)
    assert (remembered(first) == telling(first)).all()
    assert (remembered(second) == telling(second)).all()
    assert asked == [5, 3]


class Letters:
    """An encoder that counts letters."""

    def embed(self, texts, *, progress):
        progress.advance(len(texts))
        return np.array([[text.count("a"), text.count("b")] for text in texts], dtype=np.float32)


def test_one_field_is_embedded_as_it_is_and_many_are_joined():
    row = Example({"x": "aab", "y": "b", "z": "a"})
    assert SentenceFeatures(("x",), Letters())([row]).tolist() == [[2, 1]]
    assert SentenceFeatures(("x", "y", "z"), Letters())([row]).tolist() == [[3, 2]]


def test_a_pair_of_fields_is_also_told_by_difference_and_product():
    pairs = [Example({"x": "aab", "y": "b"}), Example({"x": "a", "y": "a"})]
    expected = [[2, 1, 0, 1, 2, 0, 0, 1], [1, 0, 1, 0, 0, 0, 1, 0]]
    assert SentenceFeatures(("x", "y"), Letters())(pairs).tolist() == expected


def test_one_pass_gives_zero_shot_scores_and_hidden_states():
    model = PromptedModel(tiny_backbone("llama"))
    template, words = Template("{bos}{soft}{text}\nLabel:"), LabelWords.from_labels(LABELS)
    passes = Passes(model, model.bare(template, words))
    found = examples(6)
    whole = model.score_labels([row.fields for row in found], model.bare(template, words))
    assert passes.score(found) == pytest.approx(whole.log_probabilities.numpy(), abs=1e-6)
    assert passes.features(found) == pytest.approx(whole.hidden.numpy(), abs=1e-6)
    assert np.exp(passes.score(found)).sum(axis=1) == pytest.approx(np.ones(6), abs=1e-5)


def test_the_start_of_training_is_a_hard_prompt():
    backbone = tiny_backbone("llama")
    model, words = PromptedModel(backbone), LabelWords.from_labels(LABELS)
    ids = torch.tensor(backbone.tokenizer.encode("good or bad", add_special_tokens=False))
    bound = BoundPrompt.make(backbone, {"input": backbone.embed(ids).float()}, Template("{bos}{soft}{text}:"), words)
    as_text = model.bare(Template("{bos}good or bad{text}:"), words)
    found = examples(4)
    expected = Passes(model, as_text).score(found)
    assert Passes(model, bound, "hard text").score(found) == pytest.approx(expected, abs=1e-5)
