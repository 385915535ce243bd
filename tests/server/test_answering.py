"""Long requests and short ones: what is long to encode keeps nobody else waiting."""

from __future__ import annotations

import json
import socket
import threading
import time

from softprompt.server.answering import LONG, LONG_AT_ONCE


def test_long_requests_leave_short_ones_their_threads(rig, monkeypatch):
    encoding, free, taken = [], threading.Event(), rig.engine.submit

    def slow(ask, listener=None):
        if len(ask.fields["text"]) > LONG:
            encoding.append(ask)
            free.wait(20)
        return taken(ask, listener)

    monkeypatch.setattr(rig.engine, "submit", slow)
    body = json.dumps({"model": "sentiment", "input": "x" * (LONG + 1)}).encode()
    head = b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    callers = [socket.create_connection((rig.host, rig.port)) for _ in range(40)]  # more than there are threads
    try:
        for caller in callers:
            caller.sendall(head % len(body) + body)
        until = time.monotonic() + 10
        while len(encoding) < LONG_AT_ONCE and time.monotonic() < until:
            time.sleep(0.01)
        assert rig.classify(model="sentiment", input="a").status == 200
        assert len(encoding) == LONG_AT_ONCE
        for caller in callers[1:]:
            caller.close()  # nobody waits for those that have not begun
        time.sleep(0.2)
        free.set()
        callers[0].settimeout(10)
        assert callers[0].recv(12) == b"HTTP/1.1 200"
        time.sleep(0.2)
        assert len(encoding) <= LONG_AT_ONCE + 1
    finally:
        free.set()
        for caller in callers:
            caller.close()
