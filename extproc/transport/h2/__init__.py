"""An HTTP/2 server connection for gRPC, without I/O: bytes in, events and bytes out.

:class:`~extproc.transport.h2.connection.Connection` is the state machine; it has no clock, socket
or task, so every rule of RFC 9113 that it keeps can be told in a test without a network.
"""

from extproc.transport.h2.connection import Connection
from extproc.transport.h2.events import (
    ConnectionClosed,
    Event,
    HalfClosed,
    Message,
    StreamOpened,
    StreamReset,
)
from extproc.transport.h2.frames import ErrorCode
from extproc.transport.h2.limits import Limits, Rate

__all__ = [
    "Connection",
    "ConnectionClosed",
    "ErrorCode",
    "Event",
    "HalfClosed",
    "Limits",
    "Message",
    "Rate",
    "StreamOpened",
    "StreamReset",
]
