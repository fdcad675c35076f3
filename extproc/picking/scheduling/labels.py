"""Filters and scorers that go by an endpoint's labels: selectors, roles, context length."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from extproc.picking.scheduling.candidate import Candidate
from extproc.picking.scheduling.profile import Filter, SchedulingRequest, Scorer
from pools.model import LabelSelector

ROLE = "llm-d.ai/role"
CONTEXT_LENGTH_RANGE = "llm-d.ai/context-length-range"


def label_selector(selector: LabelSelector) -> Filter:
    """Endpoints that it selects."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        return [c for c in candidates if selector.selects(c.endpoint.labels)]

    return Filter("label-selector-filter", apply, because="its labels do not match")


_PREFILL = frozenset(("prefill", "encode-prefill", "prefill-decode", "encode-prefill-decode"))
_DECODE = frozenset(("decode", "prefill-decode", "encode-prefill-decode", "both"))
_ENCODE = frozenset(("encode", "encode-prefill", "encode-prefill-decode"))


def prefill_role() -> Filter:
    """Endpoints whose role has prefill in it."""
    return _role("prefill-filter", _PREFILL | {"both"}, unlabelled=False)


def decode_role() -> Filter:
    """Endpoints whose role has decode in it, and those without a role."""
    return _role("decode-filter", _DECODE, unlabelled=True)


def encode_role() -> Filter:
    """Endpoints whose role has encode in it."""
    return _role("encode-filter", _ENCODE, unlabelled=False)


def _role(name: str, roles: frozenset[str], *, unlabelled: bool) -> Filter:
    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        return [
            c
            for c in candidates
            if ((role := c.endpoint.labels.get(ROLE)) in roles) or (role is None and unlabelled)
        ]

    return Filter(name, apply, because=f"the label {ROLE} gives it another role")


@functools.lru_cache(maxsize=1024)
def _range(text: str) -> tuple[int, int] | None:
    """``min-max`` in tokens; None where the label is no such thing."""
    low, dash, high = text.partition("-")
    if not (dash and low.isdecimal() and high.isdecimal()) or int(low) > int(high):
        return None
    return int(low), int(high)


def context_length_filter(label: str = CONTEXT_LENGTH_RANGE) -> Filter:
    """Endpoints whose range of context lengths has the prompt in it, or that have none. If that
    leaves nobody: all."""

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        tokens = request.prompt_tokens
        kept = []
        for candidate in candidates:
            span = _range(candidate.endpoint.labels.get(label, ""))
            if span is None or span[0] <= tokens <= span[1]:
                kept.append(candidate)
        return kept or candidates

    return Filter(
        "context-length-aware", apply, because="it is meant for prompts of another length"
    )


def context_length(weight: float = 1.0, label: str = CONTEXT_LENGTH_RANGE) -> Scorer:
    """Prefers endpoints that are meant for prompts of this length, the narrower their range and
    the more room above the prompt the better:

    in range ``0.3 + 0.7 * (0.7 / (1 + width / 10000) + 0.3 * headroom / width)``; outside
    ``0.3 / (1 + distance / 1000)``; without a range 0.5.
    """

    def score(tokens: int, candidate: Candidate) -> float:
        span = _range(candidate.endpoint.labels.get(label, ""))
        if span is None:
            return 0.5
        low, high = span
        if tokens < low or tokens > high:
            return 0.3 / (1 + max(low - tokens, tokens - high) / 1000)
        width = max(1, high - low)
        return 0.3 + 0.7 * (0.7 / (1 + width / 10_000) + 0.3 * (high - tokens) / width)

    def apply(request: SchedulingRequest, candidates: Sequence[Candidate]) -> Sequence[float]:
        tokens = request.prompt_tokens
        return [score(tokens, c) for c in candidates]

    return Scorer("context-length-aware", apply, weight)
