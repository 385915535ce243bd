"""Houlsby adapters: a small bottleneck behind each attention and each MLP, which begins near the identity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.functional import gelu

from softprompt.methods.sublayers import SUBLAYERS, named, unknown_layers
from softprompt.methods.token_rows import TokenRows
from softprompt.methods.tuned import Opened, Tuned
from softprompt.shapes import Float

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone

BOTTLENECK = 64
"""m, as in the paper's main result."""
_DEVIATION = 0.01


class Adapted(nn.Module):
    """A projection with a bottleneck behind it: y + U gelu(D y + d) + u, where y is what the projection gives.

    It stands before the residual connection, as in the paper, and computes in fp32.

    Args:
        projection: it is not changed; its own attributes are reached through this module.
        size: of what it gives, D.
        bottleneck: m.

    Attributes:
        on: whether the bottleneck takes part.
    """

    def __init__(self, projection: nn.Module, size: int, bottleneck: int) -> None:
        super().__init__()
        self.projection, self.on = projection, True
        device = next(projection.parameters()).device
        self.down = nn.Linear(size, bottleneck, device=device)
        self.up = nn.Linear(bottleneck, size, device=device)
        for layer in (self.down, self.up):
            nn.init.trunc_normal_(layer.weight, std=_DEVIATION, a=-2 * _DEVIATION, b=2 * _DEVIATION)
            nn.init.zeros_(layer.bias)

    def forward(self, states: Float[Tensor, "*B F"]) -> Float[Tensor, "*B D"]:
        """Project states of the size that the projection takes."""
        projected: Tensor = self.projection(states)
        if not self.on:
            return projected
        change: Tensor = self.up(gelu(self.down(projected.float())))
        return projected + change.to(projected.dtype)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the projection, which the layer around may look at."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("projection"), name)


def _open(backbone: Backbone, rows: TokenRows) -> Opened:
    """Put a bottleneck behind the projections back to the hidden size, two a layer."""
    inside = SUBLAYERS[backbone.model_type]
    size = backbone.model.config.hidden_size
    adapted = []
    for name, projection in named(backbone.model, inside.pattern(inside.outputs)).items():
        parent, _, own = name.rpartition(".")
        adapted.append(Adapted(projection, size, BOTTLENECK))
        setattr(backbone.model.get_submodule(parent), own, adapted[-1])
    parameters = [p for each in adapted for layer in (each.down, each.up) for p in layer.parameters()]
    return Opened(backbone, parameters, off=lambda: _off(adapted))


@contextmanager
def _off(adapted: Sequence[Adapted]) -> Iterator[None]:
    for each in adapted:
        each.on = False
    try:
        yield
    finally:
        for each in adapted:
            each.on = True


HOULSBY = Tuned(
    name="houlsby",
    title=f"Houlsby adapters (m = {BOTTLENECK})",
    family="adapter",
    base_rate=1e-3,
    source="Houlsby et al. 2019, arXiv 1902.00751",
    open=_open,
    cannot=unknown_layers,
)
