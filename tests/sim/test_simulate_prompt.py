"""Prompts by their structure: engine, picker and server must agree on what two of them share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sim.fleet.prompt import BYTES_PER_TOKEN, Segment, block_hashes, length, text
from sim.tokens import tokenize

segments = st.lists(
    st.builds(Segment, st.integers(0, 3), st.integers(1, 40)), min_size=1, max_size=5
).map(tuple)


def common(one: list[int], other: list[int]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


@given(segments)
def test_text_has_four_bytes_a_token_and_as_many_tokens_as_it_says(prompt):
    assert len(text(prompt)) == length(prompt) * BYTES_PER_TOKEN
    assert len(tokenize(text(prompt))) == length(prompt)


@given(segments, st.sampled_from([1, 4, 16]))
def test_there_is_a_hash_for_every_full_block_and_none_for_the_rest(prompt, size):
    assert len(block_hashes(prompt, size)) == length(prompt) // size


@given(segments, segments, segments)
def test_prompts_share_the_blocks_of_the_segments_that_both_begin_with(prefix, one, other):
    left, right = block_hashes((*prefix, *one), 8), block_hashes((*prefix, *other), 8)
    assert common(left, right) >= length(prefix) // 8


def test_segments_of_different_content_share_nothing_from_the_first_block_on():
    left, right = [Segment(1, 64), Segment(2, 64)], [Segment(1, 64), Segment(3, 64)]
    assert common(block_hashes(left, 16), block_hashes(right, 16)) == 4
    assert text(left)[:256] == text(right)[:256]
    assert text(left)[256:272] != text(right)[256:272]


def test_adapters_share_nothing():
    prompt = [Segment(1, 64)]
    assert common(block_hashes(prompt, 16, root=1), block_hashes(prompt, 16, root=2)) == 0
