"""The LoRA slots of one engine."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection


class AdapterSlots:
    """``max_loras`` slots on the GPU; adapters that nobody uses are swapped out, oldest first."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._active: dict[str, int] = {}  # adapter: running requests
        self._idle: OrderedDict[str, None] = OrderedDict()  # in a slot, least recently used first
        self.loads = 0

    @property
    def active(self) -> Collection[str]:
        """Adapters that running requests use."""
        return self._active.keys()

    @property
    def resident(self) -> Collection[str]:
        """Adapters in a slot, used or not."""
        return [*self._idle, *self._active]

    def admits(self, adapter: str) -> bool:
        """Whether a request for this adapter may start now."""
        return adapter in self._active or len(self._active) < self.slots

    def acquire(self, adapter: str) -> bool:
        """Start one request; True if the adapter had to be loaded. Only after :meth:`admits`."""
        if adapter in self._active:
            self._active[adapter] += 1
            return False
        loaded = adapter not in self._idle
        if loaded:
            self.loads += 1
            if len(self._active) + len(self._idle) >= self.slots:
                self._idle.popitem(last=False)
        else:
            del self._idle[adapter]
        self._active[adapter] = 1
        return loaded

    def release(self, adapter: str) -> None:
        """End one request; the adapter keeps its slot until another needs it."""
        self._active[adapter] -= 1
        if not self._active[adapter]:
            del self._active[adapter]
            self._idle[adapter] = None

    def evict(self, adapter: str) -> None:
        """Take an unused adapter out of its slot; one in use stays until its requests end."""
        self._idle.pop(adapter, None)
