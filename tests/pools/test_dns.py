"""Names are resolved again and again; what was found last stays."""

import asyncio
from collections.abc import Sequence

import pytest

from pools.dns import Lookups, system_resolve
from pools.resolution import RETRY, Lookup, Names


def test_a_name_is_due_at_once_and_then_on_its_refresh() -> None:
    names = Names()
    names.want({"vllm": 10.0}, now=100.0)
    assert not names.settled
    assert names.start_due(100.0) == ["vllm"]
    assert names.start_due(100.0) == []  # it is being looked up
    assert names.next_due() is None
    assert names.found("vllm", ["10.0.0.2", "10.0.0.1", "10.0.0.2"], now=101.0)
    assert names.settled
    assert names.lookups == {"vllm": Lookup(("10.0.0.1", "10.0.0.2"))}
    assert names.next_due() == 111.0
    assert names.start_due(110.9) == []
    assert names.start_due(111.0) == ["vllm"]


def test_the_same_addresses_in_another_order_are_no_change() -> None:
    names = Names()
    names.want({"vllm": 1.0}, now=0.0)
    assert names.found("vllm", ["10.0.0.10", "10.0.0.9"], now=0.0)
    assert not names.found("vllm", ["10.0.0.9", "10.0.0.10", "10.0.0.9"], now=1.0)
    assert names.lookups["vllm"].addresses == ("10.0.0.9", "10.0.0.10")


def test_a_host_with_addresses_of_both_families_counts_once() -> None:
    names = Names()
    names.want({"localhost": 1.0, "six": 1.0}, now=0.0)
    names.found("localhost", ["::1", "127.0.0.1"], now=0.0)
    names.found("six", ["2001:db8::2", "2001:DB8::1"], now=0.0)
    assert names.lookups["localhost"].addresses == ("127.0.0.1",)
    assert names.lookups["six"].addresses == ("2001:db8::1", "2001:db8::2")


def test_a_failed_or_empty_look_up_keeps_the_last_good_addresses() -> None:
    names = Names()
    names.want({"vllm": 60.0}, now=0.0)
    names.found("vllm", ["10.0.0.1"], now=0.0)
    assert names.failed("vllm", "no answer", now=60.0)
    assert not names.failed("vllm", "no answer", now=65.0)
    assert names.lookups["vllm"] == Lookup(("10.0.0.1",), "no answer")
    assert names.next_due() == 65.0 + RETRY  # sooner than its refresh
    assert names.found("vllm", [], now=70.0)
    assert names.lookups["vllm"] == Lookup(("10.0.0.1",), "it has no address")
    assert names.found("vllm", ["10.0.0.1"], now=75.0)
    assert names.lookups["vllm"] == Lookup(("10.0.0.1",))


def test_a_name_that_is_no_longer_wanted_is_forgotten_even_if_its_answer_is_late() -> None:
    names = Names()
    names.want({"vllm": 1.0}, now=0.0)
    names.start_due(0.0)
    names.want({}, now=0.5)
    assert not names.found("vllm", ["10.0.0.1"], now=0.6)
    assert names.lookups == {}
    assert names.settled


def test_a_shorter_refresh_counts_from_now() -> None:
    names = Names()
    names.want({"vllm": 3600.0}, now=0.0)
    names.found("vllm", ["10.0.0.1"], now=0.0)
    names.want({"vllm": 5.0}, now=100.0)
    assert names.next_due() == 105.0


class Zone:
    """A name server whose answers the test sets."""

    def __init__(self, **answers: list[str] | OSError) -> None:
        self.answers = answers
        self.asked: list[tuple[str, float]] = []

    async def __call__(self, name: str) -> Sequence[str]:
        self.asked.append((name, asyncio.get_running_loop().time()))
        answer = self.answers.get(name)
        if answer is None:
            await asyncio.Event().wait()  # no answer ever
            raise AssertionError
        if isinstance(answer, OSError):
            raise answer
        return answer


@pytest.mark.looptime
async def test_each_name_is_looked_up_on_its_own_clock() -> None:
    zone = Zone(fast=["10.0.0.1"], slow=["10.0.0.2"])
    clock = asyncio.get_running_loop().time
    changes: list[float] = []
    lookups = Lookups(zone, clock, lambda: changes.append(clock()))
    running = asyncio.create_task(lookups.run())
    start = clock()
    lookups.want({"fast": 1.0, "slow": 3.0})
    await lookups.settled(3.0)
    assert lookups.found == {"fast": Lookup(("10.0.0.1",)), "slow": Lookup(("10.0.0.2",))}
    await asyncio.sleep(3.5)
    asked = [(name, round(at - start)) for name, at in zone.asked]
    assert sorted(asked) == [
        ("fast", 0),
        ("fast", 1),
        ("fast", 2),
        ("fast", 3),
        ("slow", 0),
        ("slow", 3),
    ]
    assert len(changes) == 2  # the same answers again are no news
    zone.answers["fast"] = OSError("no route")
    await asyncio.sleep(1.0)
    assert lookups.found["fast"] == Lookup(("10.0.0.1",), "no route")
    assert lookups.version == 3
    running.cancel()


@pytest.mark.looptime
async def test_a_name_server_that_never_answers_holds_up_nobody_else() -> None:
    zone = Zone(good=["10.0.0.1"])
    clock = asyncio.get_running_loop().time
    lookups = Lookups(zone, clock, lambda: None)
    running = asyncio.create_task(lookups.run())
    start = clock()
    lookups.want({"silent": 1.0, "good": 1.0})
    await lookups.settled(3.0)
    assert clock() - start == pytest.approx(3.0, abs=0.1)
    assert lookups.found == {"good": Lookup(("10.0.0.1",))}
    assert [name for name, _ in zone.asked].count("silent") == 1  # none piles up behind it
    running.cancel()


async def test_the_systems_resolver_knows_localhost_and_reports_what_does_not_exist() -> None:
    assert set(await system_resolve("localhost")) <= {"127.0.0.1", "::1"}
    with pytest.raises(OSError, match=r".+"):
        await system_resolve("no-such-host.invalid")
    with pytest.raises(OSError, match=r".+"):
        await system_resolve("a" * 64 + ".invalid")


def test_answers_that_no_host_can_have_do_not_count() -> None:
    names = Names()
    names.want({"vllm": 60.0}, now=0.0)
    names.found("vllm", ["0.0.0.0", "10.0.0.1", "224.0.0.1"], now=0.0)
    assert names.lookups["vllm"] == Lookup(("10.0.0.1",))
    names.found("vllm", ["255.255.255.255", "::ffff:0.0.0.0", "ff02::1"], now=60.0)
    assert names.lookups["vllm"] == Lookup(
        ("10.0.0.1",),
        "255.255.255.255 is the broadcast address, ::ffff:0.0.0.0 is unspecified, "
        "ff02::1 is a multicast address",
    )
