"""Examples in context: rows of train with their answers, written in front of each row (Brown et al. 2020).

The examples are literal text of the template, so that they are the same for every row and, in a decoder, are computed
once.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from softprompt.errors import TemplateError
from softprompt.methods.method import Effort, Fitted, Readout
from softprompt.methods.scoring import (
    Family,
    Scoring,
    refuses_others_than_decoders,
    refuses_words,
    validation_loss,
    written_for,
)
from softprompt.tasks.task import Example, Task
from softprompt.tasks.template import Bos, Field, Literal, Mask, Piece, Sep, Soft, Template

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone

MOST = 64
"""Examples that stand in front of a row at most, however large the window."""
MARGIN = 16
"""Tokens of the window that stay free."""
AT_ONCE = 16
"""Rows that are run at once behind the examples' keys and values."""
_SHARE = 0.25
"""Of the machine's memory that these may take."""
BETWEEN = "\n\n"
"""What stands between an example's answer and what follows."""


@dataclass(eq=False)
class FewShot:
    """So many labelled examples in front of each row.

    Attributes:
        shots: examples wanted.
        all_that_fit: fewer are no matter: it is as many as fit.
    """

    shots: int
    name: str
    title: str
    all_that_fit: bool = False
    family: Family = "free"
    base_rate: float | None = None
    readouts: tuple[Readout, ...] = ()
    changes: bool = False
    source: str = "arXiv 2005.14165"

    def refuses(self, backbone: Backbone, task: Task) -> str | None:
        """Refuse other kinds of backbones than decoders, and what scores no words."""
        return refuses_others_than_decoders(backbone, "learning from examples in context") or refuses_words(
            backbone, task
        )

    def fit(self, backbone: Backbone, task: Task, seed: int, effort: Effort) -> Fitted:
        """Draw the examples by seed, balanced over the labels, and write them down; effort changes nothing.

        Raises:
            TemplateError: not even one example fits in front of the longest row.
        """
        from softprompt.modeling.prompted_model import Budget, PromptedModel

        task = written_for(backbone, task)
        wanted = drawn(task.splits["train"], task.labels, self.shots, seed)
        room = Room.of(backbone, task)
        shots = room.fitting(wanted)
        if not shots:
            raise TemplateError(
                f"no example of `{task.name}` fits in front of its longest row ({room.longest} tokens) in "
                f"`{backbone.name}`, which takes {room.window}; set max_tokens, so that rows are shorter"
            )
        random.Random(f"{seed}/order").shuffle(shots)
        template = _as_long(task, in_context(task, [shot for _, shot in shots]), backbone)
        model = PromptedModel(backbone)
        bound = model.bare(template, task.readout)
        tokens = len(bound.template.prefix)
        model.budget = Budget(rows=4 * AT_ONCE, tokens=max(Budget().tokens, AT_ONCE * (tokens + room.longest)))
        key = hashlib.sha256(template.pattern.encode()).hexdigest()
        predictor = Scoring(model, replace(bound, key=f"few-shot {key}"))
        kept = len(template.pattern.encode())
        return Fitted(predictor, 0, kept, validation_loss(predictor, task), notes=self._notes(shots, tokens, room))

    def _notes(self, shots: Sequence[tuple[int, Example]], tokens: int, room: Room) -> tuple[str, ...]:
        rows = ", ".join(str(place + 1) for place, _ in shots)
        said = [f"{len(shots)} examples, {tokens} tokens in all: rows {rows} of train, in this order"]
        if self.all_that_fit:
            said.append(f"at most {self.shots} examples, and as many as fit: {room.told}")
        elif len(shots) < self.shots:
            said.append(f"{self.shots} examples were asked for, and {len(shots)} were to be had or fit: {room.told}")
        return tuple(said)


FOUR = FewShot(4, "few-shot-4", "4 examples in context")
SIXTEEN = FewShot(16, "few-shot-16", "16 examples in context")
AS_MANY_AS_FIT = FewShot(MOST, "few-shot-max", "as many examples in context as fit", all_that_fit=True)


def drawn(rows: Sequence[Example], labels: Sequence[str], count: int, seed: int) -> list[tuple[int, Example]]:
    """Draw examples, balanced over the labels: one of each in turn, in an order that the seed gives.

    >>> rows = [Example({"text": str(n)}, "ab"[n % 2]) for n in range(10)]
    >>> sorted(example.label for _, example in drawn(rows, ("a", "b"), 4, seed=0))
    ['a', 'a', 'b', 'b']

    Args:
        rows: to draw from.
        labels: in whose turn.
        count: examples wanted; fewer come where there are no more.
        seed: of the draw.

    Returns:
        Places in `rows`, from 0, and the examples.
    """
    chance = random.Random(f"{seed}/examples")
    piles: dict[str, list[int]] = {label: [] for label in labels}
    for place, example in enumerate(rows):
        piles[str(example.label)].append(place)
    for pile in piles.values():
        chance.shuffle(pile)
    turns = list(labels)
    chance.shuffle(turns)
    deepest = max(map(len, piles.values()), default=0)
    order = [piles[label][level] for level in range(deepest) for label in turns if level < len(piles[label])]
    return [(place, rows[place]) for place in order[:count]]


