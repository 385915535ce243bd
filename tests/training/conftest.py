"""A tiny backbone, a toy task, and Ctrl-C at a chosen moment."""

import signal

import pytest

from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows
from softprompt.training import trainer
from softprompt.training.bank import gradients


@pytest.fixture(scope="session")
def backbone():
    return tiny_backbone("gemma3")


@pytest.fixture(scope="session")
def task():
    splits = {"train": toy_rows(200), "validation": toy_rows(60, 1), "test": toy_rows(80, 2)}
    return load_task(splits, name="toy")


@pytest.fixture
def interrupt_in(monkeypatch):
    """Deliver Ctrl-C while a step is under way, the first being 1."""

    def stop(step):
        calls = []

        def interrupted(*arguments):
            calls.append(1)
            if len(calls) == step:
                signal.raise_signal(signal.SIGINT)
            return gradients(*arguments)

        monkeypatch.setattr(trainer, "gradients", interrupted)

    return stop
