"""What every answer says to a browser: that this is an API, whose answers are no pages."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
)
"""An answer is not guessed to be a script, not framed, not kept, and not embedded by other sites."""
POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
"""An answer loads nothing. The page at /docs, the one there is, has scripts."""


class SafeHeaders:
    """Adds the headers that an answer does not set itself.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = list(message.get("headers", ()))
                there = {name.lower(): value for name, value in own}
                page = there.get(b"content-type", b"").startswith(b"text/html")
                added = (each for each in (ALWAYS if page else (*ALWAYS, POLICY)) if each[0] not in there)
                message = {**message, "headers": [*own, *added]}
            await send(message)

        await self._app(scope, receive, headed)
