"""A server from its start to its end: its parts, and how it stops without dropping a request."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from contextlib import ExitStack
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

import uvicorn
from fastapi import FastAPI

from softprompt.modeling.prefix_cache import PrefixCache
from softprompt.modeling.prompted_model import PromptedModel
from softprompt.server.bare import name_of
from softprompt.server.context import Context
from softprompt.server.health import Health
from softprompt.server.keys import Door
from softprompt.server.management import Management
from softprompt.server.operation import operate
from softprompt.server.ports import address_of
from softprompt.server.settings import Settings
from softprompt.serving.catalog import Catalog
from softprompt.serving.engine import Engine

if TYPE_CHECKING:
    from softprompt.backbones.backbone import Backbone
    from softprompt.server.metrics import Metrics
    from softprompt.serving.asking import Answering
    from softprompt.store.store import PromptStore

logger = logging.getLogger(__name__)

LAST_WORDS = 5
"""Seconds that connections have to close once their requests have ended."""


class Parts(NamedTuple):
    """A server that is ready to listen.

    Attributes:
        app: the application.
        engine: answers its requests.
        catalog: finds its prompts.
        health: what keeps it from taking requests.
        door: who is let in.
    """

    app: FastAPI
    engine: Answering
    catalog: Catalog
    health: Health
    door: Door


def assemble(backbone: Backbone, store: PromptStore, settings: Settings, door: Door | None = None) -> Parts:
    """Put a server together: engine, prompts, application.

    Args:
        backbone: the resident model.
        store: where prompts are kept.
        settings: how the server was asked to be.
        door: lets callers in; by default the one that the settings ask for.

    Raises:
        ConfigError, StorageError: the settings or the file of keys cannot be used.
        MissingExtraError: telemetry or vLLM was asked for and its packages are not installed.
        UnsupportedBackboneError: vLLM was asked for, and would not run this backbone's rows as we do.
    """
    door = door or Door.of(settings)
    metrics = _metrics(backbone, settings)
    engine = _engine(backbone, settings, metrics)
    other = settings.allow_other_weights
    catalog = Catalog(store, backbone, allow_other_weights=other, max_bytes=settings.prompt_bytes)
    health = Health(check=lambda: None if engine.healthy else "the engine has ended because of an error of its own")
    management = Management(store, catalog, backbone, allow_other_weights=other, forget=engine.model.forget)
    context = Context(engine, catalog, backbone, settings)
    app = operate(context, management, door=door, state=health, metrics=metrics)
    return Parts(app, engine, catalog, health, door)


def _engine(backbone: Backbone, settings: Settings, metrics: Metrics | None) -> Engine:
    """Start what computes: our engine, or vLLM in this process, which keeps prefixes itself."""
    rows, tokens, queue = settings.rows, settings.step_tokens, settings.queue
    if settings.engine == "vllm":
        from softprompt.serving.vllm_engine import VllmEngine

        return VllmEngine(backbone, rows=rows, step_tokens=tokens, queue=queue, observer=metrics)
    model = PromptedModel(backbone, cache=PrefixCache(settings.cache_bytes))
    return Engine(model, rows=rows, step_tokens=tokens, queue=queue, observer=metrics)


def _metrics(backbone: Backbone, settings: Settings) -> Metrics | None:
    if not settings.metrics:
        return None
    from softprompt.server.metrics import Metrics

    return Metrics(name_of(backbone), settings.model_labels)


class Draining(uvicorn.Server):
    """Ends in three steps: refuse what is new, finish what is in flight, close; a second Ctrl-C ends at once.

    uvicorn by itself closes the port first, and those who ask meanwhile would meet nobody rather than a 503.

    Args:
        config: what it runs.
        parts: the server's parts.
        seconds: that requests in flight have to finish.
    """

    def __init__(self, config: uvicorn.Config, parts: Parts, seconds: float) -> None:
        super().__init__(config)
        self.parts, self.broken_off = parts, 0
        self._seconds, self._until = seconds, float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; at a second Ctrl-C, end at once."""
        if self.parts.health.draining and sig == signal.SIGINT:
            self.force_exit = self.should_exit = True
            self.config.timeout_graceful_shutdown = 0
        self.parts.health.draining = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        logger.info("listening on %s; Ctrl-C ends", ", ".join(address_of(each) for each in sockets or ()))

    async def on_tick(self, counter: int) -> bool:
        """Tell, ten times a second, whether to close."""
        health = self.parts.health
        if await super().on_tick(counter):
            return True
        if health.draining and self._until == float("inf"):
            self._until = monotonic() + self._seconds
            health.hurry()
            logger.info("ending: %d requests in flight have up to %g s", health.in_flight, self._seconds)
        return health.draining and (health.in_flight == 0 or monotonic() >= self._until)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Break off what is still in flight, and close."""
        self.broken_off = self.parts.health.in_flight
        if self.broken_off:
            await asyncio.to_thread(self.parts.engine.close, drain=False, timeout=LAST_WORDS)
        await super().shutdown(sockets)


def run(parts: Parts, settings: Settings, taken: socket.socket) -> None:
    """Listen on the port that was taken until SIGTERM or Ctrl-C, and end in good order.

    Raises:
        KeyboardInterrupt: a second Ctrl-C ended it at once.
    """
    config = uvicorn.Config(
        parts.app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the address in the log is the one that asked, not one that it names
        ws="none",
        timeout_graceful_shutdown=LAST_WORDS,
    )
    server = Draining(config, parts, settings.drain)
    with ExitStack() as ending:
        ending.callback(parts.catalog.close)
        ending.callback(parts.engine.close, drain=False, timeout=LAST_WORDS)
        parts.catalog.start()
        server.run([taken])
    if server.force_exit:
        raise KeyboardInterrupt
    if server.broken_off:
        logger.warning("ended: %d requests were broken off after %g s", server.broken_off, settings.drain)
    else:
        logger.info("ended: every request that was taken in was answered")
