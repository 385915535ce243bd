"""Loss scaling for backbones in fp16, whose gradients would vanish below its least number or overflow its greatest.

Micikevicius et al. 2018, arXiv 1710.03740, with the constants of `torch.amp.GradScaler`. Only gradients that pass
through the frozen layers are in fp16: prompts and their optimizers are in fp32. Where a scaled gradient overflows,
`GradScaler` leaves the step out; here the same step is done again with half the scale, so that no rows are lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from softprompt.training.monitors import is_finite
from softprompt.training.parallel import Learned

_GROWS_AFTER = 2000
_LEAST = 1.0


@dataclass
class LossScale:
    """By how much a loss is multiplied before its gradient is computed, and the gradient divided after.

    Attributes:
        value: the scale; 1 where none is needed.
        good: steps without an overflow since it last changed.
        on: whether it is needed.
    """

    value: float = 1.0
    good: int = 0
    on: bool = False

    @classmethod
    def for_dtype(cls, dtype: torch.dtype) -> LossScale:
        """Return the scale that a backbone of this dtype starts with.

        >>> LossScale.for_dtype(torch.bfloat16).value, LossScale.for_dtype(torch.float16).value
        (1.0, 65536.0)
        """
        return cls(65536.0, 0, on=True) if dtype == torch.float16 else cls()

    def run(self, work: Callable[[], Sequence[Learned]]) -> Sequence[Learned]:
        """Do a step's passes with the scale as it stands, and again with half of it as long as gradients overflow.

        A loss that is not finite by itself, or a gradient that is not even at the scale 1, is handed on as it is, and
        the scale stays what it was.
        """
        before = self.value
        while True:
            learned = work()
            if not self.on or not all(bool(torch.isfinite(each.loss)) for each in learned):
                return learned
            if all(is_finite(each.loss, each.gradient.values()) for each in learned):
                self._count(before)
                return learned
            if self.value <= _LEAST:
                self.value = before
                return learned
            self.value /= 2

    def _count(self, before: float) -> None:
        self.good = self.good + 1 if self.value == before else 1
        if self.good >= _GROWS_AFTER:
            self.value, self.good = 2 * self.value, 0
