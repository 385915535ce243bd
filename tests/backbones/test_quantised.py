"""Quantised checkpoints: those that gradients pass through are loaded, the others refused by name."""

import importlib.util
import json

import pytest
import torch

from softprompt.backbones import quantised
from softprompt.backbones.backbone import load_backbone
from softprompt.backbones.quantised import loading_settings, quantisation_of, quantisation_refusal
from softprompt.errors import MissingExtraError, UnsupportedBackboneError

CPU = torch.device("cpu")
BITS = {"quantization_config": {"load_in_4bit": True, "quant_method": "bitsandbytes"}}


def test_how_a_checkpoint_says_that_it_is_quantised():
    assert quantisation_of({}) is None
    assert quantisation_of(BITS) == "bitsandbytes"
    assert quantisation_of({"quantization_config": {"load_in_8bit": True}}) == "bitsandbytes"
    assert quantisation_of({"quantization_config": {"bits": 4}}) == "unknown"


@pytest.mark.parametrize("method", ["gptq", "awq", "mxfp4", "unknown"])
def test_what_gradients_do_not_pass_is_refused(method):
    reason = quantisation_refusal({"quantization_config": {"quant_method": method}})
    assert reason is not None
    assert f"with weights quantised by `{method}`, through which gradients are not exact" in reason
    assert reason.endswith("take the original, a GGUF, or one quantised by `bitsandbytes` or `fp8`")
    assert quantisation_refusal(BITS) is None
    assert quantisation_refusal({}) is None


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match="the weights of `x` are quantised by `bitsandbytes`, which needs an ext"
    ):
        loading_settings(BITS, "x", CPU)


def test_the_weights_go_where_they_were_asked_for(monkeypatch):
    monkeypatch.setattr(quantised, "find_spec", lambda name: object())
    assert loading_settings(BITS, "x", CPU) == {"device_map": {"": CPU}}
    assert loading_settings({}, "x", CPU) == {}


def in_fp8(folder):
    """Turn the projections of a saved folder into block-wise fp8, and return what they stand for."""
    from safetensors.torch import load_file, save_file

    path, config = folder / "model.safetensors", folder / "config.json"
    tensors, meant = {}, {}
    for name, weight in load_file(path).items():
        if name.endswith("proj.weight"):
            scale = weight.abs().max().reshape(1, 1) / 448
            tensors[name], tensors[f"{name}_scale_inv"] = (weight / scale).to(torch.float8_e4m3fn), scale
            meant[name] = tensors[name].float() * scale
        else:
            tensors[name] = weight
    save_file(tensors, path, metadata={"format": "pt"})
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic", "fmt": "e4m3"}
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": settings}))
    return meant


def test_fp8_becomes_what_it_stands_for_and_takes_gradients(save, tmp_path):
    saved = save(tmp_path, "qwen3")
    meant = in_fp8(tmp_path)
    backbone = load_backbone(tmp_path, dtype="fp32")
    parameters = dict(backbone.model.named_parameters())
    assert meant
    for name, weight in meant.items():
        torch.testing.assert_close(parameters[name].data, weight)
    rows = backbone.embed(torch.tensor([[5, 90, 40]])).requires_grad_()
    mask = torch.ones(1, 3, dtype=torch.long)
    backbone.run(rows, mask=mask, positions=mask.cumsum(1) - 1)[0].sum().backward()
    assert rows.grad is not None
    assert saved.fingerprint.differs(backbone.fingerprint) == "weights"


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("bits", "near"), [(4, 1e-5), (8, 5e-2)])
def test_gradients_pass_through_bitsandbytes(bits, near, tmp_path):
    """Those of 4 bits are the gradients of the weights they stand for; with 8, activations are rounded too."""
    from transformers import BitsAndBytesConfig

    from softprompt.testing.tiny import tiny_backbone

    dense = tiny_backbone("llama", hidden_size=128, intermediate_size=128)
    dense.model.save_pretrained(tmp_path / "dense")
    settings = {f"load_in_{bits}bit": True, "bnb_4bit_compute_dtype": torch.float32}
    packed = type(dense.model).from_pretrained(
        tmp_path / "dense", quantization_config=BitsAndBytesConfig(**settings), device_map={"": "cpu"}
    )
    packed.save_pretrained(tmp_path / "packed")
    dense.tokenizer.save_pretrained(tmp_path / "packed")
    backbone = load_backbone(tmp_path / "packed", dtype="fp32", device="cpu")
    assert backbone.fingerprint.differs(dense.fingerprint) == "weights"
    rows = dense.embed(torch.tensor([[5, 90, 40]])).requires_grad_()
    mask = torch.ones(1, 3, dtype=torch.long)

    def slope(model):
        hidden = model(inputs_embeds=rows, attention_mask=mask).last_hidden_state
        return torch.autograd.grad(hidden.square().sum(), rows)[0]

    found = slope(backbone.model.base_model)
    wanted = slope(backbone.model.dequantize(dtype=torch.float32).base_model)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < near


def test_a_refused_quantisation_is_refused_before_its_weights_are_read(save, tmp_path):
    save(tmp_path)
    config = tmp_path / "config.json"
    settings = {"quantization_config": {"quant_method": "gptq"}}
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UnsupportedBackboneError, match="with weights quantised by `gptq`"):
        load_backbone(tmp_path)
