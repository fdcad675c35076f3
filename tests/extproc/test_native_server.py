"""The server around the calls: addresses, TLS, drain, and connections that go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from extproc.transport.api import Server, Stream
from extproc.transport.busy_poll import BusyPoll
from extproc.transport.grpcio import serve_grpcio
from extproc.transport.h2 import Limits
from extproc.transport.listen import overlap, parse_address
from extproc.transport.native import NativeServer, Upkeep, serve_native
from extproc.transport.native_connection import ServerConnection
from extproc.transport.tls import ServerTls, TlsFiles, TlsFilesError
from tests.certificates import self_signed
from tests.extproc.h2_peer import (
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    Frame,
    data,
    frame,
    message,
    parse,
    settings,
)
from tests.extproc.test_native_calls import LIMIT, Echo, Service
from tests.fuzz.h2_connection import BLOCK

SERVICES = {"/s/Echo": Echo}


async def unary(target: str, credentials: grpc.ChannelCredentials | None = None) -> bytes:
    options = [("grpc.ssl_target_name_override", "localhost")]
    channel = (
        grpc.aio.insecure_channel(target)
        if credentials is None
        else grpc.aio.secure_channel(target, credentials, options=options)
    )
    async with channel:
        answer: bytes = await channel.unary_unary("/s/Echo")(b"x", timeout=LIMIT)
        return answer


async def stop(server: Server) -> None:
    async with asyncio.timeout(LIMIT):
        await server.stop(0)


# --- Addresses


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1:9002", "127.0.0.1:9002"),
        ("[::1]:9002", "[::1]:9002"),
        (":9002", ":9002"),
        ("unix:/run/picker.sock", "/run/picker.sock"),
        ("unix:///run/picker.sock", "/run/picker.sock"),
    ],
)
def test_addresses_are_read(text: str, shown: str) -> None:
    assert str(parse_address(text)) == shown


@pytest.mark.parametrize(
    "text", ["", "9002", "host", "host:", "host:x", "::1:9", "unix:", "a:70000"]
)
def test_what_is_no_address_is_refused_with_the_forms_that_are(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        parse_address(text)


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("127.0.0.1:9002", "127.0.0.1:9003", True),
        ("127.0.0.1:9002", "127.0.0.1:9002", False),
        ("127.0.0.1:9002", "127.0.0.2:9002", True),
        ("127.0.0.1:9002", ":9002", False),
        ("[::]:9002", "127.0.0.1:9002", False),
        ("127.0.0.1:0", "127.0.0.1:0", True),
        ("unix:/a", "unix:///a", False),
        ("unix:/a", "unix:/b", True),
        ("unix:/a", ":9002", True),
    ],
)
def test_addresses_that_cannot_both_be_had_are_told_apart(
    one: str, other: str, together: bool
) -> None:
    assert overlap(parse_address(one), parse_address(other)) is not together


async def test_port_zero_becomes_a_real_one() -> None:
    server = await serve_native(SERVICES, "127.0.0.1:0")
    assert not server.address.endswith(":0")
    assert await unary(server.address) == b"x"
    await stop(server)


async def test_every_interface_takes_ipv4_and_ipv6() -> None:
    server = await serve_native(SERVICES, ":0")
    port = server.address.rpartition(":")[2]
    assert await unary(f"127.0.0.1:{port}") == b"x"
    if socket.has_dualstack_ipv6():
        assert await unary(f"[::1]:{port}") == b"x"
    await stop(server)


async def test_a_port_that_is_taken_is_named_even_if_its_owner_would_share() -> None:
    with socket.socket() as owner:
        owner.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        taken = f"127.0.0.1:{owner.getsockname()[1]}"
        with pytest.raises(OSError, match=f"cannot listen on {taken}: another process"):
            await serve_native(SERVICES, taken)


async def test_a_unix_socket_serves_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "picker.sock"
    service = Service()
    server = await serve_native({"/s/Echo": service}, f"unix:{path}")
    assert server.address == str(path)
    assert await unary(f"unix:{path}") == b"x"
    assert (await service.handler()).stream.peer == "unix"
    await stop(server)
    assert not path.exists()


@pytest.mark.parametrize("serve", [serve_native, serve_grpcio])
@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
async def test_a_unix_socket_left_behind_is_taken_over_and_one_in_use_is_not(
    serve: Callable[..., Awaitable[Server]], form: str, tmp_path: Path
) -> None:
    path = tmp_path / "picker.sock"
    address = form.format(path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = await serve(SERVICES, address)
    assert server.address == str(path)
    with pytest.raises(OSError, match="another process listens there"):
        await serve(SERVICES, address)
    assert await unary(f"unix:{path}") == b"x"
    await stop(server)


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("important")
    with pytest.raises(OSError, match="cannot listen"):
        await serve_native(SERVICES, f"unix:{path}")
    assert path.read_text() == "important"


# --- TLS


def write_certificate(directory: Path, name: str) -> TlsFiles:
    """A self-signed certificate for localhost."""
    made = self_signed("localhost", name=name, authority=True)
    files = TlsFiles(directory / "tls.crt", directory / "tls.key")
    files.certificate.write_bytes(made.chain)
    files.key.write_bytes(made.key)
    return files


def trust(files: TlsFiles, own: TlsFiles | None = None) -> grpc.ChannelCredentials:
    if own is None:
        return grpc.ssl_channel_credentials(files.certificate.read_bytes())
    return grpc.ssl_channel_credentials(
        files.certificate.read_bytes(), own.key.read_bytes(), own.certificate.read_bytes()
    )


def shown_name(address: str, alpn: list[str], trusted: Path) -> str:
    """Shake hands and return the name in the server's certificate."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(trusted))
    context.check_hostname = False
    context.set_alpn_protocols(alpn)
    with (
        socket.create_connection((host, int(port)), LIMIT) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        certificate = secure.getpeercert()
        assert certificate
        ((_, name),) = certificate["subject"][0]
        return str(name)


async def test_tls_serves_grpc(tmp_path: Path) -> None:
    files = write_certificate(tmp_path, "first")
    server = await serve_native(SERVICES, "127.0.0.1:0", tls=files)
    assert await unary(server.address, trust(files)) == b"x"
    await stop(server)


async def test_a_new_certificate_is_used_from_the_next_connection_on(tmp_path: Path) -> None:
    files = write_certificate(tmp_path, "first")
    server = await serve_native(SERVICES, "127.0.0.1:0", tls=files)
    name = await asyncio.to_thread(shown_name, server.address, ["h2"], files.certificate)
    assert name == "first"
    write_certificate(tmp_path, "second")
    async with asyncio.timeout(LIMIT):
        while name == "first":
            try:
                name = await asyncio.to_thread(
                    shown_name, server.address, ["h2"], files.certificate
                )
            except ssl.SSLError:
                await asyncio.sleep(0.05)  # the old one, which this client trusts no more
    assert name == "second"
    await stop(server)


def test_a_certificate_without_its_key_leaves_the_one_before_in_place(tmp_path: Path) -> None:
    files = write_certificate(tmp_path, "first")
    tls = ServerTls(files)
    assert not tls.refresh()
    (tmp_path / "other").mkdir()
    stranger = write_certificate(tmp_path / "other", "stranger")
    os.replace(stranger.certificate, files.certificate)
    with capture_logs() as logs:
        assert not tls.refresh()
        assert not tls.refresh()
    assert [line["log_level"] for line in logs] == ["warning"]
    os.replace(stranger.key, files.key)
    assert tls.refresh()


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("no certificate", "TLS certificate {crt} cannot be read: No such file or directory"),
        ("no key", "TLS key {key} cannot be read: No such file or directory"),
        ("no CA", "TLS client CA {ca} cannot be read: No such file or directory"),
        ("files swapped", "TLS certificate {key} is no PEM file with a certificate"),
        ("another key", "TLS key {key} is not the key of certificate {crt}"),
        ("a passphrase", "TLS key {key} has a passphrase"),
        ("broken certificate", "TLS certificate {crt} and key {key} cannot be used"),
        ("CA without PEM", "TLS client CA {ca} is no PEM file with a certificate"),
        ("broken CA", "TLS client CA {ca} cannot be used"),
    ],
)
@pytest.mark.parametrize("serve", [serve_native, serve_grpcio])
async def test_a_file_that_cannot_be_used_stops_the_start_with_its_name(
    serve: Callable[..., Awaitable[Server]], what: str, complaint: str, tmp_path: Path
) -> None:
    files = write_certificate(tmp_path, "picker")
    files = TlsFiles(files.certificate, files.key, client_ca=tmp_path / "ca.crt")
    assert files.client_ca is not None
    files.client_ca.write_bytes(files.certificate.read_bytes())
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    if what.startswith("no "):
        getattr(files, {"no CA": "client_ca"}.get(what, what.removeprefix("no "))).unlink()
    elif what == "files swapped":
        files = TlsFiles(files.key, files.certificate)
        complaint = complaint.format(key=files.certificate)
    elif what == "another key":
        files.key.write_bytes(self_signed("localhost").key)
    elif what == "a passphrase":
        files.key.write_bytes(self_signed("localhost", passphrase=b"secret").key)
    elif what == "broken certificate":
        files.certificate.write_bytes(broken)
    else:
        files.client_ca.write_bytes(broken if what == "broken CA" else b"not PEM")
    complaint = complaint.format(crt=files.certificate, key=files.key, ca=files.client_ca)
    with pytest.raises(TlsFilesError, match=re.escape(complaint)):
        await serve(SERVICES, "127.0.0.1:0", tls=files)


