"""Token counts, read from responses as they pass."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.apis.usage import HEAD, TAIL, Usage, UsageReader

OPENAI = {
    "prompt_tokens": 12,
    "completion_tokens": 34,
    "total_tokens": 46,
    "prompt_tokens_details": {"cached_tokens": 8},
}
TOLD = Usage(12, 8, 34)


def read(data: bytes, *sizes: int) -> Usage:
    """Fed in pieces of these sizes, the last one with all that is left."""
    reader = UsageReader()
    for size in sizes:
        reader.feed(data[:size])
        data = data[size:]
    reader.feed(data)
    return reader.usage()


def completion(text: str = "Hi", **more: object) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    return json.dumps({"id": "x", "choices": [choice], "usage": OPENAI, **more}).encode()


def stream(*documents: object) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in documents)


CHAT = (
    stream(
        {"choices": [{"delta": {"content": "Hi"}}], "usage": None},
        {"choices": [{"delta": {"content": '"usage": {"prompt_tokens": 1}'}}], "usage": None},
        {"choices": [], "usage": OPENAI},
    )
    + b"data: [DONE]\n\n"
)
ANTHROPIC = stream(
    {
        "type": "message_start",
        "message": {"usage": {"input_tokens": 4, "output_tokens": 1, "cache_read_input_tokens": 8}},
    },
    *[{"type": "content_block_delta", "delta": {"text": "word " * 20}} for _ in range(400)],
    {"type": "message_delta", "usage": {"output_tokens": 34}},
)
RESPONSES = stream(
    {"type": "response.created", "response": {"usage": None}},
    {
        "type": "response.completed",
        "response": {
            "output": [],
            "usage": {
                "input_tokens": 12,
                "input_tokens_details": {"cached_tokens": 8},
                "output_tokens": 34,
            },
        },
    },
)


@pytest.mark.parametrize(
    "body",
    [completion(), completion("word " * 100_000), CHAT, ANTHROPIC, RESPONSES],
    ids=["plain", "large", "chat stream", "anthropic stream", "responses stream"],
)
def test_every_api_tells_its_tokens_wherever_chunks_are_cut(body: bytes) -> None:
    assert read(body) == TOLD
    for cut in range(1, min(len(body), 400), 3 if len(body) < 100_000 else 90):
        assert read(body, len(body) - cut) == TOLD
        assert read(body, *[1] * min(cut, HEAD)) == TOLD


@pytest.mark.parametrize("body", [CHAT, ANTHROPIC], ids=["chat stream", "anthropic stream"])
@given(sizes=st.lists(st.integers(0, 200), max_size=40))
def test_the_pieces_do_not_matter(body: bytes, sizes: list[int]) -> None:
    assert read(body, *sizes) == TOLD


def test_the_first_chunks_may_end_inside_the_event_that_tells_the_prompt() -> None:
    assert len(ANTHROPIC) > TAIL, "the beginning is not among what is kept of the end"
    for first in (1, 60, 123):
        assert read(ANTHROPIC, first, 1, 7) == TOLD


def test_an_anthropic_server_counts_what_it_read_from_its_cache_beside_the_rest_of_the_prompt() -> (
    None
):
    told = {"input_tokens": 4, "cache_read_input_tokens": 8, "output_tokens": 34}
    assert read(json.dumps({"content": [], "usage": told}).encode()) == TOLD
    first = {"input_tokens": 5, "cache_read_input_tokens": 0, "output_tokens": 34}
    first["cache_creation_input_tokens"] = 640
    assert read(json.dumps({"usage": first}).encode()) == Usage(645, 0, 34)
    without_cache = {"input_tokens": 12, "cache_read_input_tokens": None, "output_tokens": 34}
    assert read(json.dumps({"usage": without_cache}).encode()) == Usage(12, None, 34)


def test_a_short_anthropic_stream_tells_its_prompt_in_the_first_event_too() -> None:
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 12}}}
    end = {"type": "message_delta", "usage": {"output_tokens": 34}}
    assert read(stream(start, end)) == Usage(12, None, 34)


def test_the_last_event_knows_the_cache_where_the_first_did_not() -> None:
    """vLLM counts the whole prompt first, and takes the cached part off when it is known."""
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 12}}}
    told = {"input_tokens": 4, "cache_read_input_tokens": 8, "output_tokens": 34}
    assert read(stream(start, {"type": "message_delta", "usage": told})) == TOLD


def test_what_the_model_writes_is_not_taken_for_its_usage() -> None:
    lie = '","usage":{"prompt_tokens":1,"completion_tokens":1}'
    assert read(completion(lie)) == TOLD
    document = json.dumps({"choices": [{"text": lie}]}).encode()
    assert read(document) == Usage()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b'{"usage"',
        b'{"usage":',
        b'{"usage":{"prompt_tokens":',
        b'{"usage":null}',
        b'{"usage":[1]}',
        b'{"usage":{"prompt_tokens":"12","completion_tokens":-1}}',
        b'{"usage":{"prompt_tokens":true,"completion_tokens":1e3}}',
        b'{"usage":' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}",
        b"\xff\xfe" * 50,
    ],
)
def test_nothing_is_made_up_where_nothing_usable_is_told(body: bytes) -> None:
    assert read(body) == Usage()


def test_a_response_of_any_size_takes_little_memory() -> None:
    reader, rng = UsageReader(), random.Random(1)
    for _ in range(2000):
        reader.feed(rng.randbytes(rng.choice((1, 100, 9000, 70_000))))
        held = sum(map(len, reader._last)) + len(reader._head)
        assert held <= HEAD + 2 * TAIL
    reader.feed(completion())
    assert reader.usage() == TOLD
