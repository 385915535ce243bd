"""LoRA: low-rank updates beside linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from softprompt.methods.adapters import with_adapters
from softprompt.methods.token_rows import TokenRows
from softprompt.methods.tuned import Opened, Tuned

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone

RANK, ALPHA = 8, 16
EVERYWHERE = "all-linear"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def lora(name: str, title: str, where: str | Sequence[str]) -> Tuned:
    """Return LoRA on some layers: W + (alpha / r) B A in the place of W, where B begins at zero.

    Hu et al. 2021, arXiv 2106.09685; r = 8, alpha = 16, no dropout; A and B train and compute in fp32.

    Args:
        name: as it is asked for.
        title: as it is read.
        where: names of modules, or `EVERYWHERE`: all linear layers but the output matrix.
    """
    modules = where if isinstance(where, str) else [*where]
    settings = {"r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.0, "target_modules": modules}

    def opened(backbone: Backbone, rows: TokenRows) -> Opened:
        return with_adapters(backbone, "LoraConfig", settings)

    source = "Hu et al. 2021, arXiv 2106.09685; PEFT"
    return Tuned(name=name, title=title, family="adapter", base_rate=1e-3, source=source, open=opened)


LORA = lora("lora", f"LoRA (r = {RANK})", EVERYWHERE)
LORA_ATTENTION = lora("lora-attention", f"LoRA (r = {RANK}) on attention", ATTENTION)
