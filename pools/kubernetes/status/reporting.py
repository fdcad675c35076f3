"""A source whose Worlds are also reported of, to the API server that they are from."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from pools.kubernetes.status.writer import StatusWriter
from pools.model import World
from pools.source import Source


class ReportingSource:
    """Yields what ``source`` yields, without delay; ``writer`` runs beside it."""

    def __init__(self, source: Source, writer: StatusWriter) -> None:
        self._source = source
        self._writer = writer

    async def worlds(self) -> AsyncIterator[World]:
        writing: asyncio.Task[None] | None = None
        async with contextlib.aclosing(self._source.worlds()) as worlds:  # type: ignore[type-var]  # an async generator
            try:
                async for world in worlds:
                    self._writer.offer(world)
                    if writing is None:
                        writing = asyncio.create_task(self._writer.run(), name="status writer")
                    yield world
            finally:
                if writing is not None:
                    writing.cancel()
                    await asyncio.wait([writing])
