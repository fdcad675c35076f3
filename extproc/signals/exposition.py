"""Finding a few metrics in a page of the Prometheus text format.

A model server's page has a thousand lines, of which half a dozen matter, and it is read several
times a second from every server. So the lines that matter are searched for, and only they are
parsed. What is malformed is skipped: one bad line must not hide the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

_LABEL = re.compile(rb'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\\n]|\\.)*)"\s*(,|\})')
_VALUE = re.compile(rb"\} ([0-9]+(?:\.[0-9]+)?(?:e\+[0-9]{1,2})?)(?:\n|\Z)")
_END = re.compile(rb"\s*\}")
_ESCAPES = {b"\\\\": b"\\", b'\\"': b'"', b"\\n": b"\n"}
_ESCAPE = re.compile(rb"\\[\\\"n]")


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a metric."""

    labels: dict[str, str]
    value: float
    timestamp: int | None = None
    """Milliseconds, where the line has one."""


def series_of(page: bytes, name: bytes) -> Iterator[Series]:
    """The series of one metric, in the order of the page."""
    line_start = b"\n" + name
    at = 0 if page.startswith(name) else page.find(line_start) + 1 or -1
    while at >= 0:
        end = page.find(b"\n", at)
        if end < 0:
            end = len(page)
        series = _parse(page[at + len(name) : end])
        if series is not None:
            yield series
        at = page.find(line_start, end) + 1 or -1


def block_of(page: bytes, name: bytes) -> tuple[int, int]:
    """Where in the page the series of a metric with labels, which stand together, begin and end;
    an empty range if there is none."""
    start = name + b"{"
    begin = 0 if page.startswith(start) else page.find(b"\n" + start) + 1
    if not page.startswith(start, begin):
        return 0, 0
    end = page.find(b"\n", page.rfind(start))
    return begin, len(page) if end < 0 else end + 1


def chosen(
    page: bytes, block: tuple[int, int], choose: Callable[[Sequence[float]], Iterable[int]]
) -> Iterator[Mapping[str, str]]:
    """The labels of some lines of what :func:`block_of` gave: those that ``choose`` picks out of
    all values. For a metric that may have thousands of series, of which few are worth parsing."""
    first, last = block
    texts = _VALUE.findall(page, first, last)
    for text in {texts[at] for at in choose([float(text) for text in texts])} if texts else ():
        end = page.find(b"} " + text, first, last) + 1
        begin = page.rfind(b"\n", first, end) + 1 or first
        if (parsed := _parse(page[page.find(b"{", begin) : end] + b" 0")) is not None:
            yield parsed.labels


def _parse(rest: bytes) -> Series | None:
    """What follows the metric's name; None where the name goes on or the line is malformed."""
    labels: dict[str, str] = {}
    if rest.startswith(b"{"):
        at = 1
        if (end := _END.match(rest, at)) is not None:
            at = end.end()
        else:
            while (found := _LABEL.match(rest, at)) is not None:
                value = found[2]
                if b"\\" in value:
                    value = _ESCAPE.sub(lambda escape: _ESCAPES[escape[0]], value)
                labels[found[1].decode()] = value.decode(errors="replace")
                at = found.end()
                if found[3] == b"}":
                    break
                if (end := _END.match(rest, at)) is not None:  # a comma after the last is allowed
                    at = end.end()
                    break
            else:
                return None
        rest = rest[at:]
    elif not rest[:1].isspace():
        return None
    words = rest.split()
    if not 1 <= len(words) <= 2:
        return None
    try:
        return Series(labels, float(words[0]), int(words[1]) if len(words) == 2 else None)
    except ValueError:
        return None


def newest(series: list[Series]) -> list[Series]:
    """Those with the latest timestamp, or all if none has one."""
    stamps = [one.timestamp for one in series if one.timestamp is not None]
    if not stamps:
        return series
    latest = max(stamps)
    return [one for one in series if one.timestamp == latest]


def finite(value: float) -> bool:
    """Whether it is a number that can be compared: a gauge may be NaN before it is first set."""
    return math.isfinite(value)
