"""One training step as each side takes it: ours, and PEFT's prompt tuning as documented and at its best."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from softprompt.errors import MissingExtraError, TrainingError, UnsupportedBackboneError
from softprompt.methods.turns import Clock, turn_by_turn
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.tasks.template import Template
from softprompt.training.bank import TOKENS, gradients
from softprompt.training.config import TrainConfig
from softprompt.training.learner import Learner
from softprompt.training.lesson import Lesson
from softprompt.training.start import first_values

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.tasks.task import Task

BATCH = 32
VIRTUAL_TOKENS = 20
IGNORED = -100


@dataclass(frozen=True)
class TrainingSpeed:
    """Training with the same rows, weights and virtual tokens, a step of each side in turn; medians.

    Attributes:
        ours: examples a second of softprompt's own step.
        documented: examples a second of PEFT's prompt tuning as its documentation does it.
        ratio: how many times longer a documented step takes: the median over the turns.
        steps: steps of each side that were counted.
        batch: rows of a step.
        virtual_tokens: of the prompt.
    """

    ours: float
    documented: float
    ratio: float
    steps: int
    batch: int = BATCH
    virtual_tokens: int = VIRTUAL_TOKENS

    @property
    def told(self) -> str:
        """What it says, in a sentence.

        >>> TrainingSpeed(20.0, 4.0, 5.1, steps=20).told.partition(" (")[0]
        'trained as PEFT documents it, prompt tuning learns from 4.0 rows a second, our trainer from 20.0'
        """
        return (
            f"trained as PEFT documents it, prompt tuning learns from {self.documented:.1f} rows a second, our trainer "
            f"from {self.ours:.1f} (×{self.ratio:.1f}; medians of {self.steps} steps in turn, {self.virtual_tokens} "
            f"virtual tokens, batches of {self.batch})"
        )


def documented_speed(
    backbone: Backbone, task: Task, steps: int = 20, *, clock: Clock = time.perf_counter
) -> TrainingSpeed:
    """Measure training as PEFT documents it beside ours: the same batches of 32 rows, turn by turn.

    PEFT's documented step is `get_peft_model` with `PromptTuningConfig`, whole rows padded to the longest, labels −100
    but at the answer, logits at every position. Dropout is off, and AdamW learns, on both sides.

    Args:
        backbone: a decoder; its weights are left as they are.
        task: classification with label words.
        steps: of each side, after one that warms up.
        clock: seconds that only rise.

    Raises:
        MissingExtraError: `peft` is not installed.
        UnsupportedBackboneError: the backbone is no decoder.
    """
    if find_spec("peft") is None:
        raise MissingExtraError(
            'measuring PEFT needs `peft`, which is not installed: pip install "softprompt[baselines]"'
        )
    if backbone.kind != "decoder":
        raise UnsupportedBackboneError(
            f"PEFT's documented prompt tuning is timed on decoders, and `{backbone.name}` is an {backbone.kind}; "
            "leave its speed out"
        )
    ours = Ours(backbone, task, VIRTUAL_TOKENS)
    seconds = turn_by_turn(
        {"ours": ours.step, "documented": Peft(backbone, task, ours).documented}, rounds=steps, steps=1, clock=clock
    )
    own, theirs = (_rate(ours, found) for found in seconds.values())
    ratios = [slow / fast for fast, slow in zip(seconds["ours"], seconds["documented"], strict=True)]
    return TrainingSpeed(own, theirs, statistics.median(ratios), steps, len(ours.batch(1)))


def _rate(ours: Ours, seconds: Sequence[float]) -> float:
    """Examples a second: the median over the steps behind the first, some of which may be short."""
    return statistics.median(len(ours.batch(step)) / taken for step, taken in enumerate(seconds, start=1))


class Ours:
    """softprompt: the trainer's own step with its monitors, for rows at the input and label words.

    Args:
        backbone: the frozen transformer.
        task: whose training rows are learned from.
        virtual_tokens: P.
    """

    def __init__(self, backbone: Backbone, task: Task, virtual_tokens: int) -> None:
        config = TrainConfig(
            race=False, parameterization="direct", learned_rows=False, virtual_tokens=virtual_tokens, batch_size=BATCH,
            steps=1000,
        )  # fmt: skip
        self.start = first_values(backbone, config, task.template, task.readout).rows
        self._rows, self._model = task.splits["train"], PromptedModel(backbone)
        lesson = Lesson("prompt", config, task.template, task.readout, self._rows, ())
        self._learner = Learner(self._model, lesson)
        self._tokens = TOKENS[backbone.device.type]
        self.prefix = len(task.template.tokenize(backbone.tokenizer, virtual_tokens).prefix)

    def batch(self, step: int) -> list[Any]:
        """The examples of a step; its rows are tokenised here, outside of any timing."""
        return [self._rows[index] for index, _ in self._learner.batch(step)]

    def tokens(self, step: int) -> int:
        """Unpadded tokens of a step's rows, from the first field on."""
        return sum(len(item.row.ids) for _, item in self._learner.batch(step))

    def step(self, step: int) -> None:
        """Learn from the batch of a step, as the trainer does.

        Raises:
            TrainingError: the loss is not finite.
        """
        share = self._learner.share(step)
        record = self._learner.learn(share, *gradients(self._model, [share], self._tokens))
        if record is None:
            raise TrainingError(f"the loss of step {step} is not finite, so that there is no speed to measure")
        self._learner.state.watch.see(record["token_gradient_norms"])


