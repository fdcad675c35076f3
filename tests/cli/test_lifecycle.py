"""A server runs until it is told to stop, and never with a dead part."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from poolpilot.lifecycle import FORCED_EXIT, PartDiedError, run, stop_signals


class Part:
    """Serves until cancelled, and remembers that it could clean up."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cleaned_up = False

    async def serve(self) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cleaned_up = True


async def test_a_stop_lets_every_part_clean_up() -> None:
    stop, one, two = asyncio.Event(), Part(), Part()
    running = asyncio.create_task(run({"one": one.serve(), "two": two.serve()}, stop, grace=5))
    await one.started.wait()
    await two.started.wait()
    assert not running.done()

    stop.set()
    await running

    assert one.cleaned_up
    assert two.cleaned_up


async def test_the_death_of_one_part_stops_the_others_and_is_named() -> None:
    async def dies() -> None:
        raise OSError("the disk is gone")

    other = Part()
    with pytest.raises(PartDiedError, match="manifest watcher ended: the disk is gone"):
        await run({"server": other.serve(), "manifest watcher": dies()}, asyncio.Event(), grace=5)

    assert not other.started.is_set() or other.cleaned_up


async def test_a_part_that_just_returns_is_dead_too() -> None:
    async def returns() -> None:
        return None

    with pytest.raises(PartDiedError, match="scraper ended by itself"):
        await run({"scraper": returns()}, asyncio.Event(), grace=5)


class Stubborn:
    """Serves on when it is cancelled."""

    def __init__(self) -> None:
        self.started, self.let_go = asyncio.Event(), asyncio.Event()

    async def serve(self) -> None:
        self.started.set()
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                continue


async def test_a_part_that_will_not_stop_is_named_after_the_grace_period() -> None:
    stop, stubborn = asyncio.Event(), Stubborn()
    running = asyncio.create_task(run({"drain": stubborn.serve()}, stop, grace=0.01))
    await stubborn.started.wait()
    stop.set()
    with pytest.raises(TimeoutError, match=r"drain did not stop within 0\.01 s"):
        await running
    stubborn.let_go.set()


async def test_a_part_that_will_not_stop_is_named_after_the_death_of_another_too() -> None:
    stubborn = Stubborn()

    async def dies() -> None:
        await stubborn.started.wait()
        raise OSError("the disk is gone")

    with pytest.raises(TimeoutError, match=r"drain did not stop within 0\.01 s"):
        await run({"drain": stubborn.serve(), "watcher": dies()}, asyncio.Event(), grace=0.01)
    stubborn.let_go.set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_the_first_signal_asks_and_the_second_forces(number: signal.Signals) -> None:
    forced: list[int] = []
    second = asyncio.Event()

    def force(status: int) -> None:
        forced.append(status)
        second.set()

    async with stop_signals(force) as stop:
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stop.wait(), 5)
        assert forced == []

        os.kill(os.getpid(), number)
        await asyncio.wait_for(second.wait(), 5)
        assert forced == [FORCED_EXIT]


async def test_under_nohup_the_end_of_the_terminal_is_no_end() -> None:
    forced: list[int] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with stop_signals(forced.append) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(stop.wait(), 5)
            await asyncio.sleep(0)
        assert forced == []
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
