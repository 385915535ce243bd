"""`Evaluation` and `evaluate`: what is kept, what is refused, what comes back from JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from softprompt.errors import BackboneError, DataError, IncompatiblePromptError
from softprompt.evaluation.evaluate import Evaluation, evaluate, evaluate_alone_too
from softprompt.evaluation.evaluation import gold_indices, measure
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone

LABELS = ("bad", "good")


def made(rows=40, classes=2, **changes):
    generator = np.random.default_rng(0)
    labels = tuple(f"label {i}" for i in range(classes))
    scores = np.log(generator.dirichlet(np.ones(classes), rows))
    return Evaluation(labels, generator.integers(0, classes, rows), scores, **changes)


def test_an_evaluation_comes_back_from_json_with_the_same_figures():
    before = made(temperature=1.3, abstain=0.6, digest="ab" * 32, overlap=(1, 5), truncated=2, seconds=0.5)
    after = Evaluation.from_json(json.loads(json.dumps(before.to_json())))
    assert after.to_json() == before.to_json()
    assert after.figures() == before.figures()
    assert (after.log_probabilities == before.log_probabilities).all()


def test_figures_know_temperature_and_threshold():
    plain, warm = made().figures(), made(temperature=2.0, abstain=0.6).figures()
    assert plain.accuracy == warm.accuracy
    assert plain.ece == plain.ece_raw == warm.ece_raw != warm.ece
    assert plain.answered is None
    assert 0 < warm.answered.coverage < 1


def test_one_label_missing_from_the_rows_is_no_trouble():
    only = Evaluation(LABELS, np.zeros(3, dtype=np.int64), np.log(np.full((3, 2), 0.5)))
    figures = only.figures()
    assert (figures.accuracy, figures.mcc, only.class_table()[1].recall) == (1.0, 0.0, None)
    assert only.confusion_matrix().tolist() == [[3, 0], [0, 0]]


def test_rows_that_stand_in_train_can_be_left_out():
    whole = made(rows=10, overlap=(0, 3), temperature=np.linspace(1, 2, 10))
    part = whole.without_overlap()
    assert part.gold.tolist() == np.delete(whole.gold, [0, 3]).tolist()
    assert part.temperature.tolist() == np.delete(whole.temperature, [0, 3]).tolist()
    assert part.overlap == ()
    assert made(rows=2, overlap=(0, 1)).without_overlap() is None


def test_folds_are_pooled_each_at_its_own_temperature():
    first, second = (
        made(rows=10, temperature=2.0, overlap=(9,), truncated=1),
        made(rows=15, temperature=3.0, overlap=(0,)),
    )
    pool = Evaluation.pooled([first, second])
    assert np.allclose(pool.calibrated, np.concatenate([first.calibrated, second.calibrated]))
    assert (pool.overlap, pool.truncated, len(pool.gold)) == ((9, 10), 1, 25)
    assert Evaluation.from_json(pool.to_json()).figures() == pool.figures()


def test_folds_of_different_tasks_are_not_pooled():
    with pytest.raises(DataError, match="asked to pool 2 evaluations with 2 sets of labels; give folds of one task"):
        Evaluation.pooled([made(classes=2), made(classes=3)])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused(value):
    scores = np.zeros((3, 2))
    scores[1, 0] = value
    with pytest.raises(BackboneError, match="1 of 3 rows scored NaN or infinity, the first is row 2; check the prompt"):
        Evaluation(LABELS, np.zeros(3, dtype=np.int64), scores)


def test_scores_of_another_shape_are_refused():
    with pytest.raises(DataError, match=r"scores of shape \(3, 3\) for 3 rows and 2 labels; give \(3, 2\)"):
        measure(lambda rows: np.zeros((3, 3)), [Example({"text": "x"}, "good")] * 3, LABELS)


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="asked to evaluate on 0 rows; give at least one labelled row"):
        measure(lambda rows: np.zeros((0, 2)), [], LABELS)


def test_rows_without_a_label_or_with_a_strange_one_are_refused():
    with pytest.raises(DataError, match="row 2 of 2 has no label; evaluation needs the right answer of each row"):
        gold_indices([Example({"text": "x"}, "good"), Example({"text": "y"})], LABELS)
    with pytest.raises(
        DataError, match=r"label `godo`, not one of the 2 trained on \(`bad`, `good`\); did you mean `good`"
    ):
        gold_indices([Example({"text": "x"}, "godo")], LABELS)
    with pytest.raises(
        DataError, match=r"row 1 has .* 10 trained on .*`7` and 2 more\); take the row out, or train with"
    ):
        gold_indices([Example({"text": "x"}, "xyz")], tuple("0123456789"))


@pytest.mark.parametrize("data", [{}, {"labels": 3}, {**made().to_json(), "gold": None}])
def test_json_of_something_else_is_refused(data):
    with pytest.raises(DataError, match="cannot read this JSON as an Evaluation"):
        Evaluation.from_json(data)


@pytest.fixture(scope="module")
def model():
    return PromptedModel(tiny_backbone("llama"))


@pytest.fixture(scope="module")
def prompt(model):
    tokens = torch.randn(4, model.backbone.embedding_size, generator=torch.Generator().manual_seed(0))
    template, words = Template("{bos}{soft}{text}\nLabel:"), LabelWords.from_labels(LABELS)
    return SoftPrompt({"input": tokens}, template, words, model.backbone.fingerprint, temperature=1.5, abstain=0.5)


def test_evaluate_scores_rows_as_the_model_answers_them(model, prompt):
    texts = ["a gripping film", "dull", "the music is good and the ending worse", "yes"]
    examples = [Example({"text": text}, LABELS[i % 2]) for i, text in enumerate(texts)]
    found = evaluate(model, prompt, examples, overlap=[2])
    answers = model.score([example.fields for example in examples], prompt)
    expected = [[answer.probabilities[label] for label in LABELS] for answer in answers]
    assert np.exp(found.calibrated) == pytest.approx(np.array(expected), abs=1e-5)
    assert (found.digest, found.temperature, found.abstain) == (prompt.digest, 1.5, 0.5)
    assert (found.overlap, found.truncated, found.labels) == ((2,), 0, LABELS)


def test_evaluate_counts_rows_that_were_shortened(model, prompt):
    found = evaluate(model, prompt, [Example({"text": "good " * 400}, "good"), Example({"text": "bad"}, "bad")])
    assert found.truncated == 1


def test_evaluate_refuses_no_rows(model, prompt):
    with pytest.raises(DataError, match="asked to evaluate on 0 rows"):
        evaluate(model, prompt, [])


def test_other_weights_are_accepted_only_when_asked(prompt):
    other, rows = PromptedModel(tiny_backbone("llama", seed=1)), [Example({"text": "yes"}, "good")]
    with pytest.raises(IncompatiblePromptError, match="other weights of the same architecture"):
        evaluate(other, prompt, rows)
    assert len(evaluate(other, prompt, rows, allow_other_weights=True).gold) == 1


def with_rows(prompt, outputs, hidden):
    generator = torch.Generator().manual_seed(3)
    rows = {
        "readout.weight": torch.randn(outputs, hidden, generator=generator),
        "readout.bias": torch.randn(outputs, generator=generator),
    }
    return replace(prompt, tensors={**prompt.tensors, **rows}, requires=("learned-rows",), temperature=1.5)


@pytest.mark.parametrize("words", [("a", "b"), ("warm and kind", "warm but dull")], ids=["one token", "several"])
def test_a_prompt_alone_is_evaluated_as_if_by_itself(model, prompt, words):
    asked = replace(with_rows(prompt, 2, model.backbone.hidden_size), readout=LabelWords(("pos", "neg"), words))
    rows = [Example({"text": f"film {'x' * i}"}, ("pos", "neg")[i % 2]) for i in range(9)]
    depth = model.bind(asked.alone()).reading.depth
    assert (depth == 0) == (words == ("a", "b"))
    both, alone = evaluate_alone_too(model, asked, rows, overlap=[2])
    for found, expected in (
        (both, evaluate(model, asked, rows, overlap=[2])),
        (alone, evaluate(model, asked.alone(), rows)),
    ):
        assert np.allclose(found.log_probabilities, expected.log_probabilities, atol=1e-6)
        assert (found.digest, found.temperature, found.overlap) == (
            expected.digest,
            expected.temperature,
            expected.overlap,
        )
    assert not np.allclose(both.log_probabilities, alone.log_probabilities, atol=1e-2)
