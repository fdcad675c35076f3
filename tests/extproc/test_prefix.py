"""What two prompts share, and which endpoint has it in its cache."""

from __future__ import annotations

import functools
import json
import random
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from extproc.apis import fields
from extproc.picking.scheduling import Candidate
from extproc.picking.scheduling.prefix import PrefixIndex, Prompt, chain_of, prompt_of
from extproc.picking.scheduling.prefix.blocks import MAX_TOKENS, sizes_of
from extproc.request import Api, InferenceRequest
from pools.model import Endpoint

LONG = "All that the user has to know of the product, in one long text. " * 40


def prompt(api: Api, model: str = "m", **document: object) -> Prompt:
    """The prompt of a request with this body, read as the picker reads it."""
    found = fields.read(api, json.dumps({"model": model, **document}).encode())
    assert isinstance(found, fields.Fields), found
    request = InferenceRequest("r", None, "/", "POST", {}, api=api, model=model)
    request.document, request.prompt_json = found.document, found.prompt_json
    return prompt_of(request, model)


def chain(one: Prompt) -> list[int]:
    return chain_of(one.data, one.seed, 16)


def shared(one: Prompt, other: Prompt) -> int:
    """Blocks of 16 tokens that two prompts have in common."""
    count = 0
    for a, b in zip(chain(one), chain(other), strict=False):
        if a != b:
            break
        count += 1
    return count


def blocks(one: Prompt) -> int:
    return len(chain(one))


def say(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


# Canonical prompts.


@pytest.mark.parametrize("api", [Api.CHAT_COMPLETIONS, Api.RESPONSES, Api.MESSAGES])
def test_a_chat_that_grew_begins_with_the_chat_that_it_was(api: Api) -> None:
    key = "input" if api is Api.RESPONSES else "messages"
    first = [say("system", LONG), say("user", "What is it?")]
    later = [*first, say("assistant", "A lamp."), say("user", "How bright? " * 10)]
    short, long = prompt(api, **{key: first}), prompt(api, **{key: later})
    assert long.data.startswith(short.data)
    assert shared(short, long) == blocks(short)


def test_tools_come_before_the_messages_whatever_the_order_in_the_body() -> None:
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {"a": 1, "b": 2}}}]
    swapped = [
        {"function": {"parameters": {"b": 2, "a": 1}, "name": "look_up"}, "type": "function"}
    ]
    one = prompt(Api.CHAT_COMPLETIONS, tools=tools, messages=[say("user", "hi")])
    other = prompt(Api.CHAT_COMPLETIONS, messages=[say("user", "hi")], tools=swapped)
    assert one == other
    assert one != prompt(Api.CHAT_COMPLETIONS, messages=[say("user", "hi")])


def test_text_as_a_string_and_as_one_part_is_the_same_text() -> None:
    plain = prompt(Api.CHAT_COMPLETIONS, messages=[say("user", LONG)])
    parts = prompt(Api.CHAT_COMPLETIONS, messages=[say("user", [{"type": "text", "text": LONG}])])
    assert plain.data == parts.data


def test_a_cache_mark_that_moves_to_the_last_message_changes_nothing_before_it() -> None:
    def text(marked: bool) -> list[object]:
        mark = {"cache_control": {"type": "ephemeral"}} if marked else {}
        return [{"type": "text", "text": LONG, **mark}]

    one = prompt(Api.MESSAGES, system=text(True), messages=[say("user", text(True))])
    other = prompt(
        Api.MESSAGES,
        system=text(False),
        messages=[say("user", text(False)), say("assistant", "yes"), say("user", text(True))],
    )
    assert shared(one, other) == blocks(one)


def test_two_messages_are_not_one_with_the_text_of_both() -> None:
    two = prompt(Api.CHAT_COMPLETIONS, messages=[say("user", "ab"), say("user", "cd")])
    one = prompt(Api.CHAT_COMPLETIONS, messages=[say("user", "abcd")])
    assert two.data != one.data


def test_the_same_image_is_the_same_prompt_and_another_is_not() -> None:
    def with_image(data: str) -> Prompt:
        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        text = {"type": "text", "text": LONG}
        return prompt(Api.CHAT_COMPLETIONS, messages=[say("user", [image, text])])

    one, same, other = with_image("AAAA" * 5000), with_image("AAAA" * 5000), with_image("BBBB")
    assert one == same
    assert one.multimodal
    assert len(one.data) < len(LONG) + 100
    assert shared(one, other) == 0


