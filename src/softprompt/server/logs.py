"""Logs: one line a request and what befalls the server, plain or as JSON; never what was asked or answered."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from collections.abc import MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from softprompt.server.settings import LogFormat

logger = logging.getLogger(__name__)

HEADER = b"x-request-id"
PROBES = ("/healthz", "/readyz", "/metrics")
"""Asked every few seconds by machines; logged only when the answer is an error."""
GONE = 499
"""The status that is logged of a request whose caller left before there was an answer."""
_ID = re.compile(rb"[A-Za-z0-9_.-]{1,64}")
_RECORD = "softprompt.record"
_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


@dataclass
class Record:
    """What is logged of one request; endpoints fill in what they know.

    Args:
        id: the caller's `X-Request-Id` if it sent a plain one, else a random one; the answer carries it too.
        key: the name of the key.
        model: the prompt that answered.
        prompt_tokens: virtual tokens and text in front of the answers.
        completion_tokens: tokens written.
        status: of the answer.
        first: seconds until the first byte of the answer's body.
    """

    id: str = ""
    key: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    status: int = GONE
    first: float = 0.0


def record_of(scope: MutableMapping[str, Any]) -> Record:
    """Return the record of a request, made if there is none yet."""
    record: Record = scope.setdefault(_RECORD, Record())
    return record


class RequestLog:
    """Gives every request an id, which its answer carries as `X-Request-Id`, and logs one line when it has ended.

    Args:
        app: the application.
        enabled: whether lines are written.
    """

    def __init__(self, app: ASGIApp, enabled: bool = True) -> None:
        self._app, self._enabled = app, enabled

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        record = record_of(scope)
        record.id = _id_of(scope)

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (HEADER, record.id.encode())]}
            elif not record.first and message.get("body"):
                record.first = time.monotonic() - began
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            if self._enabled and (scope["path"] not in PROBES or record.status >= 400):
                _write(scope, record, time.monotonic() - began)


def _id_of(scope: Scope) -> str:
    given: bytes = next((value for name, value in scope["headers"] if name == HEADER), b"")
    return given.decode("ascii") if _ID.fullmatch(given) else uuid.uuid4().hex


def _write(scope: Scope, record: Record, seconds: float) -> None:
    client = scope.get("client")
    fields = {
        "id": record.id,
        "client": client[0] if client else "",
        "key": record.key,
        "model": record.model,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "first_s": round(record.first, 4),
        "seconds": round(seconds, 4),
    }
    path = scope.get("raw_path") or quote(scope["path"]).encode()  # as it was sent: no space in it ends the field
    line = (scope["method"], path.decode("ascii", "replace"), record.status)
    logger.info("%s %s %d", *line, extra={name: value for name, value in fields.items() if value not in ("", 0)})


def configure(form: LogFormat) -> None:
    """Write what softprompt and uvicorn log to standard error, both in the same form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else PlainLines())
    for name in ("softprompt", "uvicorn"):
        own = logging.getLogger(name)
        own.handlers[:], own.propagate = [handler], False
        own.setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # our own words say that it starts and ends


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message and the fields given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of one record."""
        told = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        told |= {"message": record.getMessage(), **_extra(record)}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)


class PlainLines(logging.Formatter):
    """One line for a person: time, level, message, and the fields given as `extra` as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of one record, and behind it the lines of an exception."""
        told = [_time(record), record.levelname.lower(), record.getMessage()]
        told += [f"{name}={value}" for name, value in _extra(record).items()]
        line = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in " ".join(told))
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _KNOWN}
