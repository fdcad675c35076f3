"""What a client is told when its request is not sent to a pod.

The body has the shape of OpenAI's errors, which the clients of every API we serve can read; the
reason code is in a header as well, for those who read logs.
"""

from __future__ import annotations

import math

import msgspec

from extproc.request import Api, Refused
from extproc.wire import encode

REASON_HEADER = "x-poolpilot-reason"


_TYPES = {
    400: "invalid_request_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}
_GRPC = {400: 3, 404: 5, 408: 4, 413: 8, 429: 8, 500: 13, 503: 14}


def error_body(refused: Refused, api: Api = Api.OTHER) -> bytes:
    """``{"error": {"message", "type", "param", "code"}}``; Anthropic's clients also want a type
    beside it."""
    error: dict[str, object] = {
        "error": {
            "message": refused.message,
            "type": _TYPES[refused.status],
            "param": refused.reason.param,
            "code": refused.reason,
        }
    }
    if api is Api.MESSAGES:
        error = {"type": "error", **error}
    return msgspec.json.encode(error)


def immediate_response(refused: Refused, api: Api = Api.OTHER, *, grpc: bool = False) -> bytes:
    """The ext-proc answer that makes Envoy reply to the client at once.

    ``grpc``: the client speaks gRPC, and must be told by a gRPC status.
    """
    headers = [("content-type", "application/json"), (REASON_HEADER, refused.reason)]
    if refused.retry_after is not None:
        # Whole seconds, and never zero: "at once" is what overloaded the pool.
        headers.append(("retry-after", str(max(1, math.ceil(refused.retry_after)))))
    return encode.immediate_response(
        refused.status,
        headers,
        error_body(refused, api),
        f"poolpilot_{refused.reason.replace('-', '_')}",
        _GRPC[refused.status] if grpc else None,
    )
