"""A port that cannot be taken is said in one line, before anything is loaded."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest

from softprompt.errors import ConfigError
from softprompt.server import ports
from softprompt.server.ports import address_of, bind


def test_a_port_is_taken_once():
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        first.listen()
        with pytest.raises(ConfigError, match=f"port {port} of `127.0.0.1` is in use; end what listens there, or give"):
            bind("127.0.0.1", port)
        assert address_of(first) == f"http://127.0.0.1:{port}/v1"


def test_an_address_of_ipv6_is_written_as_urls_want_it():
    fake = SimpleNamespace(getsockname=lambda: ("::1", 8000, 0, 0))
    assert address_of(fake) == "http://[::1]:8000/v1"


def test_a_host_that_is_none_or_another_s_is_said():
    with pytest.raises(ConfigError, match=r"`no\.such\.host\.invalid` is no address: .*; give another with --host"):
        bind("no.such.host.invalid", 0)
    with pytest.raises(ConfigError, match=r"`203\.0\.113\.7` is no address of this machine: "):
        bind("203.0.113.7", 0)


def test_a_port_that_may_not_be_taken_is_said():
    refused = ports._unbound("127.0.0.1", 80, OSError(errno.EACCES, "Permission denied"))
    assert refused == "port 80 may not be taken by this user; give one above 1023 with --port"
