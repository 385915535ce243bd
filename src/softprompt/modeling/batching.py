"""Rows of any prompts laid out as one batch, each prompt with its shared prefix, which is run once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from softprompt.backbones.backbone import Backbone
from softprompt.modeling.bound import BoundPrompt, Prefix
from softprompt.modeling.forward import Batch, run_prefixes
from softprompt.modeling.prefix_cache import PrefixCache
from softprompt.modeling.readings import EncodedRow, Place

Held = Mapping[tuple[BoundPrompt, bool], Prefix]
"""Shared prefixes that have been run already, by prompt and side of the backbone's `position_switch`."""


class Batching:
    """Lays out rows behind their prompts.

    Args:
        backbone: the frozen transformer.
        cache: where the shared prefixes of kept prompts stay.
        share_prefix: prefixes of rows at the input are shared; else every row carries its own.
    """

    def __init__(self, backbone: Backbone, cache: PrefixCache, *, share_prefix: bool = True) -> None:
        self._backbone, self._cache, self._share_prefix = backbone, cache, share_prefix

    def batch(
        self,
        rows: Sequence[EncodedRow],
        bounds: Sequence[BoundPrompt],
        far: bool,
        held: Held | None = None,
        behind: Sequence[tuple[int, ...]] = (),
    ) -> tuple[Batch, list[Place]]:
        """Lay out rows: distinct prompts once each, with their prefixes (or the prefix inside every row).

        What comes `behind` a row stands there, or in the decoder of an encoder-decoder; by default nothing.
        """
        distinct = list(dict.fromkeys(bounds))
        where = {bound: i for i, bound in enumerate(distinct)}
        owner = [where[bound] for bound in bounds]
        shared = {bound: self._share_prefix or bound.layers is not None for bound in distinct}
        prefixes = [self.prefix(bound, far, held or {}) if shared[bound] else Prefix(None, 0) for bound in distinct]
        front = [bound.carried(shared=shared[bound]) for bound in bounds]
        whole = [words + row.ids for words, row in zip(front, rows, strict=True)]
        places = [bound.place(row, len(words)) for bound, row, words in zip(bounds, rows, front, strict=True)]
        paths = behind or [()] * len(rows)
        if self._backbone.kind == "encoder-decoder":
            answers = [bound.answer_start + path for bound, path in zip(bounds, paths, strict=True)]
            return Batch(distinct, prefixes, owner, whole, far, answers), places
        ids = [words + path for words, path in zip(whole, paths, strict=True)]
        return Batch(distinct, prefixes, owner, ids, far), places

    def prefix(self, bound: BoundPrompt, far: bool, held: Held) -> Prefix:
        """The prefix held by the caller, or the cache's, which runs it by itself if it must."""
        if (bound, far) in held:
            return held[bound, far]
        if bound.key is None:
            return run_prefixes(self._backbone, [bound], far=far)[0]
        return self._cache.find((bound.key, far), lambda: run_prefixes(self._backbone, [bound], far=far)[0])
