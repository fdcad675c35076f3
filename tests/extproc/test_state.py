"""A picker that was started again knows what it knew before."""

from __future__ import annotations

import dataclasses
import os
import random
import stat
from pathlib import Path

import pytest
import structlog

from extproc.picking.scheduling import Candidate, SchedulingRequest
from extproc.picking.scheduling.known import Known, KnownCache
from extproc.picking.scheduling.load import Load
from extproc.picking.scheduling.prefix import chain_of
from extproc.picking.scheduling.signals import CacheConfig, Latency, Signals
from extproc.service import state as state_file
from extproc.service.server import EndpointPickerServer
from extproc.service.state import MAX_AGE, StateFile
from pools.model import Endpoint
from tests.extproc.test_server import CONFIG, Worlds, ask, eventually, is_ready, running, world

PROMPT = bytes(range(256)) * 64
CHAIN = chain_of(PROMPT, 1)


def pods(count: int = 2) -> list[Candidate]:
    return [Candidate(Endpoint(f"10.0.0.{n}", 8000, f"pod-{n}")) for n in range(1, 1 + count)]


def taught(load: Load, pod: Candidate) -> None:
    asked = SchedulingRequest("m", 0, random.Random(1), now=0.0, prompt_tokens=len(PROMPT) // 4)
    asked.output_tokens = 50
    asked.prefix = load.index.match(CHAIN)
    load.learn(load.charge(asked, pod, 0.0), 70)


def known_by(load: Load) -> Known:
    parts = list(load.known())
    caches = {key: cache for part in parts for key, cache in part.caches.items()}
    last = parts[-1]
    return Known(last.block_tokens, caches, last.outputs, last.expected_output)


def test_what_is_cached_where_and_how_long_answers_are_is_known_again() -> None:
    before, (first, second) = Load(), pods()
    before.follow([first, second])
    taught(before, first)

    after, (one, other) = Load(), pods()
    after.recall(known_by(before))
    after.follow([one, other])
    match = after.index.match(CHAIN)
    assert match.tokens_of(one) == len(PROMPT) // 4
    assert match.tokens_of(other) == 0
    assert after.expected_output("m", None) == 70
    assert after.expected_output("other", None) == before.expected_output("other", None)
    assert len(after.index) == len(before.index)


def test_the_oldest_use_is_still_the_first_to_be_evicted() -> None:
    before, [pod] = Load(), pods(1)
    before.follow([pod])
    for number in range(50):
        before.index.add(pod, chain_of(PROMPT, number))
    after, [same] = Load(), pods(1)
    after.recall(known_by(before))
    after.follow([same])
    assert list(after.index.contents(same)) == list(before.index.contents(pod))


def test_a_large_cache_with_large_blocks_is_recalled_whole_before_the_first_scrape() -> None:
    before, [pod] = Load(), pods(1)
    pod.observe(Signals(cache=CacheConfig(256, 10_000)), 0.0, 1.0)
    before.follow([pod])
    chains = [chain_of(PROMPT, number, 256) for number in range(1000)]
    for chain in chains:
        before.index.add(pod, chain)
    after, [same] = Load(), pods(1)
    after.recall(known_by(before))
    after.follow([same])
    after.follow([same])
    same.observe(Signals(cache=CacheConfig(256, 10_000)), 0.0, 1.0)
    after.follow([same])
    assert len(after.index) == len(before.index)


@pytest.mark.parametrize(("count", "restarts"), [(90, 1), (100, 0), (120, 0)])
def test_a_server_that_was_started_meanwhile_is_noticed(count: int, restarts: int) -> None:
    before, [pod] = Load(), pods(1)
    pod.observe(Signals(latency=Latency(100, 20.0)), 0.0, 1.0)
    before.follow([pod])
    after, [same] = Load(), pods(1)
    after.recall(known_by(before))
    after.follow([same])
    same.observe(Signals(latency=Latency(count, count * 0.2)), 0.0, 1.0)
    assert same.restarts == restarts


def test_an_endpoint_that_goes_and_comes_back_is_another_one() -> None:
    before, [pod] = Load(), pods(1)
    before.follow([pod])
    taught(before, pod)
    after, [same] = Load(), pods(1)
    after.recall(known_by(before))
    after.follow([same])
    after.follow([])
    after.follow(pods(1))
    assert len(after.index) == 0


def test_an_endpoint_that_comes_late_is_another_one() -> None:
    before, [pod] = Load(), pods(1)
    before.follow([pod])
    taught(before, pod)
    after = Load()
    after.recall(known_by(before))
    after.forget_recalled()
    after.follow(pods(1))
    assert len(after.index) == 0
    assert after.expected_output("m", None) == 70


KNOWN = Known(64, {"10.0.0.1:8000": KnownCache([2**64 - 1, 7], [1, 64], 9000, 5, 1.5)}, {"m": 9}, 8)


async def test_a_file_holds_all_of_it_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "state"
    await StateFile(path).write(iter([KNOWN]))
    assert os.listdir(tmp_path) == ["state"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    read = StateFile(path).read()
    assert read is not None
    cache = read.caches["10.0.0.1:8000"]
    assert (list(cache.blocks), list(cache.sizes)) == ([2**64 - 1, 7], [1, 64])
    assert (cache.tokens, cache.first_tokens, cache.first_token_seconds) == (9000, 5, 1.5)
    assert (read.block_tokens, read.outputs, read.expected_output) == (64, {"m": 9}, 8)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: data[:-1], "damaged"),
        (lambda data: data[:20], "damaged"),
        (lambda data: data[:40] + b"\xff" + data[41:], "damaged"),
        (lambda data: data.replace(b"state 1\n", b"state 2\n"), "another version"),
        (lambda data: b"kind: InferencePool\n", "left as it is"),
        (lambda data: b"", "left as it is"),
    ],
)
async def test_what_cannot_be_used_is_one_line_and_a_cold_start(
    tmp_path: Path, damage: object, why: str
) -> None:
    path = tmp_path / "state"
    await StateFile(path).write(iter([KNOWN]))
    path.write_bytes(damaged := damage(path.read_bytes()))  # type: ignore[operator]
    file = StateFile(path)
    with structlog.testing.capture_logs() as lines:
        assert file.read() is None
    [line] = lines
    assert why in line["why"]
    await file.write(iter([KNOWN]))
    assert (path.read_bytes() == damaged) is (why == "left as it is")


