"""One endless task for each endpoint that is followed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping


class EndpointLoops:
    """Starts and cancels the tasks as endpoints come, move to another address, and go."""

    def __init__(
        self, name: str, loop: Callable[[str, str], Coroutine[object, object, None]]
    ) -> None:
        """``loop`` runs for an endpoint's key and the address (``ip:port``) to ask; ``name`` is
        for people."""
        self._name = name
        self._loop = loop
        self._running: dict[str, tuple[str, asyncio.Task[None]]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def follow(self, targets: Mapping[str, str]) -> None:
        """Exactly these from now on: address by endpoint key."""
        for key, (address, task) in list(self._running.items()):
            if targets.get(key) != address:
                task.cancel()
                del self._running[key]
        for key, address in targets.items():
            if key not in self._running:
                task = asyncio.create_task(self._loop(key, address), name=f"{self._name} {key}")
                self._running[key] = (address, task)

    async def stop(self) -> None:
        tasks = [task for _, task in self._running.values()]
        self._running.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
