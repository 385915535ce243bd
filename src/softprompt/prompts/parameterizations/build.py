"""From a name and first values to a module that trains."""

from __future__ import annotations

from softprompt.prompts.parameterizations.base import PromptParameterization
from softprompt.prompts.parameterizations.registry import PARAMETERIZATIONS
from softprompt.prompts.parameterizations.spec import Spec


def build(name: str, spec: Spec) -> PromptParameterization:
    """Build the parameterization called `name`.

    Args:
        name: one of `PARAMETERIZATIONS`.
        spec: first values and settings; its generator is drawn from.

    Raises:
        UnknownNameError: no parameterization, or none of its settings, has that name.
        ConfigError: the first values are not at the sites that it trains, a setting is out of range, or the method
            does not fold.

    >>> import torch
    >>> spec = Spec({"input": torch.randn(20, 64)}, 1.0, torch.Generator(), settings={"rank": 4})
    >>> ulpt = build("ulpt", spec)
    >>> sum(p.numel() for p in ulpt.parameters()), torch.equal(ulpt.materialize()["input"], spec.initial["input"])
    (208, True)
    """
    return PARAMETERIZATIONS.get(name)(spec)
