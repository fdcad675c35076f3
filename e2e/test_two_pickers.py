"""Two endpoint pickers behind one Envoy: one makes all picks, the other takes over when it dies."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from e2e.harness import READY_LIMIT, eventually
from poolpilot.demo.ports import LOOPBACK, Ports, Reservation, reserve
from poolpilot.demo.quickstart import BASE_MODEL, manifests
from poolpilot.demo.stack import Stack
from poolpilot.envoy_binary import find_envoy

pytestmark = pytest.mark.timeout(180)

PODS = ("pod-0", "pod-1", "pod-2")
CLIENTS = 16


@dataclass
class Pickers:
    """The stack's own picker is the first; this adds the second."""

    stack: Stack
    second: Reservation
    second_http: Reservation

    def url(self, number: int) -> str:
        return (
            self.stack.extproc_url if number == 1 else f"http://{LOOPBACK}:{self.second_http.port}"
        )

    def start_second(self) -> None:
        self.stack.children.start(
            "extproc-2",
            [
                *(sys.executable, "-m", "poolpilot", "serve", "extproc"),
                f"--manifests={self.stack.manifests}",
                f"--address={LOOPBACK}:{self.second.port}",
                "--health-address=",
                f"--http-address={LOOPBACK}:{self.second_http.port}",
            ],
        )

    async def page(self, number: int) -> dict[str, Any]:
        async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
            document: dict[str, Any] = (await http.get(f"{self.url(number)}/debug")).json()
            return document

    async def decisions(self, number: int) -> int:
        return int((await self.page(number))["decisions"])

    async def answers(self, number: int) -> bool:
        try:
            await self.page(number)
        except httpx.ConnectError:
            return False
        return True

    async def expired(self, number: int) -> float:
        """Requests whose end nobody reported."""
        async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
            text = (await http.get(f"{self.url(number)}/metrics")).text
        (line,) = re.findall(r"^poolpilot_\S*expired\S* (\S+)$", text, re.MULTILINE)
        return float(line)

    async def all_settled(self, *numbers: int) -> bool:
        return all([(await self.page(number))["open_requests"] == 0 for number in numbers])


@pytest.fixture(scope="module")
def pickers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pickers]:
    second, second_http = reserve(), reserve()
    stack = Stack(
        tmp_path_factory.mktemp("pickers"),
        Ports.free(len(PODS)),
        list(PODS),
        find_envoy(),
        pod_options=("--time-scale=20",),
        xds_options=(f"--picker={LOOPBACK}:{second.port}",),
    )
    pickers = Pickers(stack, second, second_http)
    try:
        stack.write(manifests(stack.placed()))
        pickers.start_second()
        stack.start()
        asyncio.run(stack.ready(READY_LIMIT))
        yield pickers
    finally:
        stack.stop()
        second.close()
        second_http.close()


@dataclass
class Load:
    """What clients that never stop asking have got so far."""

    ended: int = 0
    failures: list[int] = field(default_factory=list)
    """Statuses."""

    async def goes_on(self, count: int) -> None:
        wanted = self.ended + count
        await eventually(lambda: self.ended >= wanted, f"{count} further answers")


@asynccontextmanager
async def load(stack: Stack) -> AsyncIterator[Load]:
    seen = Load()
    body = {"model": BASE_MODEL, "prompt": "San Francisco " * 50, "max_tokens": 40}

    async def client(http: httpx.AsyncClient) -> None:
        while True:
            answer = await http.post(f"{stack.url}/v1/completions", json=body)
            seen.ended += 1
            if answer.status_code != 200:
                seen.failures.append(answer.status_code)

    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        tasks = [asyncio.create_task(client(http)) for _ in range(CLIENTS)]
        try:
            yield seen
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def makes_all_picks(pickers: Pickers, number: int, seen: Load) -> bool:
    """Whether, of some further requests, this picker was asked about each and the other of none."""
    other = 3 - number
    before = await pickers.decisions(number), await pickers.decisions(other)
    await seen.goes_on(50)
    after = await pickers.decisions(number), await pickers.decisions(other)
    return after[0] - before[0] >= 50 and after[1] == before[1]


async def test_a_picker_that_is_killed_under_load_is_replaced_and_takes_over_again(
    pickers: Pickers,
) -> None:
    stack = pickers.stack
    async with load(stack) as seen:
        await seen.goes_on(100)
        assert await pickers.decisions(2) == 0, "the second one stands by"

        stack.children["extproc"].kill()
        # Before the health check has noticed, Envoy asks the next one where the first does not
        # answer. Only what the first one had in hand may be lost.
        await eventually(lambda: second_has(pickers, 200), "the second one picks")
        assert len(seen.failures) <= CLIENTS

        async with httpx.AsyncClient(trust_env=False) as http:

            async def health_check_has_noticed() -> bool:
                stats = (await http.get(f"{stack.admin_url}/stats?filter=ext-proc.member")).text
                return "cluster.ext-proc.membership_healthy: 1" in stats

            await eventually(health_check_has_noticed, "Envoy notices")
        failed = len(seen.failures)
        await seen.goes_on(100)

        stack.start_extproc()
        await eventually(lambda: pickers.answers(1), "the first one is started")
        await eventually(lambda: makes_all_picks(pickers, 1, seen), "the first one takes over")
        assert len(seen.failures) == failed, "nothing is lost on the way back"
    # Each is told of the end of what it picked itself, whoever picks by then.
    await eventually(lambda: pickers.all_settled(1, 2), "nothing is counted as under way")
    assert await pickers.expired(1) == await pickers.expired(2) == 0


async def second_has(pickers: Pickers, decisions: int) -> bool:
    return await pickers.decisions(2) >= decisions


async def test_without_any_picker_the_failure_mode_decides_and_either_one_is_enough(
    pickers: Pickers,
) -> None:
    stack = pickers.stack
    body = {"model": BASE_MODEL, "prompt": "Hi", "max_tokens": 1}
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:

        async def answers(status: int) -> bool:
            answer = await http.post(f"{stack.url}/v1/completions", json=body)
            return answer.status_code == status

        stack.children["extproc"].kill()
        pickers.stack.children["extproc-2"].kill()
        await eventually(lambda: answers(503), "the pool fails closed")
        pickers.start_second()
        await eventually(lambda: answers(200), "the second one alone is enough")
        stack.start_extproc()
        await eventually(lambda: pickers.answers(1), "the first one is started")

        async def first_picks() -> bool:
            return await answers(200) and await pickers.decisions(1) > 0

        await eventually(first_picks, "the first one is back")
