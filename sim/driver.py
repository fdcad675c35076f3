"""Runs an engine on the event loop's clock."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Protocol

from sim.engine import Engine
from sim.events import Finished, FirstToken, Request
from sim.metrics import Metrics

# Work on behalf of streams rests ten times as long as it took. Where tokens come faster than
# that, a chunk carries several, as it does in vLLM when its API server falls behind. First tokens
# and ends are not kept waiting by it.
_REST = 10
_MIN_REST_SECONDS = 0.001


class Listener(Protocol):
    """Whoever waits for one sequence."""

    finish_reason: str

    def on_first_token(self, event: FirstToken) -> None: ...

    def on_tokens(self, generated: int) -> None:
        """There may be new tokens; called for streaming listeners only."""

    def on_finished(self, event: Finished) -> None: ...


@dataclass(frozen=True, slots=True)
class _Entry:
    request: Request
    listener: Listener


class Driver:
    """One engine, its metrics, and those who wait for it. Time passes ``scale`` times faster than
    outside. Sleeps until something happens that somebody is told."""

    def __init__(self, engine: Engine, metrics: Metrics, scale: float) -> None:
        self.engine = engine
        self._metrics = metrics
        self._scale = scale
        self._loop = asyncio.get_running_loop()
        self._origin = self._loop.time()
        self._entries: dict[str, _Entry] = {}
        self._streams: dict[str, Listener] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = math.inf
        self._rest_until = 0.0
        self._closed = False

    @property
    def live(self) -> int:
        """Sequences in the engine."""
        return len(self._entries)

    def submit(self, request: Request, listener: Listener, *, streaming: bool) -> None:
        """Start a sequence. ValueError if the engine can never serve it."""
        now = self._now()
        self.engine.submit(request, now)
        self._entries[request.id] = _Entry(request, listener)
        if streaming:
            self._streams[request.id] = listener
        self._metrics.submitted(request.id, now, request.prompt_tokens)
        self._arm()

    def abort(self, request_id: str) -> None:
        """End a sequence if it has not ended; its listener hears nothing more."""
        if request_id not in self._entries:
            return
        self.settle()
        if self._entries.pop(request_id, None) is not None:
            self._streams.pop(request_id, None)
            self.engine.abort(request_id, self._now())
            self._metrics.aborted(request_id)
            self._arm()

    def settle(self) -> None:
        """Tell everybody what has happened by now."""
        for event in self.engine.advance(self._now()):
            self._metrics.observe(event)
            match event:
                case FirstToken(request_id=request_id):
                    self._entries[request_id].listener.on_first_token(event)
                case Finished(request_id=request_id):
                    entry = self._entries.pop(request_id)
                    self._streams.pop(request_id, None)
                    reason = entry.listener.finish_reason
                    self._metrics.finished(event, entry.request.output_tokens, reason)
                    entry.listener.on_finished(event)
                case _:
                    pass

    def close(self) -> None:
        """Stop the clock."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _now(self) -> float:
        return (self._loop.time() - self._origin) * self._scale

    def _wake(self) -> None:
        self._timer = None
        self.settle()
        begun = self._loop.time()
        if self._streams and begun >= self._rest_until:
            for request_id, listener in self._streams.items():
                listener.on_tokens(self.engine.generated(request_id))
            ended = self._loop.time()
            self._rest_until = ended + max(_MIN_REST_SECONDS, _REST * (ended - begun))
        self._arm()

    def _arm(self) -> None:
        engine = self.engine
        due = engine.next_event_time()
        if due == math.inf or self._closed:
            return
        when = self._origin + due / self._scale
        if self._streams:
            step = self._origin + engine.next_step_time() / self._scale
            when = min(when, max(step, self._rest_until))
        if self._timer is not None:
            if self._timer_due <= when:
                return
            self._timer.cancel()
        self._timer_due = when
        self._timer = self._loop.call_at(when, self._wake)
