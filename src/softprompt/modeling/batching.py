"""Rows of any prompts laid out as one batch, each prompt with its shared prefix, which is run once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from softprompt.backbones.backbone import Backbone
from softprompt.modeling.bound import BoundPrompt, Prefix
from softprompt.modeling.forward import Batch, Pass
from softprompt.modeling.prefix_cache import PrefixCache
from softprompt.modeling.prefixes import Prefixes
from softprompt.modeling.readings import EncodedRow, Place

Held = Mapping[tuple[BoundPrompt, bool], Prefix]
"""Shared prefixes that have been run already, by prompt and side of the backbone's `position_switch`."""


_A_PASS = 64
"""Tokens that a pass takes the time of, however few it has: the backbone's weights are read once."""


class Batching:
    """Lays out rows behind their prompts.

    Args:
        backbone: the frozen transformer.
        cache: where the shared prefixes of kept prompts stay.
        share_prefix: prefixes of rows at the input are shared; else every row carries its own.

    Attributes:
        prefixes: runs what is not kept.
    """

    def __init__(self, backbone: Backbone, cache: PrefixCache, *, share_prefix: bool = True) -> None:
        self._backbone, self._cache, self._share_prefix = backbone, cache, share_prefix
        self.prefixes = Prefixes(backbone)

    def batch(
        self,
        rows: Sequence[EncodedRow],
        bounds: Sequence[BoundPrompt],
        far: bool,
        held: Held | None = None,
        behind: Sequence[tuple[int, ...]] = (),
        cold: Collection[BoundPrompt] = (),
    ) -> tuple[Batch, list[Place]]:
        """Lay out rows: distinct prompts once each, with their prefixes (or the prefix inside every row).

        What comes `behind` a row stands there, or in the decoder of an encoder-decoder; by default nothing. The rows
        of `cold` prompts carry what is to be run of their prefixes; `keep` takes it out of the pass.
        """
        distinct = list(dict.fromkeys(bounds))
        where = {bound: i for i, bound in enumerate(distinct)}
        owner = [where[bound] for bound in bounds]
        shared = {bound: self._share_prefix or bound.layers is not None for bound in distinct}
        prefixes = [
            self.prefixes.head(bound, far)
            if bound in cold or not shared[bound]
            else self.prefix(bound, far, held or {})
            for bound in distinct
        ]
        front = [
            self.prefixes.rest(bound) if bound in cold else bound.carried(shared=shared[bound]) for bound in bounds
        ]
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
            return self.prefixes.run([bound], far=far)[0]
        return self._cache.find((bound.key, far), lambda: self.prefixes.run([bound], far=far)[0])

    def cold(
        self, rows: Sequence[EncodedRow], bounds: Sequence[BoundPrompt], far: bool, most: int
    ) -> list[BoundPrompt]:
        """Return the kept prompts, of one row each, whose prefixes have not been run and ride best with their rows.

        A pass over a prefix takes about as long as one over a row; carried by its only row it takes no pass at all.
        Prefixes ride as long as they widen the other rows by no more than the passes that they spare, and the pass to
        no more than `most` tokens; the longest are left behind first.
        """
        if not self._share_prefix:
            return []
        uses = Counter(bound.key for bound in bounds)
        riding: dict[BoundPrompt, int] = {}
        for bound in bounds:
            tokens = len(self.prefixes.rest(bound))
            if tokens and bound.key is not None and uses[bound.key] == 1 and self._cache.lacks((bound.key, far)):
                riding[bound] = tokens
        while riding and not _pays([len(row.ids) for row in rows], [riding.get(bound, 0) for bound in bounds], most):
            del riding[max(riding, key=lambda bound: riding[bound])]
        return list(riding)

    def keep(self, cold: Sequence[BoundPrompt], batch: Batch, done: Pass) -> None:
        """Keep the prefixes that rows of a pass have carried themselves."""
        for bound in cold:
            found = self.prefixes.carried(bound, done, batch.owner.index(batch.bounds.index(bound)))
            assert bound.key is not None, "a prompt in training is not kept"
            if found is not None:
                self._cache.put((bound.key, batch.far), found)


def _pays(widths: Sequence[int], carried: Sequence[int], most: int) -> bool:
    """Whether prefixes of `carried` tokens (0: none) ride with rows of `widths` at a gain, in a pass of `most`."""
    wide = max(width + tokens for width, tokens in zip(widths, carried, strict=True))
    spared = sum(max(_A_PASS, tokens) for tokens in carried if tokens)
    fits = len(widths) == 1 or len(widths) * wide <= most
    return fits and len(widths) * (wide - max(widths)) <= spared
