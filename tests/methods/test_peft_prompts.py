"""PEFT's prompts: their numbers and their loss are PEFT's own, the backbone stays as it was, kills lose nothing."""

import signal
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from softprompt.errors import MissingExtraError
from softprompt.methods import peft_encoders, peft_prompts
from softprompt.methods.method import Effort
from softprompt.methods.peft_encoders import encoder_of, in_front, over_vocabulary
from softprompt.methods.peft_prompts import OURS, P_TUNING, PREFIX, TUTORIAL, Documented
from softprompt.methods.token_rows import TokenRows, padded
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.testing.toy import toy_rows
from softprompt.training import trainer
from softprompt.training.bank import gradients

pytest.importorskip("peft")
LENGTH = 6
CONFIGS = {
    "prompt-tuning": "PromptTuningConfig",
    "p-tuning": "PromptEncoderConfig",
    "prefix-tuning": "PrefixTuningConfig",
}


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone("llama")


@pytest.fixture(scope="module")
def task():
    splits = {"train": toy_rows(48), "validation": toy_rows(20, 1), "test": toy_rows(20, 2)}
    return load_task(splits, name="toy", words={"positive": "good", "negative": "bad"})


def peft_model(backbone, kind):
    """PEFT's own model with the first values that `encoder_of` has by seed 7."""
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        import peft

        torch.manual_seed(7)
        config = getattr(peft, CONFIGS[kind])(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH)
        return peft.get_peft_model(backbone.model, config).eval()


@pytest.mark.parametrize("kind", CONFIGS)
def test_answers_are_those_of_peft(backbone, task, kind):
    """Rows padded on the right, so that PEFT's positions are right too."""
    rows = TokenRows(backbone, task, 0)
    first = [backbone.tokenizer.encode(word, add_special_tokens=False)[0] for word in task.readout.words]
    ids, mask = padded([row.ids for row in rows.validation], backbone.pad, backbone.device)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits = peft_model(backbone, kind)(input_ids=ids, attention_mask=mask).logits
    offset = 0 if kind == "prefix-tuning" else LENGTH
    ends = offset + mask.sum(1) - 1
    theirs = torch.log_softmax(logits[torch.arange(len(ids)), ends][:, first], 1)
    front, prompt = in_front(task), encoder_of(backbone, kind, LENGTH, 7)
    start = {site: each.detach() for site, each in prompt.materialize().items()}
    bound = BoundPrompt.make(backbone, start, front.template, front.readout)
    texts = [row.fields for row in task.splits["validation"]]
    ours = PromptedModel(backbone).score_labels(texts, bound).log_probabilities
    assert ours.numpy() == pytest.approx(theirs.numpy(), abs=1e-5)


def test_the_loss_is_that_of_peft(backbone, task):
    """Its documented loss: labels of -100 but at the answer, over the whole vocabulary."""
    rows = TokenRows(backbone, task, 0, 8)
    batch = rows.batch(0)
    answers = [backbone.tokenizer.encode(word, add_special_tokens=False) for word in task.readout.words]
    ids, mask = padded([(*row.ids, *answers[row.gold]) for row in batch], backbone.pad, backbone.device)
    starts = torch.tensor([len(row.ids) for row in batch])[:, None]
    answer = (torch.arange(ids.shape[1])[None] >= starts) & mask.bool()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft_model(backbone, "prompt-tuning")
        theirs = model(input_ids=ids, attention_mask=mask, labels=torch.where(answer, ids, -100)).loss
    ours = Documented(backbone, in_front(task), encoder_of(backbone, "prompt-tuning", LENGTH, 7)).loss(batch)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)


