"""What surrounds the endpoints for answers: health, metrics, the management of prompts, and the borders."""

from __future__ import annotations

from importlib.util import find_spec
from os import environ
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware

from softprompt.errors import ConfigError, MissingExtraError
from softprompt.server import health, prompts
from softprompt.server.app import create_app
from softprompt.server.context import Context
from softprompt.server.headers import SafeHeaders
from softprompt.server.health import Gate, Health
from softprompt.server.keys import Door
from softprompt.server.limits import Patience
from softprompt.server.management import Management
from softprompt.server.settings import Settings

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

    from softprompt.server.metrics import Metrics

_ADDRESSES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_EXPORTER = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def operate(
    context: Context,
    management: Management,
    *,
    door: Door | None = None,
    state: Health | None = None,
    metrics: Metrics | None = None,
) -> FastAPI:
    """Return the application with all that a server in operation has.

    Args:
        context: engine, prompts, backbone and settings.
        management: manages the prompts.
        door: lets callers in; by default the one that the settings ask for.
        state: what keeps the server from taking requests; by default nothing does.
        metrics: hears the engine; without it there is no `/metrics`.

    Raises:
        ConfigError: the settings contradict themselves; telemetry without an address.
        StorageError: the file of keys may not be read.
        MissingExtraError: telemetry was asked for and its packages are not installed.
    """
    state, settings = state or Health(), context.settings
    routers = [health.router, prompts.router]
    middleware = [*_borders(settings), Middleware(Gate, health=state), Middleware(Patience, health=state)]
    if metrics is not None:
        from softprompt.server.metrics import Counted, router

        routers.append(router)
        middleware.insert(0, Middleware(Counted, metrics=metrics))
    app = create_app(context, door=door, routers=routers, middleware=middleware, telemetry=telemetry(settings))
    app.state.health, app.state.management, app.state.metrics = state, management, metrics
    return app


def _borders(settings: Settings) -> list[Middleware]:
    """What browsers are told: that answers are no pages, and which origins may read them."""
    if not settings.origins:
        return [Middleware(SafeHeaders)]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after"],
    )
    return [Middleware(SafeHeaders), cors]


def telemetry(settings: Settings) -> TelemetryConfig:
    """Return what FastAPI is to do about OpenTelemetry: nothing unless it was asked for; logs never, for they quote.

    Raises:
        MissingExtraError: it was asked for and its packages are not installed.
        ConfigError: it was asked for and no address to export to is set.
    """
    on = settings.telemetry
    if on:
        _check_exporter()
    return {"tracing": on, "metrics": on, "logs": False, "operation_spans": on, "auto_configure": on}


def _check_exporter() -> None:
    try:
        missing = next((name for name in _EXPORTER if find_spec(name) is None), None)
    except ModuleNotFoundError as error:  # of a parent of it
        missing = error.name
    if missing:
        raise MissingExtraError(f'telemetry needs {missing}, which is not here: pip install "softprompt[telemetry]"')
    if not any(environ.get(name) for name in _ADDRESSES):
        raise ConfigError(
            f"telemetry has nowhere to export to; set {_ADDRESSES[0]}, to http://localhost:4318 for instance"
        )
