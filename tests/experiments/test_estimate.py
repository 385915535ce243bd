"""An estimate: the papers' sizes, what the methods' room makes, and figures that hang together."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from softprompt.backbones.blueprint import blueprint
from softprompt.backbones.operators import Work
from softprompt.backbones.rehearsal import Rehearsal
from softprompt.errors import ConfigError, UnknownNameError
from softprompt.experiments.estimate.estimate import Asked, estimate
from softprompt.experiments.estimate.hardware import MACHINES, machine, measured_here, seconds_on
from softprompt.experiments.estimate.memory import beside, resident, resident_in_windows
from softprompt.experiments.estimate.sizes import deep, houlsby, ia3, lora, sizes
from softprompt.experiments.estimate.table import written
from softprompt.methods.houlsby import BOTTLENECK
from softprompt.methods.lora import RANK
from softprompt.methods.sublayers import SUBLAYERS
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.load import load_task
from softprompt.testing.tiny import TINY_ENCODERS, TINY_FAMILIES, TINY_SEQ2SEQ, tiny_backbone
from softprompt.testing.toy import toy_rows

KNOWN = [name for name in (*TINY_FAMILIES, *TINY_ENCODERS) if tiny_backbone(name).model_type in SUBLAYERS]


def shape_of(backbone):
    return blueprint({**backbone.model.config.to_dict(), "architectures": [type(backbone.model).__name__]})


def named(shape, name, **changes):
    asked = {"virtual_tokens": 20, "labels": 2, "rank": 8, "bottleneck": 64, "each": 2, **changes}
    return next(each for each in sizes(shape, **asked) if each.name == name)


def test_the_papers_sizes():
    assert named(blueprint("t5-xxl"), "soft-prompt", virtual_tokens=100).trained == 409_600  # arXiv 2104.08691
    assert named(blueprint("gpt-3"), "soft-prompt", virtual_tokens=20).trained == 245_760
    assert named(blueprint("gpt-3"), "lora", rank=8).trained == 8 * 96 * (4 + 2 + 5 + 5) * 12_288


@pytest.mark.parametrize("family", [*TINY_FAMILIES, *TINY_ENCODERS, *TINY_SEQ2SEQ])
def test_lora_is_counted_as_peft_makes_it(family):
    peft = pytest.importorskip("peft")
    backbone = tiny_backbone(family)
    shape = shape_of(backbone)
    config = peft.LoraConfig(r=RANK, target_modules="all-linear")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("warnings.warn", lambda *given, **how: None)  # of how a Conv1D lies
        peft.get_peft_model(backbone.model, config)
    made = sum(p.numel() for name, p in backbone.model.named_parameters() if "lora_" in name)
    assert lora(shape, RANK) == made


@pytest.mark.parametrize("name", ["houlsby", "ia3", "bitfit", "full"])
@pytest.mark.parametrize("family", KNOWN)
def test_the_methods_train_what_is_counted(family, name):
    pytest.importorskip("peft")
    from softprompt.methods.catalogue import method

    backbone = tiny_backbone(family)
    if backbone.head is None:
        pytest.skip("it has no head, and is refused")
    shape = shape_of(backbone)
    task = load_task({"train": toy_rows(8), "validation": toy_rows(4, 1)}, name="toy")
    taken = method(name)
    if taken.refuses(backbone, task):
        assert (name, shape.biases) == ("bitfit", 0)
        return
    from softprompt.methods.token_rows import TokenRows

    opened, _ = taken.prepare(backbone, TokenRows(backbone, task, 0), 0, "rows")
    trained = opened.trained if opened.trained is not None else sum(p.numel() for p in opened.parameters)
    counted = {"houlsby": houlsby(shape, BOTTLENECK), "ia3": ia3(shape), "bitfit": shape.biases, "full": shape.total}
    assert trained == counted[name]


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_deep_prompts_and_resident_ones_are_keys_and_values(family):
    backbone = tiny_backbone(family)
    row = backbone.embed(torch.tensor([[3, 4, 5]]))
    made = backbone.key_values(row, mask=torch.ones(1, 3, dtype=torch.long), positions=torch.arange(3)[None])
    shape = shape_of(backbone)
    assert deep(shape, 3) == sum(tensor.numel() for pair in made for tensor in pair)
    assert resident(shape, 3, 4) == sum(tensor.nbytes for pair in made for tensor in pair)


def test_a_window_keeps_fewer_keys_where_an_engine_lets_it():
    shape = blueprint("gemma-3-270m")
    assert resident_in_windows(shape, 512, 2) == resident(shape, 512, 2)
    kept = 2 * 256 * 2 * (15 * 512 + 3 * 1024)
    assert resident_in_windows(shape, 1024, 2) == kept < resident(shape, 1024, 2)


def test_a_prompt_file_is_as_large_as_said():
    backbone = tiny_backbone("llama")
    task = load_task({"train": toy_rows(8)}, name="toy")
    prompt = SoftPrompt({"input": torch.ones(100, 48)}, task.template, task.readout, backbone.fingerprint)
    said = named(shape_of(backbone), "soft-prompt", virtual_tokens=100).kept
    assert said == pytest.approx(len(prompt.to_bytes()), rel=0.15)


SMALL = Asked(tasks=10, rows=4, tokens=8, virtual_tokens=5, machines=("h100", "laptop"))


def settings():
    return tiny_backbone("gemma3").model.config.to_dict()


@pytest.fixture(scope="module")
def found():
    return estimate(settings(), SMALL)


def test_an_estimate_hangs_together(found):
    shape, prompt, full = found.shape, found.trainings[0], found.trainings[-1]
    assert [each.method for each in found.trainings] == ["soft-prompt", "lora", "full"]
    assert prompt.memory.weights == shape.total * 2
    assert prompt.memory.state + prompt.memory.gradients == 20 * 5 * 48
    assert full.memory.state + full.memory.gradients == 20 * shape.total
    assert prompt.memory.total == prompt.memory.weights + prompt.memory.growth < full.memory.total
    assert found.serving.key_values == resident(shape, 6, 2)
    assert prompt.seconds["h100"] > 0
    told = json.loads(json.dumps(found.to_json()))
    assert told["training"][0]["flops_of_a_run"] == prompt.flops * 1000
    assert {each["name"]: each["kept_for_all"] for each in told["sizes"]}["full"] == 20 * shape.total
    assert told["model"]["parameters"] == shape.total


def test_it_is_said_in_words(found):
    said = written(found)
    assert all(len(line) <= 110 for line in said.splitlines())
    for words in ("What is kept for 10 tasks", "LoRA (r = 8)", "it has no biases", "H100 SXM", "rows a second (rough)",
                  "Times and rows a second are rough"):  # fmt: skip
        assert words in said, words
    assert "a laptop's CPU" in said
    assert "none are computed" in said


@pytest.mark.slow
def test_what_mixtures_and_encoder_decoders_need_is_said():
    mixture = {"model_type": "qwen3_moe", "num_hidden_layers": 2, "num_experts": 8, "num_experts_per_tok": 2,
               "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
                   "head_dim": 8, "intermediate_size": 64, "moe_intermediate_size": 16, "vocab_size": 64}  # fmt: skip
    said = written(estimate(mixture, SMALL))
    assert "2 of 8 experts take part in each token" in said
    said = written(estimate(tiny_backbone("t5").model.config.to_dict(), SMALL))
    assert "The prompt stands at the encoder's input" in said


def test_what_does_not_fit_says_how_many_machines_it_needs():
    found = estimate("llama-3.1-70b", replace(SMALL, machines=("t4",)))
    assert found.serving.fits == {"t4": None}
    said = written(found)
    assert "needs 9x" in said
    assert "the model does not fit" in said


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        ({"tasks": 0}, ConfigError, "`tasks` is 0; an estimate needs at least 1"),
        ({"share": 1.5}, ConfigError, "a share is in"),
        ({"words": -1}, ConfigError, "words are at least 0"),
        ({"dtype": "int7"}, UnknownNameError, "unknown dtype `int7`"),
        ({"machines": ("h10",)}, UnknownNameError, "unknown machine `h10`; did you mean `h100`"),
    ],
)
def test_what_cannot_be_asked(given, kind, text):
    with pytest.raises(kind, match=text):
        Asked(**given)


def test_a_roofline_takes_the_longest_of_three():
    on = machine("H100")
    assert on is MACHINES["h100"]
    computes, moves, starts = (
        Rehearsal(0, 0, 0, (Work(None, ((), {}), 2, flops, moved),))
        for flops, moved in ((989 * 10**12, 0), (0, 335 * 10**10), (1, 1))
    )
    assert seconds_on(on, computes, 0.5) == pytest.approx(4.0)
    assert seconds_on(on, moves) == pytest.approx(2 / 0.7)
    assert seconds_on(on, starts) == pytest.approx(2 * on.start)


def test_operators_are_timed_on_this_machine():
    found = estimate(settings(), replace(SMALL, measure=True)).trainings[0].measured
    assert found is not None
    assert found.seconds == pytest.approx(found.products + found.rest + found.framework)
    assert found.rate > 0
    nothing = measured_here(Rehearsal(0, 0, 0, ()))
    assert (nothing.seconds, nothing.rate) == (0.0, 0.0)


def test_prompts_beside_a_model():
    assert beside(100, 80, 1, 5) == 5
    assert beside(100, 99, 1, 5) == 0
    assert beside(100, 10, 0, 0) == 0
