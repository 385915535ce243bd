"""PEFT's prefix tuning: one training step as its documentation has it, and at its best."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from softprompt.methods.token_rows import TokenRow, padded

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.tasks.task import Task

IGNORED = -100


class PrefixTuning:
    """PEFT's prefix tuning: keys and values of every layer, no projection."""

    def __init__(self, backbone: Backbone, task: Task, virtual_tokens: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import peft

            config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=virtual_tokens)
            self._model = peft.get_peft_model(backbone.as_in_transformers(), config).eval()
        trained = [p for p in self._model.parameters() if p.requires_grad]
        self.parameters = sum(p.numel() for p in trained)
        self._optimizer = torch.optim.AdamW(trained, lr=1e-3)
        self._backbone, self._count = backbone, virtual_tokens
        self._answers = [backbone.tokenizer.encode(w, add_special_tokens=False) for w in task.readout.words]

    def documented(self, rows: Sequence[TokenRow]) -> None:
        """Labels are -100 but at the answer, logits at every position."""
        ids, mask, labels = self._inputs(rows)
        self._learn(self._model(input_ids=ids, attention_mask=mask, labels=labels).loss)

    def label_positions(self, rows: Sequence[TokenRow]) -> None:
        """PEFT's keys and values, but the base model without its head, and logits only where a label is asked for."""
        ids, mask, labels = self._inputs(rows)
        past = self._model.get_prompt(batch_size=len(rows))
        whole = torch.cat([mask.new_ones(len(rows), self._count), mask], dim=1)
        causal = self._model.get_base_model()
        hidden = causal.base_model(
            input_ids=ids, attention_mask=whole, past_key_values=past, use_cache=True
        ).last_hidden_state
        row, column = (labels != IGNORED).nonzero(as_tuple=True)
        logits = causal.get_output_embeddings()(hidden[row, column - 1])
        self._learn(cross_entropy(logits.float(), labels[row, column]))

    def _inputs(self, rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor, Tensor]:
        whole = [(*row.ids, *self._answers[row.gold]) for row in rows]
        ids, mask = padded(whole, self._backbone.pad, self._backbone.device)
        starts = torch.tensor([len(row.ids) for row in rows], device=ids.device)[:, None]
        answer = (torch.arange(ids.shape[1], device=ids.device)[None] >= starts) & mask.bool()
        return ids, mask, torch.where(answer, ids, IGNORED)

    def _learn(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._optimizer.zero_grad()
