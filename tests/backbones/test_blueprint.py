"""A model counted without its weights has what the model with its weights has, to the last number."""

from __future__ import annotations

import json

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from softprompt.backbones import blank as blanks
from softprompt.backbones.blank import blank_model, config_settings
from softprompt.backbones.blueprint import blueprint, blueprint_of
from softprompt.backbones.presets import PRESETS
from softprompt.errors import BackboneError, UnknownNameError, UnsupportedBackboneError
from softprompt.testing.tiny import SPECIAL_FAMILIES, TINY_ENCODERS, TINY_FAMILIES, TINY_SEQ2SEQ, tiny_backbone

ALL = (*TINY_FAMILIES, *SPECIAL_FAMILIES, *TINY_ENCODERS, *TINY_SEQ2SEQ)


def settings_of(backbone):
    return {**backbone.model.config.to_dict(), "architectures": [type(backbone.model).__name__]}


@pytest.mark.parametrize("family", ALL)
def test_every_family_is_counted_as_it_is_built(family):
    backbone = tiny_backbone(family)
    found = blueprint(settings_of(backbone))
    model = backbone.model
    assert found.total == found.active == sum(weight.numel() for weight in model.parameters())
    assert (found.kind, found.embedding_size, found.hidden_size) == (
        backbone.kind, backbone.embedding_size, backbone.hidden_size,
    )  # fmt: skip
    assert len(found.layers) == backbone.num_layers
    assert found.vocabulary == backbone.vocab_size
    head = model.get_output_embeddings()
    assert found.tied == (head is not None and head.weight is model.get_input_embeddings().weight)
    biases = sum(p.numel() for name, p in model.base_model.named_parameters() if name.endswith("bias"))
    assert found.biases == biases
    kinds = (torch.nn.Linear, Conv1D)
    assert sum(each.weights for each in found.linears) == sum(
        module.weight.numel() for module in model.modules() if isinstance(module, kinds)
    )


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_heads_are_those_of_the_keys_and_values_that_a_decoder_makes(family):
    backbone = tiny_backbone(family)
    row = backbone.embed(torch.tensor([[3, 4, 5]]))
    made = backbone.key_values(row, mask=torch.ones(1, 3, dtype=torch.long), positions=torch.arange(3)[None])
    layers = blueprint(settings_of(backbone)).layers
    assert [(layer.key_values, layer.size) for layer in layers] == [(k.shape[1], k.shape[3]) for k, _ in made]


def test_windows_are_those_of_each_layer():
    assert [layer.window for layer in blueprint(settings_of(tiny_backbone("gemma3"))).layers] == [8, None]
    assert [layer.window for layer in blueprint(settings_of(tiny_backbone("mistral"))).layers] == [8, 8]
    assert [layer.window for layer in blueprint(settings_of(tiny_backbone("llama"))).layers] == [None, None]
    assert [layer.window for layer in blueprint("gemma-3-270m").layers] == ([512] * 5 + [None]) * 3


PUBLISHED = {
    "gpt2": 124_439_808, "gpt2-xl": 1_557_611_200, "bert-base": 109_514_298, "roberta-large": 355_412_057,
    "t5-small": 76_961_152, "t5-xxl": 11_135_332_352, "llama-3.1-8b": 8_030_261_248, "qwen3-8b": 8_190_735_360,
    "llama-3.1-405b": 405_853_388_800, "mistral-7b": 7_241_732_096, "gemma-3-270m": 268_098_176,
    "qwen3-30b-a3b": 30_532_122_624,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_sizes_of_the_released_checkpoints(name):
    assert blueprint(name).total == PUBLISHED[name]


def test_the_paper_s_175_billion_are_counted_in_a_moment():
    found = blueprint("GPT-3")
    assert 174.6e9 < found.total < 175e9
    assert (found.embedding_size, len(found.layers), found.layers[0].heads) == (12_288, 96, 96)


def test_of_experts_those_that_take_part_are_active():
    found = blueprint("qwen3-30b-a3b")
    assert found.experts == (128, 8)
    assert found.groups["experts"] == 48 * 128 * 3 * 2048 * 768
    assert found.active == found.total - found.groups["experts"] * 120 // 128
    assert 3.2e9 < found.active < 3.4e9


def test_a_folder_a_file_and_a_text_part_are_read(tmp_path):
    settings = dict(PRESETS["gpt2"])
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert blueprint(tmp_path).total == blueprint(tmp_path / "config.json").total == PUBLISHED["gpt2"]
    whole = {"model_type": "gemma3", "text_config": {**PRESETS["gemma-3-270m"]}, "vision_config": {}}
    found = blueprint(whole)
    assert found.total == PUBLISHED["gemma-3-270m"]
    assert "no images" in found.notes[0]
    packed = blueprint({**settings, "quantization_config": {"quant_method": "gptq"}})
    assert packed.total == PUBLISHED["gpt2"]
    assert "quantised by `gptq`" in packed.notes[0]


def test_of_a_hub_model_the_configuration_alone_is_fetched(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(dict(PRESETS["gpt2"])))
    asked = []
    monkeypatch.setattr(blanks, "config_folder", lambda source, revision: asked.append((source, revision)) or tmp_path)
    assert blueprint("owner/name", revision="v1").total == PUBLISHED["gpt2"]
    assert asked == [("owner/name", "v1")]


@pytest.mark.parametrize(
    ("source", "kind", "text"),
    [
        ("gpt-4-175b", UnknownNameError, "did you mean `gpt-3-175b`"),
        ("missing.json", UnknownNameError, "A hub id is written `owner/name`"),
        ({"model_type": "no-such"}, UnsupportedBackboneError, "`no-such` has model type `no-such`, and transformers"),
        ({"model_type": "llama", "hidden_act": "none"}, UnsupportedBackboneError, "cannot be built without weights"),
        ({"model_type": "deepseek_v3", "num_hidden_layers": 2}, UnsupportedBackboneError, "one compressed vector for"),
        ({"model_type": "qwen3_next", "num_hidden_layers": 4}, UnsupportedBackboneError, "kind `linear_attention`"),
    ],
)
def test_what_cannot_be_counted(source, kind, text):
    with pytest.raises(kind, match=text):
        blueprint(source)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("model.bin", "", "is no config.json; give one"),
        ("config.json", "{", "cannot be read as a configuration"),
        ("config.json", "[]", "holds no settings; take a fresh copy"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, name, content, text):
    (tmp_path / name).write_text(content)
    with pytest.raises(BackboneError, match=text):
        config_settings(tmp_path / name)


def test_plain_values_can_be_written_down():
    told = json.loads(json.dumps(blueprint("t5-small").to_json()))
    assert told["parameters"] == PUBLISHED["t5-small"]
    assert told["tied"] is False
    assert {each["stack"] for each in told["linears"]} == {"encoder", "decoder"}
    assert blueprint_of(blank_model("t5-small")).multiplied == sum(
        each.weights for each in blueprint("t5-small").linears if each.group != "head"
    )