async def test_a_client_that_does_not_speak_h2_over_tls_is_sent_away(tmp_path: Path) -> None:
    files = write_certificate(tmp_path, "first")
    server = await serve_native(SERVICES, "127.0.0.1:0", tls=files)
    host, _, port = server.address.rpartition(":")
    context = ssl.create_default_context(cafile=str(files.certificate))
    context.check_hostname = False
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    async with asyncio.timeout(LIMIT):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    await stop(server)


async def in_silence(address: str) -> bytes:
    """What a client is told that connects and says nothing, until the server ends it."""
    if address.startswith("/"):
        reader, writer = await asyncio.open_unix_connection(address)
    else:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(LIMIT):
        said = await reader.read()
    writer.close()
    return said


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_client_that_never_begins_its_tls_handshake_is_sent_away(
    kind: str, loop: str, tmp_path: Path
) -> None:
    run = asyncio.run if loop == "asyncio" else pytest.importorskip("uvloop").run
    files = write_certificate(tmp_path, "picker")
    address = f"unix:{tmp_path / 'picker.sock'}" if kind == "unix" else "127.0.0.1:0"

    async def scenario() -> None:
        limits = Limits(handshake_timeout=0.05)
        server = await serve_native(SERVICES, address, tls=files, limits=limits)
        assert await in_silence(server.address) == b""
        await stop(server)

    run(scenario())


