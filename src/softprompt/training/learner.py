"""One prompt of a bank while it learns: its parameters, its optimizer, and what has been seen of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.readings import EncodedRow, Gold
from softprompt.training.bank import Share, row_tokens
from softprompt.training.batches import BatchOrder, TokenOrder, sample
from softprompt.training.checkpoints import optimizer_tensors, restore_optimizer
from softprompt.training.lesson import Lesson
from softprompt.training.monitors import GradientWatch, distance, is_finite, token_norms
from softprompt.training.parallel import Learned
from softprompt.training.schedule import warmup_cosine
from softprompt.training.selection import Seen, beyond_chance, last_stands

DONE = "all steps done"
"""Why a prompt stops learning when nothing else stopped it."""
CLEARLY = 0.15
"""Share of all that a prompt has learned that it learned in the last third of a run, where a longer run is worth it."""

_FIRST = 5
"""Steps whose mean loss is what a prompt begins at: nothing is learned in them yet, and one batch is few rows."""


class Item(NamedTuple):
    """An encoded row, its right answer in its reading's terms, how much it counts, and its tokens in all."""

    row: EncodedRow
    gold: Gold
    weight: float
    length: int


@dataclass(frozen=True)
class Fit:
    """What one prompt ends with.

    Attributes:
        tensors: the chosen prompt by site, on the CPU.
        init: where its first values came from, a sentence.
        step: the step it was chosen at.
        steps: the steps that were done.
        validation: loss, accuracy and macro-F1 of the chosen prompt on the validation rows (used for selection).
        stopped: why it ended.
        cut_rows: rows seen in training whose text was shortened, counted each time.
        examples: rows learned from, each time counted.
        seconds: spent training the bank it belongs to, interrupted parts included; never stored in the prompt.
    """

    tensors: Mapping[str, Tensor]
    init: str
    step: int
    steps: int
    validation: Mapping[str, float]
    stopped: str
    cut_rows: int
    examples: int
    seconds: float


@dataclass
class _State:
    """What changes from step to step, and is in every checkpoint."""

    step: int = 0
    first: float = 0.0
    begin: int = 0
    until: int = 0
    extended: int = 0
    best_step: int = -1
    last_step: int = -1
    stopped: str = ""
    finite: bool = True
    examples: int = 0
    best: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    waited: int = 0
    cut_rows: int = 0
    watch: GradientWatch = field(default_factory=GradientWatch)


