"""A gRPC stream that remembers what was sent on it."""

from __future__ import annotations

from collections.abc import Mapping

from extproc.transport.api import GrpcStatus


class RecordedStream:
    def __init__(self, metadata: Mapping[str, str] | None = None) -> None:
        self.metadata: Mapping[str, str] = metadata or {}
        self.peer = "test"
        self.sent: list[bytes] = []
        self.flushed = 0
        """So many of them had been flushed by the handler."""
        self.finished: tuple[GrpcStatus, str] | None = None

    def send(self, message: bytes) -> None:
        if self.finished is None:
            self.sent.append(message)

    def flush(self) -> None:
        self.flushed = len(self.sent)

    def finish(self, status: GrpcStatus = GrpcStatus.OK, message: str = "") -> None:
        if self.finished is None:
            self.finished = (status, message)
