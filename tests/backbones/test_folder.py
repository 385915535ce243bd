"""Folders: what `save_pretrained` wrote loads again; what is missing or damaged is said."""

import json
import re

import pytest
import torch

from softprompt.backbones.backbone import load_backbone
from softprompt.errors import BackboneError, ConfigError, UnsupportedBackboneError
from softprompt.testing.tiny import TINY_ENCODERS, TINY_FAMILIES, TINY_SEQ2SEQ


def load_refused(folder, error, text):
    with pytest.raises(error, match=re.escape(text)):
        load_backbone(folder)


def edit_config(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_a_saved_folder_is_the_same_backbone(family, save, tmp_path):
    saved = save(tmp_path, family)
    loaded = load_backbone(tmp_path, dtype="fp32")
    assert loaded.fingerprint == saved.fingerprint
    assert loaded.limits == saved.limits
    assert loaded.embedding_rms == saved.embedding_rms
    assert (loaded.name, loaded.attention) == (str(tmp_path), saved.attention)
    rows = saved.embed(torch.tensor([[5, 90, 40]]))
    mask, positions = torch.ones(1, 3, dtype=torch.long), torch.arange(3)[None]
    found, wanted = (b.run(rows, mask=mask, positions=positions)[0] for b in (loaded, saved))
    torch.testing.assert_close(found, wanted)
    text = "A gripping film, naïve 12"
    assert loaded.tokenizer.encode(text) == saved.tokenizer.encode(text)


@pytest.mark.parametrize("family", [*TINY_ENCODERS, *TINY_SEQ2SEQ])
def test_a_saved_encoder_or_encoder_decoder_is_the_same_backbone(family, save, tmp_path):
    saved = save(tmp_path, family)
    loaded = load_backbone(tmp_path, dtype="fp32", device="cpu")
    assert loaded.fingerprint == saved.fingerprint
    assert (loaded.limits, loaded.capabilities, loaded.special) == (saved.limits, saved.capabilities, saved.special)
    assert (loaded.answer_start, loaded.attention) == (saved.answer_start, saved.attention)
    if loaded.head is not None:
        hidden = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(loaded.logits(hidden), saved.logits(hidden))
    text = "A gripping film, naïve 12"
    assert loaded.tokenizer.encode(text) == saved.tokenizer.encode(text)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "modernbert"])
def test_an_encoder_of_another_task_has_no_words(family, save, tmp_path):
    """Its weights say so: a classifier's folder holds no masked-language-model head."""
    from transformers import AutoModelForTokenClassification

    saved = save(tmp_path, family)
    AutoModelForTokenClassification.from_config(saved.model.config).save_pretrained(tmp_path)
    loaded = load_backbone(tmp_path, dtype="fp32", device="cpu")
    assert (loaded.head, loaded.kind) == (None, "encoder")
    assert "mask-readout" not in loaded.capabilities


@pytest.mark.parametrize("family", ["bert", "minilm"])
def test_a_pooler_is_left_out_whether_it_is_there_or_not(family, save, tmp_path):
    from transformers import AutoModel, AutoModelForPreTraining

    saved = save(tmp_path, family)
    whole = (AutoModelForPreTraining if family == "bert" else AutoModel).from_config(saved.model.config)
    whole.load_state_dict(saved.model.state_dict(), strict=False)
    assert any("pooler" in name for name, _ in whole.named_parameters())
    whole.save_pretrained(tmp_path)
    assert load_backbone(tmp_path, dtype="fp32", device="cpu").fingerprint == saved.fingerprint


def test_half_an_encoder_decoder_is_refused(save, tmp_path):
    from transformers import T5EncoderModel

    saved = save(tmp_path, "t5")
    T5EncoderModel(saved.model.config).save_pretrained(tmp_path)
    edit_config(tmp_path, is_encoder_decoder=True)
    load_refused(tmp_path, BackboneError, "lack ")


def test_a_folder_given_as_text_or_path(save, tmp_path, monkeypatch):
    save(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert load_backbone("model").fingerprint == load_backbone(tmp_path / "model").fingerprint


def test_attention_may_be_asked_for(save, tmp_path):
    save(tmp_path, "llama")
    assert load_backbone(tmp_path, device="cpu").attention == "grouped"
    assert load_backbone(tmp_path, attention="eager").attention == "eager"


def test_attention_that_computes_something_else_is_refused(save, tmp_path):
    save(tmp_path, "gemma2")
    with pytest.raises(ConfigError, match="attention `sdpa` was asked for, but Gemma 2 is served with `eager` only"):
        load_backbone(tmp_path, attention="sdpa")


def test_no_config(tmp_path):
    load_refused(
        tmp_path, BackboneError, f"`{tmp_path}` holds no config.json, so it is no backbone: give a folder that"
    )
    (tmp_path / "model.gguf").write_bytes(b"")
    load_refused(tmp_path, BackboneError, f"did you mean the file `{tmp_path / 'model.gguf'}`?")
    (tmp_path / "adapter_config.json").write_text("{}")
    load_refused(
        tmp_path, BackboneError, "it is a PEFT adapter; load the model it was trained on, and import the adapter"
    )


@pytest.mark.parametrize(("text", "reason"), [("{", "is not JSON"), ("[]", "holds no settings")])
def test_a_damaged_config(save, tmp_path, text, reason):
    save(tmp_path)
    (tmp_path / "config.json").write_text(text)
    load_refused(tmp_path, BackboneError, f"the config.json of `{tmp_path}` {reason}")


def test_a_family_that_is_not_served(save, tmp_path):
    save(tmp_path)
    edit_config(tmp_path, model_type="mamba")
    load_refused(
        tmp_path, UnsupportedBackboneError, f"`{tmp_path}` has model type `mamba`, which softprompt does not serve"
    )


def test_settings_that_contradict_the_weights(save, tmp_path):
    save(tmp_path)
    edit_config(tmp_path, hidden_size=40)
    load_refused(tmp_path, BackboneError, f"the model of `{tmp_path}` cannot be read (")


def test_more_layers_than_weights(save, tmp_path):
    save(tmp_path)
    edit_config(tmp_path, num_hidden_layers=3)
    load_refused(
        tmp_path, BackboneError, "lack 9 tensors (`model.layers.2.input_layernorm.weight` …); take a fresh copy"
    )


def test_no_weights(save, tmp_path):
    save(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    load_refused(
        tmp_path, BackboneError, "holds no .safetensors weights; convert them (softprompt reads no pickled files)"
    )


@pytest.mark.parametrize("keep", [0, 4, 1000, -100])
def test_damaged_weights(save, tmp_path, keep):
    save(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    load_refused(tmp_path, BackboneError, f"the weights of `{tmp_path}` are damaged (")


@pytest.mark.parametrize("text", ["{", "{}", None])
def test_a_damaged_or_missing_tokenizer(save, tmp_path, text):
    save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    load_refused(tmp_path, BackboneError, f"the tokenizer of `{tmp_path}` cannot be read (")


def test_a_tokenizer_without_a_fast_form(save, tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    class Slow:
        is_fast = False

    save(tmp_path)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: Slow())
    load_refused(tmp_path, UnsupportedBackboneError, "has no fast (tokenizers) form, which softprompt needs")


def test_loading_is_quiet_and_leaves_transformers_settings_alone(save, tmp_path, capsys):
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    save(tmp_path)
    capsys.readouterr()
    load_backbone(tmp_path)
    assert capsys.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)
