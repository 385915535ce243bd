"""HTTP/1.1 by hand on asyncio streams: a client that takes little of the machine, and may leave at any moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from serving_server import HOST

JSON = "application/json"


class Reply(NamedTuple):
    """What came back; of a stream, nothing yet."""

    status: int
    headers: dict[str, str]
    data: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class Wire:
    """One connection, which is kept for the next request and opened again where the server closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: bytes = b"", kind: str = JSON) -> Reply:
        """Send a request and read all of its answer."""
        reply = await self.begin(method, path, body, kind)
        data = b"".join([part async for part in self.parts(reply)])
        return reply._replace(data=data)

    async def begin(self, method: str, path: str, body: bytes = b"", kind: str = JSON) -> Reply:
        """Send a request and read the head of its answer."""
        await self.send(method, path, body, kind)
        return await self.head()

    async def send(self, method: str, path: str, body: bytes, kind: str = JSON, *, length: int | None = None) -> None:
        """Send a request; a length that is told larger than the body is leaves the server waiting for more."""
        told = len(body) if length is None else length
        head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {kind}\r\nContent-Length: {told}\r\n\r\n"
        await self.write(head.encode() + body)

    async def write(self, data: bytes) -> None:
        if self._writer is None or self._writer.is_closing() or self._reader is None or self._reader.at_eof():
            self.leave()
            self._reader, self._writer = await asyncio.open_connection(HOST, self._port, limit=2**22)
        self._writer.write(data)
        await self._writer.drain()

    async def head(self) -> Reply:
        """Read the status and the headers of an answer."""
        assert self._reader is not None, "a request was sent"
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines if line)
        return Reply(int(first.split(" ", 2)[1]), {name.lower(): value.strip() for name, _, value in pairs})

    async def parts(self, reply: Reply) -> AsyncIterator[bytes]:
        """Read what follows a head, as it comes."""
        assert self._reader is not None, "a request was sent"
        if reply.headers.get("transfer-encoding") == "chunked":
            while size := int((await self._reader.readuntil(b"\r\n")).split(b";")[0], 16):
                yield (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readuntil(b"\r\n")
        elif length := int(reply.headers.get("content-length", 0)):
            yield await self._reader.readexactly(length)
        if reply.headers.get("connection") == "close":
            self.leave()

    def leave(self) -> None:
        """Hang up, whatever is on its way."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def events(wire: Wire, reply: Reply) -> AsyncIterator[Any]:
    """The payloads of a stream of server-sent events, until its `[DONE]`."""
    rest = b""
    async for part in wire.parts(reply):
        *whole, rest = (rest + part).split(b"\n\n")
        for event in whole:
            payload = event.removeprefix(b"data: ")
            if payload != b"[DONE]":
                yield json.loads(payload)
