"""The single measurements of the serving benchmark inside one process; each is called in a process of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from last_states import copy_last_states
from rounds import turn_by_turn
from serving_clients import Company, all_at_once
from serving_prompts import TOKENS, Endless, Forms, deep, hard_words, random_rows
from subjects import Setting, backbone_of, task_of

from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.layout import by_length
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.serving.asking import Ask
from softprompt.serving.engine import Engine

ONE, MANY, KINDS = "one prompt", "many prompts", "many lengths and kinds"
CLASSIFY, WRITE, BOTH = "classification", "generation", "both at once"
PROMPT, BARE, HARD, PLAIN = "prompt", "bare", "hard prompt", "transformers"
LENGTH = 20


def mixed(prompts: int, classified: int, written: int, rounds: int, **setting: Any) -> dict[str, Any]:
    """Seconds of the same work with one prompt of each kind of answer, and with many."""
    chosen = Setting(**setting)
    forms = Forms(backbone_of(chosen), task_of(chosen))
    watched = Company()
    work = _work(forms, prompts, classified, written)
    with Engine(Endless(forms.backbone), observer=watched) as engine:

        def step(name: str, asks: Sequence[Ask], _: int) -> None:
            watched.work = name
            all_at_once(engine, asks)

        seconds = turn_by_turn({name: partial(step, name, asks) for name, asks in work.items()}, rounds=rounds, steps=1)
    tokens = {name: sum(ask.max_tokens or 0 for ask in asks) for name, asks in work.items()}
    company = {name: watched.means(name) for name in work}
    return {"seconds": seconds, "company": company, "tokens": tokens, "rows": {n: len(a) for n, a in work.items()}}


def _work(forms: Forms, prompts: int, classified: int, written: int) -> dict[str, list[Ask]]:
    """The requests of each side: `WORK, SIDE`."""
    many = [random_rows(forms.backbone, LENGTH, seed) for seed in range(prompts)]
    readers, writers = [forms.classifier(rows) for rows in many], [forms.writer(rows) for rows in many]
    half, kinds = prompts // 2, _of_all_kinds(forms, prompts)
    found: dict[str, list[Ask]] = {}
    for side, (some, others) in {ONE: (readers[:1], writers[:1]), MANY: (readers, writers)}.items():
        found[f"{CLASSIFY}, {side}"] = _asks(forms, some, classified)
        found[f"{WRITE}, {side}"] = _asks(forms, others, written)
        found[f"{BOTH}, {side}"] = _both(forms, some[:half], others[half:] or others, classified, written)
    found[f"{BOTH}, {KINDS}"] = _both(forms, kinds[:half], kinds[half:], classified, written)
    return found


def _both(
    forms: Forms, readers: Sequence[SoftPrompt], writers: Sequence[SoftPrompt], classified: int, written: int
) -> list[Ask]:
    """Half of either work, one request of each kind by turns."""
    halves = _asks(forms, readers, classified // 2), _asks(forms, writers, written // 2)
    return [*(each for pair in zip(*halves, strict=False) for each in pair), *halves[0][len(halves[1]) :]]


def _asks(forms: Forms, prompts: Sequence[SoftPrompt], count: int) -> list[Ask]:
    chosen = [prompts[number % len(prompts)] for number in range(count)]
    return [
        Ask(prompt, row, name=prompt.digest, max_tokens=TOKENS if prompt.readout.kind == "text" else None)
        for prompt, row in zip(chosen, forms.rows(count), strict=True)
    ]


def _of_all_kinds(forms: Forms, prompts: int) -> list[SoftPrompt]:
    """Prompts of 8 to 32 virtual tokens, 20 on average, every fourth in the form of keys and values."""
    found = []
    for number in range(prompts):
        length = 8 + 24 * (number % (prompts // 2)) // max(1, prompts // 2 - 1)
        form = forms.labels if number < prompts // 2 else forms.text
        tensors = deep(forms.backbone, length, number) if number % 4 == 0 else None
        rows = tensors or {"input": random_rows(forms.backbone, length, number)}
        found.append(SoftPrompt(rows, *form, forms.backbone.fingerprint))
    return found


def classification(lengths: Sequence[int], rows: int, rounds: int, **setting: Any) -> dict[str, Any]:
    """Seconds of the same rows with prompts of these lengths, with the bare template, and by transformers alone."""
    chosen = Setting(**setting)
    forms = Forms(backbone_of(chosen), task_of(chosen))
    model = PromptedModel(forms.backbone)
    texts = forms.rows(rows)
    bare = forms.bare(model, forms.labels)
    prompts = {str(P): forms.classifier(random_rows(forms.backbone, P, P)) for P in lengths}
    with Engine(model) as engine:
        sides: dict[str, Callable[[int], object]] = {
            name: partial(_classify, engine, prompt, texts) for name, prompt in {BARE: bare, **prompts}.items()
        }
        sides[PLAIN] = partial(_classify_plain, model, forms.backbone.as_in_transformers(), bare, texts)
        seconds = turn_by_turn(sides, rounds=rounds, steps=1)
    return {"seconds": seconds, "rows": rows}


def _classify(engine: Engine, prompt: SoftPrompt | BoundPrompt, texts: Sequence[Mapping[str, str]], _: int) -> None:
    all_at_once(engine, [Ask(prompt, row) for row in texts])


@torch.inference_mode()
def _classify_plain(
    model: PromptedModel, causal: Any, bare: BoundPrompt, texts: Sequence[Mapping[str, str]], _: int
) -> None:
    """Whole rows in batches of like length, and the last state of each with all output rows: transformers by hand."""
    backbone = model.backbone
    rows = [[*bare.template.prefix, *model.encode(row, bare).ids] for row in texts]
    for part in by_length([len(row) for row in rows], 64, 4096):
        width = max(len(rows[i]) for i in part)
        ids = torch.tensor([rows[i] + [backbone.pad] * (width - len(rows[i])) for i in part])
        last = torch.tensor([len(rows[i]) - 1 for i in part])
        mask = (torch.arange(width)[None] <= last[:, None]).long()
        hidden = causal.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        causal.get_output_embeddings()(hidden[torch.arange(len(part)), last]).float().softmax(-1)


def decoding(virtual_tokens: int, rows: int, rounds: int, **setting: Any) -> dict[str, Any]:
    """Seconds of the same rows with a soft prompt, with a kept hard prompt of as many tokens, and by transformers."""
    chosen = Setting(**setting)
    forms = Forms(backbone_of(chosen), task_of(chosen))
    model = Endless(forms.backbone)
    words, values = hard_words(forms.backbone, virtual_tokens)
    hard, soft = forms.bare(model, forms.text, words), forms.writer(values)
    texts = forms.alike(model, hard, rows)
    plain = Plain(model, hard)
    with Engine(model) as engine:
        sides: dict[str, Callable[[int], object]] = {
            PROMPT: partial(_write, engine, soft, texts),
            HARD: partial(_write, engine, hard, texts),
            PLAIN: lambda _: plain.write(texts),
        }
        seconds = turn_by_turn(sides, rounds=rounds, steps=1)
    return {"seconds": seconds, "tokens": rows * TOKENS, "prefix": len(hard.template.prefix)}


def _write(engine: Engine, prompt: SoftPrompt | BoundPrompt, texts: Sequence[Mapping[str, str]], _: int) -> None:
    for ended in all_at_once(engine, [Ask(prompt, row, max_tokens=TOKENS) for row in texts]):
        assert ended.usage.completion_tokens == TOKENS


class Plain:
    """transformers' `generate` behind a prefix whose keys and values are kept."""

    def __init__(self, model: PromptedModel, bound: BoundPrompt) -> None:
        from transformers import DynamicCache

        self._model, self._bound = model, bound
        self._prefix = torch.tensor([bound.template.prefix])
        self._causal = causal = model.backbone.as_in_transformers()
        copy_last_states(causal)
        self._kept = DynamicCache(config=causal.config)
        with torch.inference_mode():
            causal(input_ids=self._prefix, past_key_values=self._kept, logits_to_keep=1)

    @torch.inference_mode()
    def write(self, texts: Sequence[Mapping[str, str]]) -> None:
        rows = torch.tensor([self._model.encode(row, self._bound).ids for row in texts])
        kept = copy.deepcopy(self._kept)
        kept.batch_repeat_interleave(len(rows))
        whole = torch.cat([self._prefix.expand(len(rows), -1), rows], dim=1)
        found = self._causal.generate(
            input_ids=whole, attention_mask=torch.ones_like(whole), past_key_values=kept, do_sample=False,
            max_new_tokens=TOKENS, min_new_tokens=TOKENS, pad_token_id=self._model.backbone.pad,
        )  # fmt: skip
        assert found.shape[1] == whole.shape[1] + TOKENS
