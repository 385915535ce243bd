"""What requests may say: OpenAI's fields, vLLM's names for further ones of sampling, and `fields` of our own.

Fields that change nothing here are taken and left alone; those that would change the meaning of an answer, and that
nothing here computes, are refused by name; names that nobody knows are refused with the nearest known one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from softprompt.registry import nearest
from softprompt.server.problems import Problem

_FIELDS = 256
"""Most columns of one row."""
_SHOWN = 200
"""Characters of a request's own words that an error repeats."""


def shortened(text: str) -> str:
    """Return a caller's words as an error repeats them.

    >>> shortened("a" * 1000)[-5:]
    'aaaa…'
    """
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _texts(fields: dict[str, Any]) -> dict[str, str]:
    """The columns of one row; one error, however many are no texts."""
    wrong = next((name for name, value in fields.items() if not isinstance(value, str)), None)
    if wrong is not None:
        raise PydanticCustomError("fields", "the field `{name}` is no text", {"name": shortened(wrong)})
    if not 1 <= len(fields) <= _FIELDS:
        raise PydanticCustomError("fields", "a row has 1 to {most} fields", {"most": _FIELDS})
    return fields


Texts = Annotated[dict[str, Any], AfterValidator(_texts)]
"""The columns of one row, by name: `dict[str, str]`."""
_Few = Field(min_length=1, max_length=10_000, fail_fast=True)
"""A list that is refused at its first wrong element: an error for each of a million takes minutes."""
_Name = Annotated[str, Field(min_length=1, max_length=256)]
_Stop = Annotated[str, Field(min_length=1, max_length=1024)]
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "presence_penalty": (None, 0),
    "reasoning_effort": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
}
"""Fields that nothing here computes, and the values that ask for nothing."""


class Form(BaseModel):
    """A request's body; types are taken as they are sent, so that `"5"` is no number.

    Unknown fields are let in and refused by `check`, for pydantic would make an error of each.
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)

    def check(self) -> Self:
        """Return itself if it asks for nothing that is not computed here.

        Raises:
            Problem: 400, naming the field.
        """
        self.refuse_unknown()
        for form in self.inner():
            form.refuse_unknown()
        for name in sorted(self.model_fields_set & _UNSUPPORTED.keys()):
            value = getattr(self, name)
            if value not in _UNSUPPORTED[name] and value != self.harmless().get(name):
                message = f"`{name}` is not supported here, and leaving it out would change the answer; take it out"
                raise Problem(400, message, param=name, code="unsupported_field")
        return self

    def harmless(self) -> dict[str, Any]:
        """Return further values of unsupported fields that ask for nothing in this request."""
        return {}

    def inner(self) -> Sequence[Form]:
        """Return the forms that it holds."""
        return ()

    def refuse_unknown(self) -> None:
        """Refuse a field that nobody knows, with the nearest that is known.

        Raises:
            Problem: 400, naming the field.
        """
        unknown = next(iter(self.model_extra or {}), None)
        if unknown is not None:
            name = shortened(unknown)
            near = nearest(name, type(self).model_fields)
            hint = f"did you mean `{near[0]}`?" if near else "take it out"
            raise Problem(400, f"unknown field `{name}`; {hint}", param=name, code="unknown_field")


class StreamOptions(Form):
    """How an answer is streamed: whether a last event tells what it took."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Written(Form):
    """What chats and completions have in common: how text is written, and how it comes."""

    model: _Name = Field(description="a prompt (`name`, `name@v3`, `name@tag`) or the base model")
    fields: Texts | None = Field(None, description="the values of a template's fields, for prompts that have several")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1)] | None = Field(None, description="how many answers to each prompt")
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="most tokens of an answer")
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = Field(None, description="-1 or 0: all tokens")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=16, fail_fast=True)] | None = None

    frequency_penalty: Any = None
    presence_penalty: Any = None
    logit_bias: Any = None
    response_format: Any = None
    metadata: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    user: Any = None

    def inner(self) -> Sequence[Form]:
        """Return the forms that it holds."""
        return () if self.stream_options is None else (self.stream_options,)

    @property
    def count(self) -> int:
        """How many answers are asked for to each prompt."""
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def tells_usage(self) -> bool:
        """Whether a stream ends with what it took."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def most_tokens(self) -> int | None:
        """Most tokens of an answer, if the request says."""
        return self.max_tokens

    @property
    def told_tokens(self) -> int | None:
        """How many of the likeliest tokens are told at each place; `None`: no log-probabilities."""
        raise AssertionError(type(self))  # pragma: no cover - each form has its own


class ChatForm(Written):
    """POST /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(max_length=10_000, fail_fast=True)] = Field(default_factory=list)
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    audio: Any = None
    function_call: Any = None
    functions: Any = None
    modalities: Any = None
    moderation: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    tool_choice: Any = None
    tools: Any = None
    verbosity: Any = None
    web_search_options: Any = None

    def check(self) -> Self:
        """Return itself if it asks for nothing that is not computed here, and does not contradict itself.

        Raises:
            Problem: 400, naming the field.
        """
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise Problem(400, "`top_logprobs` needs `logprobs`: true", param="top_logprobs", code="invalid_value")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            message = (
                f"`max_tokens` is {self.max_tokens} and `max_completion_tokens` {self.max_completion_tokens}, which "
                "mean the same; give one of them"
            )
            raise Problem(400, message, param="max_tokens", code="invalid_value")
        return self

    @property
    def most_tokens(self) -> int | None:
        """Most tokens of an answer, if the request says."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def told_tokens(self) -> int | None:
        """How many of the likeliest tokens are told at each place; `None`: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionForm(Written):
    """POST /v1/completions."""

    prompt: str | Annotated[list[str], _Few] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    best_of: Any = None
    echo: Any = None
    suffix: Any = None

    def harmless(self) -> dict[str, Any]:
        """Return further values of unsupported fields: the best of as many as are asked for are all of them."""
        return {"best_of": self.n}

    @property
    def texts(self) -> list[str]:
        """The prompts, one answer (or `n`) each."""
        if self.prompt is None:
            return []
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)

    @property
    def told_tokens(self) -> int | None:
        """How many of the likeliest tokens are told at each place; `None`: no log-probabilities."""
        return self.logprobs