async def test_what_is_too_old_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "state"
    await StateFile(path, lambda: 1000.0).write(iter([KNOWN]))
    assert StateFile(path, lambda: 1000.0 + MAX_AGE - 1).read() is not None
    assert StateFile(path, lambda: 1000.0 + MAX_AGE + 1).read() is None


async def test_a_place_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "nowhere" / "state")
    with structlog.testing.capture_logs() as lines:
        assert file.read() is None
        await file.write(iter([KNOWN]))
        await file.write(iter([KNOWN]))
    assert [line["log_level"] for line in lines] == ["info", "warning"]


async def served(state: Path) -> EndpointPickerServer:
    """A picker that had a World and was asked for one pick."""
    worlds = Worlds()
    worlds.give(world(Endpoint("127.0.0.1", 9, "pod")))
    config = dataclasses.replace(CONFIG, state=state)
    async with running(worlds, config) as server:
        await eventually(lambda: is_ready(server))
        await ask(server.address, LONG)
    return server


LONG = "Once upon a time " * 200


async def test_a_picker_that_ends_cleanly_comes_back_warm(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = await served(state)
    second = await served(state)
    before, after = (
        next(first.director.decisions.latest()),
        next(second.director.decisions.latest()),
    )
    assert before.cached_tokens == 0
    assert after.cached_tokens > 500


async def test_what_was_learned_is_written_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_file, "INTERVAL", 0.05)
    path = tmp_path / "state"
    worlds = Worlds()
    worlds.give(world(Endpoint("127.0.0.1", 9, "pod")))
    config = dataclasses.replace(CONFIG, state=path)

    async def is_kept() -> bool:
        known = StateFile(path).read()
        return known is not None and any(cache.blocks for cache in known.caches.values())

    async with running(worlds, config) as server:
        await eventually(lambda: is_ready(server))
        await ask(server.address, LONG)
        await eventually(is_kept)
