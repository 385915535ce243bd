"""The token trie against brute force over whole sequences."""

import math

import pytest
import torch

from softprompt.errors import DataError, TemplateError
from softprompt.modeling.labels import LabelTrie
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template
from softprompt.testing.tiny import tiny_backbone, tiny_tokenizer

LABELS = ["spam", "spam free", "spam free prize", "ham", "negative", "neutral", "no"]
ROW = {"text": "a gripping film"}


def log_softmax_after(backbone, ids):
    """Log-probabilities of the next token by one plain forward over the whole sequence."""
    with torch.no_grad():
        logits = backbone.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    return torch.log_softmax(logits.double(), dim=-1)


def terminated(readout, tokenizer):
    words = [tokenizer.encode(word, add_special_tokens=False) for word in readout.words]
    return [[*w, tokenizer.eos_token_id] if any(o != w and o[: len(w)] == w for o in words) else w for w in words]


def context(backbone, template):
    tokenized = template.tokenize(backbone.tokenizer, 0)
    return [*tokenized.prefix, *tokenized.row(ROW).ids]


def score(backbone, readout):
    template = Template("{bos}Text: {text}\nLabel:")
    model = PromptedModel(backbone)
    return context(backbone, template), model.score_labels([ROW], model.bare(template, readout)).log_probabilities[0]


def test_full_scoring_is_the_sequence_log_probability_over_the_vocabulary():
    backbone = tiny_backbone("gemma3")
    readout = LabelWords.from_labels(LABELS, scoring="full")
    before, found = score(backbone, readout)
    sums = [
        sum(log_softmax_after(backbone, before + word[:i])[token] for i, token in enumerate(word))
        for word in terminated(readout, backbone.tokenizer)
    ]
    assert torch.allclose(found.double(), torch.log_softmax(torch.stack(sums), 0), atol=1e-5)


def test_trie_scoring_is_the_product_over_branching_nodes():
    backbone = tiny_backbone("gemma3")
    readout = LabelWords.from_labels(LABELS)
    before, found = score(backbone, readout)
    words = terminated(readout, backbone.tokenizer)

    def brute(word):
        total = 0.0
        for i, token in enumerate(word):
            options = sorted({other[i] for other in words if other[:i] == word[:i]})
            if len(options) > 1:
                logp = log_softmax_after(backbone, before + word[:i])[options]
                total += float(torch.log_softmax(logp, 0)[options.index(token)])
        return total

    expected = torch.tensor([brute(word) for word in words], dtype=torch.float64)
    assert torch.allclose(found.double(), expected, atol=1e-5)
    assert math.isclose(float(found.double().exp().sum()), 1.0, abs_tol=1e-5)


def test_single_token_labels_need_no_second_pass():
    tokenizer = tiny_tokenizer()
    trie = LabelTrie.build(LabelWords(("a", "b"), ("a", "b")), tokenizer)
    assert trie.depth == 0
    assert trie.continuations == ((),)


def test_only_branching_nodes_are_scored():
    trie = LabelTrie.build(LabelWords.from_labels(["spam", "ham"]), tiny_tokenizer())
    assert all(len(node.children) > 1 for node in trie.nodes)


def test_labels_with_the_same_tokens_are_refused():
    class Folding:
        bos_token_id = None
        eos_token_id = 1

        def encode(self, text, *, add_special_tokens=True):
            return [ord(c) for c in text.lower()]

    with pytest.raises(DataError, match="the labels `Yes` and `yes` have the same tokens"):
        LabelTrie.build(LabelWords.from_labels(["Yes", "yes"]), Folding())


def test_a_label_that_begins_another_needs_an_end_of_sequence():
    class Endless:
        bos_token_id = None
        eos_token_id = None

        def encode(self, text, *, add_special_tokens=True):
            return [ord(c) for c in text]

    with pytest.raises(TemplateError, match="the words of `no` begin those of another label"):
        LabelTrie.build(LabelWords.from_labels(["no", "not"]), Endless())