class Inputs(NamedTuple):
    """A batch as PEFT's users make it: whole rows, padded on the right, labels at the answer's tokens only."""

    ids: Tensor
    mask: Tensor
    labels: Tensor


class Rows:
    """Rows without soft tokens, for PEFT and for the bare backbone; tokenised before the timing."""

    def __init__(self, backbone: Backbone, task: Task, batch: Callable[[int], Sequence[Any]]) -> None:
        self._tokenizer, self._pad, self._batch = backbone.tokenizer, backbone.pad, batch
        self._template = Template(task.template.pattern.replace("{soft}", "")).tokenize(backbone.tokenizer, 0)
        self._device = backbone.device
        encode = backbone.tokenizer.encode
        self.answers = {
            label: encode(word, add_special_tokens=False)
            for label, word in zip(task.readout.labels, task.readout.words, strict=True)
        }
        self._made: dict[int, Inputs] = {}

    def at(self, step: int) -> Inputs:
        """The batch of a step, its answers behind the rows."""
        if step not in self._made:
            self._made[step] = self._make(step)
        return self._made[step]

    def _make(self, step: int) -> Inputs:
        rows = [([*self._template.prefix, *self._template.row(e.fields).ids], e.label) for e in self._batch(step)]
        whole = [(ids + self.answers[label], len(ids)) for ids, label in rows]
        width = max(len(ids) for ids, _ in whole)
        ids = torch.tensor([row + [self._pad] * (width - len(row)) for row, _ in whole], device=self._device)
        lengths = torch.tensor([len(row) for row, _ in whole], device=self._device)[:, None]
        starts = torch.tensor([start for _, start in whole], device=self._device)[:, None]
        columns = torch.arange(width, device=self._device)[None]
        mask = (columns < lengths).long()
        return Inputs(ids, mask, torch.where((columns >= starts) & (columns < lengths), ids, IGNORED))


class Peft:
    """PEFT's prompt tuning around the very same weights, from the same first values."""

    def __init__(self, backbone: Backbone, task: Task, ours: Ours) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT calls what transformers means to rename
            import peft

            count = len(ours.start)
            config = peft.PromptTuningConfig(
                task_type="CAUSAL_LM", num_virtual_tokens=count, prompt_tuning_init="RANDOM"
            )
            self.model = peft.get_peft_model(backbone.as_in_transformers(), config).eval()  # no dropout, on either side
        (self._prompt,) = [p for p in self.model.parameters() if p.requires_grad]
        self._prompt.data.copy_(ours.start)
        self._optimizer = torch.optim.AdamW([self._prompt], lr=1e-3)
        self._rows, self._count = Rows(backbone, task, ours.batch), count

    def documented(self, step: int) -> None:
        """As the documentation does: labels are -100 but at the answer, logits at every position."""
        inputs = self._rows.at(step)
        loss = self.model(input_ids=inputs.ids, attention_mask=inputs.mask, labels=inputs.labels).loss
        self._learn(loss)

    def label_positions(self, step: int) -> None:
        """PEFT's rows, but the base model without its head, and logits only where a label is asked for."""
        inputs = self._rows.at(step)
        causal = self.model.get_base_model()
        prompts = self.model.get_prompt(batch_size=len(inputs.ids))
        embedded = self.model.word_embeddings(inputs.ids)
        whole = torch.cat([prompts.to(embedded.dtype), embedded], dim=1)
        mask = torch.cat([inputs.mask.new_ones(len(inputs.ids), self._count), inputs.mask], dim=1)
        hidden = causal.base_model(inputs_embeds=whole, attention_mask=mask, use_cache=False).last_hidden_state
        row, column = (inputs.labels != IGNORED).nonzero(as_tuple=True)
        logits = causal.get_output_embeddings()(hidden[row, self._count + column - 1])
        self._learn(cross_entropy(logits.float(), inputs.labels[row, column]))

    def _learn(self, loss: Tensor) -> None:
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._prompt.detach()[0, 0].item()  # waits for a GPU, as our step does
