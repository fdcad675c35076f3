"""Failures on order: how a request is told to go wrong, in one line of text."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    """Read ``status=503``, ``reset``, ``hang``, ``delay=2s`` or ``delay=150ms``,
    ``reset-after=3``, or several with commas between. ValueError says what is wrong."""
    failure = Failure()
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            match name.strip():
                case "status" if 400 <= int(value) <= 599:
                    failure = replace(failure, status=int(value))
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


def _seconds(text: str) -> float:
    seconds = float(text[:-2]) / 1000 if text.endswith("ms") else float(text.removesuffix("s"))
    if not 0 <= seconds < float("inf"):
        raise ValueError
    return seconds
