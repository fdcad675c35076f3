"""Where a server listens."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from typing import Final

from pools.addresses import host_port, split_host_port

_BACKLOG: Final = 1024
_UNIX: Final = "unix:"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """``host`` as it was given; empty for every interface, IPv4 and IPv6."""

    host: str
    port: int

    def __str__(self) -> str:
        return host_port(self.host, self.port)


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: str

    def __str__(self) -> str:
        return self.path


Address = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """``127.0.0.1:9002``, ``[::1]:9002``, ``:9002`` for every interface, or ``unix:/run/x.sock``.

    :raises ValueError: it is none of these.
    """
    if text.startswith(_UNIX):
        path = text.removeprefix(_UNIX)
        if path.startswith("//"):
            path = path[2:]
        if path:
            return UnixAddress(path)
    else:
        with contextlib.suppress(ValueError):
            return TcpAddress(*split_host_port(text))
    raise ValueError(
        f"{text!r} is no address to listen on: use host:port, [ipv6]:port, :port or unix:/path"
    )


def overlap(one: Address, other: Address) -> bool:
    """Whether only one of the two can be listened on, as far as their texts tell."""
    if isinstance(one, UnixAddress) or isinstance(other, UnixAddress):
        return one == other
    if one.port != other.port or one.port == 0:
        return False
    return one.host == other.host or bool({one.host, other.host} & {"", "::"})


def bind(address: Address) -> socket.socket:
    """A listening socket, with an error that says what is in the way.

    The port is never shared (no SO_REUSEPORT): two servers on one port would each get some of the
    streams, and see only some of the load.

    :raises OSError: the address is taken or cannot be used; errno is the system's.
    """
    try:
        if isinstance(address, UnixAddress):
            return _bind_unix(address.path)
        return _bind_tcp(address)
    except OSError as error:
        number = error.errno or errno.EINVAL
        if number == errno.EADDRINUSE:
            why = "another process listens there; stop it or choose another address"
        else:
            why = error.strerror or str(error)
        raise OSError(number, f"cannot listen on {address}: {why}") from error


def _bind_tcp(address: TcpAddress) -> socket.socket:
    if address.host in ("", "::") and socket.has_dualstack_ipv6():
        return socket.create_server(
            ("::", address.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
        )
    family, _, _, _, target = socket.getaddrinfo(
        address.host or "0.0.0.0",
        address.port,
        type=socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )[0]
    return socket.create_server(target[:2], family=family, backlog=_BACKLOG)


def _bind_unix(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        listener.bind(path)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    """A socket that a process left behind when it died is in nobody's way."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
