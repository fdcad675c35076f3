"""Listening to the KV cache events that vLLM publishes over ZeroMQ.

Servers publish them when started with ``--kv-events-config '{"enable_kv_cache_events": true,
"publisher": "zmq", "endpoint": "tcp://*:5557"}'``. Needs pyzmq.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog
import zmq
import zmq.asyncio

from extproc.picking.scheduling.prefix.exact import CacheEvent, Cleared, Removed, Stored
from extproc.signals.endpoint_loops import EndpointLoops
from pools.model import host_port
from pools.tasks import Parts

log = structlog.get_logger(__name__)

BACKLOG = 10_000
"""Batches that wait to be read; a slow reader loses the rest, which shows as a gap."""
RETRY = 5.0
"""Seconds until an endpoint is tried again for which there was no socket."""


class _Event(msgspec.Struct, array_like=True, tag=True):
    pass


class BlockStored(_Event):
    block_hashes: list[int | bytes]
    parent_block_hash: int | bytes | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None


class BlockRemoved(_Event):
    block_hashes: list[int | bytes]
    medium: str | None = None


class AllBlocksCleared(_Event):
    pass


class _Batch(msgspec.Struct, array_like=True):
    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]


_decoder = msgspec.msgpack.Decoder(_Batch)
_GPU = (None, "GPU", "gpu")


def cache_events(payload: bytes) -> list[CacheEvent]:
    """The events of a batch that are about the GPU's cache. Raises ``msgspec.DecodeError`` for
    what is no batch."""
    events: list[CacheEvent] = []
    for event in _decoder.decode(payload).events:
        if isinstance(event, AllBlocksCleared):
            events.append(Cleared())
        elif event.medium not in _GPU:
            continue
        elif isinstance(event, BlockRemoved):
            events.append(Removed(event.block_hashes))
        else:
            # An adapter that is only numbered cannot be told from others: no request finds it.
            adapter = event.lora_name or (f"\0{event.lora_id}" if event.lora_id else "")
            events.append(
                Stored(
                    event.block_hashes,
                    event.parent_block_hash,
                    event.token_ids,
                    event.block_size,
                    adapter,
                )
            )
    return events


Heard = Callable[[str, int, Sequence[CacheEvent]], None]
"""Called with an endpoint's key, the number of the batch and its events."""


class KVEvents:
    """Listens to every endpoint that it is told to follow."""

    def __init__(self, port: int, heard: Heard, lost: Callable[[str], None]) -> None:
        """``lost`` is called with the key of an endpoint whose connection broke."""
        self._port = port
        self._heard = heard
        self._lost = lost
        self._context = zmq.asyncio.Context()
        # ZeroMQ's own bound is a thousand, and each endpoint takes two.
        self._context.set(zmq.MAX_SOCKETS, self._context.get(zmq.SOCKET_LIMIT))
        self._loops = EndpointLoops("KV events", self._listen)

    def follow(self, endpoints: Mapping[str, str]) -> None:
        """Listen to exactly these: IP address by endpoint key."""
        self._loops.follow(
            {key: host_port(address, self._port) for key, address in endpoints.items()}
        )

    async def run(self) -> None:
        """A part of a server: until cancelled."""
        try:
            await self._loops.run()
        finally:
            self._context.destroy(linger=0)

    async def _listen(self, key: str, address: str) -> None:
        failing = False
        while True:
            try:
                await self._connection(key, address)
            except zmq.ZMQError as error:
                # There is no socket to be had: the process has too many open files.
                if not failing:
                    failing = True
                    log.warning("KV events cannot be had", endpoint=key, error=str(error))
                self._lost(key)
            await asyncio.sleep(RETRY)

    async def _connection(self, key: str, address: str) -> None:
        """Hear one endpoint until cancelled; ZeroMQ connects again by itself. Raises ZMQError."""
        watching = Parts()
        with contextlib.ExitStack() as sockets:
            socket = self._context.socket(zmq.SUB)
            sockets.callback(socket.close, linger=0)
            socket.setsockopt(zmq.RCVHWM, BACKLOG)
            socket.setsockopt(zmq.IPV6, 1)
            socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
            socket.setsockopt(zmq.HEARTBEAT_IVL, 5_000)
            socket.subscribe(b"")
            monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            sockets.callback(socket.disable_monitor)
            watching.start("monitor", self._watch(monitor, key))
            try:
                socket.connect(f"tcp://{address}")
                await watching.watch(self._hear(socket, key))
            finally:
                await watching.stop()

    async def _hear(self, socket: zmq.asyncio.Socket, key: str) -> None:
        complained = False
        while True:
            parts = await socket.recv_multipart()
            try:
                _topic, number, payload = parts
                events = cache_events(payload)
                self._heard(key, int.from_bytes(number, "big"), events)
            except (ValueError, msgspec.MsgspecError) as error:
                # What it holds is not known any more.
                self._lost(key)
                if not complained:
                    complained = True
                    log.warning("KV events not understood", endpoint=key, error=str(error))

    async def _watch(self, monitor: zmq.asyncio.Socket, key: str) -> None:
        while True:
            await monitor.recv_multipart()
            self._lost(key)
