"""What goes into an engine and what comes out of it. Times are seconds on the engine's clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to compute.

    ``blocks`` are the chained hashes of its full blocks, prompt and then output
    (:func:`sim.tokens.block_hashes`); what lies beyond the end of the list is never shared.
    """

    id: str
    prompt_tokens: int
    output_tokens: int
    blocks: Sequence[int] = ()
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class FirstToken:
    """A request's prompt is computed and its first token is out."""

    request_id: str
    at: float
    cached_tokens: int  # of the prompt, found in the prefix cache


@dataclass(frozen=True, slots=True)
class Decoded:
    """``tokens`` further tokens came out, each ``interval`` seconds after the one before it in
    its sequence. Steps of the same length in a row are one event."""

    at: float  # the last of them
    interval: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Preempted:
    """A request lost its blocks to older ones; it is waiting again and will be recomputed."""

    request_id: str
    at: float


@dataclass(frozen=True, slots=True)
class Finished:
    """A request has all its tokens and holds nothing any more."""

    request_id: str
    at: float
    arrived: float
    admitted: float
    first_token: float
    cached_tokens: int


Event = FirstToken | Decoded | Preempted | Finished
