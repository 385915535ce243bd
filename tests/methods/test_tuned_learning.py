"""Methods that train weights learn the toy task, and labels that begin alike."""

import numpy as np
import pytest

from softprompt.methods.catalogue import method
from softprompt.methods.method import Effort
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows

NAMES = ("lora", "ia3", "houlsby", "full")
RATES = {"full": 30.0}


@pytest.fixture(scope="module")
def task():
    return load_task(toy_rows(80))


def accuracy(fitted, task):
    gold = [task.labels.index(example.label) for example in task.splits["test"]]
    return (fitted.predictor.log_probabilities(task.splits["test"]).argmax(1) == gold).mean()


@pytest.mark.parametrize(("name", "readout"), [("lora", "words"), *((name, "rows") for name in NAMES)])
def test_the_toy_task_is_learned(task, name, readout):
    fitted = method(name).fit(
        tiny_backbone("gemma3"), task, 0, Effort(rate=RATES.get(name, 3.0), readout=readout, examples=480)
    )
    assert accuracy(fitted, task) >= 0.8


def test_biases_of_a_random_transformer_learn_what_they_can(task):
    fitted = method("bitfit").fit(tiny_backbone("gpt_neox"), task, 0, Effort(rate=10.0, examples=360))
    assert fitted.course.points[0].loss > 0.9
    assert fitted.loss < 0.65  # chance is 0.69


@pytest.mark.parametrize("name", ["lora", "full"])
def test_labels_that_begin_alike_are_told_apart_by_words(name):
    words = {"good": "spam", "bad": "spam free", "film": "spam free prize"}
    rows = [{"text": f"{text} {n}", "label": label} for n in range(16) for text, label in words.items()]
    task = load_task(rows)
    fitted = method(name).fit(tiny_backbone("gemma3"), task, 0, Effort(rate=RATES.get(name, 3.0), examples=360))
    found = fitted.predictor.log_probabilities(task.splits["test"])
    np.testing.assert_allclose(np.exp(found).sum(1), 1, atol=1e-5)
    assert accuracy(fitted, task) >= 0.9
