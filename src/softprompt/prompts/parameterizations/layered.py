"""Keys and values to start from, and which part of them trains."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from softprompt.errors import ConfigError
from softprompt.prompts import sites
from softprompt.prompts.parameterizations.spec import layer_of
from softprompt.shapes import Float


class LayeredStart(nn.Module):
    """First keys and values by site, of which some layers, and not the first few virtual tokens, are to train.

    Args:
        initial: `layers.N.key` and `layers.N.value`, [H, P, K] each.
        layers: the layers that train; None: all that `initial` has.
        frozen: how many of the first virtual tokens stay as they are, in every layer.

    Raises:
        ConfigError: keys and values that do not fit each other, a layer that is not there, no token left to train,
            or a layer whose values are all zero, which have no scale.

    >>> zero = {"layers.0.key": torch.ones(1, 4, 8), "layers.0.value": torch.ones(1, 4, 8)}
    >>> LayeredStart(zero, None, 1).tail("layers.0.key").shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, initial: Mapping[str, Tensor], layers: Collection[int] | None, frozen: int) -> None:
        super().__init__()
        wrong = sites.check_together({site: tuple(t.shape) for site, t in initial.items()}, labels=0)
        if wrong:
            raise ConfigError(f"a deep prompt cannot start from these keys and values: {wrong}")
        self._sites = tuple(initial)
        self._frozen = frozen
        for site, tensor in initial.items():
            self.register_buffer(slot(site), tensor.detach().to(torch.float32).clone())
        self.trained = self._chosen(layers)
        self._check_tokens()
        # Fixed now: a resumed run has the rates of the first one.
        self.scales = {site: float(self.tail(site).pow(2).mean().sqrt()) for site in self.trained}
        for site, scale in self.scales.items():
            if not scale > 0:
                raise ConfigError(f"`{site}` is zero everywhere, so that its rate would be; start it from a text")

    def tail(self, site: str) -> Float[Tensor, "H T K"]:
        """Return the first values of the tokens that train."""
        whole: Tensor = getattr(self, slot(site))
        return whole[:, self._frozen :]

    def join(self, tails: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all keys and values: `tails` behind the frozen tokens at the sites that train, the start elsewhere."""
        out: dict[str, Tensor] = {}
        for site in self._sites:
            whole: Tensor = getattr(self, slot(site))
            out[site] = torch.cat([whole[:, : self._frozen], tails[site]], dim=1) if site in tails else whole
        return out

    def _chosen(self, layers: Collection[int] | None) -> tuple[str, ...]:
        there = sorted({layer_of(site) for site in self._sites})
        missing = sorted(set(layers if layers is not None else there) - set(there))
        if missing or (layers is not None and not layers):
            asked = ", ".join(map(str, missing)) or "none"
            raise ConfigError(f"layers to train: {asked} asked for; there are layers {there[0]} to {there[-1]}")
        return tuple(site for site in self._sites if layers is None or layer_of(site) in layers)

    def _check_tokens(self) -> None:
        length = int(getattr(self, slot(self._sites[0])).shape[1])
        if self._frozen >= length:
            raise ConfigError(
                f"{self._frozen} virtual tokens are to stay frozen and there are {length}; leave at least one to train"
            )


def slot(site: str) -> str:
    """Return the site's name as an attribute: PyTorch allows no dots in it.

    >>> slot("layers.3.key")
    'layers_3_key'
    """
    return site.replace(".", "_")
