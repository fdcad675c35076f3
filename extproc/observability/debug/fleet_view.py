"""All pools and endpoints at one moment, for pages that follow them.

The picker's thread makes it, so it is made at most every half second however many look, and in
pieces between which requests are picked for: a thousand endpoints at once would hold them up for
tens of milliseconds.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import msgspec

from extproc.config.profiles_file import ProfilesFile
from extproc.observability.debug.rows import (
    Json,
    absent_row,
    endpoint_row,
    index_row,
    load_row,
    pool_row,
    profiles_row,
)
from extproc.picking.director import Director

KEPT_FOR = 0.5
"""Seconds."""
_PIECE = 20
"""Endpoints between two of which others get their turn: half a millisecond."""


class FleetView:
    """What ``/debug/fleet`` shows."""

    def __init__(
        self,
        director: Director,
        ready: Callable[[], bool],
        profiles: ProfilesFile | None,
        clock: Callable[[], float],
    ) -> None:
        self._director = director
        self._ready = ready
        self._profiles = profiles
        self._clock = clock
        self._made = b""
        self._made_at = float("-inf")
        self._making = asyncio.Lock()

    async def get(self) -> bytes:
        """JSON."""
        async with self._making:
            if self._clock() - self._made_at >= KEPT_FOR:
                self._made = await self._make()
                self._made_at = self._clock()
            return self._made

    async def _make(self) -> bytes:
        director = self._director
        fleet, world, now = director.fleet, director.world, self._clock()
        pools = [pool_row(view, now) for view in fleet.pools.values()]
        rows: list[msgspec.Raw] = []
        members = iter(sorted(fleet.members.items()))
        while piece := list(itertools.islice(members, _PIECE)):
            for _, one in piece:
                row = endpoint_row(one, now) | load_row(one, fleet.load)
                rows.append(msgspec.Raw(msgspec.json.encode(row)))
            await asyncio.sleep(0)
        shown: Json = {
            "ready": self._ready(),
            "revision": world.revision if world is not None else None,
            "error": director.world_error or None,
            "pools": pools,
            "endpoints": rows,
            "absent": [absent_row(one) for one in world.absent] if world is not None else [],
            "problems": [one.parts() for one in world.problems] if world is not None else [],
            "profiles": profiles_row(self._profiles),
            "prefix_index": index_row(fleet.load),
            "open_requests": len(director.ledger),
            "decisions": director.decisions.number,
        }
        return msgspec.json.encode(shown)
