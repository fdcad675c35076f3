"""A source whose Worlds are also reported of, to the API server that they are from."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from pools.kubernetes.status.writer import StatusWriter
from pools.model import World
from pools.source import Source
from pools.tasks import Parts


class ReportingSource:
    """Yields what ``source`` yields, without delay; ``writer`` runs beside it."""

    def __init__(self, source: Source, writer: StatusWriter) -> None:
        self._source = source
        self._writer = writer

    async def worlds(self) -> AsyncIterator[World]:
        parts = Parts()
        async with contextlib.aclosing(self._source.worlds()) as worlds:  # type: ignore[type-var]  # an async generator
            try:
                begun = False
                while (world := await parts.watch(_next(worlds))) is not None:
                    self._writer.offer(world)
                    if not begun:
                        begun = True
                        parts.start("status writer", self._writer.run())
                    yield world
            finally:
                await parts.stop()


async def _next(worlds: AsyncIterator[World]) -> World | None:
    return await anext(worlds, None)
