"""Ports on loopback: asking for fixed ones, finding free ones, and saying who holds a taken one."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"
_LISTEN = "0A"


class PortTakenError(Exception):
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
