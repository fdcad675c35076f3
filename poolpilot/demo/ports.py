"""Ports on loopback: asking for fixed ones, finding free ones, and saying who holds a taken one."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from poolpilot.errors import PoolPilotError

LOOPBACK = "127.0.0.1"
_LISTEN = "0A"


class PortTakenError(PoolPilotError):
    """A port that we need is held by another process. The message says by which, where known."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A port number that nobody gets by chance while this is open.

    The socket is bound and never listens: the kernel gives its number to no one who asks for any
    free port, while a server that sets SO_REUSEADDR or SO_REUSEPORT (Envoy, gRPC, asyncio all do)
    can bind and listen on it, stop, and listen again.
    """

    port: int
    socket: socket.socket

    def close(self) -> None:
        self.socket.close()


def reserve(port: int = 0, host: str = LOOPBACK) -> Reservation:
    """Reserve ``port`` (0: any free one). Raises PortTakenError when somebody listens on it."""
    if port:
        # Without SO_REUSEPORT, so that a listener which sets it is noticed: two servers on one port
        # would silently share the connections.
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen()
            except OSError as error:
                raise PortTakenError(f"{host}:{port}: {error.strerror}") from error
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
    except OSError as error:
        held.close()
        raise PortTakenError(f"{host}:{port}: {error.strerror}") from error
    return Reservation(held.getsockname()[1], held)


def holder(port: int, proc: Path = Path("/proc")) -> str | None:
    """Who listens on ``port``: ``envoy (pid 4711)``. None where the system does not say."""
    inodes = set(_listening_inodes(port, proc))
    if not inodes:
        return None
    for entry in sorted(proc.glob("[0-9]*/fd/*")):
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        found = re.fullmatch(r"socket:\[(\d+)\]", target)
        if found and found[1] in inodes:
            pid = entry.parts[-3]
            return f"{_command(proc / pid)} (pid {pid})"
    return None


def _listening_inodes(port: int, proc: Path) -> Iterable[str]:
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                yield columns[9]


def _command(process: Path) -> str:
    try:
        argv = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        argv = []
    return " ".join(argv[:4]).strip() or "a process of another user"


@dataclass(frozen=True, slots=True)
class Ports:
    """Every port that the demo uses, reserved until ``close``."""

    listener: Reservation
    admin: Reservation
    xds: Reservation
    xds_http: Reservation
    extproc: Reservation
    extproc_health: Reservation
    extproc_http: Reservation
    pods: tuple[Reservation, ...]

    @classmethod
    def fixed(cls, pods: int) -> Ports:
        """The well-known ports. Raises PortTakenError, naming the port, its use and its holder."""
        return cls(
            pods=tuple(
                _reserve_for(f"simulated vLLM server {n}", _FIRST_POD_PORT + n) for n in range(pods)
            ),
            **{name: _reserve_for(use, port) for name, (use, port) in _FIXED.items()},
        )

    @classmethod
    def free(cls, pods: int) -> Ports:
        """Ports that nobody uses now."""
        return cls(
            pods=tuple(reserve() for _ in range(pods)), **{name: reserve() for name in _FIXED}
        )

    def __iter__(self) -> Iterator[Reservation]:
        for one in fields(self):
            value = getattr(self, one.name)
            yield from value if isinstance(value, tuple) else (value,)

    def close(self) -> None:
        for reservation in self:
            reservation.close()


_FIXED = {
    "listener": ("Envoy", 8081),
    "admin": ("Envoy's admin interface", 19000),
    "xds": ("the xDS server", 18000),
    "xds_http": ("the xDS server's HTTP", 18001),
    "extproc": ("the endpoint picker", 9002),
    "extproc_health": ("the endpoint picker's health checks", 9003),
    "extproc_http": ("the endpoint picker's HTTP", 9090),
}
_FIRST_POD_PORT = 8000


def _reserve_for(use: str, port: int) -> Reservation:
    try:
        return reserve(port)
    except PortTakenError as error:
        who = holder(port)
        by = f"held by {who}" if who else f"held by another process (see `ss -ltnp | grep :{port}`)"
        raise PortTakenError(
            f"port {port}, for {use}, is {by}; stop that, or run with `--ports auto`"
        ) from error
