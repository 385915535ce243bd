"""From a readout and a backbone to a reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.errors import SoftPromptError, TemplateError, UnsupportedBackboneError
from softprompt.modeling.labels import LabelTrie
from softprompt.modeling.readings import Gold, Reading
from softprompt.modeling.rows import RowsReading, SwitchesReading, TagsReading, as_they_are
from softprompt.modeling.text import ChatReading, TextReading
from softprompt.modeling.words import WordsReading, YesNoReading
from softprompt.shapes import Float
from softprompt.tasks.chat import TokenizedChat
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords, Readout
from softprompt.tasks.readout_kinds import Scalar, YesNo
from softprompt.tasks.tags import TokenTags
from softprompt.tasks.task import Example
from softprompt.tasks.template import Mask, Template, TokenizedTemplate


def reading_of(
    backbone: Backbone, readout: Readout, template: TokenizedTemplate, tensors: Mapping[str, Tensor]
) -> Reading:
    """Return what reads a readout's answers on a backbone, by learned rows if there are some among `tensors`.

    Raises:
        DataError: two labels become the same tokens.
        TemplateError: words that do not tell answers apart at their first token, where they must; or an encoder is to
            read words and the template has no mask, or a word is several tokens.
        UnsupportedBackboneError: the backbone gives no such answers, or has no head that scores words and there are
            no learned rows.
    """
    rows = _learned_rows(tensors)
    _check_kind(backbone, readout, template)
    refused = words_refused(backbone, readout, template.template)
    if refused is not None and rows is None:
        raise refused
    before = as_they_are if backbone.head is None else backbone.head.states
    if isinstance(readout, Text):
        return _text(backbone, readout, template)
    if isinstance(readout, TokenTags):
        tags = {tag: i for i, tag in enumerate(readout.tags)}
        return TagsReading(
            *(rows or _rows_of_words(backbone, readout.words)),
            lambda example: tuple(tags[tag] for tag in example.labels),
            learned=rows is not None,
            before=before,
        )
    if isinstance(readout, YesNo):
        if rows is not None:
            return SwitchesReading(
                *rows, lambda example: tuple(int(n in example.labels) for n in readout.labels), before=before
            )
        return _yes_no(backbone, readout)
    to_gold = _to_gold(readout)
    if rows is not None:
        return RowsReading(*rows, to_gold, before=before)
    return WordsReading(_trie(backbone, readout), backbone.logits, to_gold)


def _learned_rows(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """The prompt's own rows [C, D] and their bias [C], which is zero where it has none; None where it has no rows."""
    weight = tensors.get("readout.weight")
    if weight is None:
        return None
    bias = tensors.get("readout.bias")
    return weight, torch.zeros(len(weight), device=weight.device) if bias is None else bias


def _rows_of_words(backbone: Backbone, words: Sequence[str]) -> tuple[Tensor, Tensor]:
    rows = mean_rows(backbone, words).to(backbone.device)
    return rows, torch.zeros(len(rows), device=backbone.device)


def words_refused(backbone: Backbone, readout: Readout, template: Template) -> SoftPromptError | None:
    """Return why a backbone cannot answer by its own words, so that learned rows must do it; None where it can.

    An encoder puts nothing behind a row: it fills in one mask, with one token.
    """
    if isinstance(readout, Text) or backbone.kind != "encoder":
        return None
    name, instead = f"`{backbone.name}` ({backbone.family.title}, encoder)", "learned_rows=true"
    if backbone.head is None:
        return UnsupportedBackboneError(f"{name} has no head that scores words; read it by learned rows: {instead}")
    if isinstance(readout, YesNo):
        return UnsupportedBackboneError(
            f"{name} puts nothing behind a row, where each label's yes or no would be asked; read it by learned rows: "
            f"{instead}"
        )
    if isinstance(readout, TokenTags):
        return None
    if not any(isinstance(piece, Mask) for piece in template.pieces):
        return TemplateError(
            f"{name} says words where a mask stands, and the template `{template.pattern}` has none; put one {{mask}} "
            f"where the answer belongs, or read it by learned rows: {instead}"
        )
    lengths = {word: len(backbone.tokenizer.encode(word, add_special_tokens=False)) for word in readout.words}
    long = next((word for word, length in lengths.items() if length != 1), None)
    if long is None:
        return None
    return TemplateError(
        f"the word `{long.strip()}` is {lengths[long]} tokens for {name}, and a mask holds one; give other words, or "
        f"read it by learned rows: {instead}"
    )


