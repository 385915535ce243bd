"""`PromptedModel`: a frozen backbone that answers with soft prompts, any mixture of them in a batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.errors import ConfigError
from softprompt.modeling.answers import Answer, answer, text_answer
from softprompt.modeling.bound import FEATURES, BoundPrompt, Prefix
from softprompt.modeling.decoding import Sampling, Writer, Written
from softprompt.modeling.forward import Batch, Pass, run_on, run_prefixes, run_rows
from softprompt.modeling.layout import by_length
from softprompt.modeling.reader import words_refused
from softprompt.modeling.readings import EncodedRow, Gold, Place, States, at_ends
from softprompt.modeling.text import TextReading
from softprompt.progress import Meter
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.shapes import Float
from softprompt.tasks.chat import TokenizedChat
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import Readout
from softprompt.tasks.tags import TaggedTemplate, TokenTags
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template

Row = Mapping[str, str]
Held = Mapping[tuple[BoundPrompt, bool], Prefix]
"""Shared prefixes that have been run already, by prompt and side of the backbone's `position_switch`."""

K = TypeVar("K")
V = TypeVar("V")


class Scores(NamedTuple):
    """What scoring rows with one prompt gives.

    Attributes:
        log_probabilities: of every label, [N, C], fp32, before calibration.
        hidden: the backbone's state at the end of each row, [N, D], fp32.
        cut: tokens that were removed from each row to make it fit.
    """

    log_probabilities: Float[Tensor, "N C"]
    hidden: Float[Tensor, "N D"]
    cut: tuple[int, ...]


class Readings(NamedTuple):
    """What reading rows of any kind with one prompt gives.

    Attributes:
        log_probabilities: of each row's choices, [C] (in tagging [words, C]), fp32, before calibration.
        hidden: the backbone's state at the end of each row, [D], fp32.
        cut: tokens that were removed from each row to make it fit.
    """

    log_probabilities: Sequence[Tensor]
    hidden: Sequence[Tensor]
    cut: tuple[int, ...]


@dataclass(frozen=True)
class Budget:
    """How much is run at once when scoring: rows, and tokens with padding counted."""

    rows: int = 64
    tokens: int = 4096


class PromptedModel:
    """A frozen backbone with any number of soft prompts.

    A row's answer does not depend on what else is in its batch: each prompt's shared prefix is run once and
    stands right before its rows, whatever their lengths (see `layout`).

    Args:
        backbone: the frozen transformer.
        budget: how much is run at once.
        share_prefix: switch off to carry the prefix in every row; slower, the same answers.
        prefixes: how many prompts' prefixes are kept for later calls.
    """

    def __init__(
        self, backbone: Backbone, *, budget: Budget | None = None, share_prefix: bool = True, prefixes: int = 256
    ) -> None:
        self.backbone = backbone
        self.budget = budget or Budget()
        self._share_prefix = share_prefix
        self._kept: OrderedDict[tuple[str, bool], Prefix] = OrderedDict()
        self._bound: OrderedDict[str, BoundPrompt] = OrderedDict()
        self._room = prefixes

    def score(
        self, rows: Sequence[Row], prompts: SoftPrompt | Sequence[SoftPrompt], *, allow_other_weights: bool = False
    ) -> list[Answer]:
        """Answer every row, in order, each with its own prompt; prompts of all lengths and kinds share batches.

        Labels, several labels, numbers and tags are read in the same passes; texts are written, the likeliest token
        each time (`write` chooses otherwise).

        Args:
            rows: the columns of each row, N of them.
            prompts: one for all rows, or one for each.
            allow_other_weights: accept prompts trained on other weights of this architecture.

        Returns:
            An `Answer` for each row, of the class that its prompt's readout calls for.

        Raises:
            ConfigError: the number of prompts is not the number of rows.
            IncompatiblePromptError: a prompt was trained on another backbone.
            TemplateError: a row lacks a field of its prompt's template.
        """
        each = [prompts] * len(rows) if isinstance(prompts, SoftPrompt) else list(prompts)
        if len(each) != len(rows):
            raise ConfigError(
                f"{len(rows)} rows and {len(each)} prompts; give one prompt for all rows, or one for each"
            )
        bounds = [self.bind(prompt, allow_other_weights=allow_other_weights) for prompt in each]
        encoded = [self.encode(row, bound) for row, bound in zip(rows, bounds, strict=True)]
        texts = [i for i, prompt in enumerate(each) if isinstance(prompt.readout, Text)]
        others = [i for i, prompt in enumerate(each) if not isinstance(prompt.readout, Text)]
        with torch.inference_mode():
            scored = self._score_encoded([encoded[i] for i in others], [bounds[i] for i in others], None)
        out = {i: _answer(each[i], rows[i], logp, encoded[i].cut) for i, (logp, _) in zip(others, scored, strict=True)}
        found = self.write([rows[i] for i in texts], [each[i] for i in texts], allow_other_weights=allow_other_weights)
        out |= {i: text_answer(text, encoded[i].cut) for i, text in zip(texts, found, strict=True)}
        return [out[i] for i in range(len(rows))]

    def read(self, rows: Sequence[Row], prompt: SoftPrompt | BoundPrompt, *, progress: Meter | None = None) -> Readings:
        """Read the choices of every row with one prompt, before calibration, whatever its kind of answer.

        Args:
            rows: the columns of each row, N of them.
            prompt: the prompt, or `bare(...)`.
            progress: advanced by the number of rows done.
        """
        bound = self.bind(prompt) if isinstance(prompt, SoftPrompt) else prompt
        encoded = [self.encode(row, bound) for row in rows]
        with torch.inference_mode():
            scored = self._score_encoded(encoded, [bound] * len(rows), progress)
        return Readings([logp for logp, _ in scored], [state for _, state in scored], tuple(r.cut for r in encoded))

    def score_labels(
        self, rows: Sequence[Row], prompt: SoftPrompt | BoundPrompt, *, progress: Meter | None = None
    ) -> Scores:
        """Score every label of every row with one prompt, before calibration.

        Args:
            rows: the columns of each row, N of them, at least one.
            prompt: the prompt, or `bare(...)`.
            progress: advanced by the number of rows done.
        """
        bound = self.bind(prompt) if isinstance(prompt, SoftPrompt) else prompt
        encoded = [self.encode(row, bound) for row in rows]
        with torch.inference_mode():
            scored = self._score_encoded(encoded, [bound] * len(rows), progress)
        return Scores(
            torch.stack([logp for logp, _ in scored]),
            torch.stack([h for _, h in scored]),
            tuple(r.cut for r in encoded),
        )

    def write(
        self,
        rows: Sequence[Row],
        prompts: SoftPrompt | BoundPrompt | Sequence[SoftPrompt],
        sampling: Sampling | None = None,
        *,
        allow_other_weights: bool = False,
        progress: Meter | None = None,
    ) -> list[Written]:
        """Write an answer to every row, in order, each with its own prompt; prompts of all lengths share batches.

        Args:
            rows: the columns of each row, N of them.
            prompts: one for all rows, or one for each; all read out as text.
            sampling: how tokens are chosen; by default the likeliest one.
            allow_other_weights: accept prompts trained on other weights of this architecture.
            progress: advanced by the number of rows done.

        Raises:
            ConfigError: the number of prompts is not the number of rows, or one is not read out as text.
            IncompatiblePromptError: a prompt was trained on another backbone.
            TemplateError: a row lacks a field of its prompt's template.
        """
        each = [prompts] * len(rows) if isinstance(prompts, SoftPrompt | BoundPrompt) else list(prompts)
        bounds = [
            prompt if isinstance(prompt, BoundPrompt) else self.bind(prompt, allow_other_weights=allow_other_weights)
            for prompt in each
        ]
        readings = [_text_of(bound) for bound in bounds]
        encoded = [self.encode(row, bound) for row, bound in zip(rows, bounds, strict=True)]
        out: dict[int, Written] = {}
        with torch.inference_mode():
            for far, part in self._parts(encoded, bounds):
                batch, places = self._batch([encoded[i] for i in part], [bounds[i] for i in part], far)
                done = run_rows(self.backbone, batch, keep=True)
                writer = Writer(self.backbone, sampling or Sampling(), far=far)
                written = writer.write(done, at_ends(done.hidden, places), [readings[i] for i in part], part)
                out |= dict(zip(part, written, strict=True))
                if progress is not None:
                    progress.advance(len(part))
        return [out[i] for i in range(len(rows))]

    def measure(self, rows: Sequence[EncodedRow], bound: BoundPrompt, gold: Sequence[Gold]) -> Float[Tensor, " N"]:
        """Return the log-probability of each row's right answer, without gradients, any number of rows.

        Args:
            rows: encoded rows, N of them.
            bound: the prompt.
            gold: the right answer of each row, in its reading's terms.
        """
        total = torch.zeros(len(rows), device=self.backbone.device)
        lengths = [len(row.ids) + len(bound.reading.behind(each)) for row, each in zip(rows, gold, strict=True)]
        with torch.inference_mode():
            held = {
                (bound, far): self.prefixes([bound], far=far)[0] for far, _ in self.sides(rows, [bound] * len(rows))
            }
            for part in by_length(lengths, self.budget.rows, self.budget.tokens):
                terms = self.gold_log_probabilities([rows[i] for i in part], bound, [gold[i] for i in part], held)
                total[torch.tensor(part, device=total.device)] = terms
        return total

    def bare(self, template: Template, readout: Readout) -> BoundPrompt:
        """Return the template with no virtual tokens at all: what zero-shot scoring uses.

        Where the backbone has no words for the answers (`reader.words_refused`), all are equally likely.
        """
        tensors = {"input": torch.zeros(0, self.backbone.embedding_size)}
        if words_refused(self.backbone, readout, template) is not None:
            weight = torch.zeros(readout.outputs, self.backbone.hidden_size)
            tensors |= {"readout.weight": weight, "readout.bias": weight[:, 0]}
        return BoundPrompt.make(self.backbone, tensors, template, readout)

    def bind(self, prompt: SoftPrompt, *, allow_other_weights: bool = False) -> BoundPrompt:
        """Return a kept prompt in this backbone's terms, made once.

        Raises:
            IncompatiblePromptError: the prompt was trained on another backbone.
        """
        prompt.check(self.backbone.fingerprint, allow_other_weights=allow_other_weights, features=FEATURES)
        if prompt.digest not in self._bound:
            self._bound[prompt.digest] = BoundPrompt.of(self.backbone, prompt)
            _forget_oldest(self._bound, self._room)
        return self._bound[prompt.digest]

    def encode(self, row: Row, bound: BoundPrompt) -> EncodedRow:
        """Tokenise a row, its fields shortened where the backbone's positions or the template ask for it."""
        limit = bound.limit(self.backbone)
        if isinstance(bound.template, TaggedTemplate):
            return bound.template.tagged(row, limit)
        return bound.template.row(row, limit)

    def lesson(self, example: Example, bound: BoundPrompt, question: int = 0) -> tuple[EncodedRow, Gold]:
        """Return a labelled row as it is learned: its tokens, and its right answer in its reading's terms."""
        if isinstance(bound.template, TokenizedChat):
            row = bound.template.learned(example.fields, str(example.label), bound.limit(self.backbone))
            return row, row.spans
        return self.encode(example.fields, bound), bound.reading.gold(example, question)

    def prefixes(self, bounds: Sequence[BoundPrompt], *, far: bool = False) -> list[Prefix]:
        """Run the shared prefixes of some prompts together, with gradients to their tensors; nothing is kept."""
        return run_prefixes(self.backbone, bounds, far=far)

    def sides(self, rows: Sequence[EncodedRow], bounds: Sequence[BoundPrompt]) -> list[tuple[bool, list[int]]]:
        """Part rows by the side of the backbone's `position_switch` that they end on; most backbones have one side."""
        switch = self.backbone.position_switch
        if switch is None:
            return [(False, list(range(len(rows))))] if rows else []
        reach = [len(b.template.prefix) + len(r.ids) + b.reading.depth for r, b in zip(rows, bounds, strict=True)]
        sides = [(far, [i for i, n in enumerate(reach) if (n > switch) == far]) for far in (False, True)]
        return [(far, members) for far, members in sides if members]

    def gold_log_probabilities(
        self,
        rows: Sequence[EncodedRow],
        bounds: BoundPrompt | Sequence[BoundPrompt],
        gold: Sequence[Gold],
        held: Held | None = None,
    ) -> Float[Tensor, " B"]:
        """Return each row's log-probability of its gold answer, with gradients to the prompts' tensors.

        A prefix is run once for the batch and the gold answer's tokens ride behind the row; probabilities
        are those of `score_labels` (with `full`: not yet normalised over the labels, the usual
        language-modelling objective).

        Args:
            rows: encoded rows, B of them.
            bounds: one prompt for all rows, or one for each.
            gold: the right answer of each row, in its reading's terms.
            held: prefixes that have been run already; none: run here.
        """
        each = [bounds] * len(rows) if isinstance(bounds, BoundPrompt) else list(bounds)
        total = torch.zeros(len(rows), device=self.backbone.device)
        for far, members in self.sides(rows, each):
            behind = [each[i].reading.behind(gold[i]) for i in members]
            asked = [rows[i] for i in members]
            batch, places = self._batch(asked, [each[i] for i in members], far, held or {}, behind)
            hidden = run_rows(self.backbone, batch).hidden
            for which, bound in enumerate(batch.bounds):
                mine = [j for j, owner in enumerate(batch.owner) if owner == which]
                states = hidden if len(batch.bounds) == 1 else hidden[torch.tensor(mine, device=hidden.device)]
                terms = bound.reading.gold_log_probabilities(
                    states, [places[j] for j in mine], [gold[members[j]] for j in mine]
                )
                at = torch.tensor([members[j] for j in mine], device=total.device)
                total = total.index_add(0, at, terms)
        return total

    def _score_encoded(
        self, rows: Sequence[EncodedRow], bounds: Sequence[BoundPrompt], progress: Meter | None
    ) -> list[tuple[Tensor, Tensor]]:
        """Score encoded rows, each with its own prompt: (label log-probabilities [C], hidden state [D]) a row."""
        out: dict[int, tuple[Tensor, Tensor]] = {}
        for far, part in self._parts(rows, bounds):
            batch, places = self._batch([rows[i] for i in part], [bounds[i] for i in part], far)
            out |= dict(zip(part, self._score_batch(batch, places), strict=True))
            if progress is not None:
                progress.advance(len(part))
        return [out[i] for i in range(len(rows))]

    def _parts(self, rows: Sequence[EncodedRow], bounds: Sequence[BoundPrompt]) -> Iterator[tuple[bool, list[int]]]:
        """Cut rows into batches of one side and of like length, within the budget: side and places of each."""
        for far, members in self.sides(rows, bounds):
            widths = [len(rows[i].ids) + len(bounds[i].template.prefix) for i in members]
            for part in by_length(widths, self.budget.rows, self.budget.tokens):
                yield far, [members[j] for j in part]

    def _score_batch(self, batch: Batch, places: Sequence[Place]) -> list[tuple[Tensor, Tensor]]:
        deep = any(bound.reading.depth for bound in batch.bounds)
        done = run_rows(self.backbone, batch, keep=deep)
        out: list[tuple[Tensor, Tensor] | None] = [None] * len(batch.ids)
        for which, bound in enumerate(batch.bounds):
            members = [i for i, owner in enumerate(batch.owner) if owner == which]
            states = self._states(done, places, members, batch.far)
            last = states.last.float()
            for i, logp, state in zip(members, bound.reading.log_probabilities(states), last, strict=True):
                out[i] = (logp, state)
        return [result for result in out if result is not None]

    def _states(self, done: Pass, places: Sequence[Place], members: Sequence[int], far: bool) -> States:
        """What the rows `members` of a pass leave for reading."""
        index = torch.tensor(members, device=done.hidden.device)
        hidden = done.hidden if len(members) == len(places) else done.hidden[index]

        def go_on(paths: Sequence[tuple[int, ...]]) -> Tensor:
            return run_on(self.backbone, done.rows(index), paths, far=far)

        return States(hidden, [places[i] for i in members], go_on)

    def _batch(
        self,
        rows: Sequence[EncodedRow],
        bounds: Sequence[BoundPrompt],
        far: bool,
        held: Held | None = None,
        behind: Sequence[tuple[int, ...]] = (),
    ) -> tuple[Batch, list[Place]]:
        """Lay out rows: distinct prompts once each, with their prefixes (or the prefix inside every row).

        What comes `behind` a row stands there, or in the decoder of an encoder-decoder; by default nothing.
        """
        distinct = list(dict.fromkeys(bounds))
        where = {bound: i for i, bound in enumerate(distinct)}
        owner = [where[bound] for bound in bounds]
        shared = {bound: self._share_prefix or bound.layers is not None for bound in distinct}
        prefixes = [self._prefix(bound, far, held or {}) if shared[bound] else Prefix(None, 0) for bound in distinct]
        front = [bound.carried(shared=shared[bound]) for bound in bounds]
        whole = [words + row.ids for words, row in zip(front, rows, strict=True)]
        places = [bound.place(row, len(words)) for bound, row, words in zip(bounds, rows, front, strict=True)]
        paths = behind or [()] * len(rows)
        if self.backbone.kind == "encoder-decoder":
            answers = [bound.answer_start + path for bound, path in zip(bounds, paths, strict=True)]
            return Batch(distinct, prefixes, owner, whole, far, answers), places
        ids = [words + path for words, path in zip(whole, paths, strict=True)]
        return Batch(distinct, prefixes, owner, ids, far), places

    def _prefix(self, bound: BoundPrompt, far: bool, held: Held) -> Prefix:
        """The prefix held by the caller, or kept from an earlier call, or run now, by itself, and kept."""
        if (bound, far) in held:
            return held[bound, far]
        if bound.key is None:
            return run_prefixes(self.backbone, [bound], far=far)[0]
        key = (bound.key, far)
        if key not in self._kept:
            self._kept[key] = run_prefixes(self.backbone, [bound], far=far)[0]
            _forget_oldest(self._kept, self._room)
        self._kept.move_to_end(key)
        return self._kept[key]


def _answer(prompt: SoftPrompt, row: Row, log_probabilities: Tensor, cut: int) -> Answer:
    readout = prompt.readout
    text = row[readout.column] if isinstance(readout, TokenTags) else ""
    return answer(readout, prompt.temperature, log_probabilities, cut, text, prompt.abstain)


def _text_of(bound: BoundPrompt) -> TextReading:
    if not isinstance(bound.reading, TextReading):
        raise ConfigError(
            "text was asked of a prompt whose answers are chosen, not written; use `score` for it, or train one for "
            "generation"
        )
    return bound.reading


def _forget_oldest(kept: OrderedDict[K, V], room: int) -> None:
    while len(kept) > room:
        kept.popitem(last=False)
