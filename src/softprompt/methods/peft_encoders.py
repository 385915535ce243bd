"""PEFT's prompt encoders as what trains in a prompt of ours: the same numbers at the same places, folded and kept.

PEFT puts its rows, or its keys and values, in front of everything else, the beginning-of-sequence token included. A
template that begins with `{soft}` says the same, so that PEFT's prompts are trained and read by the very code that
ours are: rows behind a shared prefix, nothing between them, whatever the batch.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import torch
from torch import Tensor, nn

from softprompt.errors import MissingExtraError
from softprompt.prompts.parameterizations.base import Group, PromptParameterization
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.task import Task
from softprompt.tasks.template import Template
from softprompt.training.lesson import Lesson

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone

Kind: TypeAlias = Literal["prompt-tuning", "p-tuning", "prefix-tuning"]
"""PEFT's kinds of prompts that are compared."""


class PeftPrompt(PromptParameterization):
    """One of PEFT's prompt encoders: rows at the input, or keys and values of every layer.

    Args:
        encoder: PEFT's module: from the numbers of the virtual tokens [1, P] to rows [1, P, D], or to the keys and
            values of L layers [1, P, 2·L·H·K].
        length: P.
        scale: what a relative learning rate is multiplied by.
        heads: H, where it gives keys and values; None: it gives rows.

    >>> PeftPrompt(nn.Embedding(5, 8), 5, 1.0).materialize()["input"].shape
    torch.Size([5, 8])
    >>> sorted(PeftPrompt(nn.Embedding(5, 24), 5, 1.0, heads=(2, 3)).materialize())
    ['layers.0.key', 'layers.0.value', 'layers.1.key', 'layers.1.value']
    """

    name: Final = "peft"
    tokens: Tensor

    def __init__(self, encoder: nn.Module, length: int, scale: float, heads: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.encoder = encoder.float()
        self._scale, self._heads = scale, heads
        self.register_buffer("tokens", torch.arange(length)[None], persistent=False)

    def materialize(self) -> Mapping[str, Tensor]:
        """Return rows [P, D] at `input`, or keys and values [H, P, K] of every layer, as PEFT views its output."""
        found: Tensor = self.encoder(self.tokens)[0]
        if self._heads is None:
            return {"input": found}
        past = found.view(len(found), -1, *self._heads).permute(1, 2, 0, 3)  # [2L, H, P, K]
        sides = ("key", "value")
        return {f"layers.{place // 2}.{sides[place % 2]}": each for place, each in enumerate(past)}

    def groups(self) -> Sequence[Group]:
        """Return all parameters at one rate, as PEFT's examples train them."""
        return (Group(tuple(self.encoder.parameters()), self._scale),)


def require_peft() -> None:
    """Say what to install where PEFT is missing.

    Raises:
        MissingExtraError: `peft` is not installed.
    """
    if find_spec("peft") is None:
        raise MissingExtraError(
            'PEFT\'s prompts need `peft`, which is not installed: pip install "softprompt[baselines]"'
        )


def encoder_of(
    backbone: Backbone, kind: Kind, length: int, seed: int, *, text: str | None = None, relative: bool = False
) -> PeftPrompt:
    """Make one of PEFT's prompt encoders for a backbone, as `get_peft_model` makes it; the backbone stays as it is.

    Args:
        backbone: a decoder.
        kind: which encoder.
        length: P.
        seed: of random first values.
        text: where prompt tuning starts; None: at random.
        relative: learning rates are multiples of the RMS of embedded tokens, as ours are.

    Raises:
        MissingExtraError: `peft` is not installed.
    """
    require_peft()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # PEFT calls what transformers means to rename
        import peft

        torch.manual_seed(seed)
        if text is not None:
            backbone.tokenizer.save_pretrained(folder)  # PEFT reads the text by a tokenizer's folder
        model = peft.get_peft_model(backbone.model, _config(peft, kind, length, text, folder))
        config = model.active_peft_config
    shape = (config.num_attention_heads, config.token_dim // config.num_attention_heads)
    heads = shape if kind == "prefix-tuning" else None
    return PeftPrompt(model.prompt_encoder["default"], length, backbone.embedding_rms if relative else 1.0, heads)


def _config(peft: Any, kind: Kind, length: int, text: str | None, tokenizer: str) -> Any:
    """PEFT's configuration; what is not given is as PEFT has it."""
    common = {"task_type": "CAUSAL_LM", "num_virtual_tokens": length}
    if kind == "p-tuning":
        return peft.PromptEncoderConfig(**common)
    if kind == "prefix-tuning":
        return peft.PrefixTuningConfig(**common)
    if text is None:
        return peft.PromptTuningConfig(**common)
    start = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": text, "tokenizer_name_or_path": tokenizer}
    return peft.PromptTuningConfig(**common, **start)


@dataclass(frozen=True, eq=False)
class PeftLesson(Lesson):
    """What one of PEFT's prompts learns.

    Attributes:
        peft: which of PEFT's prompts trains.
        text: where prompt tuning starts.
        relative: its rate is relative, as ours are.
    """

    peft: Kind = "prompt-tuning"
    text: str | None = None
    relative: bool = False

    def begin(self, backbone: Backbone) -> tuple[PromptParameterization, str]:
        """Return PEFT's encoder at its first values, and a sentence about where those come from."""
        config = self.config
        made = encoder_of(
            backbone, self.peft, config.virtual_tokens, config.seed, text=self.text, relative=self.relative
        )
        return made, "random values, as PEFT draws them" if self.text is None else f"text `{self.text.strip()}`"


def in_front(task: Task) -> Task:
    r"""Return a task whose virtual tokens stand in front of everything else, where PEFT puts them.

    >>> from softprompt.tasks.load import load_task
    >>> task = load_task([{"text": f"{word} {n}", "label": word} for word in ("good", "bad") for n in range(10)])
    >>> in_front(task).template.pattern
    '{soft}{bos}Text: {text}\nLabel:'
    """
    pattern = "{soft}" + task.template.pattern.replace("{soft}", "")
    return replace(task, template=Template(pattern, task.template.max_tokens))


def over_vocabulary(task: Task) -> LabelWords:
    """Return the task's label words, scored over the whole vocabulary: PEFT's loss at the answer's tokens."""
    assert isinstance(task.readout, LabelWords), "other answers are refused before"
    return replace(task.readout, scoring="full")
