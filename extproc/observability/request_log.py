"""One log line for a request, when it is over.

Off unless asked for, and then off the path of requests: a thread of its own makes and writes the
lines. If it cannot keep up, lines are left out rather than requests held up.
"""

from __future__ import annotations

import queue
import random
import threading

import structlog

from extproc.picking.decisions import DecisionRecord

log = structlog.get_logger(__name__)

CAPACITY = 10_000


class RequestLog:
    """``share`` of the requests (0 to 1) are logged."""

    def __init__(self, share: float, rng: random.Random | None = None) -> None:
        if not 0.0 <= share <= 1.0:
            raise ValueError("the share of requests to log must be between 0 and 1")
        self._share = share
        self._rng = rng or random.Random()
        self._queue: queue.SimpleQueue[DecisionRecord | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.left_out = 0
        """Lines that were not written because too many were waiting."""

    def start(self) -> None:
        self._thread = threading.Thread(target=self._write, name="request log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is waiting, and end."""
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join()
        self._thread = None
        if self.left_out:
            log.warning("request log could not keep up", left_out=self.left_out)

    def ended(self, record: DecisionRecord) -> None:
        if self._share < 1.0 and self._rng.random() >= self._share:
            return
        if self._queue.qsize() >= CAPACITY:
            self.left_out += 1
            return
        self._queue.put(record)

    def _write(self) -> None:
        while (record := self._queue.get()) is not None:
            log.info("request", **record.summary())
