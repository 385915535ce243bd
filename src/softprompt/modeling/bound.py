"""A prompt in the terms of one backbone: its tensors there, its template as token ids, its readout as a reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from softprompt.backbones.backbone import Backbone, KeyValues
from softprompt.backbones.families import Kind
from softprompt.errors import DataError, IncompatiblePromptError, TemplateError
from softprompt.modeling.reader import reading_of
from softprompt.modeling.readings import EncodedRow, Place, Reading
from softprompt.prompts import sites
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.shapes import Float
from softprompt.tasks.readout import Readout
from softprompt.tasks.tags import TaggedTemplate, TokenTags
from softprompt.tasks.template import Mask, Template, TokenizedTemplate

FEATURES = frozenset(
    {"chat", "encoder", "key-values", "learned-rows", "mask", "scalar", "sep", "text", "token-tags", "yes-no"}
)
"""What this room computes beyond rows at the input."""


@dataclass(frozen=True, eq=False)
class BoundPrompt:
    """What one backbone needs to answer with one prompt.

    Attributes:
        tensors: the prompt's tensors by site, fp32, on the backbone's device.
        template: the template in this backbone's tokens.
        reading: how answers are read out.
        readout: what its answers are.
        key: two bound prompts with the same key have the same prefix; `None` while the prompt is in training.
        kind: of the backbone, which decides where a row is read.
        answer_start: what an encoder-decoder's decoder is given before an answer.
        temperature: log-probabilities are divided by it.
        abstain: an answer less probable than this is an abstention; `None`: never.
    """

    tensors: Mapping[str, Tensor]
    template: TokenizedTemplate
    reading: Reading
    readout: Readout
    key: str | None = None
    kind: Kind = "decoder"
    answer_start: tuple[int, ...] = ()
    temperature: float = 1.0
    abstain: float | None = None

    @classmethod
    def make(
        cls,
        backbone: Backbone,
        tensors: Mapping[str, Tensor],
        template: Template,
        readout: Readout,
        key: str | None = None,
    ) -> BoundPrompt:
        """Bind tensors by site, a template and a readout to a backbone.

        Raises:
            TemplateError: P and the template's words leave no room in the backbone's positions; or the prompt has
                keys and values and its soft tokens do not stand together in front of the first field; or an encoder
                is to fill in several masks, or words that no mask can hold; or its words have a token that the
                backbone's embedding table lacks.
            IncompatiblePromptError: its keys and values are not those of this backbone's layers, or its rows are for
                an encoder-decoder and this is none.
            UnsupportedBackboneError: the backbone takes no keys and values, or cannot read such answers.
            DataError: two labels become the same tokens.
        """
        own = {site: tensor.to(backbone.device, torch.float32) for site, tensor in tensors.items()}
        length = sites.length({site: tuple(tensor.shape) for site, tensor in own.items()})
        tokenized = template.tokenize(backbone.tokenizer, length)
        if isinstance(readout, TokenTags):
            tokenized = TaggedTemplate(template, backbone.tokenizer, length, readout.column)
        reading = reading_of(backbone, readout, tokenized, own)
        bound = cls(own, tokenized, reading, readout, key, backbone.kind, backbone.answer_start)
        bound._check_words(backbone)
        bound._check_rows(backbone)
        bound._check_room(backbone, length)
        bound._check_layers(backbone)
        return bound

    @classmethod
    def of(cls, backbone: Backbone, prompt: SoftPrompt) -> BoundPrompt:
        """Bind a kept prompt; the caller has checked that it belongs to this backbone.

        Raises:
            IncompatiblePromptError: as for `make`; or it has rows at `input` and the backbone is an encoder-decoder,
                where a file says which of the two inputs is meant.
        """
        if backbone.kind == "encoder-decoder" and "input" in prompt.tensors:
            raise IncompatiblePromptError(
                f"the prompt has rows at `input`, and those of `{backbone.name}` (encoder-decoder) are kept at "
                "`encoder.input`; train it again"
            )
        bound = cls.make(backbone, prompt.tensors, prompt.template, prompt.readout, prompt.digest)
        return replace(bound, temperature=prompt.temperature, abstain=prompt.abstain)

    @property
    def bytes(self) -> int:
        """What its tensors take, and a little for the rest."""
        return 8192 + sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    @property
    def virtual_tokens(self) -> Float[Tensor, "P D"] | None:
        """Rows at the input, of an encoder-decoder its encoder's; none where the prompt is keys and values."""
        return self.tensors.get("encoder.input", self.tensors.get("input"))

    @cached_property
    def layers(self) -> KeyValues | None:
        """Keys and values of the soft tokens in every layer, [1, H, P, K] each; none where they are input rows."""
        if "layers.0.key" not in self.tensors:
            return None
        count = sum(site.endswith(".key") for site in self.tensors)
        return [(self.tensors[f"layers.{n}.key"][None], self.tensors[f"layers.{n}.value"][None]) for n in range(count)]

    @cached_property
    def split(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shared prefix's tokens in front of the soft ones and behind them."""
        ids = self.template.prefix
        soft = [i for i, token in enumerate(ids) if token < 0]
        return ids[: soft[0]], ids[soft[-1] + 1 :]

    def carried(self, *, shared: bool) -> tuple[int, ...]:
        """Return the prefix's tokens that every row carries itself: of one that is shared, none.

        Where the prompt is keys and values, the words around it are left.
        """
        if self.kind == "decoder":
            return () if shared else self.template.prefix
        return self.template.prefix if self.virtual_tokens is not None else self.split[0] + self.split[1]

    def place(self, row: EncodedRow, start: int) -> Place:
        """Return where a row stands and is read whose own tokens begin in the column `start`.

        A decoder's at its end, an encoder's at its mask, else by the mean of all its tokens but the soft ones, an
        encoder-decoder's where its decoder has been given the answer's start.
        """
        if self.kind == "encoder-decoder":
            return Place(row, start, (len(self.answer_start) - 1,))
        if self.kind == "decoder":
            return Place(row, start)
        masks: tuple[int, ...] = getattr(row, "masks", ())
        if masks:
            elsewhere = len(self.template.prefix) - start  # virtual tokens that are keys and values
            behind = elsewhere and masks[0] >= len(self.split[0])
            return Place(row, start, (masks[0] - elsewhere if behind else masks[0],))
        tokens = (*self.carried(shared=False), *row.ids)
        return Place(row, start, tuple(column for column, token in enumerate(tokens) if token >= 0))

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> BoundPrompt:
        """Return the same with other tensors at the same sites, as at each step of training."""
        return replace(self, tensors=tensors, reading=self.reading.with_tensors(tensors), key=None)

    def limit(self, backbone: Backbone) -> int | None:
        """Return how many tokens prefix and row may take together, room for the longest answer kept behind them.

        An encoder-decoder's answer stands in its decoder, and takes no room from the row.
        """
        if backbone.max_positions is None or self.kind == "encoder-decoder":
            return backbone.max_positions
        return backbone.max_positions - self.reading.depth

    def _check_words(self, backbone: Backbone) -> None:
        lacked = _lacking(backbone, self.template.literals)
        if lacked:
            raise TemplateError(f"the template `{self.template.template.pattern}` has {lacked}; leave it out")

    def _check_rows(self, backbone: Backbone) -> None:
        """Refuse rows that have no place in this kind of backbone, and more than one mask to be read at."""
        if "encoder.input" in self.tensors and self.kind != "encoder-decoder":
            raise IncompatiblePromptError(
                f"the prompt has rows for the encoder of an encoder-decoder, and `{backbone.name}` is none "
                f"({self.kind}); train it again on this one"
            )
        if self.kind != "encoder":
            return
        if self.layers is not None and self.virtual_tokens is not None:
            raise IncompatiblePromptError(
                f"the prompt has keys and values and rows at the input too, which `{backbone.name}` (encoder) does not "
                "take together; train it with one of them"
            )
        masks = sum(isinstance(piece, Mask) for piece in self.template.template.pieces)
        if masks > 1:
            raise TemplateError(
                f"the template `{self.template.template.pattern}` has {masks} {{mask}} slots, and one "
                "is read; leave one"
            )

    def _check_room(self, backbone: Backbone, length: int) -> None:
        limit = self.limit(backbone)
        whole = backbone.max_positions
        if limit is not None and whole is not None and len(self.template.prefix) >= limit and 2 * limit < whole:
            raise TemplateError(
                f"answers may take {self.reading.depth} of the {whole} positions of `{backbone.name}`, which leaves "
                f"{max(0, limit)} for the {len(self.template.prefix)} tokens of the prompt and the row behind it; let "
                "answers be shorter (max_new_tokens)"
            )
        if limit is not None and len(self.template.prefix) >= limit:
            raise TemplateError(
                f"{length} virtual tokens and the words around them take {len(self.template.prefix)} of the {limit} "
                f"positions of `{backbone.name}`; use fewer virtual tokens"
            )
        if limit is None or self.kind != "encoder-decoder":
            return
        answer = len(self.answer_start) + self.reading.depth + (0 if self.layers is None else length)
        if answer > limit:
            raise TemplateError(
                f"the longest answer takes {answer} of the {limit} positions of `{backbone.name}`'s decoder, what "
                "stands in front of it counted; let answers be shorter (max_new_tokens)"
            )

    def _check_layers(self, backbone: Backbone) -> None:
        """Refuse keys and values that could not stand where the template or the backbone would have them."""
        found = sorted({int(site.split(".")[1]) for site in self.tensors if site.startswith("layers.")})
        if not found:
            return
        if "deep-prompts" not in backbone.capabilities:
            raise IncompatiblePromptError(
                f"the prompt is keys and values, and `{backbone.name}` ({backbone.family.title}, {self.kind}) takes "
                "none from outside; train rows at its input: parameterization=direct"
            )
        if found != list(range(backbone.num_layers)):
            raise IncompatiblePromptError(
                f"the prompt has keys and values for the layers {found}, and `{backbone.name}` has layers 0 to "
                f"{backbone.num_layers - 1}; each of them needs its own"
            )
        soft = [i for i, token in enumerate(self.template.prefix) if token < 0]
        if self.template.template.placement != "prefix" or soft != list(range(soft[0], soft[-1] + 1)):
            raise TemplateError(
                f"the template `{self.template.template.pattern}` does not have its soft tokens together in front of "
                "its first field, where a prompt of keys and values must stand; write one {soft} there"
            )
        if backbone.position_switch is not None:
            raise IncompatiblePromptError(
                f"`{backbone.name}` turns its keys by factors that depend on the length of a row (longrope), so that "
                "keys cannot be kept; train input rows instead: parameterization=direct"
            )


def check_row(backbone: Backbone, row: EncodedRow) -> None:
    """Return if the backbone has embeddings for all tokens of a row.

    One that was added to the tokenizer alone has none. In a pass it is the end of all rows beside it, and on a GPU of
    every later pass too.

    Raises:
        DataError: one has none.
    """
    lacked = _lacking(backbone, row.ids)
    if lacked:
        raise DataError(f"the row has {lacked}; take it out of the text")


def _lacking(backbone: Backbone, ids: Sequence[int]) -> str:
    """Name a token that the embedding table lacks; nothing where it has all."""
    largest, size = max(ids, default=0), backbone.vocab_size
    if largest < size:
        return ""
    shown = backbone.tokenizer.decode([largest])
    return f"the token `{shown}` ({largest}), and the embedding table of `{backbone.name}` ends at {size - 1}"


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values of everything before the first field, [1, H, S, K] a layer; `None` where S is 0."""

    past: KeyValues | None
    length: int

    @property
    def bytes(self) -> int:
        """What the keys and values take."""
        return sum(keys.nbytes + values.nbytes for keys, values in self.past or ())
