"""The README of a folder for `lm-eval`: the command, the batch that is safe, and what its numbers mean."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from softprompt.backbones.backbone import Backbone
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords

_TEXT = """# A soft prompt for lm-eval

Written by softprompt for `{model}`. With lm-eval (`pip install "lm-eval[hf]" peft`) installed, from inside this folder:

    {command}

`add_bos_token=False` is needed: the token stands among the rows of the prompt already. {batch}

{rows}
{numbers}{vocabulary}
"""

_BATCH = {
    "labels": (
        "Any batch size is right: lm-eval pads\nlabel scores on the right, behind what is read. Do not use `auto`, "
        "which tries rows as long as the model takes, and\nforgets that the prompt stands before them."
    ),
    "text": (
        "The batch size must\nstay 1: lm-eval pads text that is to be written on the left, PEFT puts the prompt in "
        "front of the padding, and\nthe model then reads its rows differently."
    ),
}


class Told(NamedTuple):
    """What a folder says of itself.

    Attributes:
        task: its name for `--tasks`.
        rows: in its file of rows.
        other: of them, those that lm-eval makes other tokens of than we do.
        vocabulary: rows of the model's embeddings, and tokens of its tokenizer.
    """

    task: str
    rows: int
    other: int
    vocabulary: tuple[int, int]


def command(prompt: SoftPrompt, backbone: Backbone, told: Told) -> str:
    """Return the command that judges the prompt, to be run inside the folder."""
    batch = 1 if isinstance(prompt.readout, Text) else 16
    name = "PATH_TO_THE_MODEL" if Path(backbone.name).exists() else backbone.name
    return (
        f"lm_eval run --model hf --model_args pretrained={name},peft=.,add_bos_token=False,dtype=float32 "
        f"--include_path . --tasks {told.task} --batch_size {batch}"
    )


def readme(prompt: SoftPrompt, backbone: Backbone, told: Told) -> str:
    """Return the README of a prompt whose rows were written as `told`."""
    kind = "text" if isinstance(prompt.readout, Text) else "labels"
    return _TEXT.format(
        model=Path(backbone.name).name if Path(backbone.name).exists() else backbone.name,
        command=command(prompt, backbone, told),
        batch=_BATCH[kind],
        rows=_rows(told, kind),
        numbers=_numbers(prompt, backbone),
        vocabulary=_vocabulary(told),
    )


def _rows(told: Told, kind: str) -> str:
    if not told.rows:
        answer = (
            '"gold": 0}` (the place of its label\namong the choices)' if kind == "labels" else '"target": ["..."]}`'
        )
        return f'Put the rows into `rows.jsonl`, one a line: `{{"context": "...", {answer}, the\ncontext as told below.'
    if told.other:
        return (
            f"`rows.jsonl` has {told.rows:,} rows. Of {told.other:,} of them lm-eval makes other tokens than they were "
            "trained as,\nbecause it does not tokenise piece by piece; their figures may differ from softprompt's."
        )
    return f"`rows.jsonl` has {told.rows:,} rows, each of which lm-eval makes the very tokens of that softprompt does."


def _numbers(prompt: SoftPrompt, backbone: Backbone) -> str:
    readout = prompt.readout
    if not isinstance(readout, LabelWords):
        return "`exact_match` compares what was written with the accepted answers, spaces around it left out.\n"
    if readout.scoring == "full":
        return "`acc` goes by the sum of a label's log-probabilities over the whole vocabulary, as softprompt does.\n"
    lengths = [len(backbone.tokenizer.encode(word, add_special_tokens=False)) for word in readout.words]
    if max(lengths) == 1:
        return "`acc` is softprompt's accuracy: each label is one token, and the likeliest is the same.\n"
    return (
        "`acc` goes by the sum of a label's log-probabilities over the whole vocabulary; this prompt was trained to\n"
        "choose among the labels' tokens alone where they part, so some answers may differ. For those very answers\n"
        "use softprompt, or train with `--scoring full`.\n"
    )


def _vocabulary(told: Told) -> str:
    rows, tokens = told.vocabulary
    if rows == tokens:
        return ""
    return (
        f"\nThe model has {rows:,} output rows and its tokenizer {tokens:,} tokens: lm-eval resizes the model to the\n"
        "latter where a PEFT folder is given, so that sums over the vocabulary are a little different.\n"
    )
