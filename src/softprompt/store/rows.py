"""Rows that came from elsewhere: what they must be before a prompt is made of them."""

from __future__ import annotations

import torch
from torch import Tensor

from softprompt.prompts.header import refused
from softprompt.prompts.sites import check_site
from softprompt.shapes import Float


def checked_rows(rows: Tensor, name: str, called: str = "tensor") -> Float[Tensor, "P D"]:
    """Return rows of another format in fp32, if a prompt can hold them.

    Args:
        rows: the numbers as they were found.
        name: what to call the file in an error.
        called: what the file calls them.

    Raises:
        PromptFileError: another dtype than float32, bfloat16 or float16; not [P, D]; or a number that is not finite.
    """
    if rows.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise refused(name, f"its rows are {rows.dtype}; a prompt has float32, bfloat16 or float16")
    reason = check_site("input", rows.shape)
    if reason:
        raise refused(name, reason)
    bad = int((~torch.isfinite(rows)).sum())
    if bad:
        raise refused(name, f"{bad} of the {rows.numel()} numbers of `{called}` are NaN or infinite; train it again")
    return rows.float()
