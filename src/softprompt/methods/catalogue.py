"""The methods by name, each imported only when it is asked for."""

from __future__ import annotations

from softprompt.methods.method import Method
from softprompt.registry import Registry

_WHERE = {
    "majority": "majority:MAJORITY",
    "zero-shot": "zero_shot:ZERO_SHOT",
    "hard-prompt": "hard_text:HARD_TEXT",
    "few-shot-4": "few_shot:FOUR",
    "few-shot-16": "few_shot:SIXTEEN",
    "few-shot-max": "few_shot:AS_MANY_AS_FIT",
    "probe-hidden": "probes:HIDDEN",
    "probe-sentence": "probes:SENTENCE",
    "setfit": "setfit:SETFIT",
    "soft-prompt": "soft_prompts:SOFT",
    "deep-prompt": "soft_prompts:DEEP",
    "p-tuning": "soft_prompts:P_TUNING",
    "prefix-tuning": "soft_prompts:PREFIX",
    "peft-prompt-tuning": "peft_prompts:OURS",
    "peft-prompt-tuning-tutorial": "peft_prompts:TUTORIAL",
    "peft-p-tuning": "peft_prompts:P_TUNING",
    "peft-prefix-tuning": "peft_prompts:PREFIX",
    "lora": "lora:LORA",
    "ia3": "ia3:IA3",
    "houlsby": "houlsby:HOULSBY",
    "bitfit": "bitfit:BITFIT",
    "full": "full:FULL",
}

METHODS: Registry[Method] = Registry("method", {name: f"softprompt.methods.{where}" for name, where in _WHERE.items()})
"""Every method; a plug-in may `register` another."""


def method(name: str) -> Method:
    """Return the method called `name`.

    Raises:
        UnknownNameError: no method has that name; the nearest is offered.
    """
    return METHODS.get(name)


def names() -> tuple[str, ...]:
    """Return the names of all methods: what learns nothing first, whole models last.

    >>> names()[0], names()[-1]
    ('majority', 'full')
    """
    return (*_WHERE, *(name for name in METHODS if name not in _WHERE))
