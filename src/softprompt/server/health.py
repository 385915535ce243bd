"""Whether the server lives, and whether it should be sent requests: `/healthz` and `/readyz`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from softprompt.server.logs import PROBES
from softprompt.server.problems import RETRY, Problem

router = APIRouter(tags=["health"])


@dataclass
class Health:
    """What keeps a server from taking requests, if anything does; it finds this at `app.state.health`.

    Args:
        draining: whether it is ending, and takes none any more.
        in_flight: requests that are being answered.
        check: says what else is wrong, if anything is.
        coming: the waits for what is still to come of requests' bodies.
    """

    draining: bool = False
    in_flight: int = 0
    check: Callable[[], str | None] = lambda: None
    coming: set[asyncio.Timeout] = field(default_factory=set, repr=False)

    @property
    def reason(self) -> str | None:
        """Why no request is taken; `None` if all is well."""
        return "the server is ending: it finishes what it has taken in" if self.draining else self.check()

    def hurry(self) -> None:
        """Wait no longer for bodies, once the server is ending; called in their event loop."""
        for waiting in list(self.coming):
            if not waiting.expired():
                waiting.reschedule(asyncio.get_running_loop().time())

    def refusal(self) -> Problem:
        """Return what a request is refused with that cannot be taken."""
        headers = {"Retry-After": str(RETRY), "Connection": "close"}
        return Problem(503, self.reason or "", code="not_ready", headers=headers)


class Gate:
    """Counts the requests that are being answered, and refuses new ones with 503 while the server cannot take them.

    Args:
        app: the application.
        health: what is wrong, if anything is.
    """

    def __init__(self, app: ASGIApp, health: Health) -> None:
        self._app, self._health = app, health

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
        elif self._health.reason is not None:
            await self._health.refusal().response()(scope, receive, send)
        else:
            self._health.in_flight += 1
            try:
                await self._app(scope, receive, send)
            finally:
                self._health.in_flight -= 1


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """Say that the process lives, whatever else it does."""
    return {"status": "ok"}


@router.get("/readyz")
async def ready(request: Request) -> JSONResponse:
    """Say whether requests are taken: 200, or 503 with the reason."""
    health: Health = request.app.state.health
    if health.reason is None:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "not ready", "reason": health.reason}, 503)
