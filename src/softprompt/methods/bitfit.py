"""BitFit: nothing but the biases trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from softprompt.methods.token_rows import TokenRows
from softprompt.methods.tuned import Opened, Tuned

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone


def _biases(backbone: Backbone) -> list[nn.Parameter]:
    """The biases inside the transformer; that of the output matrix, one a word of the vocabulary, is none of them."""
    named = backbone.model.base_model.named_parameters()
    return [parameter for name, parameter in named if name.endswith("bias")]


def _open(backbone: Backbone, rows: TokenRows) -> Opened:
    biases = _biases(backbone)
    for bias in biases:
        bias.requires_grad_()
    before = [parameter.detach().clone() for parameter in biases]
    return Opened(backbone, biases, off=lambda: _off(biases, before))


@contextmanager
def _off(biases: Sequence[nn.Parameter], before: Sequence[torch.Tensor]) -> Iterator[None]:
    """Put the old values in the place of the learned ones."""
    learned = [bias.detach().clone() for bias in biases]
    _put(biases, before)
    try:
        yield
    finally:
        _put(biases, learned)


@torch.no_grad()
def _put(biases: Sequence[nn.Parameter], values: Sequence[torch.Tensor]) -> None:
    for bias, value in zip(biases, values, strict=True):
        bias.copy_(value)


def _cannot(backbone: Backbone) -> str | None:
    if _biases(backbone):
        return None
    return (
        f"`{backbone.name}` ({backbone.family.title}) has no biases, and BitFit (arXiv 2106.10199) trains nothing "
        "else; take `lora`"
    )


BITFIT = Tuned(
    name="bitfit",
    title="BitFit",
    family="weights",
    base_rate=1e-3,
    source="Ben Zaken et al. 2021, arXiv 2106.10199",
    open=_open,
    cannot=_cannot,
)