async def test_clients_must_show_a_certificate_where_a_ca_is_given(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "client").mkdir()
    files = write_certificate(tmp_path / "server", "server")
    client = write_certificate(tmp_path / "client", "client")
    both = TlsFiles(files.certificate, files.key, client_ca=client.certificate)
    server = await serve_native(SERVICES, "127.0.0.1:0", tls=both)
    assert await unary(server.address, trust(files, client)) == b"x"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await unary(server.address, trust(files))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    await stop(server)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_whose_authority_is_no_longer_trusted_cannot_resume_its_session(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    for name in ("server", "old", "new"):
        (tmp_path / name).mkdir()
    files = write_certificate(tmp_path / "server", "server")
    old = write_certificate(tmp_path / "old", "old")
    new = write_certificate(tmp_path / "new", "new")
    authority = tmp_path / "ca.crt"
    authority.write_bytes(old.certificate.read_bytes())
    server = await serve_native(
        SERVICES, "127.0.0.1:0", tls=TlsFiles(files.certificate, files.key, client_ca=authority)
    )
    host, _, port = server.address.rpartition(":")
    client = ssl.create_default_context(cafile=str(files.certificate))
    client.minimum_version = client.maximum_version = version
    client.set_alpn_protocols(["h2"])
    client.load_cert_chain(old.certificate, old.key)

    with contextlib.ExitStack() as connections:  # a session dies with a connection that breaks

        def connect(session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
            """Whether the session was resumed, and the one to resume the next time."""
            plain = connections.enter_context(socket.create_connection((host, int(port)), LIMIT))
            secure = connections.enter_context(
                client.wrap_socket(plain, server_hostname="localhost", session=session)
            )
            # TLS 1.3 says only now that it refuses a certificate, and hands out tickets now.
            if not secure.recv(100):
                raise ConnectionResetError("the server closed the connection")
            return bool(secure.session_reused), secure.session

        _, session = await asyncio.to_thread(connect, None)
        assert session is not None
        assert not session.has_ticket
        authority.write_bytes(new.certificate.read_bytes())
        assert server._tls is not None
        server._tls.refresh()  # as the next tick would
        with pytest.raises(OSError, match=r"alert|reset|closed|EOF"):
            await asyncio.to_thread(connect, session)
    await stop(server)


# --- Drain


async def test_stopping_lets_calls_finish_and_takes_no_new_connection() -> None:
    server = await serve_native(SERVICES, "127.0.0.1:0")
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = channel.stream_stream("/s/Echo")(timeout=LIMIT)
        await call.write(b"before")
        assert await call.read() == b"before"
        stopping = asyncio.create_task(server.stop(LIMIT))
        await call.write(b"during")
        assert await call.read() == b"during"
        host, _, port = server.address.rpartition(":")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))
        assert not stopping.done()
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK
        await asyncio.wait_for(stopping, LIMIT)
    assert server.connections == 0


