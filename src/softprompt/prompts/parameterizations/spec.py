"""What a parameterization is built from."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from softprompt.errors import ConfigError
from softprompt.registry import unknown_name
from softprompt.shapes import Float

Setting = float | int | str

_KEY_VALUE = re.compile(r"layers\.([0-9]+)\.(?:key|value)")


@dataclass(frozen=True, eq=False)
class Spec:
    """First values, their scale and the settings of one parameterization.

    Attributes:
        initial: first values by site: `input` [P, D], or `layers.N.key` and `layers.N.value` [H, P, K].
        rms: above 0; RMS of the backbone's embedded tokens, the unit of rows at the input.
        generator: where random factors come from, on the CPU; building draws from it, so that equal generators give
            equal modules and the global state stays as it is.
        vocabulary: [M, D] embedded rows of sampled tokens, for `superpos`.
        settings: by the names that each parameterization documents.

    Raises:
        ConfigError: the RMS is not above 0.

    >>> Spec({"input": torch.zeros(20, 640)}, 1.0, torch.Generator()).read("ulpt", rank=64)
    {'rank': 64}
    """

    initial: Mapping[str, Tensor]
    rms: float
    generator: torch.Generator
    vocabulary: Float[Tensor, "M D"] | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.rms < math.inf:
            raise ConfigError(f"the embeddings' RMS is {self.rms}; it is the unit of the rate, and must be above 0")

    def rows(self, name: str) -> Float[Tensor, "P D"]:
        """Return the rows that the parameterization called `name` starts from, in fp32.

        Raises:
            ConfigError: the first values are no rows at the input alone.
        """
        if set(self.initial) != {"input"}:
            raise ConfigError(
                f"`{name}` starts from rows at `input`, and the first values are {_listed(self.initial)}; "
                "give it rows, or choose `deep` or `deep-mlp` for keys and values"
            )
        return _plain(self.initial["input"])

    def sampled(self, name: str) -> Float[Tensor, "M D"]:
        """Return the vocabulary rows for the parameterization called `name`, in fp32.

        Raises:
            ConfigError: there are none, or they have another width than the first values.
        """
        if self.vocabulary is None:
            raise ConfigError(
                f"`{name}` needs embedded rows of sampled tokens, and none were given; sample 128 of them"
            )
        width = self.rows(name).shape[1]
        if self.vocabulary.shape[1] != width:
            raise ConfigError(
                f"`{name}` was given vocabulary rows of width {self.vocabulary.shape[1]} for first values of width "
                f"{width}; sample them from the same backbone"
            )
        return _plain(self.vocabulary)

    def key_values(self, name: str) -> dict[str, Float[Tensor, "H P K"]]:
        """Return the keys and values that the parameterization called `name` starts from, in fp32, by layer.

        Raises:
            ConfigError: the first values are no keys and values alone.
        """
        found = {site: _KEY_VALUE.fullmatch(site) for site in self.initial}
        if not found or not all(found.values()):
            raise ConfigError(
                f"`{name}` starts from the keys and values of layers (`layers.0.key`, ...), and the first values are "
                f"{_listed(self.initial)}; give it keys and values, or choose `direct` for rows"
            )
        order = sorted(found, key=lambda site: (layer_of(site), site))
        return {site: _plain(self.initial[site]) for site in order}

    def layers(self, name: str) -> tuple[int, ...] | None:
        """Return the layers that the setting `layers` names for the parameterization called `name`; None: all.

        Raises:
            ConfigError: it is not written like `0-3,7`.
        """
        asked = str(self.settings.get("layers", "")).replace(" ", "")
        if not asked:
            return None
        if not re.fullmatch(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*", asked):
            raise ConfigError(f"setting `layers` of `{name}` is `{asked}`; write layers like `0-3,7`")
        ends = [part.partition("-") for part in asked.split(",")]
        return tuple(sorted({n for a, _, b in ends for n in range(int(a), int(b or a) + 1)}))

    def read(self, name: str, /, *, also: Collection[str] = (), **defaults: int) -> dict[str, int]:
        """Return the whole-number settings of the parameterization called `name`: those given, else the defaults.

        Args:
            name: for the errors.
            also: other settings that it has.
            defaults: by setting; one whose default is 0 may be set to 0, all others start at 1.

        Raises:
            UnknownNameError: a setting that the parameterization does not have; the message offers the nearest.
            ConfigError: a value that is no whole number, or too small.
        """
        for key in self.settings:
            if key not in defaults and key not in also:
                raise unknown_name(f"setting of `{name}`:", key, [*defaults, *also])
        return {key: self._whole(name, key, default) for key, default in defaults.items()}

    def _whole(self, name: str, key: str, default: int) -> int:
        value, least = self.settings.get(key, default), min(default, 1)
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"setting `{key}` of `{name}` is {value!r}; give a whole number from {least}")
        return value


def layer_of(site: str) -> int:
    """Return N of `layers.N.key`.

    >>> layer_of("layers.12.value")
    12
    """
    return int(site.split(".")[1])


def _listed(initial: Mapping[str, Tensor]) -> str:
    names = [f"`{site}`" for site in initial]
    return ", ".join(names[:3] + ["..."] * (len(names) > 3)) or "empty"


def _plain(tensor: Tensor) -> Tensor:
    """On the CPU, where the generator is, and in fp32; the module is moved when it is whole."""
    return tensor.detach().to("cpu", torch.float32)
