"""Our server and grpcio's client, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from extproc.transport.api import GrpcStatus, Handler, Services, Stream
from extproc.transport.h2 import Limits
from extproc.transport.native import NativeServer, serve_native

LIMIT = 20.0


class Echo:
    """Answers every message with itself, and ends when the client has."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def on_message(self, message: bytes) -> None:
        self.stream.send(message)

    def on_half_close(self) -> None:
        self.stream.finish()

    def on_closed(self) -> None:
        pass


class Recorded(Echo):
    """Writes down what it is told; ``closed`` is set by the last of it."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self.told: list[str] = []
        self.closed = asyncio.Event()

    def on_message(self, message: bytes) -> None:
        self.told.append(message.decode())
        super().on_message(message)

    def on_half_close(self) -> None:
        self.told.append("half-closed")
        super().on_half_close()

    def on_closed(self) -> None:
        self.told.append("closed")
        self.closed.set()


class Service:
    """A method that keeps its handlers for the test to look at."""

    def __init__(self, make: Callable[[Stream], Handler] = Recorded) -> None:
        self._make = make
        self.handlers: list[Recorded] = []
        self._more = asyncio.Event()

    def __call__(self, stream: Stream) -> Handler:
        handler = self._make(stream)
        self.handlers.append(handler)  # type: ignore[arg-type]  # tests know what they made
        self._more.set()
        return handler

    async def handler(self, number: int = 0) -> Recorded:
        async with asyncio.timeout(LIMIT):
            while len(self.handlers) <= number:
                self._more.clear()
                await self._more.wait()
        return self.handlers[number]


@asynccontextmanager
async def serving(
    services: Services, limits: Limits | None = None
) -> AsyncIterator[tuple[NativeServer, grpc.aio.Channel]]:
    server = await serve_native(services, "127.0.0.1:0", limits=limits)
    options = [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        yield server, channel
    async with asyncio.timeout(LIMIT):
        await server.stop(0)


async def test_a_unary_call() -> None:
    async with serving({"/s/Echo": Echo}) as (_, channel):
        assert await channel.unary_unary("/s/Echo")(b"hello", timeout=LIMIT) == b"hello"


async def test_both_sides_talk_in_turns_and_the_client_ends_it() -> None:
    service = Service()
    async with serving({"/s/Echo": service}) as (_, channel):
        call = channel.stream_stream("/s/Echo")(timeout=LIMIT)
        for part in (b"headers", b"body", b""):
            await call.write(part)
            assert await call.read() == part
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        handler = await service.handler()
        await asyncio.wait_for(handler.closed.wait(), LIMIT)
    assert handler.told == ["headers", "body", "", "half-closed", "closed"]


async def test_metadata_and_peer_are_what_the_client_says() -> None:
    service = Service()
    async with serving({"/s/Echo": service}) as (_, channel):
        metadata = (("x-inference-pool", "default/llm"), ("x-a", "1"), ("x-a", "2"))
        await channel.unary_unary("/s/Echo")(b"", metadata=metadata, timeout=LIMIT)
        handler = await service.handler()
    assert handler.stream.metadata["x-inference-pool"] == "default/llm"
    assert handler.stream.metadata["x-a"] in ("1,2", "1, 2")
    assert not any(name.startswith(":") for name in handler.stream.metadata)
    assert handler.stream.peer.startswith("127.0.0.1:")


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 100_000, 9_000_000])
async def test_messages_of_any_size_come_back_whole(size: int) -> None:
    async with serving({"/s/Echo": Echo}) as (_, channel):
        body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        assert await channel.unary_unary("/s/Echo")(body, timeout=LIMIT) == body


async def test_a_hundred_calls_at_once_do_not_get_in_each_others_way() -> None:
    async with serving({"/s/Echo": Echo}) as (server, channel):
        call = channel.stream_stream("/s/Echo")

        async def converse(number: int) -> None:
            stream = call(timeout=LIMIT)
            for turn in range(20):
                said = f"{number}:{turn}:".encode() * (1 + number * turn)
                await stream.write(said)
                assert await stream.read() == said
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF

        await asyncio.gather(*(converse(number) for number in range(100)))
        assert server.open_calls == 0


async def test_a_cancelled_call_is_closed_and_no_other() -> None:
    service = Service()
    async with serving({"/s/Echo": service}) as (server, channel):
        doomed = channel.stream_stream("/s/Echo")(timeout=LIMIT)
        await doomed.write(b"x")
        await doomed.read()
        other = channel.stream_stream("/s/Echo")(timeout=LIMIT)
        await other.write(b"x")
        await other.read()
        doomed.cancel()
        handler = await service.handler(0)
        await asyncio.wait_for(handler.closed.wait(), LIMIT)
        assert handler.told == ["x", "closed"]
        assert server.open_calls == 1
        await other.write(b"y")
        assert await other.read() == b"y"


async def test_a_lost_connection_closes_every_call_on_it() -> None:
    service = Service()
    async with serving({"/s/Echo": service}) as (server, channel):
        calls = [channel.stream_stream("/s/Echo")(timeout=LIMIT) for _ in range(3)]
        for call in calls:
            await call.write(b"x")
            await call.read()
        await channel.close()
        for number in range(3):
            handler = await service.handler(number)
            await asyncio.wait_for(handler.closed.wait(), LIMIT)
            assert handler.told[-1] == "closed"
            assert handler.told.count("closed") == 1
        assert server.open_calls == 0


async def test_an_unknown_method_is_unimplemented() -> None:
    async with serving({"/s/Echo": Echo}) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary("/s/Nothing")(b"", timeout=LIMIT)
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "/s/Nothing" in (failed.value.details() or "")


class FailsOnMessage(Echo):
    def on_message(self, message: bytes) -> None:
        raise RuntimeError("a bug")


class FailsOnHalfClose(Echo):
    def on_half_close(self) -> None:
        raise RuntimeError("a bug")


class FailsOnClosed(Echo):
    def on_closed(self) -> None:
        raise RuntimeError("a bug")


def fails_at_once(_: Stream) -> Handler:
    raise RuntimeError("a bug")


@pytest.mark.parametrize("method", [FailsOnMessage, FailsOnHalfClose, fails_at_once])
async def test_a_handler_that_fails_ends_its_call_alone(
    method: Callable[[Stream], Handler],
) -> None:
    async with serving({"/s/Bad": method, "/s/Echo": Echo}) as (_, channel):
        good = channel.stream_stream("/s/Echo")(timeout=LIMIT)
        await good.write(b"before")
        assert await good.read() == b"before"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary("/s/Bad")(b"", timeout=LIMIT)
        assert failed.value.code() is grpc.StatusCode.INTERNAL
        await good.write(b"after")
        assert await good.read() == b"after"


async def test_a_handler_that_fails_at_its_end_harms_nobody() -> None:
    async with serving({"/s/Bad": FailsOnClosed}) as (_, channel):
        for _ in range(3):
            assert await channel.unary_unary("/s/Bad")(b"x", timeout=LIMIT) == b"x"


async def test_a_handler_may_answer_later_from_anywhere() -> None:
    class Later(Recorded):
        def on_message(self, message: bytes) -> None:
            asyncio.get_running_loop().call_soon(self._answer, message)

        def on_half_close(self) -> None:
            pass

        def _answer(self, message: bytes) -> None:
            self.stream.send(message)
            self.stream.finish(GrpcStatus.RESOURCE_EXHAUSTED, "no more")

    service = Service(Later)
    async with serving({"/s/Later": service}) as (_, channel):
        call = channel.stream_stream("/s/Later")(timeout=LIMIT)
        await call.write(b"x")
        assert await call.read() == b"x"
        assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await call.details() == "no more"
        handler = await service.handler()
        await asyncio.wait_for(handler.closed.wait(), LIMIT)
        # Nothing of this is heard any more, and nothing of it fails.
        handler.stream.send(b"late")
        handler.stream.finish()


async def test_a_handler_may_end_the_call_before_it_is_made() -> None:
    class Refuses(Recorded):
        def __init__(self, stream: Stream) -> None:
            super().__init__(stream)
            stream.finish(GrpcStatus.PERMISSION_DENIED, "not you")

    service = Service(Refuses)
    async with serving({"/s/Refuses": service}) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary("/s/Refuses")(b"x", timeout=LIMIT)
        assert failed.value.code() is grpc.StatusCode.PERMISSION_DENIED
        handler = await service.handler()
        await asyncio.wait_for(handler.closed.wait(), LIMIT)
    assert handler.told == ["closed"]


async def test_the_clients_deadline_ends_a_call_that_nobody_answers() -> None:
    class Silent(Recorded):
        def on_message(self, message: bytes) -> None:
            self.told.append(message.decode())

        def on_half_close(self) -> None:
            pass

    service = Service(Silent)
    async with serving({"/s/Silent": service}) as (server, channel):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary("/s/Silent")(b"x", timeout=0.2)
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        handler = await service.handler()
        await asyncio.wait_for(handler.closed.wait(), LIMIT)
        assert server.open_calls == 0


async def test_a_message_over_the_limit_is_refused_and_the_connection_goes_on() -> None:
    async with serving({"/s/Echo": Echo}, Limits(max_message=10_000)) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary("/s/Echo")(b"x" * 10_001, timeout=LIMIT)
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await channel.unary_unary("/s/Echo")(b"x", timeout=LIMIT) == b"x"


async def test_a_compressing_client_is_told_to_stop() -> None:
    async with serving({"/s/Echo": Echo}) as (_, channel):
        call = channel.unary_unary("/s/Echo")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(b"x" * 10_000, compression=grpc.Compression.Gzip, timeout=LIMIT)
        assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "identity" in (failed.value.details() or "")