async def test_calls_that_outlast_the_grace_end_as_unavailable() -> None:
    service = Service()
    server = await serve_native({"/s/Echo": service}, "127.0.0.1:0")
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = channel.stream_stream("/s/Echo")(timeout=LIMIT)
        await call.write(b"x")
        await call.read()
        await asyncio.wait_for(server.stop(0.1), LIMIT)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert (await service.handler()).told == ["x", "closed"]


async def test_stopping_twice_waits_for_the_same_end() -> None:
    server = await serve_native(SERVICES, "127.0.0.1:0")
    await asyncio.wait_for(asyncio.gather(server.stop(1), server.stop(1)), LIMIT)


# --- One connection, on a clock of its own


class Clock:
    """As much of an event loop as a connection asks for."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.soon: list[object] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: object) -> None:
        self.soon.append(callback)

    def run(self) -> None:
        while self.soon:
            self.soon.pop(0)()  # type: ignore[operator]


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.writes = 0
        self.closed = self.aborted = self.reading_paused = False
        self.buffered = 0

    def get_extra_info(self, name: str) -> object:
        return ("10.0.0.7", 50122) if name == "peername" else None if name != "socket" else self

    def setsockopt(self, *option: int) -> None:
        pass

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def write(self, data: bytes) -> None:
        self.written += data
        self.writes += 1

    def heard(self) -> list[Frame]:
        written, self.written = self.written, b""
        return parse(written)

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.reading_paused = False

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class Link:
    """A server's connection without a network."""

    def __init__(self, service: Service, limits: Limits | None = None, **upkeep: float) -> None:
        self.clock = Clock()
        self.wire = Wire()
        self.service = service
        self.server = NativeServer(
            {"/test.Service/Method": service},
            limits or Limits(),
            Upkeep(**upkeep),
            None,  # type: ignore[arg-type]
        )
        self.connection = ServerConnection(self.server, self.clock)  # type: ignore[arg-type]
        self.connection.connection_made(self.wire)  # type: ignore[arg-type]
        self.connection.data_received(PREFACE + settings())
        self.wire.heard()
        self.wire.writes = 0

    def call(self, stream: int, body: bytes = b"", *, end: bool = False) -> None:
        self.connection.data_received(
            frame(HEADERS, END_HEADERS, stream, BLOCK) + data(stream, message(body), end=end)
        )

    def tick(self, seconds: float) -> None:
        self.clock.now += seconds
        self.connection.tick(self.clock.now)
        self.clock.run()


async def test_the_answers_to_one_read_are_one_write() -> None:
    link = Link(Service())
    link.call(1, b"x", end=True)
    assert link.wire.writes == 1
    assert [heard.kind for heard in link.wire.heard()] == [1, 0, 1]


