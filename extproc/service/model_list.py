"""``GET /v1/models`` where several pools share one base URL: no single pod knows all models.

A URL that leads to one pool is answered by a pod, as ever: its answer says more (the longest
prompt, where an adapter comes from).
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from urllib.parse import unquote

import msgspec

from extproc.picking.director import Director, nothing_to_withdraw
from extproc.request import Answer, Answered, Api, InferenceRequest, Picker, Refused
from pools.model import ObjectName

LIST = "/v1/models"
_JSON = (("content-type", "application/json"),)


class ModelList:
    """A picker that answers questions for models itself, and hands everything else to another."""

    __slots__ = ("_complete", "_director", "_list", "_listed", "_picker", "_since", "settle")

    def __init__(
        self, picker: Picker, director: Director, clock: Callable[[], float] = time.time
    ) -> None:
        """``clock``: seconds since the epoch."""
        self._picker = picker
        self._director = director
        self._since = int(clock())
        self._complete = False
        # Written once per change, not per question: picks wait meanwhile.
        self._listed: Mapping[str, ObjectName] | None = None
        self._list = b""
        self.settle = picker.settle

    def pick(
        self, request: InferenceRequest, answer: Callable[[Answer], None]
    ) -> Callable[[], None]:
        if request.pool is None and request.api is Api.OTHER and request.method in _READS:
            asked = _asked(request.path)
            if asked is not None and len(self._director.fleet.pools) > 1:
                answer(self._one(asked) if asked else self._all())
                return nothing_to_withdraw
        return self._picker.pick(request, answer)

    def _all(self) -> Answered | Refused:
        models = self._director.models
        # Later, a new pod that was not asked yet hides nothing that was known before.
        self._complete = self._complete or models.complete
        if not self._complete:
            return self._director.unknown_model("")
        listed = models.models
        if listed is not self._listed:
            rows = [self._row(name) for name in listed]
            self._list = msgspec.json.encode({"object": "list", "data": rows})
            self._listed = listed
        return Answered(200, self._list, _JSON)

    def _one(self, name: str) -> Answered | Refused:
        if name not in self._director.models.models:
            return self._director.unknown_model(name)
        return Answered(200, msgspec.json.encode(self._row(name)), _JSON)

    def _row(self, name: str) -> dict[str, object]:
        models = self._director.models
        return {
            "id": name,
            "object": "model",
            "created": _seconds(models.created.get(name, "")) or self._since,
            "owned_by": str(models.models[name]),
        }


_READS = frozenset({"GET", "HEAD"})


def _asked(path: str) -> str | None:
    """The model that is asked for; empty: all of them; None: the question is another one."""
    bare = path.partition("?")[0]
    if not bare.startswith(LIST):
        return None
    rest = bare[len(LIST) :]
    if rest in ("", "/"):
        return ""
    return unquote(rest[1:]) if rest[0] == "/" else None


def _seconds(created: str) -> int:
    """Since the epoch, of an RFC 3339 time; 0 for none."""
    try:
        return int(datetime.datetime.fromisoformat(created).timestamp())
    except ValueError:
        return 0
