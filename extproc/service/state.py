"""The file in which a picker keeps what it has learned, so that it does not come back empty.

::

    poolpilot-state 1\\n | XXH3 of what follows, 8 bytes | MessagePack

It is written as a whole beside its place and moved there, so a reader finds the old or the new one.
It holds hashes of prompts and names of models, no text of anybody.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import structlog
from xxhash import xxh3_64_digest

from extproc.picking.scheduling.known import Known, KnownCache

log = structlog.get_logger(__name__)

INTERVAL: Final = 10.0
"""Seconds between two writes: what is lost when the process is killed."""
RECALLED_FOR: Final = 60.0
"""Seconds after a start in which an endpoint that comes is taken for the one that was known."""
MAX_AGE: Final = 3600.0
"""Seconds after which servers are taken to have cached other things since."""
MAX_BYTES: Final = 64 << 20
"""A larger file is none of ours: the index is bounded to a sixth of that."""

_NAME: Final = b"poolpilot-state "
_HEAD: Final = _NAME + b"1\n"
_DIGEST: Final = 8


class _Cache(msgspec.Struct):
    blocks: bytes
    sizes: bytes
    tokens: int
    first_tokens: int | None
    first_token_seconds: float


class _State(msgspec.Struct):
    written: float
    """Seconds since 1970."""
    block_tokens: int
    caches: dict[str, _Cache]
    outputs: dict[str, float]
    expected_output: float


class StateFile:
    """``now`` tells the time of day, in seconds since 1970."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self.path = path
        self._now = now
        self._foreign = False
        self._complained = ""
        # Threads of writes that nobody waits for any more may still be at it.
        self._one_writes = threading.Lock()

    def read(self) -> Known | None:
        """What was known; None where nothing can be used. One line in the log says why not."""
        try:
            known = self._read()
        except FileNotFoundError:
            log.info("no state yet: the picker begins with nothing", file=str(self.path))
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            log.warning(
                "the state is not used: the picker begins with nothing",
                file=str(self.path),
                why=str(error),
            )
        else:
            log.info(
                "state read",
                file=str(self.path),
                endpoints=len(known.caches),
                blocks=sum(len(cache.blocks) for cache in known.caches.values()),
            )
            return known
        return None

    def _read(self) -> Known:
        with self.path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if not data.startswith(_NAME):
            self._foreign = True
            raise ValueError("it is no state of a picker, and is left as it is")
        if not data.startswith(_HEAD):
            raise ValueError("it was written by another version")
        body = memoryview(data)[len(_HEAD) + _DIGEST :]
        if len(data) > MAX_BYTES or xxh3_64_digest(body) != data[len(_HEAD) :][:_DIGEST]:
            raise ValueError("it is damaged")
        state = msgspec.msgpack.decode(body, type=_State)
        age = self._now() - state.written
        if age > MAX_AGE:
            raise ValueError(f"it is {age:.0f} s old, where {MAX_AGE:.0f} is most")
        caches = {key: _unpacked(cache) for key, cache in state.caches.items()}
        return Known(state.block_tokens, caches, state.outputs, state.expected_output)

    async def write(self, parts: Iterator[Known]) -> None:
        """Write all of ``parts`` as one, giving way to others between two of them. What cannot be
        written is said once, and is no reason to end."""
        state: _State | None = None
        for part in parts:
            if state is None or state.block_tokens != part.block_tokens:
                state = _State(self._now(), part.block_tokens, {}, {}, 0.0)
            state.outputs = dict(part.outputs)
            state.expected_output = part.expected_output
            for key, cache in part.caches.items():
                state.caches[key] = _packed(cache)
            await asyncio.sleep(0)
        if state is None or self._foreign:
            return
        try:
            await asyncio.to_thread(self._write, state)
        except OSError as error:
            if str(error) != self._complained:
                log.warning("the state cannot be written", file=str(self.path), why=str(error))
            self._complained = str(error)
        else:
            self._complained = ""

    def _write(self, state: _State) -> None:
        body = msgspec.msgpack.encode(state)
        with self._one_writes:
            self._replace(_HEAD + xxh3_64_digest(body) + body)

    def _replace(self, data: bytes) -> None:
        fresh = self.path.with_name(self.path.name + ".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        fresh.replace(self.path)


def _packed(cache: KnownCache) -> _Cache:
    return _Cache(
        array("Q", cache.blocks).tobytes(),
        array("H", cache.sizes).tobytes(),
        cache.tokens,
        cache.first_tokens,
        cache.first_token_seconds,
    )


def _unpacked(cache: _Cache) -> KnownCache:
    blocks, sizes = array("Q"), array("H")
    blocks.frombytes(cache.blocks)
    sizes.frombytes(cache.sizes)
    if len(blocks) != len(sizes):
        raise ValueError("it is damaged")
    return KnownCache(blocks, sizes, cache.tokens, cache.first_tokens, cache.first_token_seconds)
