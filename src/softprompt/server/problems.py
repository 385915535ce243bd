"""Errors as OpenAI's clients read them: `{"error": {message, type, param, code}}` with the right status."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from softprompt.errors import (
    ConfigError,
    DataError,
    DeadlineError,
    EngineClosedError,
    IncompatiblePromptError,
    PromptFileError,
    QueueFullError,
    RequestCancelledError,
    SoftPromptError,
    TemplateError,
    UnknownNameError,
    UnsupportedBackboneError,
)
from softprompt.server.logs import record_of

logger = logging.getLogger(__name__)

INVALID = "invalid_request_error"
GONE = 499
"""The caller has gone; nobody reads this status but a log."""
LONGEST = 1000
"""Characters of a message: it may repeat what was sent, which may be megabytes."""
RETRY = 1
"""Seconds after which an engine that closes may have been replaced by another."""


class Problem(SoftPromptError):  # noqa: N818 - the word of HTTP for what an answer says went wrong
    """An error as it is answered.

    Args:
        status: of HTTP, 400 to 599.
        message: what was asked, what was found and what to do.
        type: OpenAI's kind of error; by default the one of its status.
        param: the field of the request that is at fault.
        code: what a program may tell it by.
        headers: further headers of the answer, `Retry-After` for instance.
    """

    def __init__(
        self,
        status: int,
        message: str,
        type: str | None = None,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        message = message if len(message) <= LONGEST else f"{message[:LONGEST]}…"
        super().__init__(message)
        self.status, self.message = status, message
        self.type = type or ("server_error" if status >= 500 else INVALID)
        self.param, self.code = param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return it in OpenAI's shape.

        >>> Problem(400, "no").body()
        {'error': {'message': 'no', 'type': 'invalid_request_error', 'param': None, 'code': None}}
        """
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return it as an answer."""
        return JSONResponse(self.body(), self.status, self.headers)


class _Kind(NamedTuple):
    """How errors of one class are answered."""

    status: int
    type: str
    code: str | None


_KINDS: Mapping[type[Exception], _Kind] = {
    QueueFullError: _Kind(429, "rate_limit_error", "queue_full"),
    EngineClosedError: _Kind(503, "server_error", "engine_closed"),
    DeadlineError: _Kind(504, "server_error", "deadline_exceeded"),
    RequestCancelledError: _Kind(GONE, INVALID, "cancelled"),
    ClientDisconnect: _Kind(GONE, INVALID, "cancelled"),
    UnknownNameError: _Kind(404, INVALID, "model_not_found"),
    IncompatiblePromptError: _Kind(409, INVALID, "incompatible_prompt"),
    PromptFileError: _Kind(400, INVALID, "invalid_prompt_file"),
    ConfigError: _Kind(400, INVALID, None),
    DataError: _Kind(400, INVALID, None),
    TemplateError: _Kind(400, INVALID, None),
    UnsupportedBackboneError: _Kind(400, INVALID, "unsupported"),
}
"""What the caller may be told of; everything else stays in the log."""


def problem_of(error: Exception, log_id: str = "") -> Problem:
    """Return the problem that an error is answered with; one that tells of the inside is logged, and told as 500.

    Args:
        error: what a request ended with.
        log_id: the request's id, which the answer carries too.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    kind = next((_KINDS[each] for each in type(error).__mro__ if each in _KINDS), None)
    if kind is None:
        logger.error("a request failed: %s", error, exc_info=error, extra={"id": log_id})
        return unexpected()
    return Problem(kind.status, str(error), kind.type, code=kind.code, headers=_headers(error))


def unexpected() -> Problem:
    """Return what a fault of the server is answered with: nothing of its inside."""
    message = "the server failed on this request; its log says why, under the x-request-id of this answer"
    return Problem(500, message, code="internal_error")


def install(app: FastAPI) -> None:
    """Let every error of an application be answered in OpenAI's shape."""
    for kind in (SoftPromptError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _answered)


class Faults:
    """Answers what nobody foresaw, and nothing of the server's inside with it.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if begun or scope["type"] != "http":
                raise  # too late for an answer: the connection is closed
            await problem_of(error, record_of(scope).id).response()(scope, receive, send)


async def _answered(request: Request, error: Exception) -> JSONResponse:
    return problem_of(error, record_of(request.scope).id).response()


def _headers(error: Exception) -> dict[str, str]:
    if isinstance(error, QueueFullError):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    return {"Retry-After": str(RETRY)} if isinstance(error, EngineClosedError) else {}


_OF_HTTP: Mapping[int, tuple[str, str]] = {
    404: ("there is nothing at this path; the endpoints are listed at /docs", "unknown_path"),
    405: ("this path does not take that method; see the header `Allow`", "method_not_allowed"),
    413: ("the request's body is larger than this server takes; send it in parts", "body_too_large"),
}


def _of_http(error: HTTPException) -> Problem:
    message, code = _OF_HTTP.get(error.status_code, (str(error.detail), None))
    return Problem(error.status_code, message, code=code, headers=error.headers)


def _of_validation(error: RequestValidationError) -> Problem:
    """The first field at fault; 400, for 422 is no status of OpenAI's."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return Problem(400, f"`{where}`: {first['msg']}", param=where, code="invalid_value")
