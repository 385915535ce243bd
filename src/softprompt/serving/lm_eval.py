"""A prompt as a folder that EleutherAI's `lm-eval` runs: PEFT's files, a task, its rows and the command.

`lm-eval` scores text and makes tokens of it itself, row and answer in one piece and without our rule of pieces. Every
row is therefore written so that its tokens come back as ours, or, where no text does that, counted and told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from softprompt.backbones.backbone import Backbone
from softprompt.durable import write_bytes
from softprompt.errors import DataError
from softprompt.modeling.bound import BoundPrompt
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.serving.lm_eval_readme import Told, readme
from softprompt.store.new_folder import appearing
from softprompt.store.peft import peft_files
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.task import Example
from softprompt.tasks.template import TOKENS_OF_SLOTS, Field, Literal, Piece

TASK, ROWS = "task.yaml", "rows.jsonl"
"""What is asked of the model, and the rows that it is asked about."""


class TextTokenizer(Protocol):
    """What text and tokens ask of a tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]:
        """Return the token ids of a text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        ...


class Written(NamedTuple):
    """A row as `lm-eval` takes it.

    Attributes:
        context: the text behind the prompt's rows.
        same: its tokens, and those of every answer behind it, are ours.
    """

    context: str
    same: bool


def export_lm_eval(
    prompt: SoftPrompt, backbone: Backbone, folder: Path, examples: Sequence[Example] = (), *, name: str = "prompt"
) -> Told:
    """Write a prompt and labelled rows as a folder that `lm-eval` runs with one command, which its README tells.

    Load the backbone in fp32 for it, as for `export_peft`.

    Args:
        prompt: one that PEFT's folder can carry, answering with label words or text.
        backbone: the one that it was trained on.
        folder: a folder that does not exist yet, or is empty; it appears whole or not at all.
        examples: the rows to be judged by; none: the README says how rows are to be written.
        name: of the prompt; the task is called after it.

    Returns:
        What the folder says of itself: the task's name and how many rows become other tokens.

    Raises:
        DataError: a row without an answer, or with one that the prompt does not know.
        SoftPromptError: as for `export_peft`.
    """
    files = peft_files(prompt, backbone)
    bound = BoundPrompt.of(backbone, prompt)
    answers = _answers(prompt, backbone)
    written = [_written(bound, backbone, example, answers) for example in examples]
    golds = [_gold(prompt, example, row) for row, example in enumerate(examples)]
    lines = [{"context": row.context, **gold} for row, gold in zip(written, golds, strict=True)]
    told = Told(
        task="softprompt_" + (re.sub(r"\W+", "_", name).strip("_").lower() or "prompt"),
        rows=len(written),
        other=sum(not row.same for row in written),
        vocabulary=(int(backbone.model.config.vocab_size), len(backbone.tokenizer)),
    )
    files[TASK] = _yaml(task_of(prompt, backbone, told.task))
    files["README.md"] = (readme(prompt, backbone, told) + "\n" + files["README.md"].decode()).encode()
    if lines:
        files[ROWS] = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    with appearing(folder) as hidden:
        for file, data in files.items():
            write_bytes(hidden / file, data)
    return told


def task_of(prompt: SoftPrompt, backbone: Backbone, name: str) -> dict[str, Any]:
    """Return the task as `lm-eval` reads it: choices of label words, or text that is written."""
    common: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": ROWS}},
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": "context",
        "target_delimiter": "",
    }
    if isinstance(prompt.readout, Text):
        return {**common, **_of_text(prompt.readout)}
    return {
        **common,
        "output_type": "multiple_choice",
        "doc_to_target": "gold",
        "doc_to_choice": _answers(prompt, backbone),
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }


def _of_text(readout: Text) -> dict[str, Any]:
    return {
        "output_type": "generate_until",
        "doc_to_target": "target",
        "generation_kwargs": {
            "until": [*readout.stop],
            "max_gen_toks": readout.max_new_tokens,
            "do_sample": False,
        },
        "filter_list": [
            {"name": "stripped", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }


def _answers(prompt: SoftPrompt, backbone: Backbone) -> list[str]:
    """The text of every label's words, the end of sequence behind those that begin another's; none of text."""
    if not isinstance(prompt.readout, LabelWords):
        return []
    words = [tuple(backbone.tokenizer.encode(word, add_special_tokens=False)) for word in prompt.readout.words]
    ends = [any(other[: len(word)] == word for other in words if other != word) for word in words]
    stop = backbone.tokenizer.decode([backbone.eos]) if any(ends) else ""
    return [word + stop * end for word, end in zip(prompt.readout.words, ends, strict=True)]


def _written(bound: BoundPrompt, backbone: Backbone, example: Example, answers: Sequence[str]) -> Written:
    """A row's text: as the template has it, else what its tokens read as, whichever becomes the same tokens."""
    tokenizer: TextTokenizer = backbone.tokenizer
    ids = list(bound.template.row(example.fields, bound.limit(backbone)).ids)
    plain = "".join(_texts(bound, backbone, example))
    for context in dict.fromkeys((plain, tokenizer.decode(ids))):
        if _same(tokenizer, context, ids, answers):
            return Written(context, same=True)
    return Written(plain, same=False)


def _same(tokenizer: TextTokenizer, context: str, ids: list[int], answers: Sequence[str]) -> bool:
    """Whether `lm-eval` makes our tokens of a row: it leaves white space at the end of the row to the answer."""
    if not context or context != context.rstrip() or tokenizer.encode(context, add_special_tokens=False) != ids:
        return False
    behind = (tokenizer.encode(answer, add_special_tokens=False) for answer in answers)
    whole = (tokenizer.encode(context + answer, add_special_tokens=False) for answer in answers)
    return all(found == [*ids, *own] for found, own in zip(whole, behind, strict=True))


def _texts(bound: BoundPrompt, backbone: Backbone, example: Example) -> Iterator[str]:
    """The text of each piece of the template from its first field on."""
    begun = False
    for piece in bound.template.template.pieces:
        begun = begun or isinstance(piece, Field)
        if begun:
            yield _text(piece, backbone, example)


def _text(piece: Piece, backbone: Backbone, example: Example) -> str:
    if isinstance(piece, Field):
        return piece.lead + example.fields[piece.name]
    if isinstance(piece, Literal):
        return piece.text
    found = (getattr(backbone.tokenizer, name, None) for name in TOKENS_OF_SLOTS[type(piece)])
    ids = [index for index in found if index is not None][:1]
    return str(backbone.tokenizer.decode(ids)) if ids else ""


def _gold(prompt: SoftPrompt, example: Example, row: int) -> dict[str, Any]:
    """The right answer, as the task names it."""
    if isinstance(prompt.readout, Text):
        accepted = [text.strip() for text in example.accepted]
        if not accepted:
            raise DataError(f"row {row} has no text that answers it; give it one, or take it out")
        return {"target": accepted}
    if example.label not in prompt.readout.labels:
        known = ", ".join(prompt.readout.labels)
        raise DataError(f"row {row} has the label `{example.label}`, and the prompt knows {known}; correct the row")
    return {"gold": prompt.readout.labels.index(str(example.label))}


def _yaml(task: dict[str, Any]) -> bytes:
    import yaml

    return bytes(yaml.safe_dump(task, sort_keys=False, allow_unicode=True, encoding="utf-8"))
