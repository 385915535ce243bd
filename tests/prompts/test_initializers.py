"""First values: at the embeddings' scale, and saying what they do when the lengths differ."""

from dataclasses import replace

import pytest
import torch

from softprompt.errors import ConfigError, IncompatiblePromptError
from softprompt.prompts import initializers
from softprompt.prompts.parameterizations.direct import DirectPrompt
from softprompt.tasks.free_text import Text
from softprompt.tasks.template import Template
from softprompt.testing.conformance import prompt
from softprompt.testing.tiny import tiny_backbone

BACKBONE = tiny_backbone("gemma3")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def embedded(text):
    ids = BACKBONE.tokenizer.encode(text, add_special_tokens=False)
    return BACKBONE.embed(torch.tensor(ids)).float()


def test_random_rows_have_the_scale_of_the_embeddings():
    rows = initializers.from_random(BACKBONE, 200, generator()).rows
    assert rows.shape == (200, BACKBONE.embedding_size)
    assert float(rows.pow(2).mean().sqrt()) == pytest.approx(BACKBONE.embedding_rms, rel=0.05)


def test_vocabulary_rows_are_distinct_ordinary_tokens():
    rows = initializers.from_vocabulary(BACKBONE, 50, generator()).rows
    table = BACKBONE.embed(torch.arange(BACKBONE.vocab_size)).float()
    ids = torch.cdist(rows, table).argmin(1).tolist()
    assert len(set(ids)) == 50
    assert not set(ids) & set(BACKBONE.tokenizer.all_special_ids)


def test_vocabulary_repeats_when_it_runs_out():
    assert initializers.from_vocabulary(BACKBONE, 1000, generator()).rows.shape[0] == 1000


def test_text_is_repeated_or_cut_and_says_so():
    length = embedded("good film").shape[0]
    same, longer, shorter = (initializers.from_text(BACKBONE, n, "good film") for n in (length, length + 2, 1))
    assert torch.equal(same.rows, embedded("good film"))
    assert torch.equal(longer.rows[length:], same.rows[:2])
    assert f"repeated from {length} to {length + 2} rows" in longer.note
    assert f"cut from {length} to 1 rows" in shorter.note


def test_text_without_a_token_is_refused():
    with pytest.raises(ConfigError, match="the initial text `` has no token"):
        initializers.from_text(BACKBONE, 5, "")


def test_label_rows_are_means_of_their_tokens():
    start = initializers.from_labels(BACKBONE, 5, [" positive", " bad"], generator())
    assert torch.allclose(start.rows[0], embedded(" positive").mean(0))
    assert torch.allclose(start.rows[1], embedded(" bad").mean(0))
    assert start.note == "means of 2 labels, 3 sampled tokens"


def test_labels_beyond_the_prompt_are_left_out_and_said():
    start = initializers.from_labels(BACKBONE, 1, [" positive", " bad"], generator())
    assert "1 labels left out" in start.note


def test_another_prompt_is_repeated_or_cut():
    other = prompt(BACKBONE, 3)
    start = initializers.from_prompt(BACKBONE, 5, other)
    assert torch.equal(start.rows[3:], other.tensors["input"][:2])
    assert "repeated from 3 to 5 rows" in start.note


def test_how_the_other_prompt_is_written_and_read_does_not_matter_but_a_head_of_its_own_does():
    other = prompt(BACKBONE, 3)
    writes = replace(other, readout=Text(8), template=Template("{bos}{soft}{text}{sep}"))
    assert torch.equal(initializers.from_prompt(BACKBONE, 3, writes).rows, other.tensors["input"])
    head = torch.zeros(other.readout.outputs, BACKBONE.hidden_size)
    with pytest.raises(IncompatiblePromptError, match="needs `learned-rows`, which this use of it does not compute"):
        initializers.from_prompt(BACKBONE, 3, replace(other, tensors={**other.tensors, "readout.weight": head}))


def test_a_prompt_of_another_backbone_is_refused():
    with pytest.raises(IncompatiblePromptError):
        initializers.from_prompt(BACKBONE, 5, prompt(tiny_backbone("gpt2"), 3))


def test_length_must_be_positive():
    with pytest.raises(ConfigError, match="a prompt of 0 virtual tokens was asked for"):
        initializers.from_random(BACKBONE, 0, generator())


def test_direct_prompt_trains_a_copy_in_fp32():
    initial = torch.ones(4, 8, dtype=torch.bfloat16)
    direct = DirectPrompt(initial)
    assert direct.virtual_tokens.dtype == torch.float32
    assert sum(p.numel() for p in direct.parameters()) == 32
    direct.materialize()["input"].sum().backward()
    assert direct.virtual_tokens.grad.abs().min() > 0
