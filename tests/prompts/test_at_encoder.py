"""Rows for the encoder of an encoder-decoder, and what first values need of a head for masks and of the vocabulary."""

import torch

from softprompt.prompts.initializers import bias_of_words, from_prompt, from_text, nearest_tokens
from softprompt.prompts.parameterizations.at_encoder import AtEncoder
from softprompt.prompts.parameterizations.direct import DirectPrompt
from softprompt.testing.row_conformance import prompt
from softprompt.testing.tiny import tiny_backbone


def test_rows_change_their_site_and_nothing_else():
    inner = DirectPrompt(torch.ones(4, 8), scale=0.5)
    outer = AtEncoder(inner)
    assert outer.name == "direct"
    assert list(outer.materialize()) == ["encoder.input"]
    assert outer.materialize()["encoder.input"] is inner.virtual_tokens
    assert [(group.scale, *group.parameters) for group in outer.groups()] == [(0.5, inner.virtual_tokens)]


def test_other_sites_stay():
    layered = DirectPrompt(torch.ones(1, 2))
    layered.materialize = lambda: {"layers.0.key": torch.ones(1, 2, 3)}
    assert list(AtEncoder(layered).materialize()) == ["layers.0.key"]


def test_the_nearest_tokens_of_embedded_tokens_are_those_tokens():
    backbone = tiny_backbone("t5")
    ids = backbone.tokenizer.encode("a gripping film", add_special_tokens=False)
    rows = from_text(backbone, len(ids), "a gripping film").rows
    assert nearest_tokens(backbone, rows).tolist() == ids
    assert nearest_tokens(backbone, rows + 1e-3).tolist() == ids


def test_words_bring_the_bias_of_their_output_rows():
    bert, words = tiny_backbone("bert"), ["good", "bad film"]
    ids = [bert.tokenizer.encode(word, add_special_tokens=False) for word in words]
    bias = bert.model.get_output_embeddings().bias
    torch.testing.assert_close(bias_of_words(bert, words), torch.stack([bias[each].mean() for each in ids]))
    for family in ("llama", "minilm", "t5"):  # no bias, or no head at all
        assert bias_of_words(tiny_backbone(family), words).tolist() == [0.0, 0.0]


def test_a_prompt_starts_from_the_rows_of_another_at_the_encoder():
    backbone = tiny_backbone("t5")
    other = prompt(backbone, 4)
    assert torch.equal(from_prompt(backbone, 4, other).rows, other.tensors["encoder.input"])
