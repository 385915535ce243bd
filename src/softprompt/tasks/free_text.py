"""Free text as a readout: what an answer begins with, where it ends, and what is learned of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from softprompt.errors import ConfigError, TemplateError

MAX_NEW_TOKENS = 16_384


@runtime_checkable
class EndTokenizer(Protocol):
    """What the tokens of a target ask of a tokenizer."""

    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]:
        """Return the token ids of a text."""
        ...


@dataclass(frozen=True)
class Text:
    r"""Text written token by token behind the row.

    It ends at the end-of-sequence token, at the first `stop`, or after `max_new_tokens`.

    Args:
        max_new_tokens: most tokens of an answer, 1 to 16,384.
        stop: texts that end an answer and are no part of it, besides the end-of-sequence token.
        lead: what stands between the row and the answer, tokenised with the answer and no part of it.

    Raises:
        ConfigError: `max_new_tokens` is out of its range, or a stop is empty.

    >>> Text(64, stop=("\n",)).stop
    ('\n',)
    """

    max_new_tokens: int
    stop: tuple[str, ...] = ()
    lead: str = " "
    kind: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        if not 1 <= self.max_new_tokens <= MAX_NEW_TOKENS:
            raise ConfigError(f"max_new_tokens is {self.max_new_tokens}; it is 1 to {MAX_NEW_TOKENS:,}")
        if not all(self.stop):
            raise ConfigError("a stop is empty, and would end every answer before it begins; give it some text")

    @property
    def labels(self) -> tuple[str, ...]:
        """None: the answer is text."""
        return ()

    @property
    def words(self) -> tuple[str, ...]:
        """None: every token of the vocabulary may come."""
        return ()

    @property
    def outputs(self) -> int:
        """0: there is no learned head over a whole vocabulary."""
        return 0

    @classmethod
    def for_targets(cls, targets: Sequence[str], *, leading_space: bool = True) -> Text:
        """Leave room for the longest target: half its bytes in UTF-8, at least 16 and at most 1,024 tokens.

        English has about four bytes a token and Chinese about three, so this is room and to spare.

        >>> Text.for_targets(["a" * 200]).max_new_tokens
        100
        """
        longest = max((len(target.encode("utf-8")) for target in targets), default=0)
        return cls(min(1024, max(16, math.ceil(longest / 2))), lead=" " if leading_space else "")

    def target(self, text: str, tokenizer: EndTokenizer) -> tuple[int, ...]:
        """Return the tokens to learn behind a row: lead and text, and then the end.

        The end is the end-of-sequence token, or the first stop where the tokenizer has none.

        Raises:
            TemplateError: there is neither.
        """
        ids = tokenizer.encode(self.lead + text, add_special_tokens=False) if text else []
        if tokenizer.eos_token_id is not None:
            return (*ids, tokenizer.eos_token_id)
        if not self.stop:
            raise TemplateError(
                "this tokenizer has no end-of-sequence token and the readout no stop, so that no answer would end; "
                'give it one, for instance Text(64, stop=("\n",))'
            )
        return (*ids, *tokenizer.encode(self.stop[0], add_special_tokens=False))

    def to_json(self) -> dict[str, Any]:
        """Return the readout as plain JSON."""
        return {"kind": self.kind, "max_new_tokens": self.max_new_tokens, "stop": [*self.stop], "lead": self.lead}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Text:
        """Rebuild a readout from `to_json`."""
        return cls(data["max_new_tokens"], tuple(data["stop"]), data["lead"])
