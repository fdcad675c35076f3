"""Recorded traffic in Mooncake's format.

One JSON object a line: ``timestamp`` (milliseconds), ``input_length`` and ``output_length``
(tokens), ``hash_ids`` (an id for each 512 tokens of the prompt, the last one maybe not full; equal
leading ids are an equal prefix).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.engine import EngineConfig
from sim.fleet.prompt import Segment
from sim.fleet.traffic import Arrival, Call, Incident, Traffic

BLOCK_TOKENS = 512


class TraceError(ValueError):
    """The trace cannot be read. The message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One request of a trace."""

    at: float
    """Seconds from the beginning of the trace."""
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]

    def prompt(self) -> tuple[Segment, ...]:
        """What the ids do not cover is nobody else's."""
        segments = []
        left = self.input_tokens
        for block in self.blocks:
            if left <= 0:
                break
            segments.append(Segment(block, min(BLOCK_TOKENS, left)))
            left -= BLOCK_TOKENS
        return tuple(segments)


class _Replay:
    def __init__(self, entries: Sequence[Entry], speed: float) -> None:
        self._entries = entries
        self._speed = speed

    def start(self) -> Iterable[Arrival]:
        for number, entry in enumerate(self._entries):
            yield (
                entry.at / self._speed,
                Call(
                    id=str(number),
                    prompt=entry.prompt(),
                    output_tokens=max(1, entry.output_tokens),
                    output=1_000_000_000 + number,
                ),
            )

    def ended(self, call: Call, at: float) -> Iterable[Arrival]:
        return ()


@dataclass(frozen=True, slots=True)
class RecordedTrace:
    """A trace as it was, or faster or slower. Its times are fixed: seeds change picks only."""

    name: str
    title: str
    entries: tuple[Entry, ...]
    loads: Sequence[float] = (1.0,)
    pods: int = 8
    unit: str = "x"

    def traffic(self, load: float, pods: int, rng: random.Random) -> Traffic:
        return _Replay(self.entries, load)

    def engines(self, pods: int, engine: EngineConfig) -> Sequence[EngineConfig]:
        return [engine] * pods

    def incidents(self, load: float) -> Sequence[Incident]:
        return ()


def read_trace(path: Path) -> RecordedTrace:
    """OSError, or TraceError with the line that is wrong."""
    entries = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                entries.append(_entry(line, f"{path}, line {number}"))
    if not entries:
        raise TraceError(f"{path} has no requests")
    first = min(entry.at for entry in entries)
    entries = [
        Entry(e.at - first, e.input_tokens, e.output_tokens, e.blocks)
        for e in sorted(entries, key=lambda entry: entry.at)
    ]
    return RecordedTrace(
        path.name,
        f"{len(entries):,} recorded requests over {entries[-1].at:,.0f} s",
        tuple(entries),
    )


def _entry(line: str, where: str) -> Entry:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise TraceError(f"{where}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise TraceError(f"{where}: not a JSON object")
    at, size, output = (
        _number(values, name, where) for name in ("timestamp", "input_length", "output_length")
    )
    ids = values.get("hash_ids", [])
    if not isinstance(ids, list) or not all(type(i) is int and i >= 0 for i in ids):
        raise TraceError(f"{where}: hash_ids must be a list of whole numbers from 0")
    if size < 1:
        raise TraceError(f"{where}: input_length must be at least 1")
    if len(ids) != -(-int(size) // BLOCK_TOKENS):
        raise TraceError(
            f"{where}: {len(ids)} hash_ids do not cover input_length {size:g}: there must be one"
            f" for each {BLOCK_TOKENS} tokens or part of them"
        )
    return Entry(at / 1000, int(size), int(output), tuple(ids))


def _number(values: dict[str, object], name: str, where: str) -> float:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise TraceError(f"{where}: {name} must be a number from 0, not {value!r}")
    return value
