"""One pass of the frozen backbone for many prompts: the loss of each, and its gradient at each of its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from softprompt.modeling.bound import BoundPrompt, Prefix
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.modeling.readings import EncodedRow, Gold
from softprompt.training.parallel import ALONE, Learned, World

TOKENS = {"cpu": 2048, "cuda": 32_768}
"""Tokens, padding counted, whose graph is held at once, by device: a few gigabytes for 270M parameters. A fixed
number, so that a result does not depend on the memory of the day."""


class Share(NamedTuple):
    """What one prompt of a bank learns from in one step.

    Attributes:
        bound: the prompt, its tensors leaves that gradients are wanted at.
        rows: its rows.
        gold: the right answer of each row.
        weights: how much each row counts in the prompt's loss.
    """

    bound: BoundPrompt
    rows: Sequence[EncodedRow]
    gold: Sequence[Gold]
    weights: Sequence[float]


def row_tokens(bound: BoundPrompt, row: EncodedRow, gold: Gold) -> int:
    """Return the tokens that are run for a row in a step: its own, those it carries of the prompt, and its answer's."""
    return len(bound.carried(shared=True)) + len(row.ids) + len(bound.reading.behind(gold))


def gradients(
    model: PromptedModel, shares: Sequence[Share], tokens: int, world: World = ALONE, scale: float = 1.0
) -> list[Learned]:
    """Return loss and gradient of every prompt, from one run of their prefixes and shared passes over their rows.

    A prompt's rows meet no other prompt's tensors, so its gradient is what it would be alone. Rows of like length
    run together, whoever they belong to, at most `tokens` of them (padding counted) at once, and fewer where a
    backbone runs padding too: gradients gather at the prefixes' keys and values, and go through the prefixes in one
    backward pass at the end.

    Args:
        model: the frozen backbone.
        shares: what each prompt learns from; each has at least one row.
        tokens: tokens whose graph is held at once.
        world: the processes that the rows are dealt out to; what is returned is of this one's rows (`World.total`).
        scale: what losses are multiplied by before the backward pass, and gradients divided by after it.
    """
    flat = [(which, row) for which, share in enumerate(shares) for row in range(len(share.rows))]
    rows = [shares[which].rows[row] for which, row in flat]
    bounds = [shares[which].bound for which, _ in flat]
    run, held = _prefixes(model, rows, bounds)
    losses = [torch.zeros(()) for _ in shares]
    lengths = [
        row_tokens(bound, row, shares[which].gold[number])
        for (which, number), row, bound in zip(flat, rows, bounds, strict=True)
    ]
    for mine in world.passes(lengths, tokens, model.backbone.pass_cost):
        part = mine or [lengths.index(min(lengths))]  # nothing left, but a pass to make: one that counts for nothing
        own = [flat[i] for i in part]
        gold = [shares[which].gold[row] for which, row in own]
        terms = model.gold_log_probabilities([rows[i] for i in part], [bounds[i] for i in part], gold, held)
        counts = [shares[which].weights[row] if mine else 0.0 for which, row in own]
        weighted = -terms * torch.tensor(counts, device=terms.device)
        (weighted.sum() * scale).backward()
        for which, value in zip((which for which, _ in own), weighted.detach().cpu(), strict=True):
            losses[which] = losses[which] + value
    _through(run, held, whole=world.lockstep)
    return [Learned(loss, _gathered(share.bound, scale)) for loss, share in zip(losses, shares, strict=True)]


Held = dict[tuple[BoundPrompt, bool], Prefix]


def _prefixes(model: PromptedModel, rows: Sequence[EncodedRow], bounds: Sequence[BoundPrompt]) -> tuple[Held, Held]:
    """Run the prefixes that some rows need; return them, and copies whose keys and values gather gradients."""
    run: Held = {}
    for far, members in model.sides(rows, bounds):
        needed = list(dict.fromkeys(bounds[i] for i in members))
        run |= {(bound, far): prefix for bound, prefix in zip(needed, model.prefixes(needed, far=far), strict=True)}
    return run, {key: Prefix(_leaves(prefix), prefix.length) for key, prefix in run.items()}


def _leaves(prefix: Prefix) -> list[tuple[Tensor, Tensor]] | None:
    if prefix.past is None:
        return None
    return [
        (k.detach().requires_grad_(k.requires_grad), v.detach().requires_grad_(v.requires_grad)) for k, v in prefix.past
    ]


def _through(run: Held, held: Held, *, whole: bool) -> None:
    """Send what gathered at the copies back through the prefixes, all of them in one backward pass.

    With `whole`, nothing is sent where nothing gathered, instead of leaving the passage out.
    """
    ends, gathered = [], []
    for key, prefix in run.items():
        copies = held[key].past or []
        for pair, leaves in zip(prefix.past or [], copies, strict=True):
            for end, leaf in zip(pair, leaves, strict=True):
                if leaf.grad is not None or (whole and leaf.requires_grad):
                    ends.append(end)
                    gathered.append(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
    if ends:
        torch.autograd.backward(ends, gathered)


def _gathered(bound: BoundPrompt, scale: float) -> dict[str, Tensor]:
    return {
        site: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad / scale
        for site, leaf in bound.tensors.items()
        if leaf.requires_grad
    }
