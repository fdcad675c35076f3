"""What a picker has learned and would have to learn again after a restart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec


class KnownCache(msgspec.Struct, frozen=True):
    """What one endpoint has cached, as far as we know."""

    blocks: Sequence[int]
    """Their hashes, the oldest use first."""
    sizes: Sequence[int]
    """Of each, in blocks of the first size."""
    tokens: int
    """The size of its cache."""
    first_tokens: int | None = None
    """How many it had given since it was started: a smaller number later tells of a restart."""
    first_token_seconds: float = 0.0
    """How long the requests had waited for those, in all."""


class Known(msgspec.Struct, frozen=True):
    """By the endpoint's ``ip:port``, and by model."""

    block_tokens: int
    caches: dict[str, KnownCache]
    outputs: Mapping[str, float]
    """Output tokens that are expected of a request."""
    expected_output: float
    """The same of a model that is not known."""
