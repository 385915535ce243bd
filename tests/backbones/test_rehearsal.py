"""A step without numbers holds and computes what the real step holds and computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from softprompt.backbones.blank import blank_model
from softprompt.backbones.blueprint import blueprint_of
from softprompt.backbones.operators import Seen
from softprompt.backbones.rehearsal import Step, rehearse
from softprompt.backbones.stand_ins import attention_for
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import tiny_backbone
from softprompt.training.bank import gradients
from softprompt.training.config import TrainConfig
from softprompt.training.learner import Learner
from softprompt.training.lesson import Lesson


def blank_of(backbone, **changes):
    settings = {**backbone.model.config.to_dict(), "architectures": [type(backbone.model).__name__], **changes}
    return blank_model(settings, dtype=backbone.dtype, attention=attention_for(backbone.model_type))


UNLIKE = (
    "gemma2", "gemma3", "qwen3", "mistral", "phi3_longrope", "llama_dynamic", "gpt_neox", "opt_projected", "bloom",
    "falcon_new", "minilm", "distilbert", "modernbert", "t5_gated", "bart",
)  # fmt: skip
"""Families whose layers are unlike; each takes a while here, and all are counted in `test_blueprint`."""
STEP = Step("prompt", rows=5, tokens=7, prefix=4, held=2048)


@pytest.mark.parametrize("family", ["gemma3", "gpt2"])
def test_the_trainer_s_own_step_holds_and_computes_what_was_foreseen(family):
    backbone = tiny_backbone(family)
    rows = [{"text": f"{word} film", "label": label} for word in "abcd" for label in ("yes", "no")]
    task = load_task(dict.fromkeys(("train", "validation", "test"), rows), name="toy")
    config = TrainConfig(
        race=False, parameterization="direct", learned_rows=False, virtual_tokens=6, batch_size=8, steps=2
    )  # fmt: skip
    model = PromptedModel(backbone)
    learner = Learner(model, Lesson("prompt", config, task.template, task.readout, task.splits["train"], ()))
    share = learner.share(0)
    seen = Seen([*backbone.model.parameters(), *backbone.model.buffers()])
    with seen:
        gradients(model, [share], 2048)
    tokens = max(len(row.ids) for row in share.rows)
    prefix = len(task.template.tokenize(backbone.tokenizer, 6).prefix)
    told = rehearse(blank_of(backbone), Step("prompt", rows=8, tokens=tokens, prefix=prefix, held=2048))
    assert told.peak == pytest.approx(seen.peak, rel=0.1)
    assert told.flops == pytest.approx(sum(work.flops * work.calls for work in seen.work.values()), rel=0.05)


@pytest.mark.parametrize(
    ("family", "way"),
    [
        *((family, "prompt") for family in UNLIKE),
        *((family, way) for family in ("gpt2", "bert", "t5") for way in ("lora", "full", "scoring")),
    ],
)
def test_every_family_can_be_rehearsed(family, way):
    blank = blank_of(tiny_backbone(family))
    found = rehearse(blank, Step(way, rows=3, tokens=5, prefix=4, held=2048))
    assert 0 < found.graph <= found.peak
    assert found.flops > 0
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in blank.model.parameters())


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_arithmetic_is_that_of_the_formulas(family):
    """2·M forward and 2·M back for the tokens of rows and prefix; full fine-tuning twice as much back again."""
    blank = blank_of(tiny_backbone(family))
    M, tokens = blueprint_of(blank).multiplied, STEP.rows * STEP.tokens
    scores = 0.35  # attention and read-out, of rows so short on models so narrow
    prompt = rehearse(blank, STEP)
    assert 4 * M * tokens * 0.8 < prompt.flops < 4 * M * (tokens + STEP.prefix) * (1 + scores)
    full = rehearse(blank, Step("full", rows=5, tokens=7, prefix=0, held=2048))
    assert 6 * M * tokens * 0.95 < full.flops < 6 * M * tokens * (1 + scores)
    scored = rehearse(blank, Step("scoring", rows=5, tokens=7, prefix=0, held=2048))
    assert 2 * M * tokens < scored.flops < 2 * M * tokens * (1 + scores)


def test_full_training_holds_more_than_adapters_and_these_more_than_prompts():
    blank = blank_of(tiny_backbone("llama"))
    prompt, lora, full = (rehearse(blank, Step(way, 8, 16, 4, 2048)) for way in ("prompt", "lora", "full"))
    assert prompt.graph < lora.graph
    assert prompt.flops < lora.flops < full.flops
    assert full.peak > full.graph


def test_a_step_in_passes_holds_less_and_computes_the_same():
    blank = blank_of(tiny_backbone("llama"))
    whole, parts = (rehearse(blank, Step("prompt", 8, 16, 4, held)) for held in (2048, 32))
    assert parts.flops == whole.flops
    assert parts.graph < whole.graph / 2
    assert Step("prompt", 8, 16, 4, 48).passes == ((3, 2), (2, 1))


@pytest.mark.parametrize(("family", "layers", "way"), [("llama", 4, "prompt"), ("gemma3", 7, "scoring")])
def test_long_models_are_told_by_short_ones(family, layers, way):
    size = {"num_hidden_layers": layers}
    if family == "gemma3":
        size["layer_types"] = (["sliding_attention", "full_attention"] * layers)[:layers]
    blank, step = blank_of(tiny_backbone(family), **size), replace(STEP, way=way)
    assert blank.shortened() is not None
    told = rehearse(blank, step)
    object.__setattr__(blank, "shortened", lambda: None)
    seen = rehearse(blank, step)
    assert (told.flops, told.prefix, told.calls) == (seen.flops, seen.prefix, seen.calls)
    assert told.graph == pytest.approx(seen.graph, rel=0.01)
    assert told.peak == pytest.approx(seen.peak, rel=0.02)


def test_a_model_that_is_short_already_or_not_alike_is_run_whole():
    assert blank_of(tiny_backbone("llama")).shortened() is None
    assert blank_model("t5-small").shortened() is None


def test_tokens_of_a_mixture_go_through_as_many_experts_as_they_are_sent_to():
    small = {
        "model_type": "qwen3_moe", "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 16,
        "num_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64,
    }  # fmt: skip
    blank = blank_model(small, dtype=torch.float32, attention=attention_for("qwen3_moe"))
    shape = blueprint_of(blank)
    found = rehearse(blank, Step("scoring", rows=4, tokens=8, prefix=0, held=2048))
    assert 2 * shape.multiplied * 32 < found.flops < 2 * shape.multiplied * 32 * 1.4
    assert shape.multiplied < shape.total / 2


def test_short_rows_attend_as_on_a_cpu_and_otherwise_as_fused_kernels_do():
    blank = blank_of(tiny_backbone("llama"))
    grouped, fused = (rehearse(blank, STEP, grouped=on) for on in (True, False))
    assert any("softmax" in str(work.operator) for work in grouped.work)
    assert any("flash_attention" in str(work.operator) for work in fused.work)
    assert not any("flash_attention" in str(work.operator) for work in grouped.work)
