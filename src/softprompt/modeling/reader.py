"""From a readout and a backbone to a reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.errors import TemplateError, UnsupportedBackboneError
from softprompt.modeling.labels import LabelTrie
from softprompt.modeling.readings import Gold, Reading
from softprompt.modeling.rows import RowsReading, SwitchesReading, TagsReading
from softprompt.modeling.text import ChatReading, TextReading
from softprompt.modeling.words import WordsReading, YesNoReading
from softprompt.shapes import Float
from softprompt.tasks.chat import TokenizedChat
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords, Readout
from softprompt.tasks.readout_kinds import Scalar, YesNo
from softprompt.tasks.tags import TokenTags
from softprompt.tasks.task import Example
from softprompt.tasks.template import TokenizedTemplate


def reading_of(
    backbone: Backbone, readout: Readout, template: TokenizedTemplate, tensors: Mapping[str, Tensor]
) -> Reading:
    """Return what reads a readout's answers on a backbone, by learned rows if there are some among `tensors`.

    Raises:
        DataError: two labels become the same tokens.
        TemplateError: words that do not tell answers apart at their first token, where they must.
        UnsupportedBackboneError: the backbone has no head that scores words, and there are no learned rows.
    """
    weight, bias = tensors.get("readout.weight"), tensors.get("readout.bias")
    if isinstance(readout, Text):
        return _text(backbone, readout, template)
    if isinstance(readout, TokenTags):
        tags = {tag: i for i, tag in enumerate(readout.tags)}
        rows = (mean_rows(backbone, readout.words).to(backbone.device), torch.zeros(len(tags), device=backbone.device))
        return TagsReading(
            *((weight, bias) if weight is not None and bias is not None else rows),
            lambda example: tuple(tags[tag] for tag in example.labels),
            learned=weight is not None,
        )
    if isinstance(readout, YesNo):
        if weight is not None and bias is not None:
            return SwitchesReading(
                weight, bias, lambda example: tuple(int(n in example.labels) for n in readout.labels)
            )
        return _yes_no(backbone, readout)
    to_gold = _to_gold(readout)
    if weight is not None and bias is not None:
        return RowsReading(weight, bias, to_gold)
    return WordsReading(_trie(backbone, readout), backbone.logits, to_gold)


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
