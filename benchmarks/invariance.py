"""Does a row's answer depend on its batch? Ours and PEFT's, with the same prompt on the same backbone in fp32."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import child
import torch
from cases import soft_prompt
from results import Result, Table
from subjects import Setting, backbone_of, task_of
from torch import Tensor

from softprompt.backbones.backbone import Backbone
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.labels import LabelTrie
from softprompt.modeling.prompted_model import Budget, PromptedModel
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.store.peft import export_peft

VIRTUAL_TOKENS, BATCH, AIM = 20, 8, 1e-5
Row = Mapping[str, str]
Score = Callable[[Sequence[Row]], Tensor]

PROCEDURE = """The same rows of mixed lengths are scored one by one, unpadded, and in batches of eight in the order of
the data. Both sides use the same untrained prompt (20 virtual tokens that start from the task's text), which goes to
PEFT as the folder that `export_peft` writes. PEFT's batches are padded on the left, its convention for generation, and
on the right; its label probabilities are read from its logits by the rule that we use. fp32."""


class PeftScorer:
    """PEFT on an exported folder: label probabilities of a batch of rows."""

    def __init__(self, backbone: Backbone, prompt: SoftPrompt) -> None:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as place:
            warnings.simplefilter("ignore")
            import peft

            export_peft(prompt, backbone, Path(place, "out"))
            self._model = peft.PeftModel.from_pretrained(backbone.as_in_transformers(), str(Path(place, "out"))).eval()
        self._pad, self._tokenizer = backbone.pad, backbone.tokenizer
        self._template = prompt.template.tokenize(backbone.tokenizer, prompt.length)
        self._trie = LabelTrie.build(prompt.readout, backbone.tokenizer)

    def probabilities(self, rows: Sequence[Row], side: str) -> Tensor:
        """Pad the rows on one side, let PEFT run them, and walk the label words: [N, C]."""
        ids = [self._template.row(row).ids for row in rows]
        nodes = self._trie.nodes
        scored = [self._children([row + path for row in ids], children, side) for path, children in nodes]
        return self._trie.combine(scored).exp()

    def _children(self, rows: Sequence[tuple[int, ...]], children: Sequence[int], side: str) -> Tensor:
        width = max(map(len, rows))
        padded, mask = [], []
        for row in rows:
            pads, ones = [self._pad] * (width - len(row)), [1] * len(row)
            padded.append([*pads, *row] if side == "left" else [*row, *pads])
            mask.append([0] * len(pads) + ones if side == "left" else ones + [0] * len(pads))
        logits = self._model(input_ids=torch.tensor(padded), attention_mask=torch.tensor(mask)).logits
        last = [-1 if side == "left" else len(row) - 1 - width for row in rows]  # from the end: PEFT's rows come first
        return torch.log_softmax(logits[torch.arange(len(rows)), last][:, list(children)], dim=-1)


def measure(rows: int, **setting: Any) -> dict[str, Any]:
    """Score the rows alone and batched on each side; runs in a process of its own."""
    chosen = Setting(**setting)
    backbone, task = backbone_of(chosen, "fp32"), task_of(chosen)
    prompt = soft_prompt(backbone, task, VIRTUAL_TOKENS)
    texts = [example.fields for example in task.splits["test"][:rows]]
    model = PromptedModel(backbone, budget=Budget(rows=BATCH, tokens=10**9))
    bound = BoundPrompt.of(backbone, prompt)

    def ours(part: Sequence[Row]) -> Tensor:
        return model.score_labels(part, bound).log_probabilities.exp()

    with torch.inference_mode():
        alone = _by(1, texts, ours)
        figures = {"softprompt": _compare(alone, _by(BATCH, texts, ours))}
        peft = PeftScorer(backbone, prompt)
        theirs = _by(1, texts, lambda part: peft.probabilities(part, "left"))
        for side in ("left", "right"):
            batched = _by(BATCH, texts, lambda part, side=side: peft.probabilities(part, side))
            figures[f"PEFT, padded on the {side}"] = _compare(theirs, batched)
        figures["PEFT beside softprompt, both alone"] = _compare(alone, theirs)
    lengths = [len(bound.template.row(row).ids) for row in texts]
    return {"rows": len(texts), "lengths": [min(lengths), max(lengths)], "sides": figures}


def invariance(setting: Setting) -> Result:
    found = child.call("invariance", "measure", **setting.plain(rows=setting.pick(64, 8)))
    table = Table(
        "The same rows alone and in batches of eight", ["", "largest change of a probability", "answers changed"]
    )
    for name, seen in found["sides"].items():
        table.rows.append([name, f"{seen['largest']:.1e}", f"{seen['changed']} of {found['rows']}"])
    shortest, longest = found["lengths"]
    table.note = f"Aim for ours: below {AIM:g}. Rows have {shortest} to {longest} tokens besides the prompt's."
    title = "A row's answer and its batch"
    return Result("invariance", title, PROCEDURE, [table], found, setting.files("sst2"))


def _by(size: int, rows: Sequence[Row], score: Score) -> Tensor:
    return torch.cat([score(rows[at : at + size]) for at in range(0, len(rows), size)])


def _compare(one: Tensor, other: Tensor) -> dict[str, float]:
    changed = (one.argmax(1) != other.argmax(1)).sum()
    return {"largest": float((one - other).abs().max()), "changed": int(changed)}
