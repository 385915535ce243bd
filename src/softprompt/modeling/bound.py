"""A prompt in the terms of one backbone: virtual tokens, template and label words as token ids."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from softprompt.backbones.backbone import Backbone, KeyValues
from softprompt.errors import TemplateError
from softprompt.modeling.labels import LabelTrie
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.shapes import Float
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import Template, TokenizedTemplate


@dataclass(frozen=True, eq=False)
class BoundPrompt:
    """What one backbone needs to answer with one prompt.

    Attributes:
        virtual_tokens: [P, D], fp32; P may be 0 (the bare template).
        template: the template in this backbone's tokens.
        labels: the label words as a token trie.
        key: two bound prompts with the same key have the same prefix; `None` while the prompt is in training.
    """

    virtual_tokens: Float[Tensor, "P D"]
    template: TokenizedTemplate
    labels: LabelTrie
    key: str | None = None

    @classmethod
    def make(
        cls, backbone: Backbone, virtual_tokens: Tensor, template: Template, readout: LabelWords, key: str | None = None
    ) -> BoundPrompt:
        """Bind virtual tokens [P, D], a template and a readout to a backbone.

        Raises:
            TemplateError: P and the template's words leave no room in the backbone's positions.
            DataError: two labels become the same tokens.
        """
        tokenized = template.tokenize(backbone.tokenizer, virtual_tokens.shape[0])
        labels = LabelTrie.build(readout, backbone.tokenizer)
        bound = cls(virtual_tokens.to(backbone.device, torch.float32), tokenized, labels, key)
        bound._check_room(backbone)
        return bound

    @classmethod
    def of(cls, backbone: Backbone, prompt: SoftPrompt) -> BoundPrompt:
        """Bind a kept prompt; the caller has checked that it belongs to this backbone."""
        return cls.make(backbone, prompt.tensors["input"], prompt.template, prompt.readout, prompt.digest)

    def with_tokens(self, virtual_tokens: Float[Tensor, "P D"]) -> BoundPrompt:
        """Return the same with other virtual tokens, as at each step of training."""
        return replace(self, virtual_tokens=virtual_tokens, key=None)

    def limit(self, backbone: Backbone) -> int | None:
        """Return how many tokens prefix and row may take together, the longest label's tokens kept free."""
        return None if backbone.max_positions is None else backbone.max_positions - self.labels.depth

    def _check_room(self, backbone: Backbone) -> None:
        limit = self.limit(backbone)
        if limit is not None and len(self.template.prefix) >= limit:
            length, taken = self.virtual_tokens.shape[0], len(self.template.prefix)
            raise TemplateError(
                f"{length} virtual tokens and the words around them take {taken} of the {limit} positions of "
                f"`{backbone.name}`; use fewer virtual tokens"
            )


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values of everything before the first field, [1, H, S, K] a layer; `None` where S is 0."""

    past: KeyValues | None
    length: int
