"""What a model server says about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Adapters:
    """LoRA adapters of one server (vLLM's ``lora_requests_info``)."""

    active: frozenset[str] = frozenset()
    """Adapters that running requests use."""
    waiting: frozenset[str] = frozenset()
    """Adapters that only waiting requests use."""
    capacity: int = 0
    """Adapters that fit at once (``max_lora``)."""


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The size of a server's KV cache: ``blocks`` blocks of ``block_size`` tokens."""

    block_size: int
    blocks: int | None = None


@dataclass(frozen=True, slots=True)
class Latency:
    """How long first tokens took, since the server started."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Signals:
    """One server's own numbers. None: not given, which is not the same as zero."""

    waiting: int | None = None
    """Requests in its queue."""
    running: int | None = None
    """Requests in its batch."""
    kv_usage: float | None = None
    """Share of its KV cache in use, 0 to 1."""
    adapters: Adapters | None = None
    cache: CacheConfig | None = None
    latency: Latency | None = None
    progress: float | None = None
    """A number that grows as long as the engine works."""
    asleep: bool | None = None
    """Whether it takes requests and does not work on them until it is woken up."""

    def __bool__(self) -> bool:
        """Whether it says anything at all."""
        return any(getattr(self, name) is not None for name in SIGNAL_NAMES)


SIGNAL_NAMES = (
    "waiting",
    "running",
    "kv_usage",
    "adapters",
    "cache",
    "latency",
    "progress",
    "asleep",
)
NOTHING = Signals()


def merge(
    kept: Signals, times: dict[str, float], sample: Signals, now: float, keep_for: float
) -> Signals:
    """Lay a new sample over what is known, each signal on its own.

    A signal that the sample lacks keeps its last value for ``keep_for`` seconds and is then
    forgotten. ``times`` (when each signal was last given) is brought up to date in place.
    """
    values: dict[str, object] = {}
    for name in SIGNAL_NAMES:
        value = getattr(sample, name)
        if value is not None:
            times[name] = now
        elif name in times:
            if now - times[name] <= keep_for:
                value = getattr(kept, name)
            else:
                del times[name]
        values[name] = value
    return Signals(**values)  # type: ignore[arg-type]  # each value comes from the same field
