"""Waiting that ends by the event, by the clock, or by who has enough of it."""

from __future__ import annotations

import asyncio

import pytest

from pools.waiting import set_within


async def test_the_event_or_the_clock_ends_it() -> None:
    event = asyncio.Event()
    assert not await set_within(event, 0.01)
    assert not await set_within(event, 0.0)
    asyncio.get_running_loop().call_later(0.01, event.set)
    assert await set_within(event, None)
    assert await set_within(event, 0.0), "it was set before"


@pytest.mark.parametrize("turns", range(6))
async def test_a_task_that_is_cancelled_just_as_the_event_is_set_ends(turns: int) -> None:
    """However many turns of the loop lie between the two."""
    event = asyncio.Event()

    async def follow() -> None:
        while True:
            await set_within(event, 60.0)
            event.clear()

    task = asyncio.create_task(follow())
    for _ in range(5):
        await asyncio.sleep(0)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=5)
    assert done, "it was cancelled and goes on"
    assert task.cancelled()
