"""Asking endpoints now and then, on a clock of our own."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from extproc.signals.polling import Poller
from pools.tasks import PartEndedError, Parts

pytestmark = pytest.mark.looptime


async def ask_for(seconds: float, poller: Poller) -> None:
    """Let it ask for so long."""
    parts = Parts()
    parts.start("poller", poller.run())
    try:
        await parts.watch(asyncio.sleep(seconds))
    finally:
        await parts.stop()


class Asked:
    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.hangs: set[str] = set()
        self.broken: set[str] = set()

    async def __call__(self, key: str, address: str) -> None:
        self.counts[key, address] += 1
        if key in self.hangs:
            await asyncio.Event().wait()
        if key in self.broken:
            raise RuntimeError("what nobody thought of")


async def test_each_endpoint_is_asked_about_once_in_an_interval() -> None:
    asked = Asked()
    poller = Poller("test", asked, interval=10)
    poller.follow({"a": "10.0.0.1:1", "b": "10.0.0.2:1"})
    await ask_for(100, poller)
    assert asked.counts.keys() == {("a", "10.0.0.1:1"), ("b", "10.0.0.2:1")}
    assert all(9 <= count <= 12 for count in asked.counts.values())


async def test_one_that_hangs_or_breaks_delays_nobody_and_is_asked_again_if_it_broke() -> None:
    asked = Asked()
    asked.hangs, asked.broken = {"a"}, {"b"}
    poller = Poller("test", asked, interval=1)
    poller.follow(dict.fromkeys("abc", "x"))
    await ask_for(20, poller)
    assert asked.counts["a", "x"] == 1
    assert asked.counts["b", "x"] > 15
    assert asked.counts["c", "x"] > 15


async def test_an_endpoint_that_left_is_not_asked_and_one_that_moved_is_asked_anew() -> None:
    asked = Asked()
    poller = Poller("test", asked, interval=1)
    poller.follow({"a": "old", "b": "x"})
    await asyncio.sleep(5)
    poller.follow({"a": "new"})
    before = Counter(asked.counts)
    await ask_for(5, poller)
    assert asked.counts["b", "x"] == before["b", "x"]
    assert asked.counts["a", "old"] == before["a", "old"]
    assert asked.counts["a", "new"] >= 4


async def test_a_thousand_endpoints_are_asked_no_more_than_a_hundred_times_a_second() -> None:
    asked = Asked()
    poller = Poller("test", asked, interval=1)
    poller.follow({f"pod-{n}": "x" for n in range(1000)})
    await asyncio.sleep(1)
    first = asked.counts.total()
    await ask_for(100, poller)
    assert asked.counts.total() - first <= 100 * 100 * 1.15


async def test_a_loop_that_ends_ends_the_poller_which_names_the_endpoint() -> None:
    async def ask(key: str, address: str) -> None:
        raise asyncio.CancelledError  # an Exception is logged, and the loop goes on

    poller = Poller("check", ask, interval=1)
    poller.follow({"10.0.0.1:8000": "x"})
    with pytest.raises(
        PartEndedError, match=r"poller ended: check 10\.0\.0\.1:8000 ended by itself"
    ):
        await ask_for(100, poller)
