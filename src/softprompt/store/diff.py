"""What differs between two prompts: what they say of themselves, and how far apart their virtual tokens are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from softprompt.prompts.canonical import JSON

if TYPE_CHECKING:
    from torch import Tensor

    from softprompt.prompts.soft_prompt import SoftPrompt


@dataclass(frozen=True)
class TokenDistance:
    """How far one virtual token of a prompt is from the same one of another.

    Args:
        site: where the token stands, for instance `input`.
        token: its number, from 0.
        distance: Euclidean.
        cosine: of the angle between them; None where one is all zeros.
    """

    site: str
    token: int
    distance: float
    cosine: float | None


@dataclass(frozen=True)
class Difference:
    """What differs between the prompts `a` and `b`.

    Args:
        a: what the first was asked for as.
        b: what the second was asked for as.
        same: whether they are one and the same file.
        fields: by dotted path, the value in a and the value in b; None where there is none.
        shapes: by site, the shapes, where they differ; None where there is no such tensor.
        tokens: virtual tokens that both have, compared.
    """

    a: str
    b: str
    same: bool
    fields: dict[str, tuple[JSON, JSON]]
    shapes: dict[str, tuple[list[int] | None, list[int] | None]]
    tokens: tuple[TokenDistance, ...]

    def to_json(self) -> dict[str, JSON]:
        """Return the difference as plain JSON."""
        return asdict(self)


def compare(a: SoftPrompt, b: SoftPrompt, name_a: str = "a", name_b: str = "b") -> Difference:
    """Return what differs between two prompts.

    Where lengths differ, the tokens that both have are compared, from the first; where the sizes of a token
    differ, none are.
    """
    left, right = dict(_flat("", a.to_json())), dict(_flat("", b.to_json()))
    paths = [path for path in sorted(left.keys() | right.keys()) if left.get(path) != right.get(path)]
    shapes = {site: (_shape(a, site), _shape(b, site)) for site in sorted(a.tensors.keys() | b.tensors.keys())}
    tokens = tuple(d for site in sorted(a.tensors.keys() & b.tensors.keys()) for d in _distances(site, a, b))
    return Difference(
        a=name_a,
        b=name_b,
        same=a.digest == b.digest,
        fields={path: (left.get(path), right.get(path)) for path in paths},
        shapes={site: pair for site, pair in shapes.items() if pair[0] != pair[1]},
        tokens=tokens,
    )


def _flat(path: str, value: JSON) -> Iterator[tuple[str, JSON]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}" if path else key, inner)
    else:
        yield path, value


def _shape(prompt: SoftPrompt, site: str) -> list[int] | None:
    return list(prompt.tensors[site].shape) if site in prompt.tensors else None


def _distances(site: str, a: SoftPrompt, b: SoftPrompt) -> Iterator[TokenDistance]:
    if site.startswith("readout."):
        return  # one row a label, not a token
    left, right = _rows(a.tensors[site]), _rows(b.tensors[site])
    if left.shape[1] != right.shape[1]:
        return
    for token, (x, y) in enumerate(zip(left, right, strict=False)):
        norms = float(x.norm() * y.norm())
        cosine = float(x @ y) / norms if norms else None
        yield TokenDistance(site, token, float((x - y).norm()), cosine)


def _rows(tensor: Tensor) -> Tensor:
    """One row a virtual token, [P, ...]; keys and values [H, P, K] are turned to [P, H * K]."""
    rows = tensor.double()
    return rows.transpose(0, 1).flatten(1) if rows.ndim == 3 else rows