async def test_everything_that_is_sent_between_two_turns_is_one_write() -> None:
    link = Link(Service())
    link.call(1)
    link.call(3)
    link.wire.writes = 0
    for handler in link.service.handlers:
        handler.stream.send(b"one")
        handler.stream.send(b"two")
    assert link.wire.writes == 0
    link.clock.run()
    assert link.wire.writes == 1


async def test_a_loop_stays_awake_for_a_while_after_each_message() -> None:
    clock = Clock()
    poll = BusyPoll(clock, 0.002)  # type: ignore[arg-type]
    for _ in range(5):
        poll.heard(clock.now)
        clock.now += 0.0015
        [look] = clock.soon
        clock.soon.clear()
        look()  # type: ignore[operator]
    clock.now += 0.001
    clock.run()
    assert clock.soon == [], "and sleeps when nothing comes any more"
    poll.heard(clock.now)
    assert len(clock.soon) == 1


@pytest.mark.parametrize("seconds", [0.0, 60.0])
async def test_a_server_stays_awake_if_it_is_told_to(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = asyncio.Event()
    monkeypatch.setattr("extproc.transport.busy_poll.os.sched_yield", looked.set)
    server = await serve_native(SERVICES, "127.0.0.1:0", upkeep=Upkeep(busy_poll=seconds))
    assert await unary(server.address) == b"x"
    assert looked.is_set() == (seconds > 0)
    await stop(server)


class Flushing(Echo):
    """Answers, and has something else to do."""

    def __init__(self, stream: Stream, wire: Callable[[], Wire]) -> None:
        super().__init__(stream)
        self.wire = wire
        self.writes: list[int] = []

    def on_message(self, message: bytes) -> None:
        super().on_message(message)
        self.stream.flush()
        self.writes.append(self.wire().writes)


async def test_a_handler_can_have_its_answer_written_before_it_goes_on() -> None:
    link: Link
    service = Service(lambda stream: Flushing(stream, lambda: link.wire))
    link = Link(service)
    link.call(1, b"x")
    assert link.service.handlers[0].writes == [1]  # type: ignore[attr-defined]
    assert link.wire.writes == 1, "and nothing is left to be written afterwards"
    link.service.handlers[0].stream.flush()
    link.clock.run()
    assert link.wire.writes == 1, "nor to be flushed"


async def test_answers_to_one_read_are_one_write_even_if_each_is_flushed() -> None:
    link: Link
    service = Service(lambda stream: Flushing(stream, lambda: link.wire))
    link = Link(service)
    link.connection.data_received(
        b"".join(
            frame(HEADERS, END_HEADERS, stream, BLOCK) + data(stream, message(b"x"))
            for stream in (1, 3, 5)
        )
    )
    assert [one.writes for one in link.service.handlers] == [[0], [0], [1]]  # type: ignore[attr-defined]
    assert link.wire.writes == 1


async def test_a_later_answer_can_be_flushed_too() -> None:
    link = Link(Service())
    link.call(1)
    link.wire.writes = 0
    stream = link.service.handlers[0].stream
    stream.send(b"late")
    stream.flush()
    assert link.wire.writes == 1
    link.clock.run()
    assert link.wire.writes == 1
    stream.finish()
    link.clock.run()
    stream.flush()
    assert link.wire.writes == 2


async def test_the_peer_is_an_address_for_people() -> None:
    link = Link(Service())
    link.call(1)
    assert link.service.handlers[0].stream.peer == "10.0.0.7:50122"


async def test_a_silent_client_is_asked_for_a_sign_of_life() -> None:
    link = Link(Service(), keepalive_interval=30, keepalive_timeout=20)
    link.tick(29)
    assert link.wire.heard() == []
    link.tick(2)
    (ping,) = link.wire.heard()
    assert ping.kind == PING
    link.connection.data_received(frame(PING, 1, 0, ping.payload))
    link.tick(25)
    assert not link.wire.aborted
    assert link.wire.heard() == []


async def test_a_dead_client_is_given_up_with_its_calls() -> None:
    link = Link(Service(), keepalive_interval=30, keepalive_timeout=20)
    link.call(1)
    link.tick(31)
    link.tick(19)
    assert not link.wire.aborted
    link.tick(2)
    assert link.wire.aborted
    link.connection.connection_lost(None)
    assert link.service.handlers[0].told == ["", "closed"]


async def test_a_client_that_does_not_read_has_no_more_of_its_requests_read() -> None:
    link = Link(Service(), Limits(stall_timeout=60))
    link.connection.pause_writing()
    assert link.wire.reading_paused
    link.connection.resume_writing()
    assert not link.wire.reading_paused
    link.connection.pause_writing()
    link.tick(59)
    assert not link.wire.aborted
    link.tick(2)
    assert link.wire.aborted


async def test_a_client_that_does_not_read_cannot_make_the_server_hold_without_end() -> None:
    link = Link(Service(), Limits(max_unsent=1_000_000))
    link.call(1)
    link.connection.pause_writing()
    link.wire.buffered = 1_000_001
    link.service.handlers[0].stream.send(b"x")
    link.clock.run()
    assert link.wire.aborted


async def test_an_old_connection_is_asked_to_go_and_finishes_what_it_began() -> None:
    link = Link(Service(), max_connection_age=300)
    link.call(1)
    link.tick(299)
    link.wire.heard()
    link.tick(2)
    assert GOAWAY in [heard.kind for heard in link.wire.heard()]
    link.tick(1.5)  # the client did not answer the PING: the final GOAWAY goes out all the same
    assert [heard.kind for heard in link.wire.heard()] == [GOAWAY]
    assert not link.wire.closed
    link.service.handlers[0].stream.finish()
    link.clock.run()
    assert link.wire.closed


async def test_a_client_that_breaks_the_rules_is_told_why_and_left() -> None:
    link = Link(Service())
    link.call(1)
    link.wire.heard()
    with capture_logs() as logs:
        link.connection.data_received(frame(PING, 0, 0, b"short"))
    (goodbye,) = link.wire.heard()
    assert goodbye.kind == GOAWAY
    assert b"PING is 8 bytes" in goodbye.payload
    assert link.wire.closed
    assert link.service.handlers[0].told == ["", "closed"]
    assert logs[0]["peer"] == "10.0.0.7:50122"
    assert logs[0]["reason"] == "PING is 8 bytes"
    link.tick(10)
    assert link.wire.aborted, "it did not take its goodbye"


async def test_a_flood_of_problems_is_not_one_of_log_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: clock)
    server = NativeServer({}, Limits(), Upkeep(), None)
    with capture_logs() as logs:
        for _ in range(1000):
            server.problem("something")
        server.problem("something else")
        clock.now += 11
        server.problem("something")
    assert [(line["event"], line.get("not_logged_before")) for line in logs] == [
        ("something", None),
        ("something else", None),
        ("something", 999),
    ]


