"""(IA)³: learned vectors that scale keys, values and the MLP's inner activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from softprompt.methods.adapters import with_adapters
from softprompt.methods.sublayers import SUBLAYERS, unknown_layers
from softprompt.methods.token_rows import TokenRows
from softprompt.methods.tuned import Opened, Tuned

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone


def _open(backbone: Backbone, rows: TokenRows) -> Opened:
    """Scale what the paper scales; PEFT's own table has queries in the place of keys for several families."""
    inside = SUBLAYERS[backbone.model_type]
    settings = {
        "target_modules": inside.pattern((*inside.keys_values, inside.inner)),
        "feedforward_modules": inside.pattern((inside.inner,)),
    }
    fused = len(inside.keys_values) == 1
    note = f"queries are scaled too, since {backbone.family.title} makes them with keys and values in one matrix"
    return with_adapters(backbone, "IA3Config", settings, (note,) if fused else ())


IA3 = Tuned(
    name="ia3",
    title="(IA)³",
    family="adapter",
    base_rate=1e-2,
    source="Liu et al. 2022, arXiv 2205.05638; PEFT",
    open=_open,
    cannot=unknown_layers,
)
