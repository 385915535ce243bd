"""The loop that fits one prompt: AdamW on the prompt alone, the best on validation kept, any kill survived."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from softprompt.errors import TrainingError
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.layout import by_length
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.progress import Meter, meter, say
from softprompt.prompts.parameterizations.base import PromptParameterization
from softprompt.shapes import Float
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.task import Example
from softprompt.tasks.template import Template, TokenRow
from softprompt.training.batches import BatchOrder
from softprompt.training.checkpoints import Checkpoint, optimizer_tensors, restore_optimizer
from softprompt.training.config import TrainConfig
from softprompt.training.interruption import interruption
from softprompt.training.monitors import GradientWatch, distance, is_finite, token_norms
from softprompt.training.runs import RunFolder
from softprompt.training.schedule import warmup_cosine

DONE = "all steps done"
"""Why a run ends when nothing else ended it."""
TOKENS = 2048
"""Tokens, padding counted, whose graph is held at once: a few gigabytes on a backbone of 270M parameters."""
FEW = 200
"""Below this many validation rows the last prompt stands unless another is better beyond one standard error."""


@dataclass(frozen=True)
class Fit:
    """What a run ends with.

    Attributes:
        tensors: the chosen prompt by site, on the CPU.
        step: the step it was chosen at.
        steps: the steps that were done.
        validation: loss and accuracy of the chosen prompt on the validation rows (used for selection).
        stopped: why the run ended.
        cut_rows: rows seen in training whose text was shortened, counted each time.
        examples: rows learned from, each time counted.
        seconds: spent training, interrupted parts included; never stored in the prompt.
    """

    tensors: Mapping[str, Tensor]
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
    best_step: int = -1
    last_step: int = -1
    stopped: str = ""
    finite: bool = True
    examples: int = 0
    seconds: float = 0.0
    best: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    waited: int = 0
    cut_rows: int = 0
    watch: GradientWatch = field(default_factory=GradientWatch)


class Trainer:
    """Fits one prompt.

    The same rows, settings, seed, thread count and dtype give the same bytes, in one go or killed and resumed.

    Args:
        model: the frozen backbone.
        parameterization: what trains.
        template: the pattern of a row.
        readout: the label words.
        train: rows to learn from, at least one, all with a label.
        validation: rows to choose by; empty: the last prompt is kept.
        config: the settings.
        run: where measurements and checkpoints go.
    """

    def __init__(
        self,
        model: PromptedModel,
        parameterization: PromptParameterization,
        template: Template,
        readout: LabelWords,
        train: Sequence[Example],
        validation: Sequence[Example],
        config: TrainConfig,
        run: RunFolder,
    ) -> None:
        self._model, self._config, self._run = model, config, run
        self._parameterization = parameterization.to(model.backbone.device)
        self._labels = {label: i for i, label in enumerate(readout.labels)}
        self._train, self._validation = train, _sample(validation, config.validation_rows, config.seed)
        start = parameterization.materialize()["input"].detach().clone()
        self._bound = BoundPrompt.make(model.backbone, start, template, readout)
        rate = config.learning_rate * model.backbone.embedding_rms
        self._optimizer = torch.optim.AdamW(
            parameterization.parameters(), lr=rate, weight_decay=config.weight_decay, foreach=False
        )
        self._rate = rate
        self._order = BatchOrder(len(train), config.batch_size, config.seed, self._encode, lambda row: len(row.ids))
        self._state = _State()
        self._tensors = {"start": start, "best": start, "best_terms": torch.zeros(0), "last_terms": torch.zeros(0)}

    def fit(self, *, resume: bool = False) -> Fit:
        """Train until the steps are done, validation stops improving, or the loss is no number.

        Args:
            resume: go on from the run folder's checkpoint.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM came; the state has been saved.
            TrainingError: the checkpoint is unreadable, or the very first step gave no finite loss.
        """
        if resume:
            self._restore()
        state = self._state
        with interruption() as asked, meter("training", self._config.steps) as progress:
            progress.advance(state.step)
            while not state.stopped:
                began = time.monotonic()
                self._advance(progress)
                state.seconds += time.monotonic() - began
                if state.stopped or asked.asked or state.step % self._config.checkpoint_every == 0:
                    self._save()
                if asked.asked:
                    raise KeyboardInterrupt
        return self._finish()

    def _advance(self, progress: Meter) -> None:
        """Do one step and what is due after it; note why to stop, if there is a reason."""
        state, config = self._state, self._config
        record = self.step(state.step)
        if record is None:
            self._give_up()
            return
        state.step += 1
        self._run.log({"event": "step", "step": state.step, **record})
        progress.advance(1, f"loss {record['loss']:.3f}, {record['examples_per_second']:.0f} examples/s")
        if self._validation and (state.step % config.validate_every == 0 or state.step == config.steps):
            self._validate()
            if state.waited >= config.patience:
                state.stopped = f"validation loss has not improved for {config.patience} validations"
        if state.step == config.steps:
            state.stopped = state.stopped or DONE

    def step(self, step: int) -> dict[str, Any] | None:
        """Take one optimizer step; return what was measured, or `None` when loss or gradient is not finite."""
        began = time.perf_counter()
        batch = self.batch(step)
        rows = [row for _, row in batch]
        gold = [self._labels[str(self._train[i].label)] for i, _ in batch]
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * warmup_cosine(step, self._config.steps, self._config.warmup)
        self._optimizer.zero_grad()
        tokens = self._parameterization.materialize()["input"]
        loss, gradient = self._loss_and_gradient(tokens, rows, gold)
        if not is_finite(loss, gradient):
            return None
        tokens.backward(gradient)
        norm = torch.nn.utils.clip_grad_norm_(self._parameterization.parameters(), self._config.clip)
        self._optimizer.step()
        self._watch(step + 1, norms := token_norms(gradient))
        self._state.cut_rows += sum(row.cut > 0 for row in rows)
        self._state.examples += len(rows)
        text, padded = sum(len(row.ids) for row in rows), len(rows) * max(len(row.ids) for row in rows)
        seconds = time.perf_counter() - began
        return {
            "loss": loss.item(),
            "rate": self._optimizer.param_groups[0]["lr"],
            "gradient_norm": float(norm),
            "token_gradient_norms": norms,
            "distance": distance(tokens, self._tensors["start"].to(tokens.device)),
            "examples_per_second": len(rows) / seconds,
            "tokens_per_second": text / seconds,
            "padding": 1 - text / padded,
        }

    def _loss_and_gradient(
        self, tokens: Float[Tensor, "P D"], rows: Sequence[TokenRow], gold: Sequence[int]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "P D"]]:
        """Mean loss of a batch and its gradient at the virtual tokens; long rows go a few at a time, for memory."""
        leaf = tokens.detach().requires_grad_()
        total = torch.zeros(())
        for part in by_length([len(row.ids) for row in rows], len(rows), TOKENS):
            bound = self._bound.with_tensors({"input": leaf})
            terms = self._model.gold_log_probabilities([rows[i] for i in part], bound, [gold[i] for i in part])
            loss = -terms.sum() / len(rows)
            loss.backward()
            total += loss.detach().cpu()
        assert leaf.grad is not None, "every row depends on the prompt"
        return total, leaf.grad

    def batch(self, step: int) -> list[tuple[int, TokenRow]]:
        """Return the rows of a step, counted from 0: pairs of row number and encoded row."""
        return self._order.at(step)

    def _watch(self, step: int, norms: list[float]) -> None:
        for warning in self._state.watch.see(norms):
            say(f"warning: {warning}")
            self._run.log({"event": "warning", "step": step, "text": warning})

    def _validate(self) -> None:
        """Score the validation rows; keep the prompt if it is the best so far."""
        state = self._state
        tokens = self._parameterization.materialize()["input"].detach().clone()
        scores = self._model.score_labels([e.fields for e in self._validation], self._bound.with_tensors({"input": tokens}))
        gold = torch.tensor([self._labels[str(e.label)] for e in self._validation], device=tokens.device)
        terms = scores.log_probabilities.gather(1, gold[:, None])[:, 0].cpu()
        hits = (scores.log_probabilities.argmax(1) == gold).float().mean()
        state.last, state.last_step = {"loss": -terms.mean().item(), "accuracy": hits.item()}, state.step
        self._tensors["last_terms"] = terms
        state.waited += 1
        if not state.best or state.last["loss"] < state.best["loss"]:
            state.best, state.best_step, state.waited = dict(state.last), state.step, 0
            self._tensors |= {"best": tokens, "best_terms": terms}
        self._run.log({"event": "validation", "step": state.step, **state.last, "best_step": state.best_step})

    def _give_up(self) -> None:
        """The loss or the gradient is no number: keep the best, if there is one."""
        step = self._state.step + 1
        self._run.log({"event": "warning", "step": step, "text": "loss or gradient is not finite"})
        if not self._state.best:
            raise TrainingError(
                f"the loss or its gradient is not finite at step {step}, before any validation; lower the learning "
                f"rate (it is {self._config.learning_rate} times the embeddings' RMS), or train in fp32"
            )
        say(f"warning: the loss is not finite at step {step}; the best so far (step {self._state.best_step}) is kept")
        self._state.finite, self._state.stopped = False, f"the loss was not finite at step {step}"

    def _finish(self) -> Fit:
        state = self._state
        if state.finite and (not state.best or self._last_stands()):
            chosen, step, figures = self._parameterization.materialize()["input"], state.step, state.last
        else:
            chosen, step, figures = self._tensors["best"], state.best_step, state.best
        tensors = {"input": chosen.detach().float().cpu().clone()}
        return Fit(
            tensors, step, state.step, dict(figures), state.stopped, state.cut_rows, state.examples, state.seconds
        )

    def _last_stands(self) -> bool:
        """With few validation rows, tell whether the best is no better than the last beyond one standard error."""
        state, rows = self._state, len(self._validation)
        if state.best_step == state.step or state.last_step != state.step or not 2 <= rows < FEW:
            return state.best_step == state.step
        gain = self._tensors["best_terms"] - self._tensors["last_terms"]
        return bool(gain.mean() <= gain.std() / len(gain) ** 0.5)

    def _encode(self, index: int) -> TokenRow:
        return self._model.encode(self._train[index].fields, self._bound)

    def _save(self) -> None:
        state = self._state
        parameters = {f"parameter.{n}": p for n, p in self._parameterization.state_dict().items()}
        plain = {**vars(state), "watch": state.watch.state()}
        plain.pop("step")
        tensors = {**parameters, **optimizer_tensors(self._optimizer), **self._tensors}
        Checkpoint(state.step, tensors, plain).save(self._run.checkpoint)

    def _restore(self) -> None:
        found = Checkpoint.load(self._run.checkpoint)
        rest = dict(found.state)
        self._state = _State(step=found.step, watch=GradientWatch(**rest.pop("watch")), **rest)
        prefix = "parameter."
        self._parameterization.load_state_dict(
            {n.removeprefix(prefix): t for n, t in found.tensors.items() if n.startswith(prefix)}
        )
        restore_optimizer(self._optimizer, found.tensors)
        self._tensors = {name: found.tensors[name] for name in self._tensors}
        self._run.forget_after(found.step)
        say(f"going on from step {found.step}")


def _sample(rows: Sequence[Example], most: int, seed: int) -> Sequence[Example]:
    """At most `most` rows, drawn once for the run and kept in order."""
    if len(rows) <= most:
        return rows
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), most))]
