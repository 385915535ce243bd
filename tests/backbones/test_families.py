"""What is served, and what is refused by name."""

import re

import pytest

from softprompt.backbones.backbone import Backbone
from softprompt.backbones.families import FAMILIES, KINDS, Limits, family_of, limits_of
from softprompt.errors import UnknownNameError, UnsupportedBackboneError
from softprompt.testing.tiny import SPECIAL_FAMILIES, TINY_ENCODERS, TINY_FAMILIES, TINY_SEQ2SEQ, tiny_backbone

BY_KIND = dict(zip(KINDS, (TINY_FAMILIES, TINY_ENCODERS, TINY_SEQ2SEQ), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_of_the_table_has_a_tiny_backbone(kind):
    of_kind = {name for name, family in FAMILIES.items() if family.kind == kind}
    assert {tiny_backbone(name).model_type for name in BY_KIND[kind]} == of_kind
    assert {tiny_backbone(name).kind for name in BY_KIND[kind]} == {kind}


@pytest.mark.parametrize(
    ("families", "able"),
    [
        (TINY_FAMILIES, {"shared-prefix", "deep-prompts", "generation"}),
        (("bert", "roberta", "xlm_roberta"), {"deep-prompts", "mask-readout"}),
        (("distilbert", "modernbert"), {"mask-readout"}),
        (("minilm",), {"deep-prompts"}),
        (TINY_SEQ2SEQ, {"deep-prompts", "generation"}),
    ],
)
def test_what_a_family_can_be_asked_to_do(families, able):
    assert {tiny_backbone(name).capabilities for name in families} == {frozenset(able)}


def test_without_a_mask_token_there_is_no_mask_readout():
    backbone = tiny_backbone("bert")
    bare = Backbone(backbone.model, tiny_backbone("llama").tokenizer, name="bare")
    assert (bare.head is not None, bare.capabilities) == (True, {"deep-prompts"})


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            {"model_type": "mamba"},
            "model type `mamba`, which softprompt does not serve; supported model types: bart, bert,",
        ),
        ({}, "`x` has model type `none`"),
        (
            {"model_type": "pegasus", "is_encoder_decoder": True},
            "model type `pegasus`, an encoder-decoder which softprompt does not serve;",
        ),
        (
            {"model_type": "deberta-v2"},
            "model type `deberta-v2`, whose disentangled attention takes no keys and values from outside; BERT and",
        ),
        ({"model_type": "deberta"}, "model type `deberta`, whose disentangled attention"),
        ({"model_type": "umt5"}, "model type `umt5`, whose output transformers scales even where the checkpoint was"),
        (
            {"model_type": "bert", "is_decoder": True},
            "model type `bert`, set up as a decoder (`is_decoder`), which is not what its family is served as;",
        ),
        (
            {"model_type": "bert", "position_embedding_type": "relative_key"},
            "model type `bert`, with positions of type `relative_key`, which transformers no longer computes;",
        ),
        (
            {"model_type": "gemma3", "text_config": {}, "vision_config": {}},
            "model type `gemma3`, a model of more than text (its text part alone, `gemma3_text`, is served);",
        ),
        ({"model_type": "gemma3n_text"}, "model type `gemma3n_text`, which softprompt does not serve"),
        (
            {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}},
            "with weights quantised by `gptq`, through which gradients are not exact: take the original, a GGUF",
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
        ("bert", Limits("learned", 256)),
        ("roberta", Limits("learned", 253, first_position=3)),
        ("xlm_roberta", Limits("learned", 253, first_position=3)),
        ("distilbert", Limits("learned", 256)),
        ("modernbert", Limits("rope", 256)),
        ("t5", Limits("relative", None)),
        ("bart", Limits("learned", 256)),
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
