"""Where the tensors of a prompt go: their names, their shapes and the features they call for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

MAX_VIRTUAL_TOKENS = 16_384
MAX_SIZE = 2**20

FEATURES = frozenset({"encoder", "key-values", "learned-rows"})
"""What a file may require beyond rows at the input; anything else is refused by name."""

_SITE = re.compile(r"input|encoder\.input|layers\.(?:0|[1-9][0-9]{0,4})\.(?:key|value)|readout\.(?:weight|bias)")
_SHAPES = {"input": "PD", "key": "HPK", "value": "HPK", "weight": "CD", "bias": "C"}


def check_site(site: str, shape: Sequence[int]) -> str | None:
    """Return why a tensor of this `shape` cannot stand at `site`, or None.

    >>> check_site("input", [20, 640])
    >>> check_site("input", [20])
    'the tensor `input` has shape [20]; it must be [P, D]'
    """
    if not _SITE.fullmatch(site):
        return f"it has a tensor `{site}`, which is no site of a prompt (`input`, `layers.3.key`, ...)"
    letters = _SHAPES[site.rpartition(".")[2]]
    if len(shape) != len(letters):
        return f"the tensor `{site}` has shape {list(shape)}; it must be [{', '.join(letters)}]"
    for letter, size in zip(letters, shape, strict=True):
        most = MAX_VIRTUAL_TOKENS if letter == "P" else MAX_SIZE
        if not 1 <= size <= most:
            return f"the tensor `{site}` has {letter} = {size:,}; {letter} is 1 to {most:,}"
    return None


def check_together(shapes: Mapping[str, Sequence[int]], labels: int) -> str | None:
    """Return why tensors of these shapes make no prompt for so many `labels`, or None.

    >>> check_together({"input": [20, 640]}, labels=2)
    >>> check_together({}, labels=2)
    'it has no virtual tokens'
    """
    places = [site for site in shapes if not site.startswith("readout.")]
    if not places:
        return "it has no virtual tokens"
    for site in shapes:
        partner = _partner(site)
        if partner and partner not in shapes:
            return f"it has `{site}` without `{partner}`"
    layers = [site for site in places if site.startswith("layers.")]
    if len({shapes[site][1] for site in layers}) > 1:
        return "its layers have different numbers of virtual tokens"
    for site in layers:
        other = _partner(site)
        if other and shapes[site][0] != shapes[other][0]:
            return f"`{site}` and `{other}` have different numbers of heads"
    for site in ("readout.weight", "readout.bias"):
        if site in shapes and shapes[site][0] != labels:
            return f"`{site}` has {shapes[site][0]} rows for {labels} labels"
    return None


def length(shapes: Mapping[str, Sequence[int]]) -> int:
    """Return P, the number of virtual tokens of tensors that `check_together` let pass.

    >>> length({"input": [20, 640]})
    20
    """
    for site in ("input", "encoder.input"):
        if site in shapes:
            return shapes[site][0]
    return next(shape[1] for site, shape in shapes.items() if site.startswith("layers."))


def features_of(sites: Iterable[str]) -> set[str]:
    """Return the features without which tensors at these sites would be passed over.

    >>> sorted(features_of(["input", "readout.weight"]))
    ['learned-rows']
    """
    kinds = {"encoder": "encoder", "layers": "key-values", "readout": "learned-rows"}
    return {kinds[head] for head in (site.partition(".")[0] for site in sites) if head in kinds}


def _partner(site: str) -> str | None:
    """The site without which `site` means nothing."""
    stem, _, last = site.rpartition(".")
    return {"key": f"{stem}.value", "value": f"{stem}.key", "bias": f"{stem}.weight"}.get(last)
