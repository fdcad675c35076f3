"""``cache_aware`` of vllm-router 0.1.12, to compare with.

While the busiest pod has more than ``imbalance`` requests more than the idlest, and more than
``ratio`` times as many, a request goes to the idlest. Otherwise the prompt's text is looked up in a
tree of all texts so far: where more than ``threshold`` of it is found, the pod that was first sent
the last piece found gets it, whatever its load; else the idlest. Ties go to the first.

What the router has beyond this does not matter here: its tree begins to forget at 67 million
characters a pod, and it knows one tree for each model that its servers name (ours name none), so
that adapters are nothing to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from extproc.picking.scheduling import Candidate, Picker, Profile, SchedulingRequest

THRESHOLD = 0.3
IMBALANCE = 64
RATIO = 1.5


class _Node:
    __slots__ = ("children", "owner", "text")

    def __init__(self, text: str, owner: str) -> None:
        self.text = text
        self.owner = owner
        self.children: dict[str, _Node] = {}  # by their first character


class TextTree:
    """Which of the texts so far share how much, and who was sent each piece first."""

    def __init__(self) -> None:
        self._root = _Node("", "")

    def find(self, text: str) -> tuple[int, str]:
        """How many characters are known from the start, and whose the last piece of them is. (A
        piece counts from its first character; ``""`` if there is none.)"""
        node, at = self._root, 0
        while at < len(text) and (child := node.children.get(text[at])):
            node = child
            shared = common(text, at, node.text)
            at += shared
            if shared < len(node.text):
                break
        return at, node.owner

    def add(self, text: str, owner: str) -> None:
        """What is new of this text is this owner's."""
        node, at = self._root, 0
        while at < len(text):
            child = node.children.get(text[at])
            if child is None:
                node.children[text[at]] = _Node(text[at:], owner)
                return
            shared = common(text, at, child.text)
            if shared < len(child.text):
                upper = _Node(child.text[:shared], child.owner)
                child.text = child.text[shared:]
                upper.children[child.text[0]] = child
                node.children[text[at]] = child = upper
            node = child
            at += shared


def common(text: str, at: int, piece: str) -> int:
    """How much of ``piece`` stands in ``text`` from ``at`` on."""
    if text.startswith(piece, at):
        return len(piece)
    low, high = 0, min(len(piece), len(text) - at)  # so many are equal; not more than so many
    while low < high:
        middle = (low + high + 1) // 2
        if text.startswith(piece[low:middle], at + low):
            low = middle
        else:
            high = middle - 1
    return low


def cache_aware(
    threshold: float = THRESHOLD, imbalance: int = IMBALANCE, ratio: float = RATIO
) -> Profile:
    """With a tree of its own."""
    tree = TextTree()

    def apply(
        request: SchedulingRequest,
        candidates: Sequence[Candidate],
        scores: Sequence[float] | None,
        count: int,
    ) -> list[Candidate]:
        assert request.request is not None
        text = str((request.request.document or {}).get("prompt", ""))
        by_load = sorted(candidates, key=lambda candidate: candidate.in_flight)
        pick, most = by_load[0], by_load[-1].in_flight
        least = pick.in_flight
        if most - least <= imbalance or most <= ratio * least:
            found, owner = tree.find(text)
            if text and found / len(text) > threshold:
                pick = next((c for c in candidates if c.endpoint.name == owner), pick)
        tree.add(text, pick.endpoint.name)
        return [pick, *(candidate for candidate in by_load if candidate is not pick)][:count]

    return Profile("cache-aware", (), Picker("cache-aware", apply))
