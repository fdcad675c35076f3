"""Log lines on their way to a stream that may not take them.

A terminal that was stopped with Ctrl-S, a log driver that blocks or a pipe that nobody reads must
not stop a server: whoever logs puts the line into a bounded queue, and a thread writes it. What
finds no room is left out and counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, TextIO

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CAPACITY: Final = 4 << 20
"""Characters that may wait: some ten thousand lines."""
LINE_LIMIT: Final = 64 << 10
"""Characters of one line; more of it is cut off, so that one cannot take all the room."""
FLUSH_WITHIN: Final = 2.0
"""Seconds that a process which ends waits for the reader of its log."""

_SELF: Final = "poolpilot.logs"


class LogQueue(logging.Handler):
    """Formats where it is called, as the context is known there, and writes on a thread of its own,
    which starts with the first line."""

    def __init__(self, stream: TextIO, capacity: int = CAPACITY) -> None:
        super().__init__()
        self.dropped = 0
        """Lines that found no room, since the start."""
        self._write = _writer(stream)
        self._capacity = capacity
        self._waiting: deque[str] = deque()
        self._size = 0
        self._untold = 0
        self._changed = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None
        self._closing = False
        self._writing = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:
            line = f"a log line could not be made: {type(error).__name__}: {error}"
        if len(line) > LINE_LIMIT:
            line = line[:LINE_LIMIT] + "..."
        with self._changed:
            if self._size + len(line) > self._capacity or self._closing:
                self.dropped += 1
                self._untold += 1
                return
            self._waiting.append(line)
            self._size += len(line)
            if self._thread is None:
                # A daemon: a reader that never comes back must not keep the process from ending.
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, within: float = FLUSH_WITHIN) -> None:
        """Wait until all is written that was logged before, but no longer than ``within``
        seconds."""
        deadline = time.monotonic() + within
        with self._changed:
            while self._waiting or self._writing:
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def close(self) -> None:
        """Write what waits, for as long as :meth:`flush` may take, and take no more."""
        self.flush()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        super().close()

    def createLock(self) -> None:  # noqa: N802  # the name is logging's
        """None: the queue has a lock of its own, which is never held while something blocks."""
        self.lock = None

    def _run(self) -> None:
        while (line := self._next()) is not None:
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more
                self._write(line + "\n")

    def _next(self) -> str | None:
        with self._changed:
            self._writing = False
            while not self._waiting and not self._untold:
                self._changed.notify_all()
                if self._closing:
                    return None
                self._changed.wait()
            self._writing = True
            if self._waiting:
                line = self._waiting.popleft()
                self._size -= len(line)
                return line
            # After what waited: what comes next is newer than what was left out.
            untold, self._untold = self._untold, 0
        return self.format(_gap(untold))


class DroppedLines(Collector):
    """The count for Prometheus, of whatever queue is in use when it asks."""

    def __init__(self, name: str, queue: Callable[[], LogQueue | None]) -> None:
        self._name = name
        self._queue = queue

    def collect(self) -> Iterator[Metric]:
        queue = self._queue()
        family = CounterMetricFamily(
            self._name, "Log lines that were left out because nobody read the log."
        )
        family.add_metric((), queue.dropped if queue is not None else 0)
        yield family


def _gap(lines: int) -> logging.LogRecord:
    text = f"the log was not read for a while, and {lines} lines were left out"
    return logging.LogRecord(_SELF, logging.WARNING, "", 0, text, (), None)


def _writer(stream: TextIO) -> Callable[[str], None]:
    """Past the stream's own buffers: their lock would be held while the reader stalls, and Python
    wants it when it ends."""
    try:
        descriptor = stream.fileno()
    except (OSError, AttributeError, ValueError):
        return lambda line: _through(stream, line)
    encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(line: str) -> None:
        left = memoryview(line.encode(encoding, "backslashreplace"))
        while left:
            try:
                left = left[os.write(descriptor, left) :]
            except BlockingIOError:
                select.select((), (descriptor,), ())

    return write


def _through(stream: TextIO, line: str) -> None:
    stream.write(line)
    stream.flush()
