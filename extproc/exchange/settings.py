"""What an operator can set about exchanges."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class BodyMode(enum.IntEnum):
    """How Envoy shows us a body (``ProcessingMode.BodySendMode``)."""

    NONE = 0
    STREAMED = 1
    BUFFERED = 2
    BUFFERED_PARTIAL = 3
    FULL_DUPLEX_STREAMED = 4


@dataclass(frozen=True, slots=True)
class ExchangeSettings:
    body_limit: int = 32 << 20
    """Bytes of a body that is held until the pick; more is answered with 413."""
    pick_timeout: float = 30.0
    """Seconds that a request may wait for its pick; then it is answered with 503."""
    upload_timeout: float = 300.0
    """Seconds from the request's headers to the end of its body; then it is answered with 408.
    In full duplex Envoy has no such limit of its own."""
    assumed_body_mode: BodyMode = BodyMode.BUFFERED
    """For Envoys before 1.33, which do not say how they were configured."""
    restore_model: bool = False
    """Put the model name that the client asked for back into the response, where the request was
    rewritten and Envoy sends us response bodies."""

    def __post_init__(self) -> None:
        if self.body_limit < 1:
            raise ValueError("body_limit: must be at least 1 byte")
        for name in ("pick_timeout", "upload_timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be greater than 0 seconds")
