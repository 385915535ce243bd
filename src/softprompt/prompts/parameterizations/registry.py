"""The parameterizations by name; none is imported before it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from softprompt.errors import ConfigError
from softprompt.registry import Registry

if TYPE_CHECKING:
    from softprompt.prompts.parameterizations.base import PromptParameterization
    from softprompt.prompts.parameterizations.spec import Spec

    Builder = Callable[[Spec], PromptParameterization]
else:
    Builder = Callable  # so that the names can be listed without torch

_ROOM = "softprompt.prompts.parameterizations"
_REFUSED = {
    "smop": "`smop` (Choi et al., EMNLP 2023) chooses among its prompts row by row, so it cannot fold into the plain "
    "tensors that a prompt file keeps; choose `mixture`, which weighs its prompts once for the task"
}


class Parameterizations(Registry[Builder]):
    """The table of parameterizations.

    >>> "deep" in PARAMETERIZATIONS
    True
    """

    def get(self, name: str) -> Builder:
        """Return what builds the parameterization called `name` from a `Spec`.

        Raises:
            ConfigError: the method is known, and cannot be folded; the message says why and offers another.
            UnknownNameError: nothing carries that name; the message offers the nearest.
        """
        if name in _REFUSED and name not in self:
            raise ConfigError(_REFUSED[name])
        return super().get(name)


PARAMETERIZATIONS = Parameterizations(
    "parameterization",
    {
        "direct": f"{_ROOM}.direct:from_spec",
        "mlp": f"{_ROOM}.mlp:from_spec",
        "lstm": f"{_ROOM}.lstm:from_spec",
        "residual": f"{_ROOM}.residual:from_spec",
        "low-rank": f"{_ROOM}.low_rank:from_spec",
        "ulpt": f"{_ROOM}.ulpt:from_spec",
        "superpos": f"{_ROOM}.superpos:from_spec",
        "mixture": f"{_ROOM}.mixture:from_spec",
        "deep": f"{_ROOM}.deep:from_spec",
        "deep-mlp": f"{_ROOM}.deep_mlp:from_spec",
    },
)
"""Every parameterization; whoever writes another registers it here."""
