"""Servers that are paused."""

from __future__ import annotations

from extproc.signals.fetch import ScrapeError
from extproc.signals.pauses import ASK_AGAIN_AFTER, Pauses


class Sink:
    def __init__(self) -> None:
        self.now: dict[str, bool] = {}

    def paused(self, key: str, paused: bool) -> None:
        self.now[key] = paused


async def test_a_server_that_can_be_paused_is_asked_and_one_that_cannot_is_left_alone() -> None:
    sink, asked = Sink(), 0
    answer: bytes | ScrapeError = b'{"is_paused": true}'
    at = 0.0

    async def fetch(url: str) -> bytes:
        nonlocal asked
        assert url == "http://10.0.0.1:8000/is_paused"
        asked += 1
        if isinstance(answer, ScrapeError):
            raise answer
        return answer

    ask = Pauses(sink, fetch, lambda: at)
    await ask("a", "10.0.0.1:8000")
    assert sink.now == {"a": True}
    answer = b'{"is_paused": false}'
    await ask("a", "10.0.0.1:8000")
    assert sink.now == {"a": False}

    answer = ScrapeError("answered 404", alive=True)
    await ask("a", "10.0.0.1:8000")
    await ask("a", "10.0.0.1:8000")
    assert asked == 3
    at = ASK_AGAIN_AFTER + 1
    await ask("a", "10.0.0.1:8000")
    assert asked == 4
