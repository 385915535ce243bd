"""The tests run with types and shapes checked."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from softprompt.training.selection import beyond_chance, last_stands

refused = pytest.raises(TypeCheckError, match=r"checking the parameters of softprompt\.training")


def test_a_wrong_shape_is_refused() -> None:
    with refused:
        beyond_chance(torch.ones(2, 3))
    with refused:  # the two are named alike, and differ
        last_stands(torch.ones(3), torch.ones(4))
