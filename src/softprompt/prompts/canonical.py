"""JSON with one spelling: equal content gives equal text, and what is read has no two meanings."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn, TypeAlias

JSON: TypeAlias = Any
"""None, bool, int, float, str, or a list or string-keyed dict of these."""


def canonical(value: JSON) -> str:
    """Return `value` as JSON text with sorted keys, no spaces and floats in their shortest form.

    Raises:
        ValueError: a NaN, an infinity, a lone surrogate, a key that is not a string, or no JSON at all.

    >>> canonical({"b": [1, 0.5], "a": "é"})
    '{"a":"é","b":[1,0.5]}'
    """
    _refuse_other_keys(value)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    except TypeError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    text.encode("utf-8")
    return text


def parse(text: str) -> JSON:
    """Return the value of JSON `text`, refusing whatever two readers could take differently.

    Raises:
        ValueError: not JSON, a key twice in one object, a NaN, an infinity, or nesting beyond reason.

    >>> parse('{"a":1}')
    {'a': 1}
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _object(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"the key `{next(n for n in names if names.count(n) > 1)}` stands twice in one object")
    return found


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"`{word}` is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"`{text}` is too large a number")
    return value


def _refuse_other_keys(value: JSON) -> None:
    """`json` would write the key 1 as "1" and so change the value; tuples become lists without harm."""
    waiting, seen = [value], 0
    while waiting:
        item = waiting.pop()
        seen += 1
        if seen > 1_000_000:
            raise ValueError("it is too large, or holds itself")
        if isinstance(item, dict):
            strange = next((key for key in item if not isinstance(key, str)), None)
            if strange is not None:
                raise ValueError(f"the key {strange!r} is not a string")
            waiting.extend(item.values())
        elif isinstance(item, list | tuple):
            waiting.extend(item)
