"""What servers say of their caches, from the wire to a match."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import Sequence

import msgspec
import pytest
import zmq
import zmq.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.picking.scheduling import Candidate, SchedulingRequest
from extproc.picking.scheduling.load import Load
from extproc.picking.scheduling.prefix.exact import CacheEvent, Cleared, Removed, Stored
from extproc.request import Api, InferenceRequest
from extproc.signals.kv_events import KVEvents, cache_events
from pools.model import Endpoint
from pools.tasks import Parts

BLOCK = 16
TOKENS = list(range(1000, 1000 + 10 * BLOCK))


class Fleet:
    """Endpoints, of which some publish events."""

    def __init__(self, count: int = 3) -> None:
        known: set[str] = {"adapter"}
        self.pods = [Candidate(Endpoint(f"10.0.0.{n}", 8000, ""), known) for n in range(count)]
        self.load = Load()
        self.load.follow(self.pods)
        self._numbers = dict.fromkeys(self.pods, 0)

    def say(self, pod: int, *events: CacheEvent, skip: int = 0) -> None:
        one = self.pods[pod]
        self.load.exact.heard(one, self._numbers[one] + skip, events)
        self._numbers[one] += 1 + skip

    def ask(
        self, tokens: Sequence[int] = TOKENS, model: str = "base", salt: str = ""
    ) -> SchedulingRequest:
        request = InferenceRequest("r", None, "/", "POST", {}, api=Api.COMPLETIONS, model=model)
        request.document = {"model": model, "prompt": list(tokens), "cache_salt": salt}
        return self.load.ask(request, model, 0, random.Random(1), 0.0)

    def cached(self, asked: SchedulingRequest) -> list[int]:
        return [asked.prefix.tokens_of(one) for one in self.pods]


def stored(first: int, last: int, tokens: Sequence[int] = TOKENS, adapter: str = "") -> Stored:
    """Blocks ``first`` up to ``last`` of a prompt, under names that only the server knows."""
    names = [f"{adapter}-{n}".encode() for n in range(first, last)]
    parent = f"{adapter}-{first - 1}".encode() if first else None
    return Stored(names, parent, tokens[first * BLOCK : last * BLOCK], BLOCK, adapter)


def test_a_prompt_of_token_ids_is_found_where_the_server_says_it_is() -> None:
    fleet = Fleet()
    fleet.say(0, stored(0, 4))
    fleet.say(0, stored(4, 7))
    fleet.say(1, stored(0, 2))
    assert fleet.cached(fleet.ask()) == [7 * BLOCK, 2 * BLOCK, 0]
    fleet.say(0, Removed([b"-5"]))
    assert fleet.cached(fleet.ask()) == [5 * BLOCK, 2 * BLOCK, 0]
    fleet.say(0, Cleared())
    assert fleet.cached(fleet.ask()) == [0, 2 * BLOCK, 0]


def test_the_server_is_right_and_what_was_sent_there_is_only_a_guess() -> None:
    fleet = Fleet(2)
    fleet.load.charge(fleet.ask(), fleet.pods[0], 0.0)
    fleet.load.charge(fleet.ask(), fleet.pods[1], 0.0)
    assert fleet.cached(fleet.ask()) == [128, 128]
    fleet.say(0, stored(0, 1))
    assert fleet.cached(fleet.ask()) == [BLOCK, 128]
    fleet.load.exact.lost(fleet.pods[0])
    assert fleet.cached(fleet.ask()) == [128, 128]


def test_adapters_have_caches_of_their_own_and_salted_prompts_are_only_guessed() -> None:
    fleet = Fleet(1)
    fleet.say(0, stored(0, 3), stored(0, 5, adapter="adapter"))
    assert fleet.cached(fleet.ask(model="base")) == [3 * BLOCK]
    assert fleet.cached(fleet.ask(model="adapter")) == [5 * BLOCK]
    assert fleet.cached(fleet.ask(salt="tenant")) == [0]


def test_after_a_gap_a_server_is_not_taken_at_its_word_until_it_starts_anew() -> None:
    fleet = Fleet(1)
    fleet.say(0, stored(0, 4))
    fleet.say(0, stored(4, 5), skip=1)
    assert fleet.load.exact.live == 0
    assert fleet.cached(fleet.ask()) == [0]
    fleet.say(0, Cleared(), stored(0, 2))
    assert fleet.cached(fleet.ask()) == [2 * BLOCK]
    fleet.load.exact.heard(fleet.pods[0], 0, [stored(0, 1)])
    assert fleet.cached(fleet.ask()) == [BLOCK]


def test_blocks_without_a_known_parent_are_left_out() -> None:
    fleet = Fleet(1)
    fleet.say(0, stored(3, 5))
    assert len(fleet.load.exact) == 0
    fleet.say(0, Stored([b"x"], None, TOKENS[:3], BLOCK), Stored([b"y"], None, [], 0))
    assert len(fleet.load.exact) == 0


def test_an_endpoint_that_goes_takes_what_it_said_with_it() -> None:
    fleet = Fleet(2)
    fleet.say(0, stored(0, 4))
    fleet.load.follow(fleet.pods[1:])
    assert (fleet.load.exact.live, len(fleet.load.exact), fleet.pods[0].bit) == (0, 0, 0)
    fleet.load.follow(fleet.pods)
    assert fleet.cached(fleet.ask()) == [0, 0]


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(0, 9)), max_size=30))
@settings(max_examples=60)
def test_a_match_is_what_a_server_has_from_the_beginning_on(
    changes: list[tuple[int, int, int]],
) -> None:
    fleet = Fleet(1)
    fleet.say(0)
    has: set[int] = set()
    named: set[int] = set()
    for removes, a, b in changes:
        first, last = min(a, b), max(a, b) + 1
        if removes:
            fleet.say(0, Removed([f"-{n}".encode() for n in range(first, last)]))
            gone = set(range(first, last))
            has -= gone
            named -= gone
        elif first == 0 or first - 1 in named:
            fleet.say(0, stored(first, last))
            has |= set(range(first, last))
            named |= set(range(first, last))
    expected = next((n for n in range(10) if n not in has), 10)
    assert fleet.cached(fleet.ask()) == [expected * BLOCK]


# The wire.


def batch(*events: list[object]) -> bytes:
    """As vLLM writes it: arrays, tagged with the name of the event."""
    return msgspec.msgpack.encode([1.5, list(events), 0])


def test_events_are_read_as_vllm_writes_them() -> None:
    events = cache_events(
        batch(
            ["BlockStored", [11, 12], None, [1, 2, 3, 4], 2, None, "GPU", None, "later field"],
            ["BlockStored", [b"\1" * 32], 12, [5, 6], 2, 3],
            ["BlockStored", [14], None, [5, 6], 2, 3, "GPU", "adapter"],
            ["BlockStored", [15], None, [5, 6], 2, None, "CPU"],
            ["BlockRemoved", [11], "GPU"],
            ["BlockRemoved", [15], "CPU"],
            ["AllBlocksCleared"],
        )
    )
    assert events == [
        Stored([11, 12], None, [1, 2, 3, 4], 2),
        Stored([b"\1" * 32], 12, [5, 6], 2, "\x003"),
        Stored([14], None, [5, 6], 2, "adapter"),
        Removed([11]),
        Cleared(),
    ]
    with pytest.raises(msgspec.MsgspecError):
        cache_events(b"nonsense")


async def test_events_come_over_zeromq_and_their_end_is_noticed() -> None:
    heard: list[tuple[str, int, Sequence[CacheEvent]]] = []
    lost = asyncio.Event()
    came = asyncio.Event()

    def hear(key: str, number: int, events: Sequence[CacheEvent]) -> None:
        heard.append((key, number, events))
        came.set()

    context = zmq.asyncio.Context()
    publisher = context.socket(zmq.XPUB)
    port = publisher.bind_to_random_port("tcp://127.0.0.1")
    listening = KVEvents(port, hear, lambda key: lost.set())
    listening.follow({"a:1": "127.0.0.1"})
    listening.follow({"a:1": "127.0.0.1"})
    parts = Parts()
    parts.start("KV events", listening.run())
    async with asyncio.timeout(20):
        await publisher.recv()  # the subscription
        removed = batch(["BlockRemoved", [7]])
        await publisher.send_multipart([b"kv@pod", (41).to_bytes(8, "big"), removed])
        await came.wait()
        assert heard == [("a:1", 41, [Removed([7])])]
        came.clear()
        await publisher.send_multipart([b"", b"", b"nonsense"])
        await lost.wait()
        lost.clear()
        await publisher.send_multipart([b"", (42).to_bytes(8, "big"), removed])
        await came.wait()
        publisher.close(linger=0)
        await lost.wait()
    await parts.stop()
    context.destroy(linger=0)


def test_token_ids_are_the_same_bytes_from_either_side() -> None:
    fleet = Fleet(1)
    asked = fleet.ask()
    assert asked.prompt_tokens == len(TOKENS) == len(array("I", TOKENS).tobytes()) // 4
