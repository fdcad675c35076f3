"""One endless task for each endpoint that is followed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping

from pools.tasks import Parts


class EndpointLoops:
    """Starts and cancels the tasks as endpoints come, move to another address, and go."""

    def __init__(
        self, name: str, loop: Callable[[str, str], Coroutine[object, object, None]]
    ) -> None:
        """``loop`` runs for an endpoint's key and the address to ask; ``name`` is for people."""
        self._name = name
        self._loop = loop
        self._parts = Parts()
        self._running: dict[str, tuple[str, asyncio.Task[None]]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def follow(self, targets: Mapping[str, str]) -> None:
        """Exactly these from now on: address by endpoint key."""
        for key, (address, task) in list(self._running.items()):
            if targets.get(key) != address:
                self._parts.cancel(task)
                del self._running[key]
        for key, address in targets.items():
            if key not in self._running:
                task = self._parts.start(f"{self._name} {key}", self._loop(key, address))
                self._running[key] = (address, task)

    async def run(self) -> None:
        """A part of a server: until cancelled. Raises PartEndedError when a loop ends."""
        try:
            await self._parts.run()
        finally:
            self._running.clear()