@pytest.mark.parametrize("method", [OURS, TUTORIAL, P_TUNING, PREFIX], ids=lambda method: method.name)
def test_it_trains_and_leaves_the_backbone_as_it_was(backbone, task, method):
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    found = method.fit(backbone, task, 0, Effort(examples=120))
    after = backbone.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert found.course.steps == (15 if method is TUTORIAL else 5)
    assert found.course.examples == 120
    assert found.kept_bytes > 0 < found.trained
    assert any(
        note.startswith("it started from text" if method in (OURS, TUTORIAL) else "it started from random")
        for note in found.notes
    )
    rows = task.splits["test"]
    alone = np.concatenate([found.predictor.log_probabilities([row]) for row in rows])
    assert found.predictor.log_probabilities(rows) == pytest.approx(alone, abs=1e-5)
    assert "with logits made nowhere else" in " ".join(found.notes)


def test_the_loss_falls_where_its_parameters_follow_it(backbone, task):
    batch = TokenRows(backbone, task, 0, 8).batch(0)
    rival = Documented(backbone, in_front(task), encoder_of(backbone, "p-tuning", LENGTH, 0))
    optimizer = torch.optim.AdamW(rival.groups(1e-2))
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = rival.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


def test_our_settings_are_ours_and_the_others_those_of_peft(task):
    ours, theirs = OURS.config(task, 0, Effort(rate=2)), PREFIX.config(task, 0, Effort(rate=2))
    assert (ours.learning_rate, ours.virtual_tokens, ours.batch_size) == (0.04, 20, 24)
    assert theirs.learning_rate == pytest.approx(2e-2)
    lesson = OURS.lesson(in_front(task), ours)
    assert (lesson.peft, lesson.relative, lesson.text) == ("prompt-tuning", True, "Classify the text as bad or good. ")
    assert lesson.readout == over_vocabulary(task)


@pytest.mark.parametrize("method", [OURS, TUTORIAL], ids=lambda method: method.name)
def test_a_killed_training_goes_on_to_the_same_bytes(backbone, task, method, tmp_path, monkeypatch):
    effort = Effort(examples=24 * 5, folder=tmp_path / "whole")
    whole = method.fit(backbone, task, 0, effort)
    effort, calls = replace(effort, folder=tmp_path / "killed"), []
    calls_until = 8 if method is TUTORIAL else 3

    def killed(original):
        def call(*arguments):
            calls.append(1)
            if len(calls) == calls_until and method is TUTORIAL:
                raise KeyboardInterrupt  # a signal is ignored where the tests run in the background
            if len(calls) == calls_until:
                signal.raise_signal(signal.SIGINT)
            return original(*arguments)

        return call

    if method is TUTORIAL:
        monkeypatch.setattr(Documented, "loss", killed(Documented.loss))
    else:
        monkeypatch.setattr(trainer, "gradients", killed(gradients))
    with pytest.raises(KeyboardInterrupt):
        method.fit(backbone, task, 0, effort)
    again = method.fit(backbone, task, 0, effort)
    assert again.predictor.bound.key == whole.predictor.bound.key
    assert again.course.examples == whole.course.examples


def test_what_they_cannot_do_is_said(backbone, task, monkeypatch):
    assert "PEFT's prompt for causal models is for decoders" in OURS.refuses(tiny_backbone("bert"), task)
    assert OURS.refuses(backbone, task) is PREFIX.refuses(backbone, task) is None
    monkeypatch.setattr(peft_encoders, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "softprompt\[baselines\]"'):
        OURS.fit(backbone, task, 0, Effort())
    with pytest.raises(MissingExtraError, match=r'pip install "softprompt\[baselines\]"'):
        encoder_of(backbone, "p-tuning", LENGTH, 0)


def test_minutes_bound_it_and_make_it_no_longer(backbone, task, monkeypatch):
    effort = Effort(examples=24 * 4, seconds=60.0)
    for allowed, steps in ((3, 3), (10**6, OURS.config(task, 0, effort).length)):
        monkeypatch.setattr(peft_prompts, "allowed", lambda *_, steps=allowed: (steps, False))
        assert OURS.fit(backbone, task, 0, effort).course.steps == steps
