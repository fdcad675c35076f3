"""Listening to the KV cache events that vLLM publishes over ZeroMQ.

Servers publish them when started with ``--kv-events-config '{"enable_kv_cache_events": true,
"publisher": "zmq", "endpoint": "tcp://*:5557", "replay_endpoint": "tcp://*:5657"}'``. Rank ``r`` of
a data-parallel server publishes at these ports plus ``r``. Current servers tell the ports of all
their ranks (``GET /kv_event_sources``); of others they have to be known.

Needs pyzmq.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
import structlog
import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from extproc.picking.scheduling.prefix.exact import CacheEvent, Cleared, Removed, Stored
from extproc.signals.endpoint_loops import EndpointLoops
from extproc.signals.fetch import Fetch, ScrapeError, fetch_within
from pools.addresses import host_port
from pools.model import (
    Endpoint,
)
from pools.tasks import PartEndedError, Parts

log = structlog.get_logger(__name__)

QUESTION: Final = "cache events"
"""What this is called where people look."""
BACKLOG = 10_000
"""Batches that wait to be read; a slow reader loses the rest, which shows as a gap."""
ASK_TIMEOUT = 2.0
"""Seconds for an answer to where a server publishes."""
CONNECT_TIMEOUT = 5.0
"""Seconds after which it is told that nobody publishes there; it goes on being tried."""
REPLAY_TIMEOUT = 3.0
"""Seconds between two batches that are told again."""
AGAIN_AFTER = 1.0
"""Seconds from a broken connection to the next try."""
_END = b"\xff" * 8
"""The number of what follows the last batch of a replay."""


class _Event(msgspec.Struct, tag=True):
    """Since vLLM 0.24 an event is a map, tagged with its type."""


class BlockStored(_Event):
    block_hashes: list[int | bytes]
    parent_block_hash: int | bytes | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: object = None
    """For each block what its hash covers besides the tokens: a list of the adapter's name, images,
    the salt; or None."""
    group_idx: int | None = None
    locality: str | None = None


class BlockRemoved(_Event):
    block_hashes: list[int | bytes]
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None


class AllBlocksCleared(_Event):
    pass


class _StoredArray(BlockStored, array_like=True, tag="BlockStored"):
    """Before, it was an array that began with its type."""


class _RemovedArray(BlockRemoved, array_like=True, tag="BlockRemoved"):
    pass


class _ClearedArray(AllBlocksCleared, array_like=True, tag="AllBlocksCleared"):
    pass


class _Batch(msgspec.Struct, array_like=True):
    ts: float
    events: list[msgspec.Raw]


_batches = msgspec.msgpack.Decoder(_Batch)
_maps = msgspec.msgpack.Decoder(BlockStored | BlockRemoved | AllBlocksCleared)
_arrays = msgspec.msgpack.Decoder(_StoredArray | _RemovedArray | _ClearedArray)
_GPU = (None, "GPU", "gpu")


def cache_events(payload: bytes) -> list[CacheEvent]:
    """The events of a batch that are about the GPU's cache. Raises ``msgspec.MsgspecError`` for
    what is no batch."""
    events: list[CacheEvent] = []
    for raw in _batches.decode(payload).events:
        event = (_arrays if _is_array(raw) else _maps).decode(raw)
        if isinstance(event, AllBlocksCleared):
            events.append(Cleared())
        # A model with several kinds of attention has a group of blocks for each; the first will do.
        elif event.medium not in _GPU or event.group_idx or event.locality == "REMOTE":
            continue
        elif isinstance(event, BlockRemoved):
            events.append(Removed(event.block_hashes))
        elif (stored := _stored(event)) is not None:
            events.append(stored)
    return events


def _is_array(raw: msgspec.Raw) -> bool:
    first = memoryview(raw)[0]
    return 0x90 <= first <= 0x9F or first in (0xDC, 0xDD)


def _stored(event: BlockStored) -> Stored | None:
    """Those of its blocks that a prompt of the same tokens would find: salt and images make others
    of the block that has them, and so of all that follow it."""
    # An adapter that is only numbered cannot be told from others: no request finds it.
    adapter = event.lora_name or (f"\0{event.lora_id}" if event.lora_id else "")
    hashes, tokens = event.block_hashes, event.token_ids
    if isinstance(event.extra_keys, list):
        for at, keys in enumerate(event.extra_keys):
            if keys and list(keys) != [event.lora_name]:
                hashes, tokens = hashes[:at], tokens[: at * event.block_size]
                break
    if not hashes:
        return None
    return Stored(hashes, event.parent_block_hash, tokens, event.block_size, adapter)


@dataclass(frozen=True, slots=True)
class Publisher:
    """Where one rank of a server tells what changes in its cache."""

    rank: int
    port: int
    replay_port: int | None = None
    """Where it tells again what it told before; None: it does not."""


class _Source(msgspec.Struct):
    """vLLM's ``KVEventsConfig``, as far as it matters."""

    enable_kv_cache_events: bool = True
    publisher: str | None = "zmq"
    endpoint: str = ""
    replay_endpoint: str | None = None


