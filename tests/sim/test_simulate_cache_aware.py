"""vllm-router's policy, as it is compared with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import takewhile

from hypothesis import given
from hypothesis import strategies as st

from extproc.picking.scheduling import Candidate, Profile, SchedulingRequest
from extproc.request import Api, InferenceRequest
from pools.model import Endpoint
from sim.fleet.cache_aware import TextTree, cache_aware, common

TEXTS = st.text("ab", max_size=12)


def shared(first: str, second: str) -> int:
    same = (a == b for a, b in zip(first, second, strict=False))
    return sum(1 for _ in takewhile(bool, same))


@given(TEXTS, st.integers(0, 3), TEXTS)
def test_what_two_texts_have_in_common_is_counted_to_the_character(text, at, piece):
    assert common(text, at, piece) == shared(text[at:], piece)


@given(st.lists(TEXTS, max_size=12), TEXTS)
def test_the_tree_finds_the_longest_known_beginning_and_who_was_sent_it_first(texts, text):
    tree = TextTree()
    for number, known in enumerate(texts):
        tree.add(known, f"pod-{number}")
    lengths = [shared(known, text) for known in texts]
    longest = max(lengths, default=0)
    assert tree.find(text) == (longest, f"pod-{lengths.index(longest)}" if longest else "")


def pods(*in_flight: int) -> list[Candidate]:
    candidates = [Candidate(Endpoint("10.0.0.1", 8000 + n, f"pod-{n}"), set()) for n in range(4)]
    for candidate, count in zip(candidates, in_flight, strict=False):
        candidate.in_flight = count
    return candidates


def pick(profile: Profile, candidates: Sequence[Candidate], prompt: str) -> list[str]:
    request = InferenceRequest(
        id="1",
        pool=None,
        path="/v1/completions",
        method="POST",
        headers={},
        api=Api.COMPLETIONS,
        model="m",
        stream=True,
        document={"prompt": prompt},
    )
    asked = SchedulingRequest(model="m", priority=0, rng=random.Random(1), request=request)
    return [c.endpoint.name for c in profile.decide(asked, candidates, 3).endpoints]


def test_a_known_beginning_goes_where_it_was_whatever_the_load_there():
    policy = cache_aware()
    assert pick(policy, pods(1, 0, 1, 1), "x" * 100) == ["pod-1", "pod-0", "pod-2"]
    assert pick(policy, pods(0, 60, 0, 0), "x" * 31 + "y" * 69)[0] == "pod-1"


def test_too_little_of_it_goes_to_the_idlest():
    policy = cache_aware()
    pick(policy, pods(1, 0, 1, 1), "x" * 100)
    assert pick(policy, pods(3, 2, 1, 2), "x" * 30 + "y" * 70)[0] == "pod-2"


def test_an_imbalance_goes_to_the_idlest_which_is_not_where_the_beginning_is_looked_for_later():
    policy = cache_aware()
    pick(policy, pods(1, 0, 1, 1), "x" * 100)
    assert pick(policy, pods(9, 65, 0, 9), "x" * 100)[0] == "pod-2"
    assert pick(policy, pods(9, 64, 0, 9), "x" * 100)[0] == "pod-1"
    assert pick(policy, pods(190, 280, 200, 190), "x" * 100)[0] == "pod-1"


def test_what_only_a_pod_knows_that_is_not_there_goes_to_the_idlest():
    policy = cache_aware()
    pick(policy, pods(1, 0, 1, 1), "x" * 100)
    left = [candidate for candidate in pods(2, 0, 1, 3) if candidate.endpoint.name != "pod-1"]
    assert pick(policy, left, "x" * 100)[0] == "pod-2"
