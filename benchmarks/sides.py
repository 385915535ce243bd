"""One training step as each side takes it: ours, PEFT's as its documentation does, and PEFT's at its best."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

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
IGNORED = -100


class Ours:
    """softprompt: the trainer's own step with its monitors, for rows at the input and label words."""

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
        share = self._learner.share(step)
        record = self._learner.learn(share, *gradients(self._model, [share], self._tokens))
        assert record is not None, "the loss is not finite"
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
        ids = torch.tensor([row + [self._pad] * (width - len(row)) for row, _ in whole])
        lengths = torch.tensor([len(row) for row, _ in whole])[:, None]
        starts = torch.tensor([start for _, start in whole])[:, None]
        columns = torch.arange(width)[None]
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
            self.model = peft.get_peft_model(backbone.model, config).eval()  # no dropout, on either side
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
        mask = torch.cat([torch.ones(len(inputs.ids), self._count, dtype=torch.long), inputs.mask], dim=1)
        hidden = causal.base_model(inputs_embeds=whole, attention_mask=mask, use_cache=False).last_hidden_state
        row, column = (inputs.labels != IGNORED).nonzero(as_tuple=True)
        logits = causal.get_output_embeddings()(hidden[row, self._count + column - 1])
        self._learn(cross_entropy(logits.float(), inputs.labels[row, column]))

    def _learn(self, loss: Tensor) -> None:
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()


class Bare:
    """The step time at P = 0: whole rows behind their own BOS, forward, and backward to the embedded tokens.

    There is nothing to learn, so no optimizer runs; the loss is ours, over the label words' first tokens.
    """

    def __init__(self, backbone: Backbone, task: Task, ours: Ours) -> None:
        self._backbone, self._rows = backbone, Rows(backbone, task, ours.batch)
        self._first = torch.tensor(sorted({ids[0] for ids in self._rows.answers.values()}))

    def tokens(self, step: int) -> int:
        """Unpadded tokens of a step's rows, BOS and all."""
        inputs = self._rows.at(step)
        return int((inputs.mask.bool() & (inputs.labels == IGNORED)).sum())

    def step(self, step: int) -> None:
        inputs = self._rows.at(step)
        mask = inputs.mask * (inputs.labels == IGNORED)  # the answer itself is not read
        width = int(mask.sum(1).max())
        ids, mask = inputs.ids[:, :width], mask[:, :width]
        embedded = self._backbone.embed(ids).requires_grad_()
        hidden, _ = self._backbone.run(embedded, mask=mask, positions=(mask.cumsum(1) - 1).clamp(0))
        last = mask.sum(1) - 1
        logits = self._backbone.logits(hidden[torch.arange(len(ids)), last], self._first)
        gold = (self._first[None] == inputs.ids[torch.arange(len(ids)), last + 1][:, None]).long().argmax(1)
        cross_entropy(logits, gold).backward()
