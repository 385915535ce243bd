"""What a fit does to the base model: its perplexity on other text, with the adaptation off and on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from softprompt.errors import DataError
from softprompt.methods.costs import Forgetting

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.methods.method import Fitted

WINDOW = 512
"""Tokens of a window, the one that begins it included."""
_POSITIONS = 64
"""Positions whose logits over the whole vocabulary are held at once: 64 MiB at 262,144 words."""
_TEXT = Path(__file__).parent / "other_text.txt"


class Forgot(Forgetting):
    """The backbone on other text, and what is to be said of it."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know, a sentence each."""
        if self.off != self.on or self.on == self.before:
            return ()
        return ("its adaptation cannot be put aside: for the model as it was, another copy has to be loaded",)


def other_text(file: Path | None = None) -> str:
    """Return text that has nothing to do with a task: the user's file, or a page of plain English that comes with us.

    Args:
        file: UTF-8; None: our own.

    Raises:
        DataError: the file cannot be read, or holds fewer than two words.

    >>> len(other_text().split()) > 500
    True
    """
    try:
        text = (file or _TEXT).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read other text from `{file}` ({error}); give a UTF-8 text file") from error
    if len(text.split()) < 2:
        raise DataError(f"`{file}` holds {len(text.split())} words; perplexity needs running text, a page or more")
    return text


def perplexity(backbone: Backbone, text: str) -> float | None:
    """Return the perplexity of a text, exp(−mean log p(token | those before it in its window)).

    Windows of at most 512 tokens stand side by side, each behind the backbone's first token where it has one; without
    one a window's first token is not counted. Logits are fp32, over the whole vocabulary.

    Args:
        backbone: as it is now, whatever has been trained in it.
        text: running text.

    Returns:
        The perplexity; None: the backbone is no decoder that reads left to right, and has none.

    Raises:
        DataError: the text is a single token.
    """
    if backbone.kind != "decoder" or backbone.head is None:
        return None
    losses = [loss for window in _windows(backbone, text) for loss in _losses(backbone, window)]
    if not losses:
        raise DataError(f"the text {text[:40]!r} is too short for a perplexity; give a page or more")
    return math.exp(math.fsum(losses) / len(losses))


def measure_forgetting(before: float | None, fitted: Fitted, backbone: Backbone, text: str) -> Forgot | None:
    """Measure the base model after a fit, with the adaptation off and on.

    Nothing is assumed of a method: a prompt, which leaves the weights alone, is run like the others, and its three
    figures come out equal to the last bit.

    Args:
        before: what `perplexity` gave of the same text before the fit.
        fitted: the method.
        backbone: the one it was fitted on.
        text: the same text.

    Returns:
        The three figures; None where `before` is None.
    """
    if before is None:
        return None
    if fitted.switch is not None:
        fitted.switch()
    on = perplexity(backbone, text)
    with nullcontext() if fitted.off is None else fitted.off():
        off = perplexity(backbone, text)
    assert on is not None, "the backbone had a perplexity before"
    assert off is not None, "the backbone had a perplexity before"
    return Forgot(before, off, on)


def _windows(backbone: Backbone, text: str) -> Iterator[list[int]]:
    ids = backbone.tokenizer.encode(text, add_special_tokens=False)
    first = [] if backbone.bos is None else [backbone.bos]
    size = min(WINDOW, backbone.max_positions or WINDOW) - len(first)
    for start in range(0, len(ids), size):
        yield first + ids[start : start + size]


def _losses(backbone: Backbone, window: list[int]) -> list[float]:
    """Minus the log-probability of every token of a window but the first, in nats."""
    if len(window) < 2:
        return []
    import torch
    from torch.nn.functional import cross_entropy

    with torch.inference_mode():
        ids = torch.tensor([window], device=backbone.device)
        positions = torch.arange(len(window), device=backbone.device)[None]
        hidden, _ = backbone.run(backbone.embed(ids), mask=torch.ones_like(ids), positions=positions)
        parts = zip(hidden[0, :-1].split(_POSITIONS), ids[0, 1:].split(_POSITIONS), strict=True)
        terms = [cross_entropy(backbone.logits(states), gold, reduction="none") for states, gold in parts]
        return [loss for part in terms for loss in part.tolist()]
