"""What a server may be asked to be: one definition for YAML file, flag and Python argument."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from softprompt.errors import ConfigError
from softprompt.registry import unknown_name

EngineName = Literal["softprompt", "vllm"]
LogFormat = Literal["plain", "json"]
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts that no other machine reaches."""


class Settings(BaseModel):
    """How a server answers; every field has a default that is right for one machine and its user.

    >>> Settings(port=0, cors="https://a.example, https://b.example").origins
    ('https://a.example', 'https://b.example')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: Annotated[str, Field(description="the address to listen on; 0.0.0.0 is every address")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="the port to listen on; 0 takes a free one")] = 8000

    engine: Annotated[
        EngineName, Field(description="what computes: softprompt itself, or vllm in this process (extra vllm)")
    ] = "softprompt"
    rows: Annotated[int, Field(ge=1, description="rows that are written at the same time, at most")] = 64
    step_tokens: Annotated[int, Field(ge=16, description="tokens of new rows that one step takes in, at most")] = 4096
    queue: Annotated[int, Field(ge=1, description="rows that may wait; more are refused with 429")] = 1024
    deadline: Annotated[
        float | None, Field(gt=0, description="seconds within which a request must be answered, else 504")
    ] = 600.0
    drain: Annotated[float, Field(ge=0, description="seconds that requests in flight have to finish at the end")] = 30.0

    max_body: Annotated[int, Field(ge=1024, description="bytes of a request's body, at most; else 413")] = 4 * 2**20
    max_rows: Annotated[int, Field(ge=1, description="rows of one classify request, at most; else 413")] = 512
    max_unread: Annotated[
        int, Field(ge=1, description="tokens of a stream that may wait for its reader; with more it is given up")
    ] = 65536
    send_timeout: Annotated[
        float, Field(gt=0, description="seconds in which a stream's reader must take something, else it is given up")
    ] = 60.0
    max_choices: Annotated[int, Field(ge=1, description="answers to one chat or completion (n), at most")] = 16
    max_tokens: Annotated[int, Field(ge=1, description="tokens of a written answer, whatever is asked for")] = 4096

    keys: Annotated[
        Path | None, Field(description="the file of keys. By default keys.json under softprompt's home, if it is there")
    ] = None
    anonymous: Annotated[
        bool, Field(description="answer callers without a key even on an address that other machines reach")
    ] = False
    allow_manage: Annotated[
        bool, Field(description="without keys: let every caller on this machine manage the prompts")
    ] = False
    cors: Annotated[str, Field(description="origins of web pages that may call, with commas. By default none")] = ""

    allow_other_weights: Annotated[
        bool, Field(description="serve prompts that were trained on other weights of the same architecture")
    ] = False
    prompt_bytes: Annotated[int, Field(ge=0, description="bytes of prompts' tensors that stay loaded")] = 2**26
    cache_bytes: Annotated[int, Field(ge=0, description="bytes of prompts' keys and values that stay computed")] = 2**29

    metrics: Annotated[bool, Field(description="serve Prometheus metrics at /metrics")] = True
    model_labels: Annotated[
        int, Field(ge=0, description="prompts that have metrics of their own, most used first; the rest are `other`")
    ] = 50
    log_format: Annotated[LogFormat, Field(description="plain, or json: one object a line")] = "plain"
    request_log: Annotated[bool, Field(description="write one line a request; never its texts")] = True
    telemetry: Annotated[
        bool, Field(description="export OpenTelemetry traces and metrics, as the OTEL_ variables say")
    ] = False

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins of web pages that may call."""
        return tuple(origin.strip() for origin in self.cors.split(",") if origin.strip())

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        return self.host in LOOPBACK

    @classmethod
    def of(cls, **given: Any) -> Self:
        """Return the settings that are given; `None` leaves one as it is.

        Raises:
            ConfigError: a value is out of range.
            UnknownNameError: an option that does not exist; the nearest one is offered.
        """
        for key in given:
            if key not in cls.model_fields:
                raise unknown_name("option", key, cls.model_fields)
        try:
            return cls(**{key: value for key, value in given.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise ConfigError(f"option `{name}` is {first['input']!r}: {first['msg']}") from error
