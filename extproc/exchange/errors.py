"""What a client is told when its request is not sent to a pod.

The body has the shape of OpenAI's errors, which the clients of every API we serve can read; the
reason code is in a header as well, for those who read logs. docs/errors.md is checked against
:data:`REASONS`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec

from extproc.request import Api, Refused
from extproc.wire import encode

REASON_HEADER = "x-poolpilot-reason"


@dataclass(frozen=True, slots=True)
class Reason:
    """A stable code: when it is given, and what to do about it."""

    status: int
    when: str
    remedy: str
    param: str | None = None
    """The field of the request that is at fault."""


REASONS: dict[str, Reason] = {
    "invalid-json": Reason(
        400,
        "The body of a request to a known inference API is not a JSON object.",
        "Send plain (not compressed) JSON in UTF-8.",
    ),
    "missing-model": Reason(
        400,
        "The body has no `model`, or one that is not a string of 1 to 1,024 characters.",
        "Set `model` to the name of a model or adapter that the pool serves.",
        param="model",
    ),
    "no-pool-for-model": Reason(
        404,
        "The route names no pool, and no pool is known to serve the model.",
        "Ask for one of the models that the message lists; name further ones in an InferenceModel "
        "or InferenceModelRewrite, or let the route choose the pool.",
        param="model",
    ),
    "upload-timeout": Reason(
        408,
        "The body did not arrive within the upload timeout (300 s unless configured).",
        "Send it faster, or raise the timeout.",
    ),
    "body-too-large": Reason(
        413,
        "The body is larger than the limit (32 MiB unless configured).",
        "Send less, or raise the limit of the endpoint picker (and Envoy's buffers where bodies "
        "are buffered).",
    ),
    "shed": Reason(
        429,
        "All endpoints are busy, and the request's priority is one that is dropped then.",
        "Try again after `retry-after`, add pods, or raise the priority of its objective.",
    ),
    "queue-full": Reason(
        429,
        "All endpoints are busy, and as many requests (or bytes) wait already as may, or one of "
        "higher priority took the place.",
        "Try again after `retry-after`, add pods, or raise the limits of the queue.",
    ),
    "queue-timeout": Reason(
        429,
        "All endpoints were busy for as long as the request may wait in the queue (20 s unless "
        "configured, or what it asked for in `x-poolpilot-queue-timeout`).",
        "Try again after `retry-after`, add pods, or let requests wait longer.",
    ),
    "body-not-visible": Reason(
        500,
        "The model has to be rewritten, but Envoy's processing mode does not let the picker "
        "change the body.",
        "Set `request_body_mode` to `FULL_DUPLEX_STREAMED` or `BUFFERED`.",
    ),
    "no-ready-endpoints": Reason(
        503,
        "The pool has no ready endpoint.",
        "Check that its pods run and are ready (`poolpilot status`).",
    ),
    "no-endpoint-in-subset": Reason(
        503,
        "The gateway restricts the request to endpoints of which none is a ready one of the pool.",
        "Check the subset hint that the gateway sends, and the pods it names.",
    ),
    "unknown-pool": Reason(
        503,
        "The route names a pool that the picker does not know.",
        "Check that the InferencePool exists, and that the picker watches its namespace or file.",
    ),
    "starting": Reason(
        503,
        "The picker has not read its configuration yet, or has not yet asked the pods which models "
        "they serve.",
        "Try again; Envoy should not send requests to a picker whose health check fails.",
    ),
    "shutting-down": Reason(
        503,
        "The picker is stopping, and the request was still waiting in its queue.",
        "Try again: another picker takes over.",
    ),
    "pick-timeout": Reason(
        503,
        "No endpoint was chosen within the pick timeout (30 s unless configured).",
        "Try again; if it lasts, look at the saturation of the pool.",
    ),
}

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
    known = REASONS.get(refused.reason)
    error: dict[str, object] = {
        "error": {
            "message": refused.message,
            "type": _TYPES.get(refused.status, "server_error"),
            "param": known.param if known else None,
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
        _GRPC.get(refused.status, 2) if grpc else None,
    )
