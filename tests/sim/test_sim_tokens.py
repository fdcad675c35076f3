"""Tokens: cheap, but as stable as a real tokeniser's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sim.tokens import block_hashes, digest, generate, tokenize

ENGLISH = (
    "A router that knows which pod has seen a conversation before can send the next turn to the"
    " same pod, where most of the prompt need not be computed again. That only helps as long as"
    " the pod is not overloaded, which is why both have to be weighed against each other."
)


def test_english_has_about_four_bytes_a_token():
    assert 3.3 <= len(ENGLISH) / len(tokenize(ENGLISH)) <= 4.7


@given(st.text())
def test_tokens_are_the_text(text):
    assert b"".join(tokenize(text)).decode() == text


@given(st.integers(0, 2**40), st.integers(1, 300), st.booleans())
def test_generated_text_comes_back_as_the_tokens_it_was_made_of(seed, count, opening):
    output = generate(count, seed, opening=opening)
    assert len(output) == count
    assert tokenize(b"".join(output).decode()) == output


@given(st.integers(0, 2**40), st.integers(1, 300))
def test_a_prompt_with_its_answer_begins_with_the_tokens_of_both(seed, count):
    output = generate(count, seed)
    together = tokenize(ENGLISH + b"".join(output).decode())
    assert together == [*tokenize(ENGLISH), *output]


def test_long_answers_go_on_where_the_text_ends():
    assert len(generate(200_000, seed=5)) == 200_000


def test_one_seed_gives_one_text():
    assert generate(50, 7) == generate(50, 7) != generate(50, 8)


def test_a_digest_depends_on_the_prompt_and_not_on_the_process():
    assert digest(tokenize("a b c"), 1, None) == 864155749
    assert digest(tokenize("a b d"), 1, None) != digest(tokenize("a b c"), 1, None)


@given(st.lists(st.integers(0, 9), min_size=1), st.integers(0, 200))
def test_blocks_agree_exactly_as_far_as_their_tokens(tokens, at):
    tokens = (tokens * 64)[:64]
    changed = list(tokens)
    if at < 64:
        changed[at] += 1
    same = 0
    for a, b in zip(block_hashes(tokens, 16), block_hashes(changed, 16), strict=True):
        if a != b:
            break
        same += 1
    assert same == min(at // 16, 4)


def test_a_partly_filled_block_has_no_hash():
    assert len(block_hashes(list(range(31)), 16)) == 1
    assert block_hashes(list(range(15)), 16) == []


def test_another_root_shares_no_block():
    tokens = list(range(64))
    a = block_hashes(tokens, 16, ("sql-lora", None))
    b = block_hashes(tokens, 16, (None, None))
    assert not set(a) & set(b)
