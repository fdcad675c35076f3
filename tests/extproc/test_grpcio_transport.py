"""Our services on grpcio, called by grpcio's own client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from extproc.transport.api import GrpcStatus, Stream
from extproc.transport.grpcio import serve_grpcio
from extproc.transport.tls import TlsFiles
from tests.certificates import self_signed


class Script:
    """Does what each message says, and keeps a diary."""

    def __init__(self, stream: Stream, diary: list[str]) -> None:
        self.stream = stream
        self.diary = diary
        diary.append("begun")

    def on_message(self, message: bytes) -> None:
        word = message.decode()
        if word == "raise":
            raise RuntimeError("a bug")
        if word == "refuse":
            self.stream.finish(GrpcStatus.PERMISSION_DENIED, "no")
        elif word == "later":
            asyncio.get_running_loop().call_soon(self.stream.send, b"late")
        elif word == "finish later":
            asyncio.get_running_loop().call_soon(self._end)
        else:
            self.stream.send(message)
            self.stream.send(b"and again")

    def _end(self) -> None:
        self.stream.send(b"bye")
        self.stream.finish()
        self.stream.send(b"never")

    def on_half_close(self) -> None:
        self.diary.append("half-closed")
        self.stream.finish()

    def on_closed(self) -> None:
        self.diary.append("closed")


Call = grpc.aio.StreamStreamCall[bytes, bytes]


class Peer:
    def __init__(self, channel: grpc.aio.Channel, diary: list[str], address: str) -> None:
        self.channel = channel
        self.diary = diary
        self.address = address

    def call(self, path: str = "/test/Script") -> Call:
        call: Call = self.channel.stream_stream(path)(metadata=(("x-pool", "a/b"),))
        return call


@asynccontextmanager
async def connected(
    address: str = "127.0.0.1:0", tls: TlsFiles | None = None
) -> AsyncIterator[Peer]:
    diary: list[str] = []
    server = await serve_grpcio({"/test/Script": lambda s: Script(s, diary)}, address, tls=tls)
    target = server.address if "/" not in server.address else f"unix:{server.address}"
    options = [("grpc.max_receive_message_length", -1)]
    channel = (
        grpc.aio.insecure_channel(target, options)
        if tls is None
        else grpc.aio.secure_channel(
            target, grpc.ssl_channel_credentials(tls.certificate.read_bytes())
        )
    )
    try:
        async with channel:
            yield Peer(channel, diary, server.address)
    finally:
        await server.stop(0)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with connected() as peer:
        yield peer


async def until(diary: list[str], word: str) -> None:
    async with asyncio.timeout(5):
        while word not in diary:  # noqa: ASYNC110 # told by the other end of a real connection
            await asyncio.sleep(0.005)


async def test_what_a_handler_sends_arrives_in_order(peer: Peer) -> None:
    call = peer.call()
    for word in (b"one", b"two"):
        await call.write(word)
        assert [await call.read(), await call.read()] == [word, b"and again"]
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    await until(peer.diary, "closed")
    assert peer.diary == ["begun", "half-closed", "closed"]


async def test_a_handler_may_answer_between_messages(peer: Peer) -> None:
    call = peer.call()
    await call.write(b"later")
    assert await call.read() == b"late"
    await call.write(b"still here")
    assert await call.read() == b"still here"
    call.cancel()


async def test_a_handler_may_end_the_stream_between_messages(peer: Peer) -> None:
    call = peer.call()
    await call.write(b"finish later")
    assert [message async for message in call] == [b"bye"]
    assert await call.code() is grpc.StatusCode.OK
    await until(peer.diary, "closed")


async def test_a_handler_may_end_the_stream_with_a_status(peer: Peer) -> None:
    call = peer.call()
    await call.write(b"refuse")
    assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
    assert await call.details() == "no"


async def test_a_bug_ends_its_own_stream_only(peer: Peer) -> None:
    well, ill = peer.call(), peer.call()
    await well.write(b"one")
    assert await well.read() == b"one"
    await ill.write(b"raise")
    assert await ill.code() is grpc.StatusCode.INTERNAL
    assert "a bug" not in (await ill.details() or "")
    await until(peer.diary, "closed")
    await well.write(b"two")
    assert [await well.read(), await well.read()] == [b"and again", b"two"]
    well.cancel()


async def test_a_client_that_cancels_closes_the_stream(peer: Peer) -> None:
    call = peer.call()
    await call.write(b"one")
    await call.read()
    call.cancel()
    await until(peer.diary, "closed")
    # grpcio may report the reset as an end first; it is closed once and last in any case.
    assert peer.diary.count("closed") == 1
    assert peer.diary[-1] == "closed"


async def test_an_unknown_method_is_unimplemented(peer: Peer) -> None:
    call = peer.call("/test/Nothing")
    assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_may_be_large(peer: Peer) -> None:
    call = peer.call()
    await call.write(b"x" * (20 << 20))
    assert len(await call.read()) == 20 << 20
    call.cancel()


async def test_it_serves_on_a_unix_socket(tmp_path: Path) -> None:
    async with connected(f"unix:{tmp_path}/socket") as peer:
        assert peer.address == f"{tmp_path}/socket"
        call = peer.call()
        await call.write(b"one")
        assert await call.read() == b"one"
        call.cancel()


async def test_a_taken_port_is_an_error_and_not_shared(peer: Peer) -> None:
    with pytest.raises(OSError, match="cannot listen"):
        await serve_grpcio({}, peer.address)


def certificate(folder: Path, serial: int) -> TlsFiles:
    made = self_signed("localhost", serial=serial)
    files = TlsFiles(folder / "tls.crt", folder / "tls.key")
    files.certificate.write_bytes(made.chain)
    files.key.write_bytes(made.key)
    return files


async def works(address: str, root: bytes) -> bool:
    """Whether a client that trusts only ``root`` is served."""
    credentials = grpc.ssl_channel_credentials(root)
    options = (("grpc.ssl_target_name_override", "localhost"),)
    async with grpc.aio.secure_channel(address, credentials, options) as channel:
        call: Call = channel.stream_stream("/test/Script")()
        try:
            await call.write(b"one")
            return await call.read() == b"one"
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        finally:
            call.cancel()


async def test_a_renewed_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    files = certificate(tmp_path, 1)
    first = files.certificate.read_bytes()
    async with connected(tls=files) as peer:
        assert await works(peer.address, first)
        certificate(tmp_path, 2)
        assert await works(peer.address, files.certificate.read_bytes())
        assert not await works(peer.address, first)


async def test_a_broken_certificate_leaves_the_old_one_in_place(tmp_path: Path) -> None:
    files = certificate(tmp_path, 1)
    good = files.certificate.read_bytes()
    async with connected(tls=files) as peer:
        files.certificate.unlink()
        assert await works(peer.address, good)