def test_models_adapters_and_salts_share_nothing() -> None:
    one = prompt(Api.COMPLETIONS, prompt=LONG)
    assert blocks(one) > 30
    assert shared(one, prompt(Api.COMPLETIONS, "adapter", prompt=LONG)) == 0
    assert shared(one, prompt(Api.COMPLETIONS, prompt=LONG, cache_salt="tenant")) == 0
    assert shared(one, prompt(Api.COMPLETIONS, prompt=LONG, temperature=0.3)) == blocks(one)


def test_token_ids_are_four_bytes_each() -> None:
    ids = list(range(70_000, 70_160))
    one = prompt(Api.COMPLETIONS, prompt=ids)
    assert blocks(one) == 10
    assert shared(one, prompt(Api.COMPLETIONS, prompt=[*ids[:100], 1, *ids[100:]])) == 100 // 16
    assert one.data == prompt(Api.GENERATE, token_ids=ids).data


def test_a_body_too_large_to_decode_still_has_a_prompt() -> None:
    huge = "x" * (1 << 20)
    text = [say("user", LONG), say("user", huge + "a")]
    longer = [say("user", LONG), say("user", huge + "b")]
    one, other = (prompt(Api.CHAT_COMPLETIONS, messages=each) for each in (text, longer))
    assert shared(one, other) == blocks(one)  # they differ beyond what is looked at
    assert shared(one, prompt(Api.CHAT_COMPLETIONS, messages=text, cache_salt="s")) == 0
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * (1 << 20)}}
    seen = prompt(Api.CHAT_COMPLETIONS, messages=[say("user", [image, {"type": "text"}])])
    assert seen.multimodal
    assert len(seen.data) < 300
    ids = prompt(Api.COMPLETIONS, prompt=[100_000 + n for n in range(150_000)])
    assert sum(sizes_of(16)[: blocks(ids)]) == 131_072 // 16
    few = prompt(Api.COMPLETIONS, prompt=[100_000 + n for n in range(160)])
    assert shared(ids, few) == 10


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"messages": None},
        {"messages": "hello"},
        {"messages": [None, 3, "x", [], {}]},
        {"messages": [{"role": 3, "content": {"a": [1]}, "name": "\ud800"}]},
        {"messages": [say("user", [None, 1, {"type": "text", "text": 5}, {"type": "image"}, []])]},
        {"prompt": [1.5, "x"], "input": [[1, -1]], "token_ids": [True, 2**40]},
        {"prompt": [[1, 2], [3]], "instructions": 4, "system": [{"type": "text", "text": "s"}]},
        {"tools": "\ud83d", "messages": []},
        {"messages": [say("user", [{"type": ["text"]}, {"type": {}}])], "system": [{"type": []}]},
        {"prompt": [[[1], "x"]], "token_ids": [[[]]]},
    ],
)
@pytest.mark.parametrize("api", list(Api))
def test_whatever_a_client_sends_it_is_only_a_prompt(
    api: Api, document: Mapping[str, object]
) -> None:
    request = InferenceRequest("r", None, "/", "POST", {}, api=api, model="m")
    request.document = {"model": "m", **document}
    chain(prompt_of(request, "m"))


def deeper(frames: int, prompt: Callable[[], Prompt]) -> Prompt:
    """As it is where so many more calls are under way: a pick is made further in than its body was
    read."""
    return deeper(frames - 1, prompt) if frames else prompt()


@pytest.mark.parametrize(("key", "api"), [("tools", Api.MESSAGES), ("prompt", Api.COMPLETIONS)])
@pytest.mark.parametrize("inside", ['"a"', '"\\ud800"'])
def test_however_deep_a_client_nests_what_could_be_read_is_a_prompt(
    key: str, api: Api, inside: str
) -> None:
    read = 0
    for depth in range(100, 1100):
        body = f'{{"model": "m", "{key}": {"[" * depth}{inside}{"]" * depth}}}'
        found = fields.read(api, body.encode())
        if isinstance(found, fields.Fields):
            read = depth
            request = InferenceRequest("r", None, "/", "POST", {}, api=api, model="m")
            request.document = found.document
            deeper(20, functools.partial(prompt_of, request, "m"))
    assert read > 500


@pytest.mark.parametrize("text", ["1" * (2 << 20), "[1" + " " * (2 << 20) + ", 2]", "[[1], 2]"])
def test_a_large_prompt_that_only_begins_like_token_ids_is_a_prompt(text: str) -> None:
    body = f'{{"model": "m", "prompt": {text}, "padding": "{"x" * (1 << 20)}"}}'
    found = fields.read(Api.COMPLETIONS, body.encode())
    assert isinstance(found, fields.Fields)
    request = InferenceRequest("r", None, "/", "POST", {}, api=Api.COMPLETIONS, model="m")
    request.prompt_json = found.prompt_json
    assert prompt_of(request, "m").data == b""


