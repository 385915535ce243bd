"""Perplexity on other text: transformers' own, window by window, and what a fit does to it."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pytest
import torch
from torch.nn.functional import cross_entropy

from softprompt.errors import DataError
from softprompt.methods import forgetting
from softprompt.methods.forgetting import Forgot, measure_forgetting, other_text, perplexity
from softprompt.methods.method import Fitted
from softprompt.testing.tiny import tiny_backbone

TEXT = "the story of the film was warm and the music dull " * 8


@pytest.fixture
def backbone():
    return tiny_backbone("gemma3")


def whole(backbone, text):
    """The same by transformers alone, all logits at once, for a text of one window."""
    ids = torch.tensor([[backbone.bos, *backbone.tokenizer.encode(text, add_special_tokens=False)]])
    with torch.no_grad():
        logits = backbone.model(input_ids=ids).logits
    return math.exp(cross_entropy(logits[0, :-1], ids[0, 1:]))


def test_it_is_that_of_transformers(backbone):
    assert perplexity(backbone, TEXT) == pytest.approx(whole(backbone, TEXT), rel=1e-5)


def test_a_long_text_is_cut_into_windows_behind_the_first_token(backbone, monkeypatch):
    monkeypatch.setattr(forgetting, "WINDOW", 20)
    ids = backbone.tokenizer.encode(TEXT, add_special_tokens=False)
    windows = list(forgetting._windows(backbone, TEXT))
    assert [token for window in windows for token in window[1:]] == ids
    assert {window[0] for window in windows} == {backbone.bos}
    assert max(map(len, windows)) == 20
    losses = [loss for window in windows for loss in forgetting._losses(backbone, window)]
    assert perplexity(backbone, TEXT) == pytest.approx(math.exp(sum(losses) / len(ids)))


def test_windows_fit_the_backbone_and_its_first_token_may_lack(backbone, monkeypatch):
    assert max(map(len, forgetting._windows(backbone, TEXT * 40))) == backbone.max_positions == 256
    monkeypatch.setattr(backbone, "bos", None)
    ids = backbone.tokenizer.encode(TEXT, add_special_tokens=False)
    assert list(forgetting._windows(backbone, TEXT)) == [ids]
    assert len(forgetting._losses(backbone, ids)) == len(ids) - 1


def test_chunks_of_positions_change_nothing(backbone, monkeypatch):
    before = perplexity(backbone, TEXT)
    monkeypatch.setattr(forgetting, "_POSITIONS", 7)
    assert perplexity(backbone, TEXT) == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_what_does_not_read_left_to_right_has_none(family):
    backbone = tiny_backbone(family)
    assert perplexity(backbone, TEXT) is None
    assert measure_forgetting(None, Fitted(None, 0, 0, 0.7), backbone, TEXT) is None


def test_a_single_token_has_none(backbone, monkeypatch):
    monkeypatch.setattr(backbone, "bos", None)
    monkeypatch.setattr(backbone.tokenizer, "encode", lambda text, add_special_tokens: [5])
    with pytest.raises(DataError, match=r"the text 'x' is too short for a perplexity; give a page or more"):
        perplexity(backbone, "x")


def test_a_method_that_leaves_the_weights_alone_changes_nothing_to_the_last_bit(backbone):
    before = perplexity(backbone, TEXT)
    found = measure_forgetting(before, Fitted(None, 20, 80, 0.7), backbone, TEXT)
    assert found == Forgot(before, before, before)
    assert found.notes == ()


def test_on_and_off_are_measured_apart(backbone):
    before = perplexity(backbone, TEXT)
    weight = next(backbone.model.parameters())
    own, learned = weight.detach().clone(), weight.detach() + 0.3

    @contextmanager
    def off():
        weight.data.copy_(own)
        yield
        weight.data.copy_(learned)

    fitted = Fitted(None, 1, 4, 0.7, off=off, switch=lambda: weight.data.copy_(learned))
    found = measure_forgetting(before, fitted, backbone, TEXT)
    assert found.off == before
    assert found.on != before
    assert found.notes == ()
    assert torch.equal(weight, learned)


def test_what_cannot_be_put_aside_is_told(backbone):
    before = perplexity(backbone, TEXT)
    next(backbone.model.parameters()).data.add_(0.3)
    found = measure_forgetting(before, Fitted(None, 1, 4, 0.7), backbone, TEXT)
    assert found.off == found.on != before
    assert found.notes == (
        "its adaptation cannot be put aside: for the model as it was, another copy has to be loaded",
    )


def test_our_text_comes_with_the_package_and_another_may_be_given(tmp_path):
    assert 500 < len(other_text().split()) < 800
    file = tmp_path / "mine.txt"
    file.write_text(" one two three \n", encoding="utf-8")
    assert other_text(file) == "one two three"


def test_a_file_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot read other text from `.*missing.txt` .*; give a UTF-8 text file"):
        other_text(tmp_path / "missing.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"cannot read other text from `.*binary`"):
        other_text(tmp_path / "binary")
    (tmp_path / "word.txt").write_text("word", encoding="utf-8")
    with pytest.raises(DataError, match=r"`.*word.txt` holds 1 words; perplexity needs running text, a page or more"):
        other_text(tmp_path / "word.txt")
