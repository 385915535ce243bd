"""What a request asks of an answer that is written: how its tokens are chosen, how many, and where it ends."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.sampling import Sampling
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.server.models import Model
from softprompt.server.problems import Problem
from softprompt.server.schema import Written
from softprompt.server.settings import Settings
from softprompt.serving.asking import Ask, Shared

_NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_SEEDS = 2**31


def asks_of(
    form: Written,
    model: Model,
    rows: list[tuple[SoftPrompt | BoundPrompt, dict[str, str]]],
    settings: Settings,
) -> list[Ask]:
    """Return what the engine is asked: `n` answers to each row, each with a stream of draws of its own.

    Answer i of a request draws by `seed` + i; without a seed, by a fresh one.

    Args:
        form: the request.
        model: answers it.
        rows: its rows, each with the prompt that it is asked with.
        settings: how much may be asked.

    Raises:
        Problem: 400: more answers than the settings allow.
    """
    if form.count > settings.max_choices:
        message = f"`n` is {form.count}; this server gives at most {settings.max_choices} answers to a prompt"
        raise Problem(400, message, param="n", code="invalid_value")
    if len(rows) * form.count > settings.max_rows:
        message = f"{len(rows) * form.count} answers at once; this server gives at most {settings.max_rows}"
        raise Problem(400, message, param="prompt", code="invalid_value")
    sampling = sampling_of(form, model)
    most = settings.max_tokens if form.most_tokens is None else min(form.most_tokens, settings.max_tokens)
    return [
        Ask(
            prompt,
            row,
            name=model.name,
            sampling=replace(sampling, seed=sampling.seed + place * form.count + number),
            max_tokens=most,
            stop=form.stops,
            likeliest=form.told_tokens or 0,
            deadline=settings.deadline,
            allow_other_weights=settings.allow_other_weights,
            shared=shared,
        )
        for place, (prompt, row, shared) in enumerate((*each, Shared()) for each in rows)
        for number in range(form.count)
    ]


def sampling_of(form: Written, model: Model) -> Sampling:
    """Return how tokens are chosen: as the request says, else as the prompt's file, else as is usual.

    Usual is the likeliest token for a prompt, as it was evaluated, and OpenAI's temperature of 1 for the base model.
    """
    usual: Mapping[str, Any] = {"temperature": 1.0} if model.prompt is None else _numbers(model.prompt.decoding)
    told = {name: getattr(form, name) for name in _NAMES if getattr(form, name) is not None}
    chosen = {**usual, **told}
    chosen["top_k"] = max(0, int(chosen.get("top_k", 0)))  # vLLM's -1: all tokens
    seed = secrets.randbelow(_SEEDS) if form.seed is None else form.seed
    return Sampling(**chosen, seed=seed)


def _numbers(decoding: Mapping[str, Any]) -> dict[str, float]:
    """The defaults of a prompt's file that are what they are called."""
    found = {name: decoding[name] for name in _NAMES if name in decoding}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}
