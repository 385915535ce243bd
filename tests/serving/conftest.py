"""Prompts of every kind for a tiny backbone, a model that waits to be let on, and answers one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from softprompt.modeling.answers import text_answer
from softprompt.modeling.flight import Flight
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.writing import Writing
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.serving.asking import Ask
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout_kinds import Scalar, YesNo
from softprompt.tasks.template import Template
from softprompt.testing.conformance import key_values_of, prompt
from softprompt.testing.tiny import tiny_backbone


class GatedModel(PromptedModel):
    """A model whose passes wait while its gate is shut, and that knows what they ran; `spoil` may break a pass."""

    def __init__(self, backbone):
        super().__init__(backbone)
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.passes = []
        self.spoil: Callable[[list, object], None] = lambda rows, flight: None

    def begin(self, rows, bounds, writings, flight):
        self.entered.set()
        assert self.gate.wait(30), "nobody opened the gate"
        self.passes.append([bound.key for bound in bounds])
        self.spoil(rows, flight)
        return super().begin(rows, bounds, writings, flight)


@pytest.fixture(scope="session")
def backbone():
    return tiny_backbone("gemma3")


@pytest.fixture
def gated(backbone):
    return GatedModel(backbone)


@pytest.fixture(scope="session")
def kinds(backbone):
    """Prompts by name: labels of one token and of several, several labels, numbers, text, keys and values."""
    text = replace(prompt(backbone, 3, seed=5), readout=Text(24, stop=(".",)), requires=())
    return {
        "labels": prompt(backbone, 5, seed=1),
        "trie": prompt(backbone, 12, seed=2, readout="trie"),
        "suffix": prompt(backbone, 4, seed=3, pattern="suffix"),
        "yes-no": replace(prompt(backbone, 6, seed=4), readout=YesNo.from_labels(["good", "spam"]), requires=()),
        "number": replace(prompt(backbone, 2, seed=6), readout=Scalar(0.0, 5.0), requires=()),
        "text": text,
        "long text": replace(prompt(backbone, 9, seed=7), readout=Text(40), requires=()),
        "deep": key_values_of(backbone, prompt(backbone, 7, seed=8)),
        "deep text": key_values_of(backbone, replace(prompt(backbone, 6, seed=9), readout=Text(12), requires=())),
    }


@pytest.fixture(scope="session")
def bare(backbone):
    """The backbone without a prompt, writing text."""
    return PromptedModel(backbone).bare(Template("{bos}{text}"), Text(16))


@pytest.fixture(scope="session")
def alone(backbone):
    """Answers one request by itself, with a model of its own: the answer, and the writing if there is one."""
    model = PromptedModel(backbone)

    def answer(ask: Ask):
        bound = model.bind(ask.prompt) if isinstance(ask.prompt, SoftPrompt) else ask.prompt
        if not isinstance(bound.readout, Text):
            assert isinstance(ask.prompt, SoftPrompt)
            return SimpleNamespace(answer=model.score([ask.fields], ask.prompt)[0], writing=None)
        writing = Writing(
            bound, sampling=ask.sampling, max_tokens=ask.max_tokens, stop=ask.stop, likeliest=ask.likeliest
        )
        flight = Flight(backbone)
        row = model.encode(ask.fields, bound)
        model.begin([row], [bound], [writing], flight)
        while len(flight):
            flight.step()
        return SimpleNamespace(answer=text_answer(writing.written(), row.cut), writing=writing)

    return answer


@pytest.fixture
def same_answer():
    def compare(found, expected) -> None:
        assert (found.label, found.cut) == (expected.label, expected.cut)
        assert found.probabilities.keys() == expected.probabilities.keys()
        each = [(found.probabilities[label], expected.probabilities[label]) for label in expected.probabilities]
        if hasattr(expected, "number"):
            each.append((found.number / 5, expected.number / 5))
        for one, other in each:
            assert abs(one - other) < 1e-5

    return compare


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny passes gain nothing by more threads, and many engines would fight for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
