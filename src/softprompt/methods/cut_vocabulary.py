"""A decoder with the rows of its tables that a task needs, and no others: the same numbers at a fraction of the memory.

It is exact. A row of the embedding matrix that stands in no training row gets no gradient, and a row of the output
matrix gets one only where its token is a choice; without weight decay AdamW moves neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from softprompt.tasks.template import TokenRow

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone

_SPECIAL = ("bos", "cls", "sep", "eos", "mask", "pad")


class CutTokenizer:
    """A tokenizer whose ids are places among those that are left.

    Args:
        tokenizer: of the whole vocabulary.
        used: the ids that are left, in order; those of `special_ids` are among them.
    """

    def __init__(self, tokenizer: Any, used: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.place = {index: place for place, index in enumerate(used)}
        for name in _SPECIAL:
            index = getattr(tokenizer, f"{name}_token_id", None)
            setattr(self, f"{name}_token_id", None if index is None else self.place[index])

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the places of a text's tokens, all of which are left."""
        ids = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return [self.place[index] for index in ids]


def special_ids(tokenizer: Any) -> list[int]:
    """Return the ids that a tokenizer needs whatever the task: its special tokens, and those of the probe letter."""
    found = [getattr(tokenizer, f"{name}_token_id", None) for name in _SPECIAL]
    return [index for index in (*found, *tokenizer.encode("a")) if index is not None]


class CutVocabulary:
    """Takes the rows of some tokens out of a model's tables, and puts them back where they have been trained.

    Args:
        backbone: a decoder; its model's tables are cut in place until `put_back`.
        used: ids of the tokens that are needed.

    Attributes:
        backbone: the same model with the small vocabulary.
    """

    def __init__(self, backbone: Backbone, used: Iterable[int]) -> None:
        from softprompt.backbones.backbone import Backbone as Frozen

        self._whole, model = backbone, backbone.model
        self._used = sorted({*used, *special_ids(backbone.tokenizer)})
        self._ids = torch.tensor(self._used, device=backbone.device)
        self._input, self._output = model.get_input_embeddings(), model.get_output_embeddings()
        self._tables = (self._input.weight, self._output.weight)
        self._padding = self._input.padding_idx
        self.tied = self._input.weight is self._output.weight
        self._input.padding_idx = None
        self._input.weight = nn.Parameter(self._tables[0][self._ids].detach().clone())
        self._output.weight = (
            self._input.weight if self.tied else nn.Parameter(self._tables[1][self._ids].detach().clone())
        )
        self._tokenizer = CutTokenizer(backbone.tokenizer, self._used)
        self.backbone = Frozen(model, self._tokenizer, name=backbone.name)

    @staticmethod
    def fits(backbone: Backbone) -> bool:
        """Tell whether a model's tables can be cut: a decoder's, whose output rows have no bias."""
        output = backbone.model.get_output_embeddings()
        return backbone.kind == "decoder" and output is not None and getattr(output, "bias", None) is None

    @property
    def tables(self) -> list[nn.Parameter]:
        """The parameters that stand in for the tables: one where input and output rows are the same."""
        return [self._input.weight] if self.tied else [self._input.weight, self._output.weight]

    def translate(self, row: TokenRow) -> TokenRow:
        """Return a row in the small vocabulary's tokens."""
        return row._replace(ids=tuple(self._tokenizer.place[index] for index in row.ids))

    @torch.no_grad()
    def put_back(self) -> None:
        """Write the rows into the whole tables, which the model then has again."""
        for whole, cut in zip(self._tables, (self._input.weight, self._output.weight), strict=True):
            whole[self._ids] = cut.detach()
        self._input.weight, self._output.weight = self._tables
        self._input.padding_idx = self._padding
