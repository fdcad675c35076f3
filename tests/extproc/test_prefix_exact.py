"""What servers say of their caches, from the wire to a match."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from array import array
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path

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
from extproc.signals import kv_events
from extproc.signals.fetch import Fetch, ScrapeError
from extproc.signals.kv_events import KVEvents, Publisher, cache_events, publishers_of
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
        self._numbers = {(one, rank): 0 for one in self.pods for rank in range(2)}
        for one in self.pods:
            self.load.exact.follow(one, [0])

    def say(self, pod: int, *events: CacheEvent, skip: int = 0, rank: int = 0) -> None:
        one = self.pods[pod]
        self.load.exact.heard(one, rank, self._numbers[one, rank] + skip, events)
        self._numbers[one, rank] += 1 + skip

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
    fleet.load.exact.heard(fleet.pods[0], 0, 0, [stored(0, 1)])
    assert fleet.cached(fleet.ask()) == [BLOCK]


def test_a_server_of_two_ranks_has_what_either_has_and_is_believed_when_both_are_known() -> None:
    fleet = Fleet(2)
    fleet.load.exact.follow(fleet.pods[0], [0, 1])
    fleet.say(0, stored(0, 4), rank=0)
    assert not fleet.load.exact.knows(fleet.pods[0])
    fleet.load.exact.began(fleet.pods[0], 1)
    assert fleet.load.exact.knows(fleet.pods[0])
    assert fleet.cached(fleet.ask())[0] == 4 * BLOCK
    fleet.say(0, stored(0, 6), rank=1)
    assert fleet.cached(fleet.ask())[0] == 6 * BLOCK
    fleet.say(0, Cleared(), rank=0)
    assert fleet.cached(fleet.ask())[0] == 6 * BLOCK, "the other rank still has it"
    fleet.say(0, Removed([b"-4"]), rank=1)
    assert fleet.cached(fleet.ask())[0] == 4 * BLOCK
    fleet.load.exact.missed(fleet.pods[0], 1)
    assert fleet.load.exact.live == 0


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


RECORDED = Path(__file__).parent / "recorded/vllm-0.32.0-kv-events.hex"


def recorded() -> list[bytes]:
    """What vLLM 0.32.0 published: one block of 128 tokens of the base model, the same with an
    adapter, the same with a salt, one more after the first, and that all were cleared."""
    return [bytes.fromhex(line) for line in RECORDED.read_text().split()]


def test_the_maps_of_current_vllm_are_read_and_salted_blocks_are_nobody_elses() -> None:
    base, adapter, salted, second, cleared = map(cache_events, recorded())
    [first] = base
    assert isinstance(first, Stored)
    assert (len(first.token_ids), first.block_size, first.parent, first.adapter) == (
        128,
        128,
        None,
        "",
    )
    [again] = adapter
    assert isinstance(again, Stored)
    assert (again.token_ids, again.adapter) == (first.token_ids, "sql-lora")
    assert salted == []
    [follows] = second
    assert isinstance(follows, Stored)
    assert [follows.parent] == first.hashes
    assert cleared == [Cleared()]


def test_both_forms_in_one_batch_say_the_same() -> None:
    event = {"type": "BlockStored", "block_hashes": [1], "parent_block_hash": None}
    as_map = event | {"token_ids": [1, 2], "block_size": 2, "lora_id": None, "medium": "GPU"}
    as_array = ["BlockStored", [1], None, [1, 2], 2, None, "GPU"]
    one, other = cache_events(msgspec.msgpack.encode([1.0, [as_map, as_array], 0]))
    assert one == other == Stored([1], None, [1, 2], 2)


def test_an_image_in_a_prompt_ends_what_others_can_find() -> None:
    blocks = {"block_hashes": [1, 2, 3], "parent_block_hash": None, "block_size": 1}
    keys = [None, [("image", 0)], None]
    event = {"type": "BlockStored", **blocks, "token_ids": [7, 8, 9], "extra_keys": keys}
    assert cache_events(msgspec.msgpack.encode([1.0, [event]])) == [Stored([1], None, [7], 1)]


def test_a_server_tells_the_ports_of_all_its_ranks() -> None:
    answer = {
        "1": {"publisher": "zmq", "endpoint": "tcp://*:5558", "replay_endpoint": "tcp://*:5658"},
        "0": {"publisher": "zmq", "endpoint": "tcp://10.0.0.9:5557", "replay_endpoint": None},
        "2": {"publisher": "null", "endpoint": "tcp://*:5559"},
        "3": {"publisher": "zmq", "endpoint": "ipc:///tmp/events"},
    }
    assert publishers_of(json.dumps(answer).encode()) == (
        Publisher(0, 5557),
        Publisher(1, 5558, 5658),
    )
    with pytest.raises(ValueError, match=r".+"):
        publishers_of(b"[]")


class Told:
    """Who listens, and what came."""

    def __init__(self) -> None:
        self.heard_: list[tuple[str, int, int]] = []
        self.calls: list[str] = []
        self.troubles: dict[str, str] = {}
        self._changed = asyncio.Event()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self._changed.set()

    def events_followed(self, key: str, ranks: Collection[int]) -> None:
        self._call(f"followed {sorted(ranks)}")

    def events_began(self, key: str, rank: int) -> None:
        self._call(f"began {rank}")

    def events_missed(self, key: str, rank: int) -> None:
        self._call(f"missed {rank}")

    def events_lost(self, key: str) -> None:
        self._call("lost")

    def heard(self, key: str, rank: int, sequence: int, events: Sequence[CacheEvent]) -> None:
        self.heard_.append((key, rank, sequence))
        self._changed.set()

    def troubled(self, key: str, question: str, reason: str) -> None:
        self.troubles[key] = reason
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


class Server:
    """Publishes batches and tells them again, as vLLM does."""

    def __init__(self, context: zmq.asyncio.Context, rank: int = 0) -> None:
        self.rank = rank
        self._publisher = context.socket(zmq.XPUB)
        self.port = self._publisher.bind_to_random_port("tcp://127.0.0.1")
        self._router = context.socket(zmq.ROUTER)
        self.replay_port = self._router.bind_to_random_port("tcp://127.0.0.1")
        self.past: list[tuple[int, bytes]] = []
        self._again = asyncio.create_task(self._tell_again())

    @property
    def source(self) -> dict[str, object]:
        replay = f"tcp://*:{self.replay_port}"
        return {"publisher": "zmq", "endpoint": f"tcp://*:{self.port}", "replay_endpoint": replay}

    async def subscribed(self) -> None:
        await self._publisher.recv()

    async def publish(self, number: int, payload: bytes, *, arrives: bool = True) -> None:
        self.past.append((number, payload))
        if arrives:
            await self._publisher.send_multipart([b"kv", number.to_bytes(8, "big"), payload])

    async def _tell_again(self) -> None:
        while True:
            client, _, first = await self._router.recv_multipart()
            for number, payload in self.past:
                if number >= int.from_bytes(first, "big"):
                    told = [client, b"", b"kv", number.to_bytes(8, "big"), payload]
                    await self._router.send_multipart(told)
            await self._router.send_multipart([client, b"", b"", b"\xff" * 8, b""])

    def close(self) -> None:
        self._again.cancel()
        self._publisher.close(linger=0)
        self._router.close(linger=0)


Listening = tuple[Told, zmq.asyncio.Context, Callable[[Fetch, int], KVEvents]]


@pytest.fixture
async def listening() -> AsyncIterator[Listening]:
    context, told = zmq.asyncio.Context(), Told()
    parts = Parts()

    def start(fetch: Fetch, port: int = 1) -> KVEvents:
        events = KVEvents(port, told, fetch)
        parts.start("KV events", events.run())
        return events

    yield told, context, start
    await parts.stop()
    context.destroy(linger=0)


def telling(*servers: Server) -> Fetch:
    async def fetch(url: str) -> bytes:
        assert url.endswith("/kv_event_sources")
        return json.dumps({server.rank: server.source for server in servers}).encode()

    return fetch


async def silent(url: str) -> bytes:
    raise ScrapeError(f"{url} answered 404", alive=True)


POD = Endpoint("127.0.0.1", 8000, "pod")


async def test_what_was_published_before_the_picker_came_is_told_again(
    listening: Listening,
) -> None:
    told, context, start = listening
    server, idle = Server(context), Server(context, rank=1)
    for number, payload in enumerate(recorded()[:3]):
        await server.publish(number, payload)
    start(telling(server, idle), 1).follow([POD])
    await server.subscribed()
    await told.until(lambda: len(told.heard_) == 3 and "began 1" in told.calls)
    assert told.calls[0] == "followed [0, 1]"
    assert told.heard_ == [(POD.key, 0, number) for number in range(3)]

    await server.publish(3, recorded()[3], arrives=False)  # lost on the way
    await server.publish(4, recorded()[4])
    await told.until(lambda: len(told.heard_) == 5)
    assert [number for _, _, number in told.heard_] == [0, 1, 2, 3, 4]
    assert not any(told.troubles.values())
    server.close()
    idle.close()


async def test_events_that_cannot_be_read_are_told_until_they_can(listening: Listening) -> None:
    told, context, start = listening
    server = Server(context)
    start(telling(server), 1).follow([POD])
    await server.subscribed()
    await told.until(lambda: "began 0" in told.calls)
    await server.publish(0, b"nonsense")
    await told.until(lambda: "cannot be read" in told.troubles.get(POD.key, ""))
    assert "missed 0" in told.calls
    await server.publish(1, recorded()[4])
    await told.until(lambda: told.troubles[POD.key] == "")
    assert told.heard_ == [(POD.key, 0, 1)]
    server.close()


async def test_older_servers_with_one_address_publish_at_ports_that_follow_one_another(
    listening: Listening,
) -> None:
    told, context, start = listening
    first, second = context.socket(zmq.XPUB), context.socket(zmq.XPUB)
    while True:
        port = first.bind_to_random_port("tcp://127.0.0.1")
        try:
            second.bind(f"tcp://127.0.0.1:{port + 1}")
            break
        except zmq.ZMQError:
            first.unbind(f"tcp://127.0.0.1:{port}")
    other = Endpoint("127.0.0.1", 8001, "rank-1")
    start(silent, port).follow([other, POD])
    await first.recv()
    await second.recv()
    await first.send_multipart([b"", (7).to_bytes(8, "big"), batch(["AllBlocksCleared"])])
    await second.send_multipart([b"", (9).to_bytes(8, "big"), batch(["AllBlocksCleared"])])
    await told.until(lambda: len(told.heard_) == 2)
    assert sorted(told.heard_) == [(POD.key, 0, 7), (other.key, 0, 9)]

    first.close(linger=0)
    await told.until(lambda: "lost" in told.calls)
    second.close(linger=0)


async def test_that_nobody_publishes_is_told_where_people_look(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, _, start = listening
    monkeypatch.setattr(kv_events, "CONNECT_TIMEOUT", 0.05)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        start(silent, port).follow([POD])
        await told.until(lambda: "nobody publishes" in told.troubles.get(POD.key, ""))
    off = Endpoint("127.0.0.1", 8002, "off")

    async def none(url: str) -> bytes:
        return b"{}"

    start(none, port).follow([off])
    await told.until(lambda: "names no publisher" in told.troubles.get(off.key, ""))


def test_token_ids_are_the_same_bytes_from_either_side() -> None:
    fleet = Fleet(1)
    asked = fleet.ask()
    assert asked.prompt_tokens == len(TOKENS) == len(array("I", TOKENS).tobytes()) // 4
