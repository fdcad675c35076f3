"""Asking running servers what they know: a client of their debug pages."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import aiohttp

from poolpilot.errors import PoolPilotError

LIMIT = aiohttp.ClientTimeout(total=10)


@dataclass(frozen=True, slots=True)
class PodRow:
    """What the endpoint picker knows of one pod."""

    name: str
    address: str
    running: int | None = None
    """None: its metrics were not read yet."""
    waiting: int | None = None
    kv_usage: float | None = None
    """0 to 1."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters that requests use now."""
    picked: int = 0
    """Requests that were sent to it since the picker started."""


class NoAnswerError(PoolPilotError):
    """A server cannot be asked, or has no answer. The message says which, and why."""


class UnreachableError(NoAnswerError):
    """Nobody answers there."""


async def fetch(session: aiohttp.ClientSession, url: str) -> Any:
    """The JSON document at ``url``."""
    try:
        async with session.get(url) as response:
            text = await response.text()
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise UnreachableError(f"{url} does not answer: {reason}") from error
    try:
        document = json.loads(text)
    except ValueError as error:
        raise NoAnswerError(f"{url} is not a debug page: {text[:200].strip()}") from error
    if response.status != 200:
        explained = document.get("error") if isinstance(document, dict) else None
        raise NoAnswerError(f"{url}: {explained or f'status {response.status}'}")
    return document


async def fetch_all(*urls: str) -> list[Any]:
    """The documents at ``urls``, for a program that asks once."""
    async with aiohttp.ClientSession(timeout=LIMIT) as session:
        return [await fetch(session, url) for url in urls]


async def endpoint_rows(session: aiohttp.ClientSession, extproc: str) -> list[PodRow]:
    """Every endpoint that the picker at ``extproc`` knows, by name."""
    document = await fetch(session, f"{extproc}/debug/endpoints")
    rows = [
        PodRow(
            name=row["name"],
            address=row["endpoint"],
            running=row["running"],
            waiting=row["waiting"],
            kv_usage=row["kv_usage"],
            adapters=tuple(row["adapters"]),
            picked=row["picked"],
        )
        for row in document["endpoints"]
    ]
    return sorted(rows, key=lambda row: _natural(row.name))


def _natural(name: str) -> list[tuple[int, str]]:
    """For sorting: ``pod-2`` before ``pod-10``."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]
