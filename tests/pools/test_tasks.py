"""Parts live and die together, by name, on a clock of our own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog.testing

from pools.tasks import PartEndedError, Parts, unless_set

pytestmark = pytest.mark.looptime


class Part:
    """Serves until cancelled, and takes so many seconds to clean up."""

    def __init__(self, cleaning: float = 0) -> None:
        self._cleaning = cleaning
        self.clean = False

    async def serve(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(self._cleaning)
            self.clean = True


async def after(seconds: float, error: Exception | None = None) -> None:
    await asyncio.sleep(seconds)
    if error is not None:
        raise error


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
async def parts() -> AsyncIterator[Parts]:
    parts = Parts()
    yield parts
    await parts.stop()


async def test_a_part_that_returns_is_named(parts: Parts) -> None:
    parts.start("scraper", Part().serve())
    parts.start("HTTP server", after(3))
    with pytest.raises(PartEndedError, match=r"^HTTP server ended by itself$") as ended:
        await parts.run()
    assert now() == 3
    assert ended.value.origin is None


async def test_what_a_part_raised_is_told_and_kept(parts: Parts) -> None:
    fault = OSError("the disk is gone")
    parts.start("source", after(3, fault))
    with pytest.raises(PartEndedError, match=r"^source ended: the disk is gone$") as ended:
        await parts.run()
    assert ended.value.origin is fault
    assert ended.value.__cause__ is fault


async def test_a_part_that_somebody_else_cancels_has_ended_by_itself(parts: Parts) -> None:
    task = parts.start("queues", Part().serve())
    asyncio.get_running_loop().call_later(1, task.cancel)
    with pytest.raises(PartEndedError, match="queues ended by itself"):
        await parts.run()


async def test_the_death_of_one_stops_the_others() -> None:
    parts, other = Parts(), Part(cleaning=2)
    parts.start("other", other.serve())
    parts.start("one", after(1))
    with pytest.raises(PartEndedError, match="one"):
        await parts.run()
    assert other.clean
    assert now() == 3


async def test_parts_of_parts_are_named_down_to_the_one_that_died(parts: Parts) -> None:
    inner = Parts()
    fault = ValueError("no number")
    inner.start("scrape a:8000", after(1, fault))
    parts.start("scraper", inner.run())
    with pytest.raises(PartEndedError, match=r"^scraper ended: scrape a:8000 ended: no") as ended:
        await parts.run()
    assert ended.value.part == "scraper"
    assert ended.value.origin is fault


async def test_one_that_died_before_anybody_watched_is_noticed(parts: Parts) -> None:
    parts.start("source", after(0))
    await asyncio.sleep(1)
    with pytest.raises(PartEndedError, match="source"):
        await parts.watch(after(100))
    assert now() == 1


async def test_one_that_was_cancelled_as_it_should_is_no_loss(parts: Parts) -> None:
    gone = Part(cleaning=2)
    task = parts.start("scrape a:8000", gone.serve())
    parts.start("scrape b:8000", Part().serve())
    await asyncio.sleep(1)
    parts.cancel(task)
    await parts.watch(after(1))
    assert not gone.clean
    await parts.stop()
    assert gone.clean, "it was waited for, and its cleaning up was not interrupted"
    assert now() == 3


async def test_a_job_may_end_but_not_by_an_error(parts: Parts) -> None:
    parts.start_job("dns a", after(1))
    await parts.watch(after(2))
    parts.start_job("dns b", after(1, RuntimeError("no resolver")))
    with pytest.raises(PartEndedError, match="dns b ended: no resolver"):
        await parts.watch(after(2))


async def test_work_beside_parts_gives_its_result_or_raises_its_own_error(parts: Parts) -> None:
    async def work() -> int:
        await asyncio.sleep(5)
        return 7

    parts.start("source", Part().serve())
    assert await parts.watch(work()) == 7
    with pytest.raises(KeyError):
        await parts.watch(after(1, KeyError("mine")))


async def test_work_is_cancelled_and_cleans_up_when_a_part_ends(parts: Parts) -> None:
    work = Part(cleaning=1)
    parts.start("source", after(3))
    with pytest.raises(PartEndedError, match="source"):
        await parts.watch(work.serve())
    assert work.clean
    assert now() == 4


async def test_all_share_one_grace_period_and_who_overruns_it_is_named() -> None:
    parts = Parts()
    slow = [Part(cleaning=n) for n in (1, 9, 2, 8)]
    for number, part in enumerate(slow):
        parts.start(f"part {number}", part.serve())
    await asyncio.sleep(0)
    with structlog.testing.capture_logs() as logs:
        assert await parts.stop(5) == ("part 1", "part 3")
    assert now() == 5
    assert [entry["parts"] for entry in logs] == ["part 1, part 3"]
    assert [part.clean for part in slow] == [True, False, True, False]
    assert await parts.stop(5) == (), "they are left behind"
    assert now() == 5
    await asyncio.sleep(10)
    await parts.watch(after(0))


async def test_what_goes_wrong_while_stopping_is_told(parts: Parts) -> None:
    async def breaks() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("cannot close")

    parts.start("HTTP server", breaks())
    await asyncio.sleep(0)
    with structlog.testing.capture_logs() as logs:
        await parts.stop(5)
    assert [(entry["event"], entry["part"]) for entry in logs] == [
        ("failed when it was stopped", "HTTP server")
    ]


async def test_a_second_death_is_told_too(parts: Parts) -> None:
    parts.start("one", after(1))
    parts.start("two", after(1, OSError("the disk is gone")))
    with structlog.testing.capture_logs() as logs:
        await asyncio.sleep(2)
    with pytest.raises(PartEndedError, match="one ended by itself"):
        await parts.run()
    assert [entry["event"] for entry in logs] == ["two ended: the disk is gone"]


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancellation_is_not_lost_however_close_to_the_end_of_a_part(turns: int) -> None:
    parts = Parts()
    end = asyncio.Event()

    async def part() -> None:
        await end.wait()

    async def forever() -> None:
        parts.start("part", part())
        while True:
            try:
                await parts.watch(asyncio.sleep(100))
            except PartEndedError:
                return

    task = asyncio.create_task(forever())
    for _ in range(5):
        await asyncio.sleep(0)
    end.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=1)
    assert done, "it was cancelled and goes on"
    await parts.stop()


async def test_work_ends_by_itself_or_when_it_is_told_to_stop() -> None:
    async def work() -> int:
        await asyncio.sleep(5)
        return 7

    stop = asyncio.Event()
    assert await unless_set(stop, work()) == 7
    asyncio.get_running_loop().call_later(1, stop.set)
    assert await unless_set(stop, work()) is None
    assert now() == 6
    with pytest.raises(KeyError):
        await unless_set(asyncio.Event(), after(1, KeyError("mine")))
