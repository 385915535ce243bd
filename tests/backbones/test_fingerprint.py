"""What makes two backbones the same."""

import dataclasses

import pytest
import torch

from softprompt.backbones.backbone import Backbone, load_backbone
from softprompt.backbones.fingerprint import Fingerprint, architecture_digest, weights_digest
from softprompt.testing.tiny import TINY_ENCODERS, TINY_FAMILIES, TINY_SEQ2SEQ, tiny_backbone


@pytest.mark.parametrize("family", [*TINY_FAMILIES, *TINY_ENCODERS, *TINY_SEQ2SEQ])
def test_bf16_and_fp32_loads_agree(family, save, tmp_path):
    save(tmp_path, family)
    bf16, fp32 = load_backbone(tmp_path, dtype="bf16"), load_backbone(tmp_path, dtype="fp32")
    assert (bf16.dtype, fp32.dtype) == (torch.bfloat16, torch.float32)
    assert weights_digest(bf16.model) == weights_digest(fp32.model)
    assert bf16.fingerprint == fp32.fingerprint


def test_one_changed_weight_is_another_fingerprint():
    backbone = tiny_backbone("llama")
    before = weights_digest(backbone.model)
    weight = backbone.model.model.layers[1].mlp.up_proj.weight
    kept = weight[3, 4].clone()
    weight[3, 4] += 1.0
    assert weights_digest(backbone.model) != before
    weight[3, 4] = kept
    assert weights_digest(backbone.model) == before


def test_weights_that_trade_places_are_other_weights():
    backbone = tiny_backbone("llama")
    before = weights_digest(backbone.model)
    one, two = (backbone.model.model.layers[i].mlp.up_proj for i in (0, 1))
    one.weight, two.weight = two.weight, one.weight
    assert weights_digest(backbone.model) != before


def test_the_fingerprint_of_the_weights_is_remembered_while_the_file_stays(save, tmp_path, monkeypatch):
    save(tmp_path)
    first = load_backbone(tmp_path).fingerprint

    def again(_):
        raise AssertionError("hashed again")

    monkeypatch.setattr("softprompt.backbones.folder.weights_digest", again)
    assert load_backbone(tmp_path).fingerprint == first
    monkeypatch.undo()
    save(tmp_path, seed=1)
    assert load_backbone(tmp_path).fingerprint.differs(first) == "weights"


def test_a_cache_that_cannot_be_written_or_read_costs_only_time(save, tmp_path, home):
    save(tmp_path / "model")
    first = load_backbone(tmp_path / "model").fingerprint
    digests = home / "cache" / "digests"
    for path in digests.iterdir():
        path.write_bytes(b"\xff\xfe")
    assert load_backbone(tmp_path / "model").fingerprint == first
    for path in digests.iterdir():
        path.unlink()
    digests.rmdir()
    digests.write_text("a file where the folder should be")
    assert load_backbone(tmp_path / "model").fingerprint == first


def test_another_tokenizer_is_another_fingerprint():
    backbone = tiny_backbone()
    other = tiny_backbone()
    other.tokenizer.add_tokens(["gripping"])  # beyond the embedding table, and yet it changes how text is cut
    assert len(other.tokenizer) == 301
    assert backbone.fingerprint.differs(other.fingerprint) is None
    lowered = tiny_backbone()
    from tokenizers import normalizers

    lowered.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert backbone.fingerprint.differs(lowered.fingerprint) == "tokenizer"


def test_tokens_without_an_embedding_do_not_count():
    backbone = tiny_backbone()
    backbone.tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    assert backbone.fingerprint.tokenizer == tiny_backbone().fingerprint.tokenizer


@pytest.mark.parametrize("settings", [{"num_hidden_layers": 3}, {"rms_norm_eps": 1e-3}, {"hidden_act": "relu"}])
def test_another_architecture_is_another_fingerprint(settings):
    backbone = tiny_backbone("llama")
    assert backbone.fingerprint.differs(tiny_backbone("llama", **settings).fingerprint) == "architecture"


def test_a_setting_rounded_by_a_file_format_is_the_same_architecture():
    backbone = tiny_backbone("llama", rms_norm_eps=1e-6)
    before = architecture_digest(backbone.model)
    backbone.model.config.rms_norm_eps = 9.999999974752427e-07
    backbone.model.config.transformers_version = "0"
    backbone.model.config.use_cache = False
    assert architecture_digest(backbone.model) == before


def test_tied_and_untied_heads_are_two_architectures():
    tied, untied = (tiny_backbone("llama", tie_word_embeddings=tied) for tied in (True, False))
    assert tied.fingerprint.differs(untied.fingerprint) == "architecture"


def test_the_gravest_difference_is_named_first():
    base = Fingerprint("a", "t", "w", "module")
    order = ["architecture", "tokenizer", "embedding_scale", "weights"]
    changed = dict.fromkeys(order, "other")
    for name in order:
        assert base.differs(Fingerprint(**{**dataclasses.asdict(base), **changed})) == name
        del changed[name]
    assert base.differs(Fingerprint("a", "t", "w", "module")) is None


def test_json_there_and_back():
    fingerprint = tiny_backbone().fingerprint
    assert Fingerprint.from_json(fingerprint.to_json()) == fingerprint
    assert {len(value) for name, value in fingerprint.to_json().items() if name != "embedding_scale"} == {64}
    with pytest.raises(ValueError, match="a backbone fingerprint needs text under `weights`, found 3"):
        Fingerprint.from_json({**fingerprint.to_json(), "weights": 3})


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("t5", {"relative_attention_max_distance": 64}),
        ("t5", {"tie_word_embeddings": False}),
        ("bart", {"scale_embedding": True}),
        ("bart", {"decoder_start_token_id": 2}),
        ("roberta", {"pad_token_id": 1}),
        ("modernbert", {"local_attention": 16}),
        ("bert", {"hidden_act": "relu"}),
    ],
)
def test_a_setting_of_the_other_kinds_is_another_architecture(family, settings):
    backbone = tiny_backbone(family)
    assert backbone.fingerprint.differs(tiny_backbone(family, **settings).fingerprint) == "architecture"


def test_an_output_bias_that_is_a_buffer_counts():
    backbone = tiny_backbone("bart")
    before = weights_digest(backbone.model)
    backbone.model.final_logits_bias[0, 7] = 1.0
    assert weights_digest(backbone.model) != before


def test_fp16_weights_have_the_digest_of_their_files(save, tmp_path, monkeypatch):
    """fp16 has no room for small numbers that bf16 keeps, so the files are read again."""
    from softprompt.backbones import folder

    backbone = save(tmp_path, "llama")
    backbone.model.model.layers[0].mlp.up_proj.weight.data.mul_(1e-7)
    backbone.model.save_pretrained(tmp_path)
    monkeypatch.setattr(folder, "choose_dtype", lambda *_, **__: torch.float16)
    half = load_backbone(tmp_path, device="cpu")
    assert half.dtype == torch.float16
    assert weights_digest(half.model) != weights_digest(backbone.model)
    assert half.fingerprint.weights == weights_digest(backbone.model)


def test_weights_given_by_a_caller_are_taken():
    backbone = tiny_backbone()
    given = Backbone(backbone.model, backbone.tokenizer, name="mine", weights=lambda: "abc")
    assert given.fingerprint.weights == "abc"