_sources = msgspec.json.Decoder(dict[int, _Source])


def publishers_of(answer: bytes) -> tuple[Publisher, ...]:
    """What ``GET /kv_event_sources`` tells: empty if events are off. Raises ValueError if it is no
    such answer."""
    return tuple(
        Publisher(rank, port, _port_of(source.replay_endpoint or ""))
        for rank, source in sorted(_sources.decode(answer).items())
        if source.enable_kv_cache_events and source.publisher == "zmq"
        if (port := _port_of(source.endpoint)) is not None
    )


def _port_of(endpoint: str) -> int | None:
    """Of ``tcp://*:5557``; None for what cannot be reached over a network."""
    if not endpoint.startswith("tcp://"):
        return None
    port = endpoint.rpartition(":")[2]
    return int(port) if port.isdigit() and 0 < int(port) < 65536 else None


class EventSink(Protocol):
    """Who is told what caches hold. ``key`` is the endpoint's."""

    def events_followed(self, key: str, ranks: Collection[int]) -> None: ...

    def events_began(self, key: str, rank: int) -> None: ...

    def heard(self, key: str, rank: int, sequence: int, events: Sequence[CacheEvent]) -> None: ...

    def events_missed(self, key: str, rank: int) -> None: ...

    def events_lost(self, key: str) -> None: ...

    def troubled(self, key: str, question: str, reason: str) -> None: ...


class _BrokenError(Exception):
    """The connection to a publisher ended."""


class KVEvents:
    """Listens to every endpoint that it is told to follow."""

    def __init__(self, port: int, sink: EventSink, fetch: Fetch) -> None:
        """``port``: where the first rank of a server publishes that does not tell itself."""
        self._port = port
        self._sink = sink
        self._fetch = fetch
        self._context = zmq.asyncio.Context()
        # ZeroMQ's own bound is a thousand, and each publisher takes two.
        self._context.set(zmq.MAX_SOCKETS, self._context.get(zmq.SOCKET_LIMIT))
        self._loops = EndpointLoops("KV events", self._follow)
        self._hosts: dict[str, str] = {}
        self._places: dict[str, int] = {}
        """Which of the endpoints with its IP address it is."""

    def follow(self, endpoints: Collection[Endpoint]) -> None:
        """Listen to exactly these."""
        self._hosts = {endpoint.key: endpoint.address for endpoint in endpoints}
        by_host: dict[str, list[Endpoint]] = {}
        for endpoint in sorted(endpoints, key=lambda endpoint: endpoint.port):
            by_host.setdefault(endpoint.address, []).append(endpoint)
        self._places = {one.key: at for all_ in by_host.values() for at, one in enumerate(all_)}
        self._loops.follow({key: key for key in self._hosts})

    async def run(self) -> None:
        """A part of a server: until cancelled. Raises PartEndedError when a loop ends."""
        try:
            await self._loops.run()
        finally:
            self._context.destroy(linger=0)

    async def _follow(self, key: str, address: str) -> None:
        host = self._hosts[key]
        while True:
            ranks = Parts()
            try:
                publishers = await self._publishers(key, address)
                self._sink.events_followed(key, [one.rank for one in publishers])
                for publisher in publishers:
                    listener = _Listener(self._context, self._sink, key, host, publisher)
                    ranks.start(f"KV events {key} rank {publisher.rank}", listener.run())
                await ranks.run()
            except PartEndedError as ended:
                if not isinstance(ended.cause, _BrokenError):
                    self._failed(key, ended.cause or ended)
            except (ScrapeError, ValueError) as error:
                self._sink.troubled(key, QUESTION, f"where it publishes is not known: {error}")
            except Exception as error:
                self._failed(key, error)
            self._sink.events_lost(key)
            await asyncio.sleep(AGAIN_AFTER)

    def _failed(self, key: str, error: BaseException) -> None:
        # A loop must not end: nobody would listen to this endpoint again.
        log.error("KV events failed", endpoint=key, exc_info=error)
        self._sink.troubled(key, QUESTION, repr(error))

    async def _publishers(self, key: str, address: str) -> Sequence[Publisher]:
        url = f"http://{address}/kv_event_sources"
        try:
            publishers = publishers_of(await fetch_within(self._fetch, url, ASK_TIMEOUT))
        except ScrapeError as error:
            if not error.alive:
                raise
            # It is older than that path, or does not let us ask: ranks with an address in common
            # publish at ports that follow one another, as those they serve at.
            return [Publisher(0, self._port + self._places.get(key, 0))]
        if not publishers:
            raise ValueError(f"{url} names no publisher: --kv-events-config is not given there")
        return publishers


