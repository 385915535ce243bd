"""What is served, and what is refused by name."""

import re

import pytest

from softprompt.backbones.backbone import Backbone
from softprompt.backbones.families import FAMILIES, Limits, family_of, limits_of
from softprompt.errors import UnknownNameError, UnsupportedBackboneError
from softprompt.testing.tiny import SPECIAL_FAMILIES, TINY_FAMILIES, tiny_backbone


def test_every_family_of_the_table_has_a_tiny_backbone():
    assert {tiny_backbone(name).model_type for name in TINY_FAMILIES} == set(FAMILIES)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            {"model_type": "mamba"},
            "model type `mamba`, which softprompt does not serve; supported model types: bloom, falcon,",
        ),
        ({}, "`x` has model type `none`"),
        ({"model_type": "bert"}, "model type `bert`, which softprompt does not serve"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "model type `t5`, an encoder-decoder;"),
        (
            {"model_type": "gemma3", "text_config": {}, "vision_config": {}},
            "model type `gemma3`, a model of more than text (its text part alone, `gemma3_text`, is served);",
        ),
        ({"model_type": "gemma3n_text"}, "model type `gemma3n_text`, which softprompt does not serve"),
        (
            {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}},
            "with weights quantised by `gptq`, through which gradients are not exact: take the original or a GGUF",
        ),
    ],
)
def test_what_cannot_be_served_right_is_refused_by_name(config, reason):
    with pytest.raises(UnsupportedBackboneError, match=re.escape(reason)):
        family_of(config, "x")


def test_a_model_object_of_another_family_is_refused():
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "gpt_neo", hidden_size=16, num_layers=1, attention_types=[[["global"], 1]], num_heads=2
    )
    with pytest.raises(UnsupportedBackboneError, match="`mine` has model type `gpt_neo`"):
        Backbone(AutoModelForCausalLM.from_config(config), tiny_backbone().tokenizer, name="mine")


def test_an_unknown_rotary_scaling_is_refused_by_name():
    backbone = tiny_backbone()
    backbone.model.config.rope_parameters = {"rope_type": "proportional", "rope_theta": 1e4}
    with pytest.raises(
        UnsupportedBackboneError, match="`mine` scales its rotary positions by `proportional`, which is not"
    ):
        Backbone(backbone.model, backbone.tokenizer, name="mine")


def test_an_unknown_rotary_scaling_of_one_kind_of_layer_is_refused_too():
    backbone = tiny_backbone("gemma3")
    backbone.model.config.rope_parameters["sliding_attention"]["rope_type"] = "proportional"
    with pytest.raises(UnsupportedBackboneError, match="by `proportional`"):
        limits_of(backbone.family, backbone.model.config, "mine")


@pytest.mark.parametrize(
    ("family", "limits"),
    [
        ("llama", Limits("rope", 256)),
        ("gemma3", Limits("rope", 256)),
        ("llama3_rope", Limits("rope", 256)),
        ("gpt2", Limits("learned", 256)),
        ("opt", Limits("learned", 256)),
        ("bloom", Limits("alibi", None)),
        ("falcon", Limits("rope", 256)),
        ("falcon_alibi", Limits("alibi", None)),
    ],
)
def test_how_far_a_checkpoint_reaches(family, limits):
    backbone = tiny_backbone(family)
    assert backbone.limits == limits
    assert (backbone.max_positions, backbone.position_switch) == (limits.max_positions, None)


@pytest.mark.parametrize("rope_type", ["linear", "yarn"])
def test_scalings_that_do_not_depend_on_the_length_need_no_care(rope_type):
    rope = {"rope_type": rope_type, "rope_theta": 10000.0, "factor": 2.0}
    assert tiny_backbone("llama", rope_parameters=rope).limits == Limits("rope", 256)


def test_dynamic_scaling_ends_at_the_original_length_and_says_so():
    limits = tiny_backbone("llama_dynamic").limits
    assert (limits.max_positions, limits.position_switch) == (64, None)
    assert limits.note == "rows end at 64 tokens: beyond, `dynamic` rotary scaling depends on the calls made before"
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
    config = tiny_backbone("llama_dynamic").model.config
    config.rope_parameters = rope
    assert limits_of(FAMILIES["llama"], config, "mine").max_positions == 32


def test_longrope_names_its_switch():
    limits = tiny_backbone("phi3_longrope").limits
    assert (limits.max_positions, limits.position_switch) == (256, 32)
    assert limits.note == "rows up to 32 tokens and longer ones use different rotary factors and are batched apart"


def test_an_unknown_tiny_backbone():
    with pytest.raises(UnknownNameError, match="unknown tiny backbone `lama`; did you mean `llama`"):
        tiny_backbone("lama")
    assert set(SPECIAL_FAMILIES).isdisjoint(TINY_FAMILIES)


def test_tiny_backbones_are_seeded():
    one, same, other = (tiny_backbone("llama", seed=seed).fingerprint for seed in (1, 1, 2))
    assert one == same
    assert one.differs(other) == "weights"
