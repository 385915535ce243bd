"""What a model's name means: a prompt of the store, or the base model; and the list of those there are."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse

from softprompt.errors import ConfigError, PromptFileError, SoftPromptError, StorageError, UnknownNameError
from softprompt.prompts.soft_prompt import SoftPrompt
from softprompt.registry import nearest
from softprompt.server.bare import Bare
from softprompt.server.context import Context
from softprompt.server.keys import Caller, caller
from softprompt.server.problems import Problem
from softprompt.server.schema import shortened
from softprompt.tasks.chat import ChatTemplate
from softprompt.tasks.free_text import Text

logger = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/models", tags=["models"])

DETAILED = 256
"""Models up to which a list says what each of them is; of more, their names."""
_NEAR = 2000
"""Names among which the nearest is looked for."""


@dataclass(frozen=True)
class Model:
    """What a request's `model` means.

    Attributes:
        id: what answers say of it: `name@v3`, the start of a digest, or the base model's name.
        name: of the prompt, whatever its version; what turns are counted by.
        prompt: the prompt; `None`: the base model.
        digest: of its file, in hex; empty for the base model.
    """

    id: str
    name: str
    prompt: SoftPrompt | None = None
    digest: str = ""

    @property
    def fingerprint(self) -> str:
        """What changes when answers may: OpenAI's `system_fingerprint`."""
        return f"sp_{self.digest[:12]}" if self.digest else "sp_base"

    @property
    def writes(self) -> bool:
        """Whether its answers are texts, and not choices."""
        return self.prompt is None or isinstance(self.prompt.readout, Text)

    @property
    def chats(self) -> bool:
        """Whether it was trained on conversations."""
        return self.prompt is not None and isinstance(self.prompt.template, ChatTemplate)


class Models:
    """Finds models by name, for one application (`app.state.models`).

    Args:
        context: the application's parts.
    """

    def __init__(self, context: Context) -> None:
        self.bare = Bare(context.backbone, context.settings.max_tokens)
        self._catalog, self._since = context.catalog, int(time.time())

    def find(self, reference: str, by: Caller, param: str = "model") -> Model:
        """Return what a name means; it may be read from disk, so a worker thread asks.

        Args:
            reference: the base model's name, or a prompt as the store knows it.
            by: who asks; prompts that it may not use are not there.
            param: the field of the request that holds the name.

        Raises:
            Problem: 404, with the nearest of the names that the caller may use; 503 if its file is damaged.
            IncompatiblePromptError: the prompt cannot be used with the backbone.
        """
        by.may_use(reference, param)
        if reference == self.bare.name:
            return Model(reference, reference)
        try:
            served = self._catalog.find(reference)
        except (UnknownNameError, ConfigError):
            raise self._unknown(reference, by, param) from None
        except (PromptFileError, StorageError) as error:
            logger.error("`%s` cannot be served: %s", reference, error)
            message = f"the file of `{reference}` cannot be used; the server's log says why"
            raise Problem(503, message, param=param, code="prompt_unusable") from error
        known = f"{served.name}@v{served.version}" if served.name else f"sha256:{served.digest[:12]}"
        return Model(known, served.name or known, served.prompt, served.digest)

    def one(self, reference: str, by: Caller) -> dict[str, Any]:
        """Return what there is to say of one model, under the name that it was asked for by."""
        return self._told(reference, self.find(reference, by))

    def all(self, by: Caller) -> list[dict[str, Any]]:
        """Return the models that the caller may use; prompts that the backbone cannot use are left out.

        Of more than `DETAILED`, only their names are told: to say more, every file would have to be read.
        """
        names = by.allowed([self.bare.name, *self._catalog.names()])
        if len(names) > DETAILED:
            return [self._named(name) for name in names]
        return list(self._found(names, by))

    def _found(self, names: Iterable[str], by: Caller) -> Iterable[dict[str, Any]]:
        for name in names:
            try:
                yield self.one(name, by)
            except SoftPromptError as error:
                logger.debug("`%s` is not listed: %s", name, error)

    def _named(self, reference: str) -> dict[str, Any]:
        parent = None if reference == self.bare.name else self.bare.name
        entry = {"id": reference, "object": "model", "created": self._since, "owned_by": "softprompt"}
        return {**entry, "root": reference, "parent": parent}

    def _told(self, reference: str, model: Model) -> dict[str, Any]:
        entry = self._named(reference)
        if model.prompt is None:
            return {**entry, "kind": "text", "labels": [], "fields": [], "chat": self.bare.chats}
        readout, template = model.prompt.readout, model.prompt.template
        entry |= {"root": model.id, "digest": f"sha256:{model.digest}", "virtual_tokens": model.prompt.length}
        shown = {"kind": readout.kind, "labels": [*readout.labels], "fields": [*template.fields], "chat": model.chats}
        return {**entry, **shown}

    def _unknown(self, reference: str, by: Caller, param: str) -> Problem:
        """The error for a name that nothing carries, with near ones that the caller may use."""
        name, _, version = reference.partition("@")
        there = by.allowed([self.bare.name, *self._catalog.names()])
        if version and name in there:
            message = f"`{name}` has no version or tag `{shortened(version)}`; `{name}` alone is the latest version"
            return Problem(404, message, param=param, code="model_not_found")
        alike = (each for each in there if abs(len(each) - len(name)) <= 8)  # others are not near, and take time
        near = nearest(name, islice(alike, _NEAR))
        hint = f"did you mean {' or '.join(f'`{each}`' for each in near)}?" if near else "GET /v1/models lists them"
        message = f"there is no model `{shortened(reference)}`; {hint}"
        return Problem(404, message, param=param, code="model_not_found")


def models_of(connection: HTTPConnection) -> Models:
    """Return the models of the application that a request came to."""
    models: Models = connection.app.state.models
    return models


@router.get("", summary="The base model and every prompt that the caller may use")
async def list_models(request: Request, by: Annotated[Caller, Depends(caller)]) -> JSONResponse:
    """Answer with OpenAI's list of models."""
    return JSONResponse({"object": "list", "data": await asyncio.to_thread(models_of(request).all, by)})


@router.get("/{model:path}", summary="One model: what it answers with, its labels and its fields")
async def get_model(model: str, request: Request, by: Annotated[Caller, Depends(caller)]) -> JSONResponse:
    """Answer with one of OpenAI's models."""
    return JSONResponse(await asyncio.to_thread(models_of(request).one, model, by))
