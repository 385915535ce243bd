"""Several prompts served at once, by our engine and by PEFT: clients that each wait for their answer."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from last_states import copy_last_states
from rounds import turn_by_turn
from serving_clients import closed_loop
from serving_prompts import TOKENS, Endless, Forms, random_rows
from subjects import Setting, backbone_of, task_of

from softprompt.serving.asking import Ask
from softprompt.serving.engine import Engine

if TYPE_CHECKING:
    from torch import Tensor

OURS, EACH, LABELS, BATCHED = "softprompt", "PEFT, set_adapter", "PEFT, label logits only", "PEFT, one prompt, batched"
LENGTH, BATCH = 20, 16

Question = tuple[int, Mapping[str, str]]
"""The number of a prompt, and a row."""


class Adapters:
    """PEFT's prompt tuning around the same weights: one adapter a prompt, of which one is active at a time."""

    def __init__(self, forms: Forms, prompts: Sequence[Tensor]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT calls what transformers means to rename
            self.model = _adapters(forms, prompts)
        copy_last_states(self.model.get_base_model())
        self._backbone, self._active = forms.backbone, threading.Lock()
        self._labels = [
            forms.backbone.tokenizer.encode(w, add_special_tokens=False)[0] for w in forms.task.readout.words
        ]
        self._readers, self._writers = (_without_prompt(forms, form) for form in (forms.labels, forms.text))

    def classify(self, asked: Question, **options: Any) -> int:
        """Answer one row: take the lock, make its prompt the active one, run it, read the labels' logits."""
        ids = torch.tensor([self._readers(asked[1])])
        with self._active, torch.inference_mode():
            self.model.set_adapter(f"p{asked[0]}")
            logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), **options).logits
        return int(logits[0, -1, self._labels].argmax())

    def write(self, asked: Question) -> list[int]:
        """Answer one row with 32 tokens: take the lock, make its prompt the active one, generate."""
        ids = torch.tensor([self._writers(asked[1])])
        with self._active:
            self.model.set_adapter(f"p{asked[0]}")
            return self._generate(ids, torch.ones_like(ids))[0].tolist()

    def classify_batch(self, rows: Sequence[Mapping[str, str]]) -> list[int]:
        """Answer rows of one prompt in one pass, padded on the left, logits at their ends only."""
        ids, mask = self._padded([self._readers(row) for row in rows])
        with torch.inference_mode():
            logits = self.model(input_ids=ids, attention_mask=mask, logits_to_keep=1).logits
        return logits[:, -1, self._labels].argmax(-1).tolist()

    def write_batch(self, rows: Sequence[Mapping[str, str]]) -> list[list[int]]:
        """Answer rows of one prompt with 32 tokens each, padded on the left."""
        return self._generate(*self._padded([self._writers(row) for row in rows])).tolist()

    @torch.inference_mode()
    def _generate(self, ids: Tensor, mask: Tensor) -> Tensor:
        found = self.model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=TOKENS, min_new_tokens=TOKENS,
            pad_token_id=self._backbone.pad,
        )  # fmt: skip
        assert found.shape[1] == ids.shape[1] + TOKENS
        return found

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        width = max(map(len, rows))
        ids = torch.tensor([[self._backbone.pad] * (width - len(row)) + [*row] for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return ids, mask


def _adapters(forms: Forms, prompts: Sequence[Tensor]) -> Any:
    import peft

    def config() -> Any:
        return peft.PromptTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=LENGTH, prompt_tuning_init="RANDOM", inference_mode=True
        )

    model = peft.get_peft_model(forms.backbone.as_in_transformers(), config(), adapter_name="p0").eval()
    for number in range(1, len(prompts)):
        model.add_adapter(f"p{number}", config())
    for number, rows in enumerate(prompts):
        model.prompt_encoder[f"p{number}"].embedding.weight.data.copy_(rows)
    return model


def _without_prompt(forms: Forms, form: tuple[Any, Any]) -> Callable[[Mapping[str, str]], list[int]]:
    """What turns a row into tokens that PEFT puts its own rows in front of."""
    template = type(form[0])(form[0].pattern.replace("{soft}", "")).tokenize(forms.backbone.tokenizer, 0)
    return lambda row: [*template.prefix, *template.row(row).ids]


def clients(count: int, prompts: int, classified: int, written: int, rounds: int, **setting: Any) -> dict[str, Any]:
    """Seconds in which `count` clients have their rows classified, and answered with 32 tokens, by each side."""
    warnings.filterwarnings("ignore", "Position ids are not supported")  # PEFT says so of its own `generate`
    chosen = Setting(**setting)
    forms = Forms(backbone_of(chosen), task_of(chosen))
    values = [random_rows(forms.backbone, LENGTH, seed) for seed in range(prompts)]
    with Engine(Endless(forms.backbone)) as engine:
        side = _Sides(count, engine, Adapters(forms, values), forms, values)
        return {
            "classification": {"seconds": side.read(classified, rounds), "answers": classified},
            "generation": {"seconds": side.write(written, rounds), "answers": written, "tokens": written * TOKENS},
        }


class _Sides:
    """The same rows for either side; the first, shorter turn warms up."""

    def __init__(self, count: int, engine: Engine, peft: Adapters, forms: Forms, values: Sequence[Tensor]) -> None:
        self._count, self._engine, self._peft, self._forms = count, engine, peft, forms
        self._prompts = [forms.classifier(rows) for rows in values], [forms.writer(rows) for rows in values]

    def read(self, rows: int, rounds: int) -> dict[str, list[float]]:
        work, answer = self._work(rows), partial(self._ask, self._prompts[0])
        documented, only = self._peft.classify, partial(self._peft.classify, logits_to_keep=1)
        sides = {OURS: answer, EACH: documented, LABELS: only}
        return self._timed(sides, self._peft.classify_batch, work, rounds)

    def write(self, rows: int, rounds: int) -> dict[str, list[float]]:
        work, answer = self._work(rows), partial(self._ask, self._prompts[1])
        return self._timed({OURS: answer, EACH: self._peft.write}, self._peft.write_batch, work, rounds)

    def _work(self, rows: int) -> list[Question]:
        return [(number % len(self._prompts[0]), row) for number, row in enumerate(self._forms.rows(rows))]

    def _ask(self, prompts: Sequence[Any], asked: Question) -> Any:
        prompt = prompts[asked[0]]
        return self._engine.submit(Ask(prompt, asked[1], name=prompt.digest)).result()

    def _timed(
        self, sides: Mapping[str, Callable[[Question], Any]], batch: Callable[[Any], Any], work: Sequence[Question],
        rounds: int,
    ) -> dict[str, list[float]]:  # fmt: skip
        def looped(answer: Callable[[Question], Any], number: int) -> None:
            closed_loop(self._count, work if number else work[: self._count], answer)

        def batched(_: int) -> None:
            rows = [row for _, row in work]
            for first in range(0, len(rows), BATCH):
                batch(rows[first : first + BATCH])

        timed = {name: partial(looped, answer) for name, answer in sides.items()}
        return turn_by_turn({**timed, BATCHED: batched}, rounds=rounds, steps=1)
