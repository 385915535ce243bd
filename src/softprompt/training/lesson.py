"""What one prompt of a bank learns: the rows, how they are written and read, and the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softprompt.backbones.backbone import Backbone, KeyValues
from softprompt.errors import ConfigError
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.forward import embed_prefix
from softprompt.modeling.prefixes import Prefixes
from softprompt.prompts import initializers
from softprompt.prompts.initializers import nearest_tokens
from softprompt.prompts.parameterizations.at_encoder import AtEncoder
from softprompt.prompts.parameterizations.base import PromptParameterization
from softprompt.prompts.parameterizations.build import build
from softprompt.prompts.parameterizations.spec import Spec
from softprompt.prompts.parameterizations.with_rows import SHARE, PromptWithRows
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.readout import Readout
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template
from softprompt.training.config import TrainConfig
from softprompt.training.start import first_values

LAYERED = ("deep", "deep-mlp")
"""Parameterizations that are keys and values in every layer."""
SAMPLED = 128
"""Vocabulary rows that `superpos` combines (2406.05279 takes up to 128)."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """What one prompt learns, and how.

    Attributes:
        name: what tells it from the other prompts of its bank.
        config: the settings; `parameterization` and `learned_rows` are settled.
        template: the pattern of a row.
        readout: the labels and their words.
        train: rows to learn from, at least one, all with a label.
        validation: rows to choose by; empty: the last prompt is kept.
        start: with `init=prompt`, the prompt to start from.
        candidate: in a race, whose lesson this is; by default its name.
    """

    name: str
    config: TrainConfig
    template: Template
    readout: Readout
    train: Sequence[Example]
    validation: Sequence[Example]
    start: SoftPrompt | None = None
    candidate: str = ""

    @property
    def raced(self) -> str:
        """What it races as."""
        return self.candidate or self.name

    def begin(self, backbone: Backbone) -> tuple[PromptParameterization, str]:
        """Return what trains, at its first values, and a sentence about where those come from.

        Raises:
            ConfigError: settings that do not go together, or `init=prompt` without a prompt.
            UnknownNameError: no parameterization has that name.
            TemplateError: the prompt does not fit the template or the backbone.
        """
        config = self.config
        name = config.parameterization or "direct"
        initial = first_values(backbone, config, self.template, self.readout, self.start)
        tensors: Mapping[str, Tensor] = {"input": initial.rows}
        settings = dict(config.settings)
        if name in LAYERED:
            tensors, alone = self._key_values(backbone, tensors)
            settings = {"frozen": int(alone and config.virtual_tokens > 1), **settings}
        generator = torch.Generator().manual_seed(config.seed)
        vocabulary = initializers.from_vocabulary(backbone, SAMPLED, generator).rows if name == "superpos" else None
        prompt = build(name, Spec(tensors, backbone.embedding_rms, generator, vocabulary, settings))
        if backbone.kind == "encoder-decoder":
            prompt = AtEncoder(prompt)
        if not config.learned_rows:
            return prompt, initial.note
        weight = initializers.rows_of_words(backbone, self.readout.words, generator)
        bias = initializers.bias_of_words(backbone, self.readout.words)
        share = 1.0 if backbone.head is None else SHARE  # rows that stand for no words yet have a long way to go
        return PromptWithRows(prompt, weight, bias, share), initial.note

    def bind(self, backbone: Backbone, tensors: Mapping[str, Tensor]) -> BoundPrompt:
        """Return a prompt of these tensors in the backbone's terms."""
        return BoundPrompt.make(backbone, tensors, self.template, self.readout)

    def _key_values(self, backbone: Backbone, rows: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
        """Run rows at the input and take their slots' keys and values; and tell whether nothing stands before them.

        The first slot of a sequence is where attention goes that has nowhere to go; where no word of the template
        stands there, the prompt's own first token does, and is frozen.

        An encoder-decoder's deep prompt stands in its decoder.
        """
        if "deep-prompts" not in backbone.capabilities:
            raise ConfigError(
                f"`{self.config.parameterization}` keeps keys and values in every layer, and `{backbone.name}` "
                f"({backbone.family.title}, {backbone.kind}) takes none from outside; choose parameterization=direct"
            )
        head = torch.zeros(self.readout.outputs if self.config.learned_rows else 0, backbone.hidden_size)
        bound = self.bind(
            backbone, {**rows, **({"readout.weight": head, "readout.bias": head[:, 0]} if len(head) else {})}
        )
        if self.template.placement != "prefix":
            raise ConfigError(
                f"`{self.config.parameterization}` keeps keys and values in front of the first field, and the template "
                f"`{self.template.pattern}` has its soft tokens elsewhere ({self.template.placement}); put one "
                "{soft} in front, or choose parameterization=direct"
            )
        past, at = _states_of(backbone, bound, rows["input"])
        slots = slice(at, at + len(rows["input"]))
        found = {}
        for layer, (keys, values) in enumerate(past):
            found[f"layers.{layer}.key"] = keys[0, :, slots].float().cpu()
            found[f"layers.{layer}.value"] = values[0, :, slots].float().cpu()
        return found, at == 0


def _states_of(backbone: Backbone, bound: BoundPrompt, rows: Tensor) -> tuple[KeyValues, int]:
    """Return keys and values of a prompt's rows and the words around them, and the slot of the first row.

    In an encoder they see each other, and no text. A decoder behind an encoder has rows of its own tokens: it is given
    those nearest to the first values, and reads the first values themselves from the encoder.
    """
    at = len(bound.split[0])
    with torch.no_grad():
        if backbone.kind == "encoder":
            embedded = embed_prefix(backbone, bound)
            mask = torch.ones(embedded.shape[:2], dtype=torch.long, device=backbone.device)
            return backbone.key_values(embedded, mask=mask, positions=mask.cumsum(1) - 1), at
        if backbone.kind == "encoder-decoder":
            own = rows[None].to(backbone.device)
            mask = torch.ones(own.shape[:2], dtype=torch.long, device=backbone.device)
            ids = nearest_tokens(backbone, rows)[None].to(backbone.device)
            states = backbone.encode(own, mask=mask)
            past = backbone.decode(ids, states, mask=mask, keep=True)[1]
            assert past is not None
            assert isinstance(past.own, list), "keep=True returns keys and values"
            return past.own, 0
        found = Prefixes(backbone).run([bound])[0].past
    assert found is not None, "a prompt in front has a prefix"
    return found, at
