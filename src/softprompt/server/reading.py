"""Reading a request's body: its size, its type and its form, each refused with words that help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from softprompt.errors import RequestCancelledError
from softprompt.server.context import context_of
from softprompt.server.problems import Problem
from softprompt.server.schema import Form, shortened

F = TypeVar("F", bound=Form)
_EITHER: Mapping[str, str] = {
    "prompt": "a text or a list of texts; tokens, or lists of them, are not taken",
    "input": 'a text, the fields of a row (`{"field": "text"}`), or a list of those',
    "stop": "a text, or up to 16 of them, none empty",
}
"""What a field is that may be of several types."""


async def form_of(request: Request, form: type[F]) -> F:
    """Return a request's body as what it asks for.

    Raises:
        Problem: 400 if it is no JSON, or has a field that is wrong, missing, unknown or not supported; 413 if it is
            larger than the settings allow; 415 if it does not say that it is JSON, as a page of another site cannot.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = f"the body is `{shortened(kind) or 'of no type'}`; send JSON with `Content-Type: application/json`"
        raise Problem(415, message, code="unsupported_media_type")
    data = await body_of(request, context_of(request).settings.max_body)
    try:
        found = form.model_validate_json(data)
    except ValidationError as error:
        raise _refused(error) from None
    return found.check()


async def body_of(request: Request, most: int) -> bytes:
    """Return a request's body of at most `most` bytes; of a larger one, not even that much is kept.

    Raises:
        Problem: 413 if it is larger.
        RequestCancelledError: the caller left before it was complete.
    """
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told[:20]) > most:
        raise _too_large(most)
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise _too_large(most)
            parts.append(part)
    except ClientDisconnect:
        raise RequestCancelledError("the caller left before the request was complete") from None
    return b"".join(parts)


def described(form: type[BaseModel]) -> dict[str, Any]:
    """Return what the page at /docs says of a body: FastAPI does not read it, so FastAPI cannot tell."""
    schema = form.model_json_schema()
    definitions = schema.pop("$defs", {})
    content = {"application/json": {"schema": _whole(schema, definitions)}}
    return {"requestBody": {"required": True, "content": content}}


def _whole(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema with what it refers to put in its place."""
    if isinstance(schema, list):
        return [_whole(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _whole(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _whole(value, definitions) for key, value in schema.items()}


def _too_large(most: int) -> Problem:
    message = f"the request's body has more than the {most:,} bytes that this server takes; send it in parts"
    return Problem(413, message, code="body_too_large")


def _refused(error: ValidationError) -> Problem:
    """The first field at fault, in words."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = shortened(".".join(str(part) for part in first["loc"]))
    if first["type"] == "json_invalid" or not where:
        return Problem(400, f"the body cannot be read: {shortened(first['msg'])}", code="invalid_json")
    name = str(first["loc"][0])
    message = f"`{where}`: {_plain(first['msg'])}"
    if name in _EITHER:
        message = f"`{name}` is {_EITHER[name]}"
    if first["type"] == "missing":
        message = f"`{where}` is missing"
    return Problem(400, message, param=name, code="missing_field" if first["type"] == "missing" else "invalid_value")


def _plain(message: str) -> str:
    """Pydantic's words without a capital in the middle of a sentence."""
    return shortened(message[:1].lower() + message[1:])
