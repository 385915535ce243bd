"""What the rivals train: LoRA and full fine-tuning with the readout that ours has, and PEFT's prompt tuning."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from rival_rows import RivalRows, TokenRow, padded
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.tasks.task import Task

RANK, ALPHA = 8, 16
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
METHODS = ("lora", "lora-attention", "full", "prompt-tuning")
READOUTS = ("rows", "words")
FULL_ROWS_FACTOR = 10.0
"""In full fine-tuning the learned rows' rate is this multiple of the weights', as heads usually have."""


class Rival(Protocol):
    """Something that learns labels of token rows."""

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """What trains, with its rates, as AdamW takes it."""
        ...

    def loss(self, rows: Sequence[TokenRow]) -> Tensor:
        """The mean loss of some rows."""
        ...

    def label_logits(self, rows: Sequence[TokenRow]) -> Tensor:
        """Logits of the labels, [B, C], fp32."""
        ...


def rival(method: str, readout: str, backbone: Backbone, task: Task, rows: RivalRows, seed: int) -> Rival:
    """Make a rival by name; it trains the backbone's own weights, so each needs a backbone of its own."""
    torch.manual_seed(seed)
    if method == "prompt-tuning":
        return PromptTuning(backbone, task)
    return Tuned(backbone, task, rows, method, readout)


class Tuned:
    """LoRA or full fine-tuning: the transformer without its head, read at each row's last token only.

    Label words are read as rows of the output matrix at their first tokens, which must differ; learned rows start at
    the label words' mean output rows, with a bias that starts at zero. The embedding matrix is cut to the tokens
    that stand in the task. That is exact: without weight decay AdamW never moves a row that gets no gradient.
    """

    def __init__(self, backbone: Backbone, task: Task, rows: RivalRows, method: str, readout: str) -> None:
        self._backbone, self._full = backbone, method == "full"
        words = [backbone.tokenizer.encode(w, add_special_tokens=False) for w in task.readout.words]
        first = [ids[0] for ids in words]
        if readout == "words" and len(set(first)) < len(first):
            raise ValueError(f"the label words of `{task.name}` do not differ in their first tokens: take `rows`")
        head = backbone.model.get_output_embeddings().weight
        tied = head is backbone.model.get_input_embeddings().weight
        self._cap = getattr(backbone.model.config, "final_logit_softcapping", None)
        mean = torch.stack([head[ids].float().mean(0) for ids in words])
        chosen = head[first].detach().clone()
        used = sorted({*rows.vocabulary(), *first, backbone.pad})
        self._place = torch.zeros(backbone.vocab_size, dtype=torch.long, device=backbone.device)
        self._place[used] = torch.arange(len(used), device=backbone.device)
        self._embeddings = _cut(backbone, used)
        self._trained = self._open(method)
        self._first = torch.tensor(first, device=backbone.device) if readout == "words" and tied else None
        self._rows = nn.Parameter(mean if readout == "rows" else chosen)
        self._bias = nn.Parameter(torch.zeros(len(words), device=backbone.device))
        self._learned = [self._rows, self._bias] if readout == "rows" else []
        if readout == "words" and self._full and not tied:
            self._trained.append(self._rows)

    def _open(self, method: str) -> list[nn.Parameter]:
        """Let the weights train, or put adapters beside them; return what trains."""
        model = self._backbone.model
        if method == "full":
            return [p.requires_grad_() for p in model.base_model.parameters()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import peft

            where = list(ATTENTION) if method == "lora-attention" else "all-linear"
            config = peft.LoraConfig(
                task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=where
            )
            peft.get_peft_model(model, config)  # puts fp32 adapters into `model`
        model.eval()
        return [p for p in model.parameters() if p.requires_grad]

    def groups(self, rate: float) -> list[dict[str, Any]]:
        learned = {"params": self._learned, "lr": rate * (FULL_ROWS_FACTOR if self._full else 1.0)}
        return [{"params": self._trained, "lr": rate}, *([learned] if self._learned else [])]

    def loss(self, rows: Sequence[TokenRow]) -> Tensor:
        gold = torch.tensor([row.gold for row in rows], device=self._backbone.device)
        return cross_entropy(self.label_logits(rows), gold)

    def label_logits(self, rows: Sequence[TokenRow]) -> Tensor:
        ids, mask = padded([row.ids for row in rows], self._backbone.pad, self._backbone.device)
        embedded = self._embeddings(self._place[ids])
        positions = (mask.cumsum(1) - 1).clamp(0)
        hidden = self._backbone.model.base_model(
            inputs_embeds=embedded, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        last = hidden[torch.arange(len(rows), device=ids.device), mask.sum(1) - 1].float()
        if self._learned:
            return last @ self._rows.T + self._bias
        table = self._rows if self._first is None else self._embeddings.weight[self._place[self._first]]
        logits = last @ table.float().T
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)


def _cut(backbone: Backbone, used: Sequence[int]) -> Any:
    """Keep these rows of the embedding matrix only; the head keeps its own and is not used again."""
    embeddings = backbone.model.get_input_embeddings()
    embeddings.weight = nn.Parameter(embeddings.weight[list(used)].detach().clone(), requires_grad=False)
    embeddings.padding_idx = None
    return embeddings


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
