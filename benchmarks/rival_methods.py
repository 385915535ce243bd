"""What the rivals train: LoRA and full fine-tuning with the readout that ours has, and PEFT's prompt tuning."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from rival_rows import RivalRows
from torch import Tensor

from softprompt.methods.full import FULL
from softprompt.methods.lora import LORA, LORA_ATTENTION
from softprompt.methods.token_rows import TokenRow, padded
from softprompt.methods.tuning import Rival

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.tasks.task import Task

METHODS = ("lora", "lora-attention", "full", "prompt-tuning")
READOUTS = ("rows", "words")
TUNED = {"lora": LORA, "lora-attention": LORA_ATTENTION, "full": FULL}


def rival(method: str, readout: str, backbone: Backbone, task: Task, rows: RivalRows, seed: int) -> Rival:
    """Make a rival by name; it trains the backbone's own weights, so each needs a backbone of its own."""
    if method == "prompt-tuning":
        torch.manual_seed(seed)
        return PromptTuning(backbone, task)
    return TUNED[method].prepare(backbone, rows, seed, "rows" if readout == "rows" else "words")[1]


class PromptTuning:
    """PEFT's prompt tuning as its tutorial has it: text init, its rows first, the loss over the whole vocabulary.

    Its accuracy is read as ours is, from the label words' first differing token, and not from generated text.
    """

    def __init__(self, backbone: Backbone, task: Task) -> None:
        self._backbone, self._tokenizer = backbone, backbone.tokenizer
        words = [word.strip() for word in task.readout.words]
        text = f"Classify if the {' and the '.join(task.template.fields)} is {', '.join(words[:-1])} or {words[-1]}.\n"
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            import peft

            backbone.tokenizer.save_pretrained(folder)
            count = len(backbone.tokenizer.encode(text, add_special_tokens=False))
            config = peft.PromptTuningConfig(
                task_type="CAUSAL_LM", prompt_tuning_init="TEXT", prompt_tuning_init_text=text,
                num_virtual_tokens=count, tokenizer_name_or_path=folder,
            )  # fmt: skip
            self._model = peft.get_peft_model(backbone.model, config).eval()
        self.virtual_tokens = count
        self._answers = [backbone.tokenizer.encode(word, add_special_tokens=False) for word in task.readout.words]
        first = [ids[0] for ids in self._answers]
        if len(set(first)) < len(first):
            raise ValueError(f"the label words of `{task.name}` do not differ in their first tokens")
        self._first = torch.tensor(first, device=backbone.device)

    def groups(self, rate: float) -> list[dict[str, Any]]:
        return [{"params": [p for p in self._model.parameters() if p.requires_grad], "lr": rate}]

    def loss(self, rows: Sequence[TokenRow]) -> Tensor:
        """As the documentation does: labels are -100 but at the answer, logits at every position."""
        whole = [(*row.ids, *self._answers[row.gold]) for row in rows]
        ids, mask = padded(whole, self._backbone.pad, self._backbone.device)
        starts = torch.tensor([len(row.ids) for row in rows], device=ids.device)[:, None]
        answer = (torch.arange(ids.shape[1], device=ids.device)[None] >= starts) & mask.bool()
        loss: Tensor = self._model(input_ids=ids, attention_mask=mask, labels=torch.where(answer, ids, -100)).loss
        return loss

    def label_logits(self, rows: Sequence[TokenRow]) -> Tensor:
        ids, mask = padded([row.ids for row in rows], self._backbone.pad, self._backbone.device)
        prompts = self._model.get_prompt(batch_size=len(rows))
        embedded = self._model.word_embeddings(ids)
        whole = torch.cat([prompts.to(embedded.dtype), embedded], dim=1)
        mask = torch.cat([mask.new_ones(len(rows), prompts.shape[1]), mask], dim=1)
        causal = self._model.get_base_model()
        hidden = causal.base_model(inputs_embeds=whole, attention_mask=mask, use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(rows), device=ids.device), mask.sum(1) - 1].float()
        return last @ causal.get_output_embeddings().weight[self._first].float().T
