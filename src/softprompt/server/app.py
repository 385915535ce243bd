"""The application: OpenAI's endpoints, classification, and whatever routers are added, over one `Context`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.middleware import Middleware

from softprompt import __version__
from softprompt.server import chat, classify, completions, models
from softprompt.server.context import Context
from softprompt.server.keys import Door
from softprompt.server.logs import RequestLog
from softprompt.server.models import Models
from softprompt.server.problems import Faults, install

_ABOUT = (
    "Many soft prompts over one resident model. The endpoints are OpenAI's; `model` is the name of a prompt, "
    "`name@v3`, `name@tag`, or the base model's."
)


def create_app(
    context: Context,
    *,
    door: Door | None = None,
    routers: Sequence[APIRouter] = (),
    middleware: Sequence[Middleware] = (),
    **options: Any,
) -> FastAPI:
    """Return the application; it owns nothing of its context, which whoever made it ends.

    Args:
        context: engine, prompts, backbone and settings.
        door: lets callers in; by default the one that the settings ask for.
        routers: further endpoints.
        middleware: between the log of requests, which is the outermost, and the endpoints.
        options: further ones of FastAPI, `lifespan` or `telemetry` for instance.

    Raises:
        ConfigError: the settings leave nobody in, or everybody (`Door.of`).
        StorageError: the file of keys may not be read.
    """
    log = Middleware(RequestLog, enabled=context.settings.request_log)
    app = FastAPI(
        title="softprompt",
        description=_ABOUT,
        version=__version__,
        redoc_url=None,
        middleware=[log, *middleware, Middleware(Faults)],
        **options,
    )
    app.state.context, app.state.models = context, Models(context)
    app.state.door = door or Door.of(context.settings)
    install(app)
    for endpoint in (models, chat, completions, classify):
        app.include_router(endpoint.router)
    for router in routers:
        app.include_router(router)
    return app
