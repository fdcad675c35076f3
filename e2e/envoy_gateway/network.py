"""A network of our own, in which every port is free and pods have addresses of their own.

Envoy Gateway listens on fixed ports, and an API server takes no loopback address as an endpoint.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PODS = "10.1.0.0"
"""The first of 65,536 addresses that are all this machine's, inside."""
_NEW_NETWORK = 0x40000000
_SET_FLAGS, _SET_ADDRESS, _SET_MASK = 0x8914, 0x8916, 0x891C
_UP = 0x1


class NoNetworkError(Exception):
    """This process may not have a network of its own."""


@contextmanager
def private_network() -> Iterator[None]:
    """Inside, this thread and what it starts have loopback and the addresses of :data:`PODS` and
    nothing else. Takes root and Linux; raises NoNetworkError otherwise."""
    if sys.platform != "linux":
        raise NoNetworkError("a network of its own takes Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(_NEW_NETWORK):
            why = os.strerror(ctypes.get_errno())
            raise NoNetworkError(f"a network of its own takes root: {why}")
        try:
            _configure()
            yield
        finally:
            if libc.setns(before, _NEW_NETWORK):
                # Whatever this process does next would be in the wrong network.
                raise OSError(ctypes.get_errno(), "cannot return to the network")
    finally:
        os.close(before)


def _configure() -> None:
    def address(text: str) -> bytes:
        return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sH14x", b"lo", _UP))
        # On loopback an address makes all of its network ours.
        fcntl.ioctl(control, _SET_ADDRESS, struct.pack("16s16s", b"lo:pods", address("10.1.0.1")))
        fcntl.ioctl(control, _SET_MASK, struct.pack("16s16s", b"lo:pods", address("255.255.0.0")))