def test_millions_of_pictures_without_content_keep_nobody_waiting() -> None:
    parts = b'"data:",' * (2 << 20)
    body = b'{"model": "m", "messages": [{"role": "user", "content": [' + parts + b"0]}]}"
    began = time.process_time()
    found = fields.read(Api.CHAT_COMPLETIONS, body)
    assert isinstance(found, fields.Fields)
    request = InferenceRequest("r", None, "/", "POST", {}, api=Api.CHAT_COMPLETIONS, model="m")
    request.prompt_json = found.prompt_json
    chain(prompt_of(request, "m"))
    assert time.process_time() - began < 0.6


def test_long_salts_do_not_fill_the_memory() -> None:
    prompt(Api.COMPLETIONS, prompt=LONG, cache_salt="short")
    tracemalloc.start()
    try:
        for n in range(100):
            one = prompt(Api.COMPLETIONS, prompt=LONG, cache_salt=f"{n}" + "s" * 500_000)
            again = prompt(Api.COMPLETIONS, prompt=LONG, cache_salt=f"{n}" + "s" * 500_000)
            assert one == again
        assert tracemalloc.get_traced_memory()[0] < 5_000_000
    finally:
        tracemalloc.stop()


# The index.


def pods(count: int) -> list[Candidate]:
    return [Candidate(Endpoint(f"10.0.0.{n}", 8000, f"pod-{n}")) for n in range(1, count + 1)]


def index_of(candidates: Sequence[Candidate], blocks_each: int = 1000) -> PrefixIndex:
    index = PrefixIndex(block_tokens=1)
    index.follow(dict.fromkeys(candidates, blocks_each))
    return index


def test_each_endpoint_is_credited_with_what_it_has_from_the_beginning_on() -> None:
    one, two, three = pods(3)
    index = index_of([one, two, three])
    index.add(one, [1, 2, 3, 4])
    index.add(two, [1, 2, 30])
    match = index.match([1, 2, 3, 4, 5])
    assert [match.tokens_of(c) for c in (one, two, three)] == [4, 2, 0]
    assert match.longest == 4
    assert list(match.with_at_least(3, (one, two, three))) == [one]
    assert list(match.with_at_least(1, (one, two, three))) == [one, two]
    assert list(match.with_at_least(5, (one, two, three))) == []
    assert list(match.with_at_least(3, (two, three))) == []


def test_a_block_without_those_before_it_counts_for_nothing() -> None:
    one, two = pods(2)
    index = index_of([one, two])
    index.add(one, [1, 2, 3])
    index.add(two, [1, 2, 3])
    index.remove(one, [2])
    match = index.match([1, 2, 3])
    assert (match.tokens_of(one), match.tokens_of(two)) == (1, 3)
    assert not index.match([2, 3, 4]).tokens_of(one)


def test_the_longest_unused_prompt_is_evicted_its_end_first() -> None:
    (one,) = pods(1)
    index = index_of([one], blocks_each=6)
    index.add(one, [1, 2, 3])
    index.add(one, [10, 11, 12])
    index.add(one, [1, 2, 3])
    index.add(one, [20])
    assert index.match([10, 11, 12]).longest == 2
    assert index.match([1, 2, 3]).longest == 3
    index.add(one, [30, 31])
    assert index.match([10, 11, 12]).longest == 0
    assert len(index) == 6


def test_what_was_recorded_tells_how_much_was_new_and_can_be_taken_back() -> None:
    (one,) = pods(1)
    index = index_of([one])
    assert index.add(one, [1, 2]) == 2
    assert index.add(one, [1, 2, 3, 4]) == 2
    index.remove(one, [3, 4])
    assert index.match([1, 2, 3, 4]).longest == 2


def test_an_endpoint_that_goes_leaves_nothing_and_its_place_is_used_again() -> None:
    one, two, three = pods(3)
    index = index_of([one, two])
    index.add(one, [1, 2])
    index.add(two, [1])
    index.follow({two: 1000, three: 1000})
    assert index.match([1, 2]).longest == 1
    index.add(three, [1, 2])
    match = index.match([1, 2])
    assert [match.tokens_of(c) for c in (one, two, three)] == [0, 1, 2]
    assert one.bit == 0
    index.add(one, [1])  # it is not followed any more
    assert not index.match([1]).tokens_of(one)


def test_a_server_that_was_started_again_has_nothing() -> None:
    one, two = pods(2)
    index = index_of([one, two])
    index.add(one, [1, 2])
    index.add(two, [1])
    index.forget(one)
    match = index.match([1, 2])
    assert (match.tokens_of(one), match.tokens_of(two)) == (0, 1)
    assert len(index) == 1


def test_a_prompt_longer_than_the_cache_is_known_as_far_as_it_fits() -> None:
    (one,) = pods(1)
    index = index_of([one], blocks_each=3)
    index.add(one, [1, 2, 3, 4, 5])
    assert index.match([1, 2, 3, 4, 5]).longest == 3


