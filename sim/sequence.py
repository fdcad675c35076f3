"""A request on its way through an engine."""

from __future__ import annotations

from sim.events import Request


class Sequence:
    """The engine's book on one request."""

    __slots__ = (
        "admitted",
        "arrived",
        "blocks",
        "cached",
        "computed",
        "decode_from",
        "first_token",
        "generated",
        "last_token",
        "published",
        "request",
        "shared",
        "target",
        "ticket",
        "turn",
    )

    def __init__(self, request: Request, arrived: float) -> None:
        self.request = request
        self.arrived = arrived
        self.admitted: float | None = None
        self.first_token: float | None = None
        self.last_token = 0.0  # when it was preempted: the time of the token before
        self.cached = 0
        self.target = request.prompt_tokens  # tokens to compute before the next one can come out
        self.generated = 0  # tokens that were out when the present decode run began
        self.reset()

    def reset(self) -> None:
        """As it waits: nothing computed, nothing held."""
        self.computed = 0
        self.blocks = 0  # held while prefilling; while decoding it follows from the step count
        self.shared: list[int] = []
        self.published = 0  # blocks of the chain that were offered to the cache
        self.decode_from: int | None = None
        self.ticket = 0
        self.turn = 0