def shown(task: Task, example: Example) -> str:
    """Return one example as text: the task's template, filled in, and the words of its label behind it."""
    parts = []
    for piece in task.template.pieces:
        if isinstance(piece, Literal):
            parts.append(piece.text)
        elif isinstance(piece, Field):
            parts.append(piece.lead + example.fields[piece.name])
    word = task.readout.words[task.labels.index(str(example.label))]
    return "".join(parts) + word + BETWEEN


def in_context(task: Task, shots: Sequence[Example]) -> Template:
    r"""Return the task's template with examples in front of the row, behind its `{bos}`, and without soft slots.

    >>> from softprompt.tasks.load import load_task
    >>> task = load_task([{"text": f"{word} {n}", "label": word} for word in ("good", "bad") for n in range(10)])
    >>> in_context(task, [Example({"text": "a {b}"}, "bad")]).pattern
    '{bos}Text: a {{b}}\nLabel: bad\n\nText: {text}\nLabel:'
    """
    text = "".join(shown(task, shot) for shot in shots)
    pieces = list(task.template.pieces)
    opening = "{bos}" if pieces and isinstance(pieces[0], Bos) else ""
    rest = "".join(_written(piece) for piece in pieces[1 if opening else 0 :])
    return Template(opening + _escaped(text) + rest)


def _as_long(task: Task, template: Template, backbone: Backbone) -> Template:
    """Return a template with examples that leaves a row as many tokens as the task's own template does."""
    if task.template.max_tokens is None:
        return template
    bare, whole = (each.tokenize(backbone.tokenizer, 0).prefix for each in (in_context(task, ()), template))
    return Template(template.pattern, task.template.max_tokens + len(whole) - len(bare))


def _written(piece: Piece) -> str:
    """A piece of a template as its pattern has it, soft slots left out."""
    if isinstance(piece, Literal):
        return _escaped(piece.text)
    if isinstance(piece, Field):
        return f"{piece.lead}{{{piece.name}}}"
    return {Bos: "{bos}", Sep: "{sep}", Mask: "{mask}", Soft: ""}[type(piece)]


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


@dataclass(frozen=True)
class Room:
    """How many tokens of examples fit in front of a row.

    Attributes:
        task: whose examples.
        backbone: in whose tokens.
        window: positions of the backbone; None: nothing limits them.
        longest: tokens of the longest row of train and validation, the template's words counted.
        memory: tokens whose keys and values a quarter of the machine's memory holds.
    """

    task: Task
    backbone: Backbone
    window: int | None
    longest: int
    memory: int

    @classmethod
    def of(cls, backbone: Backbone, task: Task) -> Room:
        """Measure a task and a backbone."""
        bare = in_context(task, ())
        written = Template(bare.pattern, task.template.max_tokens).tokenize(backbone.tokenizer, 0)
        rows = [row for split in ("train", "validation") for row in task.splits.get(split, ())]
        limit = None if backbone.max_positions is None else backbone.max_positions - MARGIN
        words = max(len(backbone.tokenizer.encode(word, add_special_tokens=False)) for word in task.readout.words)
        longest = max(len(written.row(row.fields, limit).ids) for row in rows) + len(written.prefix) + words
        return cls(task, backbone, backbone.max_positions, longest, _tokens_in_memory(backbone))

    @property
    def tokens(self) -> int:
        """Tokens of examples, at most."""
        free = self.memory if self.window is None else self.window - self.longest - MARGIN
        return min(free, self.memory)

    @property
    def told(self) -> str:
        """What limits them, in words."""
        window = "no window" if self.window is None else f"a window of {self.window:,} tokens"
        return (
            f"{window}, the longest row of {self.longest} tokens and a margin of {MARGIN} taken off, and at most "
            f"{self.memory:,} tokens for a quarter of the memory"
        )

    def fitting(self, shots: Sequence[tuple[int, Example]]) -> list[tuple[int, Example]]:
        """Return the examples that fit, in their order; one that is too long leaves its place to the next."""
        kept: list[tuple[int, Example]] = []
        used = 0
        for place, shot in shots:
            length = len(self.backbone.tokenizer.encode(shown(self.task, shot), add_special_tokens=False))
            if used + length <= self.tokens:
                used += length
                kept.append((place, shot))
        return kept


def _tokens_in_memory(backbone: Backbone) -> int:
    """Tokens whose keys and values, of a batch, fit in a quarter of the memory, with the scores among themselves."""
    import torch

    from softprompt.training.memory import machine_memory

    whole = machine_memory()
    if backbone.device.type == "cuda":
        whole = torch.cuda.get_device_properties(backbone.device).total_memory
    room, each, heads = _SHARE * whole, AT_ONCE * _bytes_a_token(backbone), _heads(backbone)
    # each · S + 4 · heads · S² = room
    return int((-each + (each**2 + 16 * heads * room) ** 0.5) / (8 * heads))


def _bytes_a_token(backbone: Backbone) -> float:
    """Bytes of keys and values that a token leaves in all layers, measured."""
    import torch

    with torch.inference_mode():
        row = backbone.embed(torch.full((1, 2), backbone.pad, device=backbone.device))
        mask = torch.ones(1, 2, dtype=torch.long, device=backbone.device)
        past = backbone.key_values(row, mask=mask, positions=mask.cumsum(1) - 1)
    return sum(keys.nbytes + values.nbytes for keys, values in past) / 2


def _heads(backbone: Backbone) -> int:
    return int(backbone.model.config.num_attention_heads)
