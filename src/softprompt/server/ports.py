"""The port of a server, taken before anything heavy is loaded for a server that could not listen."""

from __future__ import annotations

import errno
import socket

from softprompt.errors import ConfigError


def bind(host: str, port: int) -> socket.socket:
    """Take a port, so that nothing is loaded for a server that could not listen.

    Args:
        host: a name or an address of this machine.
        port: 0 takes a free one.

    Raises:
        ConfigError: the port is in use or may not be taken, or `host` is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"`{host}` is no address: {error.strerror or error}; give another with --host") from error
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        raise ConfigError(_unbound(host, port, error)) from error
    return taken


def _unbound(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of `{host}` is in use; end what listens there, or give another with --port (0: any)"
    if error.errno == errno.EACCES:
        return f"port {port} may not be taken by this user; give one above 1023 with --port"
    return f"`{host}` is no address of this machine: {error.strerror}; give another with --host"


def address_of(taken: socket.socket) -> str:
    """Return where a server that listens there is found by clients."""
    host, port = taken.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"