def test_all_endpoints_together_stay_below_the_cap() -> None:
    candidates = pods(10)
    index = PrefixIndex(block_tokens=1, max_entries=100)
    index.follow(dict.fromkeys(candidates, 1000))
    for candidate in candidates:
        for start in range(0, 300, 3):
            index.add(candidate, [start, start + 1, start + 2])
            assert len(index) <= 100


def test_many_holders_are_told_apart_as_well_as_few() -> None:
    candidates = pods(200)
    index = index_of(candidates)
    for n, candidate in enumerate(candidates):
        index.add(candidate, list(range(1, 2 + n % 5)))
    match = index.match([1, 2, 3, 4, 5, 6])
    assert [match.tokens_of(c) for c in candidates] == [1 + n % 5 for n in range(200)]
    assert len(match.with_at_least(4, candidates)) == 80


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 12)), max_size=40), st.data())
@settings(max_examples=60)
def test_a_match_is_never_more_than_what_was_sent(
    sent: list[tuple[int, int]], data: st.DataObject
) -> None:
    candidates = pods(5)
    index = index_of(candidates)
    families: dict[tuple[int, int], int] = {}
    for who, length in sent:
        family = data.draw(st.integers(0, 2))
        index.add(candidates[who], [family * 100 + n for n in range(length)])
        families[who, family] = max(families.get((who, family), 0), length)
    for family in range(3):
        match = index.match([family * 100 + n for n in range(12)])
        for who, candidate in enumerate(candidates):
            assert match.tokens_of(candidate) == families.get((who, family), 0)


@given(length=st.integers(64, 40_000), then=st.integers(0, 5_000), block=st.sampled_from([16, 64]))
@settings(max_examples=50)
def test_what_is_known_of_a_prompt_falls_short_by_a_block_or_a_sixteenth(
    length: int, then: int, block: int
) -> None:
    (one,) = pods(1)
    index = PrefixIndex(block)
    index.follow({one: 100_000})
    text = random.Random(length).randbytes(4 * length)
    index.add(one, chain_of(text, 1, block))
    known = index.match(chain_of(text + bytes(4 * then), 1, block)).longest
    assert length - max(block, length / 16) <= known <= length
    assert index.entries_of(one) * block == known


def test_the_longest_prompt_has_a_bounded_number_of_blocks() -> None:
    assert len(chain_of(bytes(8 * MAX_TOKENS), 1, 64)) == len(sizes_of(64)) == 176
    assert len(chain_of(bytes(8 * MAX_TOKENS), 1, 16)) == len(sizes_of(16)) == 224


class IndexMachine(RuleBasedStateMachine):
    """Anything may happen to an index; it stays within its cap and consistent."""

    CAP = 600

    def __init__(self) -> None:
        super().__init__()
        self.candidates = pods(6)
        self.index = PrefixIndex(block_tokens=1, max_entries=self.CAP)
        self.followed: list[Candidate] = []
        self.rng = random.Random(0)

    @rule(who=st.sets(st.integers(0, 5)), size=st.integers(0, 400))
    def follow(self, who: set[int], size: int) -> None:
        self.followed = [self.candidates[n] for n in sorted(who)]
        self.index.follow(dict.fromkeys(self.followed, size))

    @rule(who=st.integers(0, 5), family=st.integers(0, 3), length=st.integers(0, 90))
    def add(self, who: int, family: int, length: int) -> None:
        self.index.add(self.candidates[who], [family * 100 + n for n in range(length)])

    @rule(who=st.integers(0, 5), family=st.integers(0, 3), start=st.integers(0, 90))
    def take_back(self, who: int, family: int, start: int) -> None:
        self.index.remove(self.candidates[who], [family * 100 + n for n in range(start, 90)])

    @rule(who=st.integers(0, 5))
    def restart(self, who: int) -> None:
        self.index.forget(self.candidates[who])

    @invariant()
    def it_stays_below_its_cap(self) -> None:
        assert len(self.index) <= self.CAP

    @invariant()
    def only_followed_endpoints_are_credited(self) -> None:
        for family in range(4):
            held = self.index.match([family * 100 + n for n in range(90)]).held()
            assert set(held) <= set(self.followed)
            assert all(self.index.entries_of(c) >= tokens for c, tokens in held.items())

    def teardown(self) -> None:
        for candidate in self.candidates:
            self.index.remove(candidate, range(400))
            assert self.index.entries_of(candidate) == 0
        self.index.follow({})
        assert len(self.index) == 0
        assert not self.index.match([0, 1, 2]).longest


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=80, stateful_step_count=40)
