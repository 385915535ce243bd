"""What is asked of an engine, and what comes back while it works and at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from softprompt.modeling.answers import Answer
from softprompt.modeling.bound import BoundPrompt
from softprompt.modeling.readings import EncodedRow
from softprompt.modeling.sampling import Sampling
from softprompt.prompts.soft_prompt import SoftPrompt

Reason = Literal["read", "stop", "length"]
"""Why an answer ended: it was read off, not written; by itself or at a stop; at the most tokens it may have."""


class Shared:
    """What several asks of one row with one prompt have in common: its tokens, once the first was taken in."""

    __slots__ = ("row",)

    def __init__(self) -> None:
        self.row: EncodedRow | None = None


@dataclass(frozen=True, eq=False)
class Ask:
    """One row to be answered with one prompt.

    Attributes:
        prompt: a kept prompt; or one that is bound already, as the bare backbone's (`PromptedModel.bare`).
        fields: the columns that the prompt's template asks for.
        name: what its turns are counted by: requests of other names are not kept waiting by many of this one.
        sampling: how tokens are chosen, where the answer is text.
        max_tokens: most tokens of a written answer, at least 1; `None`, or more than the prompt's readout allows: what
            the readout allows.
        stop: texts that end a written answer besides the readout's own.
        likeliest: at each written token this many likeliest tokens are told too, 0 to 20.
        deadline: seconds from now within which it must be answered; `None`: no hurry.
        allow_other_weights: accept a prompt trained on other weights of this architecture.
        shared: the same in all that ask the same row of the same prompt, which is then encoded once.
    """

    prompt: SoftPrompt | BoundPrompt
    fields: Mapping[str, str]
    name: str = ""
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    likeliest: int = 0
    deadline: float | None = None
    allow_other_weights: bool = False
    shared: Shared | None = None


class Token(NamedTuple):
    """A token that was written: its id, its own text, its log-probability in nats, and the likeliest in its place."""

    id: int
    text: str
    log_probability: float
    likeliest: tuple[tuple[int, str, float], ...] = ()


class Piece(NamedTuple):
    """Text that has become certain, which is no part of a stop, and the tokens written since the last piece."""

    text: str
    tokens: tuple[Token, ...]


class Usage(NamedTuple):
    """What a request took: virtual tokens and text in front of the answer, and tokens written."""

    prompt_tokens: int
    completion_tokens: int


class Ended(NamedTuple):
    """The answer, why it ended and what it took."""

    answer: Answer
    reason: Reason
    usage: Usage


class Failed(NamedTuple):
    """Why there is no answer."""

    error: Exception


Event = Piece | Ended | Failed
Listener = Callable[[Event], None]
"""Hears every event of one request, at once, in the engine's thread; the last is `Ended` or `Failed`."""


@runtime_checkable
class Ticket(Protocol):
    """A request that was taken in."""

    @property
    def read(self) -> int:
        """Virtual tokens and text in front of its answer that were run: none before its first pass."""
        ...

    def result(self, timeout: float | None = None) -> Ended:
        """Wait for the end and return it, or raise what it failed with; `TimeoutError` after `timeout` seconds."""
        ...

    def cancel(self) -> None:
        """Give the request up: it leaves the batch before the next step and fails with `RequestCancelledError`."""
        ...


@runtime_checkable
class Answering(Protocol):
    """What the HTTP application asks of an engine: ours, or another's behind the same seam."""

    def submit(self, ask: Ask, listener: Listener | None = None) -> Ticket:
        """Take a request in and return at once.

        Raises:
            QueueFullError: as many requests wait as may.
            EngineClosedError: the engine takes no more.
            SoftPromptError: the request itself cannot be: another backbone's prompt, a missing field, no room.
        """
        ...

    def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Take no more requests; finish those taken in (`drain`) or fail them, and end."""
        ...
