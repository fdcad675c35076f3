"""Streams that never end by themselves.

Envoy keeps its access log stream open for as long as it lives, and a health watcher too. A server
that stops waits for streams in progress, so it has to end these itself.
"""

from __future__ import annotations

from extproc.transport.api import GrpcStatus, Handler, Method, Services, Stream


class LastingStreams:
    """Keeps track of the open streams of some services."""

    def __init__(self) -> None:
        self._open: dict[_Tracked, None] = {}
        self._finishing = False

    def track(self, services: Services) -> Services:
        """The same services, with their streams kept track of."""
        return {path: self._tracking(method) for path, method in services.items()}

    def finish(self) -> None:
        """End them all; the other sides come back elsewhere. From now on streams still get their
        first answer, a probe's say, and are ended right after it."""
        self._finishing = True
        for tracked in list(self._open):
            tracked.end()

    def _tracking(self, method: Method) -> Method:
        def opened(stream: Stream) -> Handler:
            tracked = _Tracked(stream, method(stream), self._open)
            if self._finishing:
                tracked.end_after_answer()
            self._open[tracked] = None
            return tracked

        return opened


class _Tracked:
    __slots__ = ("_handler", "_open", "on_half_close", "on_message", "stream")

    def __init__(self, stream: Stream, handler: Handler, open_: dict[_Tracked, None]) -> None:
        self.stream = stream
        self.on_message = handler.on_message
        self.on_half_close = handler.on_half_close
        self._handler = handler
        self._open = open_

    def end(self) -> None:
        self.stream.finish(GrpcStatus.UNAVAILABLE, "the server is stopping")

    def end_after_answer(self) -> None:
        """End it once its first message is handled. What ended by that itself keeps its status."""
        self.on_message = self._last_message

    def _last_message(self, message: bytes) -> None:
        self._handler.on_message(message)
        self.end()

    def on_closed(self) -> None:
        self._open.pop(self, None)
        self._handler.on_closed()
