"""The README of an exported folder: how PEFT must be fed, so that it answers as we do."""

from __future__ import annotations

from collections.abc import Iterator

from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.tasks.free_text import Text
from softprompt.tasks.readout import LabelWords
from softprompt.tasks.template import TOKENS_OF_SLOTS, Bos, Field, Literal, Mask, Piece, Sep

_TEXT = """# A soft prompt in PEFT's format

Written by softprompt. `adapter_config.json` and `adapter_model.safetensors` are for PEFT (prompt tuning, CAUSAL_LM);
`prompt.safetensors` is the prompt itself, from which `softprompt prompts import` gets it back byte for byte.

    pattern: {pattern}

The {rows} rows hold everything before the first field, in order: {virtual} virtual tokens and the embedded tokens
that stand among them. PEFT is fed the rest of the row, tokenised piece by piece, without special tokens:

```python
def row_ids(tokenizer, row):
    ids = []
{steps}
    return ids
```

Feed one row at a time, or rows of one length: PEFT puts its rows in front of the padding, where a model reads them
differently.{limit}

{answer}
"""

_LABELS = """The answer is a label's words behind the row; words with which those of another label begin end in the
end-of-sequence token. {reading}

{labels}"""

_READING = {
    "trie": (
        "At each token where the words of the labels part, take the softmax of the logits over the tokens that may "
        "follow there, and over those alone; a label's probability is the product."
    ),
    "full": (
        "Sum the log-probabilities, over the whole vocabulary, of a label's tokens; its probability is the softmax of "
        "these sums over the labels."
    ),
}


def readme(prompt: SoftPrompt, rows: int) -> str:
    """Return the README of a prompt that was folded into so many `rows`."""
    template = prompt.template
    most = template.max_tokens
    return _TEXT.format(
        pattern=repr(template.pattern),
        rows=rows,
        virtual=prompt.length,
        steps="\n".join(f"    ids += {_step(piece)}" for piece in _row_pieces(prompt)),
        limit=f" Shorten the fields of a row with more than {most - rows} tokens." if most else "",
        answer=_answer(prompt),
    )


def _answer(prompt: SoftPrompt) -> str:
    """How the answer stands behind a row."""
    readout = prompt.readout
    if isinstance(readout, Text):
        stops = "".join(f", or before the text {stop!r}" for stop in readout.stop)
        return (
            "The answer is text behind the row, one token at a time. It begins with "
            f"{readout.lead!r}, which is no part of it, and ends\nat the end-of-sequence token{stops}, or after "
            f"{readout.max_new_tokens} tokens."
        )
    assert isinstance(readout, LabelWords), "other readouts were refused before"
    calibration = f" Calibrate: softmax(log-probabilities / {prompt.temperature:g})." if prompt.temperature != 1 else ""
    words = zip(readout.labels, readout.words, strict=True)
    return _LABELS.format(
        reading=_READING[readout.scoring] + calibration,
        labels="\n".join(f"- {label}: `{word!r}`" for label, word in words),
    )


def _row_pieces(prompt: SoftPrompt) -> Iterator[Piece]:
    """The pieces from the first field on."""
    begun = False
    for piece in prompt.template.pieces:
        begun = begun or isinstance(piece, Field)
        if begun:
            yield piece


def _step(piece: Piece) -> str:
    """One line of Python that gives a piece's token ids."""
    if isinstance(piece, Bos | Sep | Mask):
        names = ", ".join(f"tokenizer.{name}" for name in TOKENS_OF_SLOTS[type(piece)])
        return f"[index for index in ({names},) if index is not None][:1]"
    assert isinstance(piece, Literal | Field), "a soft slot behind the first field was refused before"
    text = repr(piece.text) if isinstance(piece, Literal) else f"row[{piece.name!r}]"
    lead = f"{piece.lead!r} + " if isinstance(piece, Field) and piece.lead else ""
    return f"tokenizer.encode({lead}{text}, add_special_tokens=False)"
