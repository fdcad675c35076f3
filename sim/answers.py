"""Answers under way: from the engine's events to the bytes of an HTTP response."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass

from aiohttp import HttpVersion11, web

from sim.engine import Finished, FirstToken
from sim.openai import DONE, Choice, ChunkWriter, Job

# A client that reads slowly gets larger chunks, not a larger buffer here.
_BUFFER_LIMIT = 256 * 1024


def reset(request: web.BaseRequest) -> None:
    """Cut the connection with a TCP reset, as a process that is killed does."""
    if (transport := request.transport) is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class EventStream:
    """Server-sent events of a prepared response, written straight to the transport: no task has to
    wake up for a token."""

    def __init__(self, request: web.BaseRequest, reset_after: int | None) -> None:
        self._request = request
        self._chunked = request.version >= HttpVersion11
        self._left = reset_after

    @property
    def congested(self) -> bool:
        transport = self._request.transport
        return transport is None or transport.get_write_buffer_size() > _BUFFER_LIMIT

    def send(self, event: bytes) -> None:
        """Write one event; nothing if the client has gone."""
        transport = self._request.transport
        if transport is None or transport.is_closing():
            return
        if self._left is not None:
            if not self._left:
                reset(self._request)
                return
            self._left -= 1
        transport.write(b"%x\r\n%b\r\n" % (len(event), event) if self._chunked else event)


@dataclass(slots=True)
class Timeline:
    """When things happened to a request, on the engine's clock, and what it found cached."""

    arrived: float | None = None
    first_token: float | None = None
    finished: float | None = None
    cached_tokens: int = 0


class Answer:
    """All choices of one request; ``done`` is set when the last has ended."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.timeline = Timeline()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = len(job.choices)

    def first_token(self, choice: Choice, event: FirstToken) -> None:
        if self.timeline.first_token is None:
            self.timeline.first_token = event.at
        if choice.counts_prompt:
            self.timeline.cached_tokens += event.cached_tokens

    def finished(self, event: Finished) -> None:
        self.timeline.arrived = event.arrived
        self.timeline.finished = event.at
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)


class PlainChoice:
    """A choice whose text is wanted at the end only."""

    def __init__(self, answer: Answer, choice: Choice) -> None:
        self.finish_reason = choice.finish_reason
        self._answer = answer
        self._choice = choice

    def on_first_token(self, event: FirstToken) -> None:
        self._answer.first_token(self._choice, event)

    def on_tokens(self, generated: int) -> None:
        """Not a stream."""

    def on_finished(self, event: Finished) -> None:
        self._answer.finished(event)


class StreamedChoice:
    """A choice whose tokens are sent as they come."""

    def __init__(
        self, answer: Answer, choice: Choice, stream: EventStream, writer: ChunkWriter
    ) -> None:
        self.finish_reason = choice.finish_reason
        self._answer = answer
        self._choice = choice
        self._stream = stream
        self._writer = writer
        self._sent = 0

    def on_first_token(self, event: FirstToken) -> None:
        self._answer.first_token(self._choice, event)
        if self._answer.job.chat:
            self._stream.send(self._writer.role(self._choice))
        self.on_tokens(1)

    def on_tokens(self, generated: int) -> None:
        if generated > self._sent and not self._stream.congested:
            self._stream.send(self._writer.text(self._choice, self._sent, generated))
            self._sent = generated

    def on_finished(self, event: Finished) -> None:
        if (end := len(self._choice.output)) > self._sent:
            self._stream.send(self._writer.text(self._choice, self._sent, end))
            self._sent = end
        self._answer.finished(event)


def end_stream(answer: Answer, stream: EventStream, writer: ChunkWriter) -> None:
    """What follows the last token."""
    if answer.job.include_usage:
        stream.send(writer.usage(answer.timeline.cached_tokens))
    stream.send(DONE)
