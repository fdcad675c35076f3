"""Answers under way: from the engine's events to the bytes of an HTTP response."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from typing import Any, NoReturn

from aiohttp import HttpVersion11, web

from sim.events import Finished, FirstToken
from sim.openai import DONE, Choice, ChunkWriter, Job, answer

# A client that reads slowly gets larger chunks, not a larger buffer here.
_BUFFER_LIMIT = 256 * 1024


def _reset(request: web.BaseRequest) -> None:
    """Cut the connection with a TCP reset, as a process that is killed does."""
    transport = request.transport
    if transport is None or transport.is_closing():
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def cut(request: web.BaseRequest) -> NoReturn:
    """Reset the connection; the server cancels the request's task, which waits here for it."""
    _reset(request)
    await asyncio.get_running_loop().create_future()
    raise AssertionError("the future above is never set")


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
                _reset(self._request)
                return
            self._left -= 1
        transport.write(b"%x\r\n%b\r\n" % (len(event), event) if self._chunked else event)


class Answer:
    """One request being answered: what its choices have come to so far."""

    def __init__(self, job: Job, answer_id: str) -> None:
        self.job = job
        self.id = answer_id
        self.created = int(time.time())
        self.cached_tokens = 0
        self._first_token: float | None = None
        self._last: Finished | None = None
        self._left = len(job.choices)
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def done(self) -> None:
        """Wait for the last choice; CancelledError if the pod gives the request up."""
        await self._done

    def cancel(self) -> None:
        """Give the request up."""
        self._done.cancel()

    def first_token(self, choice: Choice, event: FirstToken) -> None:
        if self._first_token is None:
            self._first_token = event.at
        if choice.counts_prompt:
            self.cached_tokens += event.cached_tokens

    def finished(self, event: Finished) -> None:
        self._last = event
        self._left -= 1
        if not self._left and not self._done.done():
            self._done.set_result(None)

    def body(self) -> bytes:
        """The whole answer, once it is done."""
        return answer(self.job, self.id, self.created, self.cached_tokens)

    def note(self, scale: float) -> dict[str, Any]:
        """What is remembered of the request; times are real milliseconds."""
        job, last = self.job, self._last
        times: dict[str, float | None] = {"ttft_ms": None, "e2e_ms": None}
        if not self._left and last is not None and self._first_token is not None:
            times = {
                "ttft_ms": round((self._first_token - last.arrived) / scale * 1000, 3),
                "e2e_ms": round((last.at - last.arrived) / scale * 1000, 3),
            }
        return {
            "id": self.id,
            "model": job.model,
            "stream": job.stream,
            "prompt_tokens": sum(len(c.prompt) for c in job.choices if c.counts_prompt),
            "cached_tokens": self.cached_tokens,
            "output_tokens": sum(len(c.output) for c in job.choices),
            "outcome": "aborted" if self._left else "finished",
            **times,
        }


class PlainChoice:
    """A choice whose text is wanted at the end only."""

    def __init__(self, under_way: Answer, choice: Choice) -> None:
        self.finish_reason = choice.finish_reason
        self._answer = under_way
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
        self,
        under_way: Answer,
        choice: Choice,
        stream: EventStream,
        writer: ChunkWriter,
        interval: int,
    ) -> None:
        """After the first token a chunk is sent for every ``interval`` more."""
        self.finish_reason = choice.finish_reason
        self._answer = under_way
        self._choice = choice
        self._stream = stream
        self._writer = writer
        self._interval = interval
        self._sent = 0
        self._next = 1

    def on_first_token(self, event: FirstToken) -> None:
        self._answer.first_token(self._choice, event)
        if self._answer.job.chat:
            self._stream.send(self._writer.role(self._choice))
        self.on_tokens(1)

    def on_tokens(self, generated: int) -> None:
        if generated >= self._next and not self._stream.congested:
            self._stream.send(self._writer.text(self._choice, self._sent, generated))
            self._sent = generated
            self._next = generated + self._interval

    def on_finished(self, event: Finished) -> None:
        if (end := len(self._choice.output)) > self._sent:
            self._stream.send(self._writer.text(self._choice, self._sent, end))
            self._sent = end
        self._answer.finished(event)


def end_stream(under_way: Answer, stream: EventStream, writer: ChunkWriter) -> None:
    """What follows the last token."""
    if under_way.job.include_usage:
        stream.send(writer.usage(under_way.cached_tokens))
    stream.send(DONE)
