"""Many tasks over one backbone: each row gets the answer of its own task, whatever else is in the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from softprompt.methods.method import Fitted
from softprompt.methods.residents import Grouped, MixedPrompts, SharedFeatures, residents_of
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prompted_model import Budget, PromptedModel
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows

OWNERS = [2, 0, 1, 2, 0, 0, 1]


class Numbered:
    """Answers with its own number and the row's."""

    def __init__(self, number):
        self.number, self.calls = number, 0

    def log_probabilities(self, examples):
        self.calls += 1
        return np.array([[self.number, float(example.fields["text"].split()[-1])] for example in examples])


@pytest.fixture(scope="module")
def task():
    return load_task(toy_rows(60))


@pytest.fixture(scope="module")
def rows(task):
    return list(task.splits["train"][: len(OWNERS)])


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone("gemma3")


def test_grouped_rows_come_back_in_their_order_after_one_switch_a_task(rows):
    switched = []
    predictors = [Numbered(number) for number in range(3)]
    grouped = Grouped(predictors, [lambda number=number: switched.append(number) for number in range(3)])
    found = grouped.answer(OWNERS, rows)
    assert found[:, 0].tolist() == OWNERS
    assert found[:, 1].tolist() == [float(row.fields["text"].split()[-1]) for row in rows]
    assert switched == [0, 1, 2]
    assert [each.calls for each in predictors] == [1, 1, 1]


def test_heads_share_one_pass_over_the_features(rows):
    calls = []

    def features(examples):
        calls.append(len(examples))
        return Numbered(0).log_probabilities(examples)

    shared = SharedFeatures(features, [lambda vectors, number=n: np.add(vectors, [number, 0]) for n in range(3)])
    found = shared.answer(OWNERS, rows)
    assert found[:, 0].tolist() == OWNERS
    assert found[:, 1].tolist() == [float(row.fields["text"].split()[-1]) for row in rows]
    assert calls == [len(OWNERS)]
    assert shared.notes == ("rows of all 3 tasks are run once, and each is read by its task's head",)


@pytest.mark.parametrize("length", [0, 5])
def test_mixed_prompts_answer_as_each_does_alone(backbone, task, rows, length):
    torch.manual_seed(0)
    tensors = {"input": torch.randn(length, backbone.embedding_size)}
    model = PromptedModel(backbone, budget=Budget(rows=4))
    bound = BoundPrompt.make(backbone, tensors, task.template, task.readout, key="mine")
    mixed = MixedPrompts(model, bound, 3)
    found = mixed.answer(OWNERS, rows)
    for number in range(3):
        mine = [place for place, owner in enumerate(OWNERS) if owner == number]
        own = BoundPrompt.make(backbone, {"input": tensors["input"] * (1 + 1e-4 * number)}, task.template, task.readout)
        alone = PromptedModel(backbone).score_labels([rows[i].fields for i in mine], own).log_probabilities
        np.testing.assert_allclose(found[mine], alone.numpy(), atol=1e-5)


def test_mixed_prompts_keep_a_prefix_for_each_and_switch_nothing(backbone, task, rows):
    model = PromptedModel(backbone)
    tensors = {"input": torch.ones(3, backbone.embedding_size)}
    mixed = MixedPrompts(model, BoundPrompt.make(backbone, tensors, task.template, task.readout), 3)
    mixed.answer(OWNERS, rows)
    before = model.cache.misses
    for number in range(3):
        mixed.switch(number)
    mixed.answer(OWNERS, rows)
    assert len(model.cache) == before == model.cache.misses == 3
    assert mixed.notes == ("3 prompts stay resident; rows of all of them share passes, and nothing is switched",)


def test_deep_prompts_are_mixed_too(backbone, task, rows):
    generator = torch.Generator().manual_seed(0)
    past = backbone.key_values(
        torch.randn(1, 4, backbone.embedding_size, generator=generator),
        mask=torch.ones(1, 4, dtype=torch.long), positions=torch.arange(4)[None],
    )  # fmt: skip
    tensors = {}
    for layer, (keys, values) in enumerate(past):
        tensors |= {f"layers.{layer}.key": keys[0], f"layers.{layer}.value": values[0]}
    bound = BoundPrompt.make(backbone, tensors, task.template, task.readout)
    model = PromptedModel(backbone)
    found = MixedPrompts(model, bound, 3).answer([0] * len(rows), rows)
    alone = model.score_labels([row.fields for row in rows], bound).log_probabilities
    np.testing.assert_allclose(found, alone.numpy(), atol=1e-5)


def test_a_method_says_how_its_tasks_stand_together_else_they_are_grouped(rows):
    plain = residents_of(Fitted(Numbered(7), 0, 0, 0.7), 4)
    assert plain.answer([3, 1, 1, 0, 2, 2, 0], rows)[:, 0].tolist() == [7] * 7
    assert plain.notes == ("rows of 4 tasks come mixed; those of each task are taken together",)

    class Knows(Numbered):
        def residents(self, count):
            return Grouped([self] * count, [None] * count, (f"{count} of mine",))

    assert residents_of(Fitted(Knows(7), 0, 0, 0.7), 4).notes == ("4 of mine",)
