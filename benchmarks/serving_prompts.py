"""What is asked in the benchmarks of serving: untrained prompts of any length and kind, and rows for them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.text import TextReading
from softprompt.prompts.initializers import from_text, from_vocabulary
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.free_text import Text
from softprompt.tasks.template import Template

if TYPE_CHECKING:
    from torch import Tensor

    from softprompt.backbones.backbone import Backbone
    from softprompt.tasks.readout import Readout
    from softprompt.tasks.task import Task

TOKENS = 32
"""Of every written answer."""
WORDS = "the a of and to in is it that was for on are as with his they at be this from I have or by one had not but all"


class Endless(PromptedModel):
    """A model whose answers never end by themselves, so that every side writes as many tokens."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        self._endless: dict[str, BoundPrompt] = {}

    def bind(self, prompt: SoftPrompt, *, allow_other_weights: bool = False) -> BoundPrompt:
        bound = super().bind(prompt, allow_other_weights=allow_other_weights)
        return self._endless.setdefault(prompt.digest, endless(bound))


def endless(bound: BoundPrompt) -> BoundPrompt:
    """The same prompt, whose answers no token ends."""
    if not isinstance(bound.reading, TextReading):
        return bound
    return replace(bound, reading=replace(bound.reading, ends=frozenset()))


@dataclass(frozen=True)
class Forms:
    """The two forms in which the rows of a task are asked: which label, and a text behind it.

    Attributes:
        backbone: what the prompts are for.
        task: whose texts and labels are used.
    """

    backbone: Backbone
    task: Task

    @property
    def field(self) -> str:
        return self.task.template.fields[0]

    @property
    def labels(self) -> tuple[Template, Readout]:
        return self.task.template, self.task.readout

    @property
    def text(self) -> tuple[Template, Readout]:
        return Template(f"{{bos}}{{soft}}{{{self.field}}}\nIn short:"), Text(TOKENS)

    def classifier(self, rows: Tensor) -> SoftPrompt:
        return SoftPrompt({"input": rows}, *self.labels, self.backbone.fingerprint)

    def writer(self, rows: Tensor) -> SoftPrompt:
        return SoftPrompt({"input": rows}, *self.text, self.backbone.fingerprint)

    def bare(self, model: PromptedModel, form: tuple[Template, Readout], words: str = "") -> BoundPrompt:
        """The backbone on the same text, behind words in the place of the virtual tokens; the front is kept too."""
        template, readout = form
        bound = model.bare(Template(template.pattern.replace("{soft}", words)), readout)
        return replace(endless(bound), key=f"bare {words} {template.pattern}")

    def rows(self, count: int) -> list[dict[str, str]]:
        """Rows of the test split, again from the first where it has fewer."""
        texts = [str(example.fields[self.field]) for example in self.task.splits["test"]]
        return [{self.field: texts[number % len(texts)]} for number in range(count)]

    def alike(self, model: PromptedModel, bound: BoundPrompt, count: int) -> list[dict[str, str]]:
        """Rows of one length in tokens, the commonest of the test split."""
        lengths = defaultdict(list)
        for row in self.rows(len(self.task.splits["test"])):
            lengths[len(model.encode(row, bound).ids)].append(row)
        found = max(lengths.values(), key=len)
        return [found[number % len(found)] for number in range(count)]


def random_rows(backbone: Backbone, length: int, seed: int) -> Tensor:
    """Common tokens, embedded: what an untrained prompt of that length starts from."""
    return from_vocabulary(backbone, length, torch.Generator().manual_seed(seed)).rows


def deep(backbone: Backbone, length: int, seed: int) -> dict[str, Tensor]:
    """Keys and values in every layer: those that so many common tokens have there."""
    rows = random_rows(backbone, length, seed)
    model = PromptedModel(backbone)
    bound = BoundPrompt.make(backbone, {"input": rows}, Template("{bos}{soft}{text}"), Text(1))
    with torch.inference_mode():
        past = model.prefixes([bound])[0].past or []
    return {
        f"layers.{layer}.{site}": tensor[0, :, -length:].float().clone()
        for layer, pair in enumerate(past)
        for site, tensor in zip(("key", "value"), pair, strict=True)
    }


def hard_words(backbone: Backbone, length: int) -> tuple[str, Tensor]:
    """Common words that are exactly so many tokens, and the same as rows: a hard prompt and its soft twin."""

    def count(text: str) -> int:
        return len(backbone.tokenizer.encode(text, add_special_tokens=False))

    text, number, words = "", 0, WORDS.split()
    while count(text) < length and number < 20 * length:
        longer = f"{text} {words[number % len(words)]}".lstrip()
        text, number = longer if count(longer) <= length else text, number + 1
    if count(text) != length:
        raise ValueError(f"no words of {length} tokens were found; they have {count(text)}")
    return text, from_text(backbone, length, text).rows