class Question(Form):
    """One row of a classify request with a prompt of its own."""

    model: _Name
    input: str | Texts


class ClassifyForm(Form):
    """POST /v1/classify: rows for one prompt (`model`) or several (`models`), or `requests` with a prompt each."""

    model: _Name | None = None
    models: Annotated[list[_Name], _Few] | None = None
    input: str | Texts | Annotated[list[str | Texts], _Few] | None = None
    requests: Annotated[list[Question], _Few] | None = None
    user: Any = None

    def inner(self) -> Sequence[Form]:
        """Return the forms that it holds."""
        return self.requests or ()

    def check(self) -> Self:
        """Return itself if it says once for which prompts its rows are.

        Raises:
            Problem: 400, naming the field.
        """
        super().check()
        if sum(each is not None for each in (self.model, self.models, self.requests)) != 1:
            message = "say once for which prompts: `model`, `models`, or `requests` with a `model` and an `input` each"
            raise Problem(400, message, param="model", code="invalid_value")
        if (self.input is None) == (self.requests is None):
            message = (
                "`input` is missing: a text, the fields of a row, or a list of those"
                if self.input is None
                else "`requests` bring an `input` each; take the one beside them out"
            )
            raise Problem(400, message, param="input", code="invalid_value")
        return self

    @property
    def asked(self) -> int:
        """How many answers are asked for, counted before any question is made of them."""
        if self.requests is not None:
            return len(self.requests)
        return len(self.models or [self.model]) * (len(self.input) if isinstance(self.input, list) else 1)

    def questions(self) -> list[tuple[int, str, str | Mapping[str, str]]]:
        """Return each question: the number of its row, the prompt's name, and the row; row by row."""
        if self.requests is not None:
            return [(number, each.model, each.input) for number, each in enumerate(self.requests)]
        models = [self.model] if self.model is not None else self.models or []
        rows = self.input if isinstance(self.input, list) else [self.input or ""]
        return [(number, model, row) for number, row in enumerate(rows) for model in models]
