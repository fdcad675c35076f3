"""Token counts in a response that flows past in chunks.

Servers put ``usage`` behind what they generated: at the end of a JSON document, and into the last
event of a stream. So the last few kilobytes are enough, whatever the size of the response, and they
are looked at once, when it is over. The Anthropic API tells the prompt's tokens in a stream's first
event: the beginning is kept as well.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

HEAD: Final = 4096
TAIL: Final = 16_384
"""Bytes."""
_KEY: Final = b'"usage"'
# Text that only quotes such JSON has its quotes escaped, so it is no match.
_DECODER: Final = json.JSONDecoder()
_MOST: Final = 2**53
_LOOKS: Final = 100
"""Keys that are looked at, whatever a server writes."""


@dataclass(frozen=True, slots=True)
class Usage:
    """None: the server did not say."""

    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None


class UsageReader:
    """Keeps of the chunks what may hold the usage: at most ``HEAD`` and ``TAIL`` bytes, and the
    rest of one chunk."""

    __slots__ = ("_head", "_held", "_last")

    def __init__(self) -> None:
        self._head = b""
        self._last: deque[bytes] = deque()
        self._held = 0

    def feed(self, chunk: bytes) -> None:
        if not chunk:
            return
        if len(self._head) < HEAD:
            # The first event may come in several chunks.
            self._head += chunk[: HEAD - len(self._head)]
        if len(chunk) > TAIL:
            chunk = chunk[-TAIL:]
        last = self._last
        last.append(chunk)
        self._held += len(chunk)
        while self._held - len(last[0]) >= TAIL:
            self._held -= len(last.popleft())

    def usage(self) -> Usage:
        """What was told so far."""
        told = _told(b"".join(self._last), last=True)
        prompt, cached = _prompt(told)
        if prompt is None:
            prompt, cached = _prompt(_told(self._head, last=False))
        return Usage(prompt, cached, _count(told, "completion_tokens", "output_tokens"))


def _told(data: bytes, last: bool) -> Mapping[str, object]:
    """The last (or first) object under a key ``usage``. It may be null in all events but one."""
    at, end = -1, len(data)
    for _ in range(_LOOKS):
        at = data.rfind(_KEY, 0, end) if last else data.find(_KEY, at + 1)
        if at < 0:
            break
        value = data[at + len(_KEY) :].lstrip(b" \t\r\n")
        if value[:1] == b":":
            text = value[1:].lstrip(b" \t\r\n").decode("utf-8", "replace")
            try:
                found, _ = _DECODER.raw_decode(text)
            except (ValueError, RecursionError):
                found = None
            if isinstance(found, dict):
                return found
        end = at
    return {}


def _prompt(usage: Mapping[str, object]) -> tuple[int | None, int | None]:
    """Tokens of the prompt, and how many of them were cached."""
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    for key in ("prompt_tokens_details", "input_tokens_details"):
        details = usage.get(key)
        if isinstance(details, dict):
            cached = _count(details, "cached_tokens")
            if cached is not None:
                return prompt, cached
    # The Anthropic API leaves what came from the cache, and what went there, out of the input
    # tokens.
    cached = _count(usage, "cache_read_input_tokens")
    if prompt is not None:
        prompt += (cached or 0) + (_count(usage, "cache_creation_input_tokens") or 0)
    return prompt, cached


def _count(usage: Mapping[str, object], *keys: str) -> int | None:
    """A count that a pod wrote into its response: anything may be in it."""
    for key in keys:
        value = usage.get(key)
        if type(value) is int and 0 <= value < _MOST:
            return value
    return None
