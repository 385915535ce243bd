"""Tiny tokenizers, trained on a few lines on the spot, with the special tokens of each kind of transformer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

VOCABULARY = 300

_TEXT = """A gripping film with a warm heart: good, great, wonderful, positive.
A dull film without a plot: bad, awful, negative.
Text: the actors are great and the music is good. Label: positive.
Review: the story is bad and the ending worse. Sentiment: negative.
WINNER! Reply now to claim your free prize: spam. See you at home for dinner tonight: ham.
Yes or no? True, false, neutral."""


class Style(NamedTuple):
    """How a tokenizer cuts text, and what it puts around a row.

    Attributes:
        special: its special tokens, by transformers' names; ids 0, 1, 2 … in this order.
        row: what it puts around a row `$A`; None: nothing.
        words: it knows words and letters, as BERT does, and not bytes.
    """

    special: Mapping[str, str]
    row: str | None = None
    words: bool = False


_ROBERTA = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "mask": "<mask>", "cls": "<s>", "sep": "</s>"}
_BERT = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]", "unk": "[UNK]"}
STYLES: Mapping[str, Style] = {
    "decoder": Style({"bos": "<s>", "eos": "</s>", "pad": "<pad>"}),
    "bert": Style(_BERT, "[CLS] $A [SEP]", words=True),
    "modernbert": Style(_BERT, "[CLS] $A [SEP]"),
    "roberta": Style(_ROBERTA, "<s> $A </s>"),
    "t5": Style({"unk": "<unk>", "eos": "</s>", "pad": "<pad>"}, "$A </s>"),
}


def tiny_tokenizer(style: str = "decoder") -> Any:
    """Return a tokenizer of 300 tokens, trained on a few lines.

    Args:
        style: one of `STYLES`; all but `bert` work on bytes, so that any text can be said in them.
    """
    return fast_tokenizer(STYLES[style], _trained(style))


def fast_tokenizer(style: Style, trained: Any) -> Any:
    """Wrap a trained tokenizer for transformers."""
    from transformers import PreTrainedTokenizerFast

    named: dict[str, Any] = {f"{name}_token": token for name, token in style.special.items()}
    return PreTrainedTokenizerFast(tokenizer_object=trained, clean_up_tokenization_spaces=False, **named)


@cache
def _trained(style: str) -> Any:
    return trained_on(STYLES[style], _TEXT.splitlines(), VOCABULARY)


def trained_on(style: Style, lines: Sequence[str], size: int) -> Any:
    """Train a tokenizer of at most `size` tokens on some lines; its mask swallows the space before, as RoBERTa's."""
    from tokenizers import AddedToken, processors

    special = list(dict.fromkeys(style.special.values()))
    added = [AddedToken(token, lstrip=token == style.special.get("mask"), special=True) for token in special]
    tokenizer = _word_pieces(added, lines, size) if style.words else _bytes(added, lines, size)
    if style.row:
        used = [(token, special.index(token)) for token in special if token in style.row]
        tokenizer.post_processor = processors.TemplateProcessing(single=style.row, special_tokens=used)
    return tokenizer


def _bytes(special: list[Any], lines: Sequence[str], size: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def _word_pieces(special: list[Any], lines: Sequence[str], size: int) -> Any:
    """The words of the lines and single characters: the library's own training gives other ids each time."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    text = " ".join(lines).lower()
    letters = sorted(set(text) - {" "})
    words = re.findall(r"\w+", text)
    pieces = [
        *(token.content for token in special),
        *letters,
        *(f"##{letter}" for letter in letters),
        *sorted(set(words), key=words.index),
    ]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces[:size]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer
