"""`PromptedModel`: a frozen backbone that answers with soft prompts, any mixture of them in a batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.errors import ConfigError
from softprompt.modeling.answers import Answer, answer, text_answer
from softprompt.modeling.batching import Batching, Held
from softprompt.modeling.bound import FEATURES, BoundPrompt, Prefix, check_row
from softprompt.modeling.flight import Flight
from softprompt.modeling.forward import Batch, Pass, run_on, run_rows
from softprompt.modeling.layout import by_length
from softprompt.modeling.prefix_cache import PrefixCache
from softprompt.modeling.reader import words_refused
from softprompt.modeling.readings import EncodedRow, Gold, Place, States, at_ends
from softprompt.modeling.sampling import Sampling
from softprompt.modeling.writing import Writing, Written
from softprompt.progress import Meter
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.shapes import Float
from softprompt.tasks.chat import TokenizedChat
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import Readout
from softprompt.tasks.tags import TaggedRow, TaggedTemplate, TokenTags
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template

Row = Mapping[str, str]
Read = tuple[Tensor, Tensor]
"""What is read behind a row: the log-probabilities of its answers, [C], and the state at its end, [D]."""

_PREFIX_SLOTS = 4
"""Slots of a shared prefix that cost a row what a token of its own does: they meet nothing but attention."""
_BOUND_BYTES = 32 * 1024 * 1024
"""Of kept prompts that stay bound for later calls; the last one does, however large."""


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
        cache: where the shared prefixes of kept prompts stay for later calls; models of this same backbone may share
            one. By default one of their own.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        budget: Budget | None = None,
        share_prefix: bool = True,
        cache: PrefixCache | None = None,
    ) -> None:
        self.backbone = backbone
        self.budget = budget or Budget()
        self.cache = PrefixCache() if cache is None else cache
        self._batching = Batching(backbone, self.cache, share_prefix=share_prefix)
        self._bound: OrderedDict[str, BoundPrompt] = OrderedDict()
        self._bound_bytes = 0
        self._lock = Lock()

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
        bounds = self._bind_each(rows, prompts, allow_other_weights)
        encoded = [self.encode(row, bound) for row, bound in zip(rows, bounds, strict=True)]
        writings = [
            Writing(bound, number=number) if isinstance(bound.readout, Text) else None
            for number, bound in enumerate(bounds)
        ]
        found = self._answer_all(encoded, bounds, writings)
        return [_answer(*each) for each in zip(bounds, rows, encoded, found, writings, strict=True)]

    def read(self, rows: Sequence[Row], prompt: SoftPrompt | BoundPrompt, *, progress: Meter | None = None) -> Readings:
        """Read the choices of every row with one prompt, before calibration, whatever its kind of answer.

        Args:
            rows: the columns of each row, N of them.
            prompt: the prompt, or `bare(...)`.
            progress: advanced by the number of rows done.
        """
        bound = self.bind(prompt) if isinstance(prompt, SoftPrompt) else prompt
        encoded = [self.encode(row, bound) for row in rows]
        scored = self._read_all(encoded, [bound] * len(rows), progress)
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
        scored = self._read_all(encoded, [bound] * len(rows), progress)
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
        bounds = self._bind_each(rows, prompts, allow_other_weights)
        writings = [Writing(bound, number=i, sampling=sampling) for i, bound in enumerate(bounds)]
        encoded = [self.encode(row, bound) for row, bound in zip(rows, bounds, strict=True)]
        self._answer_all(encoded, bounds, writings, progress)
        return [writing.written() for writing in writings]

    @torch.inference_mode()
    def begin(
        self,
        rows: Sequence[EncodedRow],
        bounds: Sequence[BoundPrompt],
        writings: Sequence[Writing | None],
        flight: Flight,
    ) -> list[Tensor | None]:
        """Run new rows, each behind its own prompt, in one pass: some are read, behind the others an answer begins.

        Rows beyond the backbone's `position_switch` take a pass of their own, and so do labels of several tokens.

        Args:
            rows: encoded rows, B of them.
            bounds: the prompt of each.
            writings: the answer that is to be written behind each; `None`: the row is read. An answer that has begun
                already goes on, where its tokens stand at the end of its row.
            flight: what the rows that are written behind join.

        Returns:
            What was read behind each row: log-probabilities of its choices, [C] (in tagging [words, C]), fp32, before
            calibration; `None` where an answer has begun.
        """
        out: list[Tensor | None] = [None] * len(rows)
        written = [0 if writing is None else len(writing.tokens) for writing in writings]
        own = [row._replace(ids=row.ids[: len(row.ids) - count]) for row, count in zip(rows, written, strict=True)]
        for far, part in self.sides(own, bounds):  # what goes on stays on its side
            for i, read in zip(part, self._begin(rows, bounds, writings, flight, part, far), strict=True):
                out[i] = None if read is None else read[0]
        return out

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
        with self._lock:
            found = self._bound.get(prompt.digest)
        bound = BoundPrompt.of(self.backbone, prompt) if found is None else found
        with self._lock:
            if prompt.digest not in self._bound:
                self._bound[prompt.digest] = bound
                self._bound_bytes += bound.bytes
            self._bound.move_to_end(prompt.digest)
            while self._bound_bytes > _BOUND_BYTES and len(self._bound) > 1:
                self._bound_bytes -= self._bound.popitem(last=False)[1].bytes
            return self._bound[prompt.digest]

    def forget(self, digest: str) -> None:
        """Let go of all that is kept for a prompt; its next row makes it anew."""
        self.cache.forget(digest)
        with self._lock:
            bound = self._bound.pop(digest, None)
            self._bound_bytes -= 0 if bound is None else bound.bytes

    def encode(self, row: Row, bound: BoundPrompt) -> EncodedRow:
        """Tokenise a row, its fields shortened where the backbone's positions or the template ask for it.

        Raises:
            TemplateError: a field is missing, or there is no room for the row.
            DataError: its text names a token that the backbone has no embedding for.
        """
        limit, template = bound.limit(self.backbone), bound.template
        found = template.tagged(row, limit) if isinstance(template, TaggedTemplate) else template.row(row, limit)
        check_row(self.backbone, found)
        return found

    def lesson(self, example: Example, bound: BoundPrompt, question: int = 0) -> tuple[EncodedRow, Gold]:
        """Return a labelled row as it is learned: its tokens, and its right answer in its reading's terms."""
        if isinstance(bound.template, TokenizedChat):
            limit, room = bound.limit(self.backbone), bound.reading.depth
            learned = bound.template.learned(example.fields, str(example.label), limit, room)
            check_row(self.backbone, learned)
            return learned, learned.spans
        row, gold = self.encode(example.fields, bound), bound.reading.gold(example, question)
        if isinstance(row, TaggedRow):  # words that the row has no room for are not learned, and count for nothing
            gold = gold[: len(row.ends)]
        return row, gold

    def prefixes(self, bounds: Sequence[BoundPrompt], *, far: bool = False) -> list[Prefix]:
        """Run the shared prefixes of some prompts together, with gradients to their tensors; nothing is kept."""
        return self._batching.prefixes.run(bounds, far=far)

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
            batch, places = self._batching.batch(asked, [each[i] for i in members], far, held or {}, behind)
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

    def _bind_each(
        self,
        rows: Sequence[Row],
        prompts: SoftPrompt | BoundPrompt | Sequence[SoftPrompt],
        allow_other_weights: bool,
    ) -> list[BoundPrompt]:
        each = [prompts] * len(rows) if isinstance(prompts, SoftPrompt | BoundPrompt) else list(prompts)
        if len(each) != len(rows):
            raise ConfigError(
                f"{len(rows)} rows and {len(each)} prompts; give one prompt for all rows, or one for each"
            )
        return [
            prompt if isinstance(prompt, BoundPrompt) else self.bind(prompt, allow_other_weights=allow_other_weights)
            for prompt in each
        ]

    def _read_all(
        self, rows: Sequence[EncodedRow], bounds: Sequence[BoundPrompt], progress: Meter | None
    ) -> list[Read]:
        """Read encoded rows, each with its own prompt."""
        found = self._answer_all(rows, bounds, [None] * len(rows), progress)
        return [read for read in found if read is not None]

    @torch.inference_mode()
    def _answer_all(
        self,
        rows: Sequence[EncodedRow],
        bounds: Sequence[BoundPrompt],
        writings: Sequence[Writing | None],
        progress: Meter | None = None,
    ) -> list[Read | None]:
        """Read rows or write behind them, in batches of like length; rows that are written fly on while others come."""
        out: list[Read | None] = [None] * len(rows)
        flight = Flight(self.backbone)
        for far, part in self._parts(rows, bounds):
            coming = sum(writings[i] is not None for i in part)
            while coming and len(flight) and len(flight) + coming > self.budget.rows:
                _step(flight, progress)
            for i, read in zip(part, self._begin(rows, bounds, writings, flight, part, far), strict=True):
                out[i] = read
            if progress is not None:
                progress.advance(len(part) - coming)
        while len(flight):
            _step(flight, progress)
        return out

    def _parts(self, rows: Sequence[EncodedRow], bounds: Sequence[BoundPrompt]) -> Iterator[tuple[bool, list[int]]]:
        """Cut rows into batches of one side and of like length, within the budget: side and places of each."""
        for far, members in self.sides(rows, bounds):
            widths = [len(rows[i].ids) + len(bounds[i].template.prefix) // _PREFIX_SLOTS for i in members]
            for part in by_length(widths, self.budget.rows, self.budget.tokens):
                yield far, [members[j] for j in part]

    def _begin(
        self,
        rows: Sequence[EncodedRow],
        bounds: Sequence[BoundPrompt],
        writings: Sequence[Writing | None],
        flight: Flight,
        part: Sequence[int],
        far: bool,
    ) -> list[Read | None]:
        """Run the rows `part`, which are on one side: what is read of each, `None` where one joined the flight."""
        joining = [writings[i] for i in part]
        asked, owners = [rows[i] for i in part], [bounds[i] for i in part]
        cold = self._batching.cold(asked, owners, far, self.budget.tokens)
        batch, places = self._batching.batch(asked, owners, far, cold=cold)
        deep = any(bounds[i].reading.depth for i in part if writings[i] is None)
        done = run_rows(self.backbone, batch, keep=deep or any(joining) or bool(cold))
        self._batching.keep(cold, batch, done)
        for i, writing in zip(part, joining, strict=True):
            if writing is not None:
                writing.behind(rows[i])
        if any(joining):
            flight.join(done, at_ends(done.hidden, places), joining, far=far)
        return self._read(done, batch, places, [row for row, writing in enumerate(joining) if writing is None])

    def _read(self, done: Pass, batch: Batch, places: Sequence[Place], asked: Sequence[int]) -> list[Read | None]:
        """Read the rows `asked` of a pass, those of one prompt together."""
        out: list[Read | None] = [None] * len(places)
        for which, bound in enumerate(batch.bounds):
            members = [row for row in asked if batch.owner[row] == which]
            if not members:
                continue
            states = self._states(done, places, members, batch.far)
            last = states.last.float()
            for row, logp, state in zip(members, bound.reading.log_probabilities(states), last, strict=True):
                out[row] = (logp, state)
        return out

    def _states(self, done: Pass, places: Sequence[Place], members: Sequence[int], far: bool) -> States:
        """What the rows `members` of a pass leave for reading."""
        index = torch.tensor(members, device=done.hidden.device)
        hidden = done.hidden if len(members) == len(places) else done.hidden[index]

        def go_on(paths: Sequence[tuple[int, ...]]) -> Tensor:
            return run_on(self.backbone, done.rows(index), paths, far=far)

        return States(hidden, [places[i] for i in members], go_on)


def answer_of(prompt: SoftPrompt | BoundPrompt, row: Row, log_probabilities: Tensor, cut: int) -> Answer:
    """Turn what was read behind a row into the answer of its prompt.

    Args:
        prompt: says what the numbers mean, by what temperature they are calibrated, and what is held back.
        row: the columns of the row.
        log_probabilities: of the choices, [C], in tagging [words, C], before calibration.
        cut: tokens removed from the row.
    """
    readout = prompt.readout
    text = row[readout.column] if isinstance(readout, TokenTags) else ""
    return answer(readout, prompt.temperature, log_probabilities, cut, text, prompt.abstain)


def _answer(bound: BoundPrompt, row: Row, encoded: EncodedRow, read: Read | None, writing: Writing | None) -> Answer:
    if writing is not None:
        return text_answer(writing.written(), encoded.cut)
    assert read is not None, "what is not written is read"
    return answer_of(bound, row, read[0], encoded.cut)


def _step(flight: Flight, progress: Meter | None) -> None:
    ended = sum(writing.ended is not None for writing in flight.step())
    if progress is not None:
        progress.advance(ended)