class _Listener:
    """Listens to one publisher until the connection breaks."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        sink: EventSink,
        key: str,
        host: str,
        publisher: Publisher,
    ) -> None:
        self._context = context
        self._sink = sink
        self._key = key
        self._host = host
        self._publisher = publisher
        self._next = 0
        """The number of the batch that is due."""
        self._unreadable = False

    async def run(self) -> None:
        """Raises :class:`_BrokenError` at the end of the connection."""
        address = f"tcp://{host_port(self._host, self._publisher.port)}"
        socket = self._context.socket(zmq.SUB)
        socket.setsockopt(zmq.RCVHWM, BACKLOG)
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 5_000)
        socket.subscribe(b"")
        monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        reading = Parts()
        try:
            socket.connect(address)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    await _seen(monitor, zmq.EVENT_HANDSHAKE_SUCCEEDED)
            except TimeoutError:
                self._trouble(f"nobody publishes at {address}")
                await _seen(monitor, zmq.EVENT_HANDSHAKE_SUCCEEDED)
            self._trouble("")
            reading.start("reading", self._read(socket))
            await reading.watch(_seen(monitor, zmq.EVENT_DISCONNECTED))
            raise _BrokenError
        finally:
            await reading.stop()
            socket.disable_monitor()
            socket.close(linger=0)

    async def _read(self, socket: zmq.asyncio.Socket) -> None:
        await self._catch_up(from_start=True)
        told_again = self._next
        while True:
            parts = await socket.recv_multipart()
            number = int.from_bytes(parts[-2], "big") if len(parts) >= 2 else 0
            if number < told_again:
                continue  # came while those before it were told again, and was among them
            told_again = 0
            if number > self._next:
                await self._catch_up()
                told_again = self._next
                if number < told_again:
                    continue
            self._take(number, parts[-1])

    async def _catch_up(self, *, from_start: bool = False) -> None:
        """Have all told again from the batch that is due, as far as the server still has it."""
        port = self._publisher.replay_port
        if port is None:
            return
        socket = self._context.socket(zmq.DEALER)
        # The server drops what does not fit.
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.IPV6, 1)
        try:
            socket.connect(f"tcp://{host_port(self._host, port)}")
            while True:
                due = self._next
                await socket.send_multipart([b"", due.to_bytes(8, "big")])
                gap = False
                while True:
                    async with asyncio.timeout(REPLAY_TIMEOUT):
                        parts = await socket.recv_multipart()
                    if parts[-2] == _END:
                        break
                    number = int.from_bytes(parts[-2], "big")
                    gap = gap or number > self._next
                    if not gap:
                        self._take(number, parts[-1])
                if from_start and not gap and self._next == 0:
                    self._sink.events_began(self._key, self._publisher.rank)
                if not gap or self._next == due:
                    return  # all is there, or the server does not have it any more
        except TimeoutError:
            self._trouble(f"what was missed is not told again at port {port}")
        finally:
            socket.close(linger=0)

    def _take(self, number: int, payload: bytes) -> None:
        self._next = number + 1
        try:
            events = cache_events(payload)
        except msgspec.MsgspecError as error:
            self._sink.events_missed(self._key, self._publisher.rank)
            self._unreadable = True
            self._trouble(f"the events cannot be read: {error}")
            return
        if self._unreadable:
            self._unreadable = False
            self._trouble("")
        self._sink.heard(self._key, self._publisher.rank, number, events)

    def _trouble(self, reason: str) -> None:
        self._sink.troubled(self._key, QUESTION, reason)


async def _seen(monitor: zmq.asyncio.Socket, event: int) -> None:
    """Wait until a socket's monitor tells this."""
    while parse_monitor_message(await monitor.recv_multipart())["event"] != event:
        pass
