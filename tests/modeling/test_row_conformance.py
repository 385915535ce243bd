"""Every encoder and encoder-decoder of the house, held to the shipped contract; and the contract can fail."""

import pytest
import torch

from softprompt.modeling import forward, readings
from softprompt.modeling.layout import Layout, contiguous
from softprompt.testing import row_conformance
from softprompt.testing.row_conformance import CHECKS
from softprompt.testing.tiny import TINY_ENCODERS, TINY_SEQ2SEQ, tiny_backbone


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("family", TINY_ENCODERS + TINY_SEQ2SEQ)
def test_family_keeps_the_contract(family, check):
    check(tiny_backbone(family))


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_mask_that_takes_padding_for_real_is_caught(monkeypatch, family):
    def everything(prefix, row, tokens):
        good = contiguous(prefix, row, tokens)
        return Layout(torch.ones_like(good.mask), good.positions)

    monkeypatch.setattr(forward, "contiguous", everything)
    with pytest.raises(AssertionError, match="differs by"):
        row_conformance.check_mixed_prompts(tiny_backbone(family))


def test_a_mean_over_padding_is_caught(monkeypatch):
    monkeypatch.setattr(readings, "pool", lambda hidden, columns, how: hidden.float().mean(1))
    with pytest.raises(AssertionError, match="differs by"):
        row_conformance.check_alone_and_batched(tiny_backbone("minilm"))


def test_a_head_that_rows_forget_is_caught(monkeypatch):
    backbone = tiny_backbone("t5")
    monkeypatch.setattr(
        "softprompt.modeling.rows.RowsReading._scores", lambda self, h: h.float() @ self.weight.T + self.bias
    )
    with pytest.raises(AssertionError, match="rows by hand"):
        row_conformance.check_learned_rows(backbone)
