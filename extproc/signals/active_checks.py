"""Asking pods whether they are well, for those who want more than what requests and scrapes tell.

Off unless configured: a scrape is a health check already. It helps where metrics are served by
another process than the model, or where few requests come by that could fail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from extproc.signals.fetch import Fetch, ScrapeError, fetch_within
from extproc.signals.polling import interval_among


@dataclass(frozen=True, slots=True)
class CheckSettings:
    interval: float = 0.0
    """Seconds between two checks of one endpoint; 0: no checks."""
    timeout: float = 1.0
    """Seconds for one answer."""
    path: str = "/health"
    """Answered with 200 by an endpoint that is well."""
    failures: int = 3
    """Failed checks in a row, until an endpoint is taken out of picks."""
    successes: int = 2
    """Passed checks in a row, until it may come back."""

    def __post_init__(self) -> None:
        if self.interval < 0:
            raise ValueError("check interval: must not be negative")
        if self.timeout <= 0:
            raise ValueError("check timeout: must be greater than 0 seconds")
        if not self.path.startswith("/"):
            raise ValueError(f"check path: {self.path!r} must begin with /")
        if self.failures < 1 or self.successes < 1:
            raise ValueError("check failures and successes: must be at least 1")

    def hold(self, endpoints: int) -> float:
        """Seconds for which one failed check keeps one of so many endpoints out: until two more are
        due. So nobody stays out for ever if checks end."""
        return 2.5 * (interval_among(endpoints, self.interval) + self.timeout)


class CheckState:
    """The checks of one endpoint. It is well until it failed often enough in a row."""

    __slots__ = ("_row", "_settings", "well")

    def __init__(self, settings: CheckSettings) -> None:
        self._settings = settings
        self._row = 0
        """Checks in a row that speak against :attr:`well`."""
        self.well = True

    def passed(self) -> None:
        self._seen(True, self._settings.successes)

    def failed(self) -> None:
        self._seen(False, self._settings.failures)

    def _seen(self, well: bool, enough: int) -> None:
        self._row = 0 if well is self.well else self._row + 1
        if self._row >= enough:
            self.well, self._row = well, 0


class HealthSink(Protocol):
    """Who is told what the checks say. ``key`` is the endpoint's."""

    def check_failed(self, key: str, until: float, now: float) -> None:
        """It is not well, and is to be left out until then at least."""

    def check_passed(self, key: str, now: float) -> None:
        """It is well."""


class ActiveChecks:
    """Checks one endpoint at a time; to be called by a :class:`extproc.signals.polling.Poller`."""

    def __init__(
        self,
        sink: HealthSink,
        fetch: Fetch,
        settings: CheckSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``clock`` is what the sink's times are read from."""
        self._sink = sink
        self._fetch = fetch
        self._settings = settings
        self._clock = clock
        self._states: dict[str, CheckState] = {}

    def keep(self, endpoints: Collection[str]) -> None:
        """Forget all others: one that comes back is a new one."""
        self._states = {key: state for key, state in self._states.items() if key in endpoints}

    async def __call__(self, key: str, address: str) -> None:
        state = self._states.setdefault(key, CheckState(self._settings))
        try:
            url = f"http://{address}{self._settings.path}"
            await fetch_within(self._fetch, url, self._settings.timeout)
        except ScrapeError:
            state.failed()
        else:
            state.passed()
        now = self._clock()
        if state.well:
            self._sink.check_passed(key, now)
        else:
            self._sink.check_failed(key, now + self._settings.hold(len(self._states)), now)
