"""Full fine-tuning: every weight trains, and a whole model has to be kept for each task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from softprompt.methods.cut_vocabulary import CutVocabulary
from softprompt.methods.token_rows import TokenRows
from softprompt.methods.tuned import Opened, Tuned
from softprompt.tasks.readout import LabelWords

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone

ROWS_FACTOR = 10.0
"""Learned rows have this multiple of the weights' rate, as heads usually have."""


def _open(backbone: Backbone, rows: TokenRows) -> Opened:
    """Let everything train; of the tables of tokens the rows that the task needs, which is exact.

    Where words are scored over the whole vocabulary every row is a choice, and none is left out.
    """
    whole = [*backbone.model.parameters()]
    readout = rows.task.readout
    over_all = isinstance(readout, LabelWords) and readout.scoring == "full"
    if over_all or not CutVocabulary.fits(backbone):
        return _opened(backbone, whole, whole)
    words = [backbone.tokenizer.encode(word, add_special_tokens=False) for word in rows.task.readout.words]
    cut = CutVocabulary(backbone, [*rows.vocabulary(), *(index for word in words for index in word)])
    opened = _opened(cut.backbone, [*cut.backbone.model.parameters()], whole)
    opened.translate, opened.close = cut.translate, cut.put_back
    return opened


def _opened(backbone: Backbone, parameters: list[nn.Parameter], whole: list[nn.Parameter]) -> Opened:
    for parameter in parameters:
        parameter.requires_grad_()
    return Opened(backbone, parameters, trained=sum(parameter.numel() for parameter in whole), kept=whole)


def _cannot(backbone: Backbone) -> str | None:
    if all(parameter.is_floating_point() for parameter in backbone.model.parameters()):
        return None
    return f"the weights of `{backbone.name}` are quantised, and a step of training would be lost in them; take `lora`"


FULL = Tuned(
    name="full",
    title="Full fine-tuning",
    family="weights",
    base_rate=3e-5,
    source="Devlin et al. 2018, arXiv 1810.04805",
    open=_open,
    cannot=_cannot,
    rows_factor=ROWS_FACTOR,
)