def _check_kind(backbone: Backbone, readout: Readout, template: TokenizedTemplate) -> None:
    """Refuse answers that a kind of backbone does not give at all."""
    name = f"`{backbone.name}` ({backbone.family.title}, {backbone.kind})"
    if isinstance(readout, Text) and "generation" not in backbone.capabilities:
        raise UnsupportedBackboneError(f"{name} writes no text; take a decoder or an encoder-decoder, or give labels")
    if backbone.kind != "encoder-decoder":
        return
    if isinstance(template, TokenizedChat):
        raise UnsupportedBackboneError(
            f"{name} holds no conversations, which are read from left to right; take a decoder"
        )
    if isinstance(readout, TokenTags):
        raise UnsupportedBackboneError(
            f"{name} answers in its decoder, where no word of the row stands; tag with an encoder"
        )


def mean_rows(backbone: Backbone, words: Sequence[str]) -> Float[Tensor, "C D"]:
    """Return the mean output row of each answer's words, fp32 on the CPU.

    Raises:
        UnsupportedBackboneError: the backbone has no head that scores words.
    """
    ids = [backbone.tokenizer.encode(word, add_special_tokens=False) for word in words]
    rows = [backbone.output_rows(torch.tensor(each)) for each in ids]
    known = [each.mean(0) for each in rows if each is not None]
    if len(known) < len(words):
        raise UnsupportedBackboneError(
            f"`{backbone.name}` has no head that scores words; read it by learned rows: learned_rows=true"
        )
    return torch.stack(known)


def _text(backbone: Backbone, readout: Text, template: TokenizedTemplate) -> TextReading:
    if isinstance(template, TokenizedChat):
        return ChatReading(backbone, readout, template.lead, frozenset(template.stop[-1:]))
    ends = frozenset() if backbone.eos is None else frozenset({backbone.eos})
    return TextReading(backbone, readout, readout.lead, ends)


def _to_gold(readout: Readout) -> _ToGold:
    if isinstance(readout, Scalar):
        return _Share(readout)
    return _Index({label: i for i, label in enumerate(readout.labels)})


class _Index:
    """The number of a row's label."""

    def __init__(self, labels: Mapping[str, int]) -> None:
        self._labels = labels

    def __call__(self, example: Example) -> Gold:
        return self._labels[str(example.label)]


class _Share:
    """Where a row's number lies between the bounds; what lies outside counts as the bound."""

    def __init__(self, readout: Scalar) -> None:
        self._readout = readout

    def __call__(self, example: Example) -> Gold:
        assert isinstance(example.label, int | float), "a number's rows are labelled with numbers"
        return self._readout.share(min(max(float(example.label), self._readout.low), self._readout.high))


_ToGold = _Index | _Share


def _trie(backbone: Backbone, readout: Readout) -> LabelTrie:
    if isinstance(readout, LabelWords):
        return LabelTrie.build(readout, backbone.tokenizer)
    return _two(backbone, readout.words, "low", "high")


def _yes_no(backbone: Backbone, readout: YesNo) -> YesNoReading:
    encode = backbone.tokenizer.encode
    asked = tuple(tuple(encode(word, add_special_tokens=False)) for word in readout.words)
    answers = _two(backbone, (readout.no, readout.yes), "no", "yes")
    return YesNoReading(asked, answers, backbone.logits, readout.labels)


def _two(backbone: Backbone, words: Sequence[str], first: str, second: str) -> LabelTrie:
    """A choice between two words, made at their first token."""
    trie = LabelTrie.build(LabelWords((first, second), tuple(words)), backbone.tokenizer)
    if trie.depth:
        raise TemplateError(
            f"the words `{words[0].strip()}` and `{words[1].strip()}` begin with the same token for "
            f"`{backbone.name}`, and the choice is made there; give other words"
        )
    return trie
