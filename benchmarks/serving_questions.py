"""Requests over HTTP with one right answer each, and those answers, found one by one without a server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from serving_prompts import Forms, deep, random_rows
from subjects import Setting, backbone_of, task_of

from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.sampling import Sampling
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.store.store import PromptStore
from softprompt.tasks.free_text import Text

CLASSIFY, COMPLETE = "/v1/classify", "/v1/completions"
LENGTH = 20
REPLACED = {"changing-label": True, "changing-text": False}
"""Names that get new versions under load, and whether they are classifiers."""
NEAR = 1e-4
"""Probabilities in fp32 that differ by no more are the same: batches of other rows sum in another order."""


@dataclass(frozen=True)
class Question:
    """One row for one prompt.

    Attributes:
        model: the prompt's name.
        text: the row's one field.
        reads: whether the answer is a label; else it is text.
        seed: draws tokens with it; `None` takes the likeliest.
    """

    model: str
    text: str
    reads: bool
    seed: int | None = None

    @property
    def path(self) -> str:
        return CLASSIFY if self.reads else COMPLETE

    def body(self, **more: Any) -> bytes:
        row = {"input": self.text} if self.reads else {"prompt": self.text, **self.drawn}
        return json.dumps({"model": self.model, **row, **more}).encode()

    @property
    def drawn(self) -> dict[str, Any]:
        return {} if self.seed is None else {"temperature": 0.8, "top_p": 0.9, "seed": self.seed}


Answer = Mapping[str, Any]
"""`label` and `probabilities`, or `text` and `tokens`."""


def answer_in(question: Question, reply: Any) -> Answer:
    """What the body of an answer says."""
    if question.reads:
        (row,) = reply["data"]
        return label_in(row)
    (choice,) = reply["choices"]
    return {"text": choice["text"], "tokens": reply["usage"]["completion_tokens"]}


def label_in(row: Any) -> Answer:
    """What one row of a classification says."""
    return {"label": row["label"], "probabilities": row["probabilities"]}


def distance(found: Answer, right: Answer) -> float:
    """How far an answer is from the right one: texts are the same or infinitely far apart."""
    if "text" in right:
        return 0.0 if dict(found) == dict(right) else float("inf")
    if found["label"] != right["label"]:
        near_tie = sorted(right["probabilities"].values())[-2:]
        if near_tie[1] - near_tie[0] > NEAR:
            return float("inf")
    pairs = ((found["probabilities"][label], share) for label, share in right["probabilities"].items())
    return max(abs(a - b) for a, b in pairs)


def prepare(store: str, prompts: int, replaced: bool = False, **setting: Any) -> list[dict[str, Any]]:
    """Fill a store with prompts, half of them classifiers, half writers, every fourth deep; return their questions.

    Args:
        store: its folder.
        prompts: how many.
        replaced: put two versions of two further names as well, for `serving_replacing`.
        setting: of the backbone and the rows.
    """
    chosen = Setting(**setting)
    forms, shelf = Forms(backbone_of(chosen), task_of(chosen)), PromptStore(store)
    texts = [row[forms.field] for row in forms.rows(4 * prompts)]
    asked = []
    for number in range(prompts):
        reads, length = number % 2 == 0, LENGTH - 8 + 16 * number // prompts
        tensors = deep(forms.backbone, length, number) if number % 4 == 3 else None
        rows = tensors or {"input": random_rows(forms.backbone, length, number)}
        name = f"{'label' if reads else 'text'}-{number}"
        shelf.put(SoftPrompt(rows, *(forms.labels if reads else forms.text), forms.backbone.fingerprint), name)
        asked += [{"model": name, "text": text, "reads": reads} for text in texts[4 * number : 4 * number + 4]]
    return asked + (_two_versions(forms, shelf, texts[:4]) if replaced else [])


def _two_versions(forms: Forms, shelf: PromptStore, texts: Sequence[str]) -> list[dict[str, Any]]:
    """The same rows for the first and for the second version of a classifier and of a writer."""
    asked: list[dict[str, Any]] = []
    for name, form in REPLACED.items():
        for version in (1, 2):
            rows = {"input": random_rows(forms.backbone, LENGTH, 1000 + version)}
            template, readout = forms.labels if form else forms.text
            shelf.put(SoftPrompt(rows, template, readout, forms.backbone.fingerprint), name)
            asked += [{"model": f"{name}@v{version}", "text": text, "reads": form} for text in texts]
    return asked


@torch.inference_mode()
def one_by_one(store: str, asked: Sequence[Mapping[str, Any]], **setting: Any) -> list[Answer]:
    """The answer to each question in a pass of its own."""
    model, shelf = PromptedModel(backbone_of(Setting(**setting))), PromptStore(store)
    prompts = {name: shelf.get(name) for name in {each["model"] for each in asked}}
    return [_answer(model, prompts[each["model"]], Question(**each)) for each in asked]


def _answer(model: PromptedModel, prompt: SoftPrompt, question: Question) -> Answer:
    row = {prompt.template.fields[0]: question.text}
    if question.reads:
        (read,) = model.score([row], prompt)
        return {"label": read.label, "probabilities": dict(read.probabilities)}
    assert isinstance(prompt.readout, Text), "what is not read is written"
    (written,) = model.write([row], prompt, Sampling(**question.drawn) if question.drawn else None)
    return {"text": written.text, "tokens": len(written.tokens)}


def saved(path: Path, asked: Sequence[Mapping[str, Any]]) -> str:
    path.write_text(json.dumps(list(asked)), encoding="utf-8")
    return str(path)


def read(path: str) -> list[Question]:
    return [Question(**each) for each in json.loads(Path(path).read_text(encoding="utf-8"))]