async def test_one_connection_too_many_is_refused() -> None:
    link = Link(Service(), max_connections=1)
    wire = Wire()
    ServerConnection(link.server, link.clock).connection_made(wire)  # type: ignore[arg-type]
    assert wire.aborted
    link.connection.connection_lost(None)
    wire = Wire()
    ServerConnection(link.server, link.clock).connection_made(wire)  # type: ignore[arg-type]
    assert not wire.aborted


# --- The other event loop


@pytest.mark.parametrize("kind", ["tcp", "tls", "unix"])
def test_uvloop_serves_the_same(kind: str, tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")
    files = write_certificate(tmp_path, "picker") if kind == "tls" else None
    address = f"unix:{tmp_path / 'picker.sock'}" if kind == "unix" else "127.0.0.1:0"
    body = b"x" * 3_000_000

    def call(target: str) -> bytes:
        options = [("grpc.ssl_target_name_override", "localhost")]
        channel = (
            grpc.insecure_channel(target)
            if files is None
            else grpc.secure_channel(target, trust(files), options)
        )
        with channel:
            answer: bytes = channel.unary_unary("/s/Echo")(body, timeout=LIMIT)
            return answer

    async def scenario() -> None:
        server = await serve_native(SERVICES, address, tls=files)
        target = f"unix:{server.address}" if kind == "unix" else server.address
        assert await asyncio.to_thread(call, target) == body
        await stop(server)

    uvloop.run(scenario())
