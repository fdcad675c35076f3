"""Filters as a decision tree: where to go next depends on whether a filter kept anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from extproc.picking.scheduling.candidate import Candidate
from extproc.picking.scheduling.profile import Filter, SchedulingRequest, Verdict


@dataclass(frozen=True, slots=True)
class Node:
    """One filter and what follows it.

    If it kept anything, ``on_success`` goes on with what it kept. If not, ``on_failure`` goes on
    with what the filter was given. Without a next node the tree ends there.
    """

    filter: Filter
    on_success: Node | Drop | None = None
    on_failure: Node | Drop | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """The request is shed here."""

    name: str = "drop"


def then(filter_: Filter, following: Node | Drop | None = None) -> Node:
    """A node that goes on either way: a preference rather than a condition."""
    return Node(filter_, following, following)


def filter_tree(name: str, root: Node) -> Filter:
    """The tree as one filter. Each node that was passed is in the trace under its own name."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        trace = request.trace
        node: Node | Drop | None = root
        while node is not None:
            if isinstance(node, Drop):
                trace.append((node.name, ()))
                return ()
            step = node.filter
            kept = step.apply(request, candidates)
            trace.append((step.name, kept))
            if kept:
                candidates = kept
                node = node.on_success
            else:
                node = node.on_failure
        return candidates

    reasons = {step.name: step.because for step in _filters(root)}
    return Filter(name, apply, Verdict.SHED, traces_itself=True, reasons=reasons)


def _filters(node: Node | Drop | None) -> Iterator[Filter]:
    if isinstance(node, Node):
        yield node.filter
        yield from _filters(node.on_success)
        yield from _filters(node.on_failure)