class Learner:
    """One prompt of a bank.

    Args:
        model: the frozen backbone.
        lesson: what it learns.

    Attributes:
        lesson: what it learns.
        init: where its first values came from.
        state: what changes from step to step.
    """

    def __init__(self, model: PromptedModel, lesson: Lesson) -> None:
        self._model, self.lesson, self.config = model, lesson, lesson.config
        backbone, config = model.backbone, lesson.config
        module, self.init = lesson.begin(backbone)
        self._module = module.to(backbone.device)
        self._counts = Counter(str(row.label) for row in lesson.train)
        self.validation = sample(lesson.validation, config.validation_rows, config.seed)
        start = self.tensors()
        self._bound = lesson.bind(backbone, start)
        self._scales = [group.scale for group in module.groups()]
        self._optimizer = torch.optim.AdamW(
            [{"params": list(group.parameters), "lr": 0.0} for group in module.groups()],
            weight_decay=config.weight_decay,
            foreach=False,
        )
        questions = len(lesson.train) * self._bound.reading.questions
        self._order: BatchOrder | TokenOrder = (
            BatchOrder(questions, config.batch_size, config.seed)
            if config.batch_tokens is None
            else TokenOrder(questions, config.batch_tokens, config.seed, lambda number: self._item(number).length)
        )
        self.state = _State(until=config.length)
        self._start, self._best = start, start
        self._best_terms = self._last_terms = self._before_terms = torch.zeros(0)

    @property
    def chooses_one(self) -> bool:
        """Whether an answer is one of some labels, so that validation counts right and wrong ones."""
        return self.lesson.readout.kind == "label-words"

    @property
    def looks(self) -> bool:
        """Whether a validation is due: at fixed distances, at two thirds of a run, for `goes_on`, and at its end."""
        state, run = self.state, self.state.until - self.state.begin
        due = (state.begin + 2 * run // 3, state.until)
        return bool(self.validation) and (state.step % self.config.validate_every == 0 or state.step in due)

    @property
    def active(self) -> bool:
        """Whether it has steps to go."""
        return not self.state.stopped

    def tensors(self) -> dict[str, Tensor]:
        """Return the prompt as it stands, by site, folded and detached."""
        return {site: tensor.detach().clone() for site, tensor in self._module.materialize().items()}

    def bound(self) -> BoundPrompt:
        """Return the prompt as it stands, in the backbone's terms."""
        return self._bound.with_tensors(self.tensors())

    def batch(self, step: int) -> list[tuple[int, Item]]:
        """Return the items of a step, counted from 0: pairs of number and encoded row with its answer."""
        return [(number, self._item(number)) for number in self._order.at(step)]

    def share(self, step: int | None = None) -> Share:
        """Return what it learns from at its next step (or at `step`), the prompt's tensors as leaves."""
        leaves = {site: tensor.requires_grad_() for site, tensor in self.tensors().items()}
        items = [item for _, item in self.batch(self.state.step if step is None else step)]
        units = sum(self._bound.reading.units(item.gold) for item in items)
        weights = [item.weight / units for item in items]
        bound = self._bound.with_tensors(leaves)
        return Share(bound, [item.row for item in items], [item.gold for item in items], weights)

    def learn(self, share: Share, learned: Learned) -> dict[str, Any] | None:
        """Take one optimizer step; return what was measured, or `None` where loss or gradient is not finite."""
        if not is_finite(learned.loss, learned.gradient.values()):
            return None
        state, config = self.state, self.config
        share_of_rate = warmup_cosine(state.step - state.begin, state.until - state.begin, config.warmup)
        for group, scale in zip(self._optimizer.param_groups, self._scales, strict=True):
            group["lr"] = config.rate * scale * share_of_rate
        self._optimizer.zero_grad()
        folded = self._module.materialize()
        trained = [site for site in learned.gradient if folded[site].requires_grad]
        torch.autograd.backward([folded[site] for site in trained], [learned.gradient[site] for site in trained])
        norm = torch.nn.utils.clip_grad_norm_(self._module.parameters(), config.clip)
        self._optimizer.step()
        if state.step < _FIRST:
            state.first += (learned.loss.item() - state.first) / (state.step + 1)
        state.step += 1
        state.cut_rows += sum(row.cut > 0 for row in share.rows)
        state.examples += len(share.rows)
        return {
            "loss": learned.loss.item(),
            "rate": config.rate * share_of_rate,
            "gradient_norm": float(norm),
            "token_gradient_norms": token_norms(learned.gradient),
            "distance": distance(share.bound.tensors, self._start),
        }

    def see(self, seen: Seen) -> None:
        """Take a validation; keep the prompt if it is the best so far."""
        state = self.state
        state.last, state.last_step, self._last_terms = dict(seen.figures), state.step, seen.terms
        if not state.best or seen.better_than(state.best, self.config.select):
            state.best, state.best_step, state.waited = dict(seen.figures), state.step, 0
            self._best, self._best_terms = self.tensors(), seen.terms
        elif len(self._best_terms) == len(seen.terms):  # a plateau is no reason to stop: the rate is still to fall
            state.waited += beyond_chance(self._best_terms - seen.terms, errors=2.0)
        early = state.step <= state.begin + 2 * (state.until - state.begin) // 3
        if early and (not len(self._before_terms) or seen.terms.mean() > self._before_terms.mean()):
            self._before_terms = seen.terms

    def goes_on(self) -> bool:
        """At the end of a run, tell whether it goes on: what was learned grew clearly, and for sure, in its last third.

        What is learned is counted in nats of validation loss, from what can be said of an answer without reading the
        row. Then the rate rises and falls once more, over twice as many steps.
        """
        state, before, last = self.state, self._before_terms, self._last_terms
        improved = len(before) == len(last) and beyond_chance(last - before, errors=2.0)
        improved = improved and bool((last - before).mean() > CLEARLY * (last.mean() + self._unread_loss).abs())
        if state.extended >= (self.config.extend or 0) or state.last_step != state.step or not improved:
            return False
        state.begin, state.until = state.step, state.step + 2 * (state.step - state.begin)
        state.extended += 1
        self._before_terms = last  # the rate rises again: what that undoes is not learned a second time
        return True

    def fit(self, seconds: float) -> Fit:
        """Return what it ends with: the last prompt, or an earlier one that is better on validation beyond chance.

        Selected by another figure than the loss, it is the best by that figure.
        """
        state = self.state
        here = state.best_step == state.step
        by_loss = self.config.select == "loss" or self.config.select not in state.last
        stands = by_loss and state.last_step == state.step and last_stands(self._best_terms, self._last_terms)
        if state.finite and (not state.best or here or stands):
            chosen, step, figures = self.tensors(), state.step, state.last
        else:
            chosen, step, figures = self._best, state.best_step, state.best
        tensors = {site: tensor.float().cpu().clone() for site, tensor in chosen.items()}
        return Fit(
            tensors, self.init, step, state.step, dict(figures), state.stopped, state.cut_rows, state.examples, seconds
        )

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return its state as named tensors and plain JSON."""
        tensors = {
            **{f"parameter.{name}": value for name, value in self._module.state_dict().items()},
            **optimizer_tensors(self._optimizer),
            **{f"start.{site}": value for site, value in self._start.items()},
            **{f"best.{site}": value for site, value in self._best.items()},
            "terms.best": self._best_terms,
            "terms.last": self._last_terms,
            "terms.before": self._before_terms,
        }
        return tensors, {**vars(self.state), "watch": self.state.watch.state()}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Put back what `saved` gave."""
        rest = dict(state)
        self.state = _State(watch=GradientWatch(**rest.pop("watch")), **rest)
        self._module.load_state_dict(_under("parameter.", tensors))
        restore_optimizer(self._optimizer, tensors)
        self._start, self._best = _under("start.", tensors), _under("best.", tensors)
        self._best_terms, self._last_terms = tensors["terms.best"], tensors["terms.last"]
        self._before_terms = tensors["terms.before"]

    @property
    def _unread_loss(self) -> float:
        """The loss of who knows how common each label is; of other answers, that of the first steps."""
        if not self.chooses_one:
            return self.state.first
        shares = torch.tensor([*self._counts.values()]) / self._counts.total()
        return float(-(shares * shares.log()).sum())

    def _weight(self, label: str) -> float:
        """How much a row counts: as much as any, or, balanced, the less the more common its label is."""
        if self.config.class_weights == "none":
            return 1.0
        return len(self.lesson.train) / (len(self._counts) * self._counts[label])

    def _item(self, number: int) -> Item:
        index, question = divmod(number, self._bound.reading.questions)
        example = self.lesson.train[index]
        row, gold = self._model.lesson(example, self._bound, question)
        return Item(row, gold, self._weight(str(example.label)), row_tokens(self._bound, row, gold))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def look(model: PromptedModel, learner: Learner, rows: int | None = None) -> Seen:
    """Score a learner's validation rows, or `rows` of them drawn by its seed, with its prompt as it stands.

    Where more rows are asked for than it looks at while it trains, they are drawn from all that it has.
    """
    examples = learner.validation
    if rows is not None:
        enough = rows <= len(examples)
        examples = sample(examples if enough else learner.lesson.validation, rows, learner.config.seed)
    bound = learner.bound()
    if learner.chooses_one:
        scores = model.score_labels([example.fields for example in examples], bound)
        gold = torch.tensor([bound.reading.gold(example, 0) for example in examples])
        return Seen.of(scores.log_probabilities.cpu(), gold)
    items = [
        model.lesson(example, bound, question) for example in examples for question in range(bound.reading.questions)
    ]
    units = torch.tensor([bound.reading.units(gold) for _, gold in items])
    terms = model.measure([row for row, _ in items], bound, [gold for _, gold in items]).cpu() / units
    return Seen.by_loss(terms.reshape(len(examples), -1).mean(1))
