"""Every encoder and encoder-decoder of the house, held to the shipped contract."""

import pytest

from softprompt.testing.row_conformance import CHECKS
from softprompt.testing.tiny import TINY_ENCODERS, TINY_SEQ2SEQ, tiny_backbone


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("family", TINY_ENCODERS + TINY_SEQ2SEQ)
def test_family_keeps_the_contract(family, check):
    check(tiny_backbone(family))
