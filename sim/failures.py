"""Failures on order: how a request is told to go wrong, in one line of text."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

HEADER = "x-sim-fail"

FORMS = "status=503, reset, hang, delay=2s, reset-after=3 (comma-separated)"


@dataclass(frozen=True, slots=True)
class Failure:
    """What happens to a request. Delays are real seconds, whatever the time scale."""

    delay: float = 0.0
    status: int | None = None
    reset: bool = False
    hang: bool = False
    reset_after: int | None = None  # chunks of a stream; a plain answer is reset in its middle


def parse_failure(text: str) -> Failure:
    """Read ``status=503`` or ``503``, ``reset``, ``hang``, ``delay=2s`` or ``delay=150ms``,
    ``reset-after=3``, or several with commas between. ValueError says what is wrong."""
    failure = Failure()
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            match name.strip():
                case "status":
                    failure = replace(failure, status=_status(value))
                case status if status.isdecimal() and not value:
                    failure = replace(failure, status=_status(status))
                case "reset" if not value:
                    failure = replace(failure, reset=True)
                case "hang" if not value:
                    failure = replace(failure, hang=True)
                case "delay":
                    failure = replace(failure, delay=_seconds(value.strip()))
                case "reset-after" if int(value) >= 0:
                    failure = replace(failure, reset_after=int(value))
                case _:
                    raise ValueError
        except ValueError:
            raise ValueError(f"{part.strip()!r} is no failure; known: {FORMS}") from None
    return failure


def _status(text: str) -> int:
    status = int(text)
    if not 400 <= status <= 599:
        raise ValueError
    return status


def _seconds(text: str) -> float:
    seconds = float(text[:-2]) / 1000 if text.endswith("ms") else float(text.removesuffix("s"))
    if not 0 <= seconds < float("inf"):
        raise ValueError
    return seconds


@dataclass(slots=True)
class _Order:
    text: str
    failure: Failure
    rate: float
    left: int | None  # requests still to fail; None: all


class Orders:
    """Failures that an admin call asked for, at most one for each kind of request."""

    KINDS = ("inference", "metrics", "health")

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._orders: dict[str, _Order] = {}

    def __bool__(self) -> bool:
        return bool(self._orders)

    def place(self, kind: str, text: str, rate: float = 1.0, count: int | None = None) -> None:
        """Fail this share of such requests, ``count`` of them or all. ValueError says why not."""
        if kind not in self.KINDS:
            raise ValueError(f"{kind!r} is no kind of request; known: {', '.join(self.KINDS)}")
        if not 0 < rate <= 1:
            raise ValueError(f"rate {rate} must be above 0 and at most 1")
        if count is not None and count < 1:
            raise ValueError(f"count {count} must be at least 1")
        self._orders[kind] = _Order(text, parse_failure(text), rate, count)

    def withdraw(self, kind: str) -> None:
        """Let such requests succeed again."""
        self._orders.pop(kind, None)

    def take(self, kind: str) -> Failure:
        """The fate of one request."""
        order = self._orders.get(kind)
        if order is None or self._random.random() >= order.rate:
            return Failure()
        if order.left is not None:
            order.left -= 1
            if not order.left:
                del self._orders[kind]
        return order.failure

    def describe(self) -> dict[str, Any]:
        return {
            kind: {"fail": order.text, "rate": order.rate, "left": order.left}
            for kind, order in self._orders.items()
        }
