"""Every decoder family of the house, held to the shipped contract."""

from functools import cache

import pytest

from softprompt.testing.conformance import CHECKS
from softprompt.testing.tiny import SPECIAL_FAMILIES, TINY_FAMILIES, tiny_backbone

made = cache(tiny_backbone)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("family", TINY_FAMILIES + SPECIAL_FAMILIES)
def test_family_keeps_the_contract(family, check):
    check(made(family))
