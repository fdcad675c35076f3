"""Picks that Envoy never saw.

Envoy may give a request up (its client hung up, a time-out passed) while the pick is on its way or
the picker too busy to make one. Its access log entry then lacks the pick's id, and nothing would
settle the pick until it expires. Such entries are matched by the request's id instead.

A request that never got a pick (it was refused, its client hung up in the queue) has such an entry
too, and whoever sends it again may keep its id: gateways that retry do. So of each exchange that
ended without a pick, the entry is awaited, and means nothing. Else two requests can share an id
only where clients choose it so; then the newer pick is settled, which errs by one request for as
long as the other lasts.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

LIMIT: Final = 16_384
"""Picks, and given-up requests, that are remembered."""
LATE: Final = 30.0
"""Seconds that the question of a request that was given up may still be on its way to us, and that
the entry of one that got no pick may be."""
_MAX_ID: Final = 256
"""Characters by which ids are told apart; clients may choose longer ones."""


class SentPicks:
    """The newest picks by request id. Pure: time is passed in."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._picks: OrderedDict[str, str] = OrderedDict()
        self._given_up: OrderedDict[str, float] = OrderedDict()
        self._without_pick: OrderedDict[str, float] = OrderedDict()

    def sent(self, request_id: str, pick_id: str, now: float) -> bool:
        """A pick goes out. Returns False if Envoy has given up that request before: then nobody
        will tell of the pick again."""
        request_id = request_id[:_MAX_ID]
        if self._given_up:
            at = self._given_up.pop(request_id, None)
            if at is not None and now - at < LATE:
                return False
        picks = self._picks
        picks[request_id] = pick_id
        if len(picks) > self._limit:
            picks.popitem(last=False)
        return True

    def ended(self, request_id: str, pick_id: str, now: float) -> str:
        """Envoy ended a request; ``pick_id`` is the pick that it saw, empty for none. Returns the
        pick that ends with it, if there is one."""
        if not pick_id:
            return self.given_up(request_id, now)
        request_id = request_id[:_MAX_ID]
        # A newer one is of another request that has the same id.
        if self._picks.get(request_id) == pick_id:
            del self._picks[request_id]
        return pick_id

    def given_up(self, request_id: str, now: float) -> str:
        """Envoy ended a request without having seen a pick. Returns the pick's id; empty if there
        was none (yet)."""
        if not request_id:
            return ""
        request_id = request_id[:_MAX_ID]
        at = self._without_pick.pop(request_id, None)
        if at is not None and now - at < LATE:
            return ""
        pick_id = self._picks.pop(request_id, "")
        if not pick_id:
            self._given_up[request_id] = now
            if len(self._given_up) > self._limit:
                self._given_up.popitem(last=False)
        return pick_id

    def ended_without(self, request_id: str, now: float) -> None:
        """An exchange is over, and no pick went out."""
        if not request_id:
            return
        request_id = request_id[:_MAX_ID]
        if self._given_up.pop(request_id, None) is not None:
            return  # that was its entry
        self._without_pick[request_id] = now
        if len(self._without_pick) > self._limit:
            self._without_pick.popitem(last=False)
