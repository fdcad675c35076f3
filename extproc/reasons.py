"""Why a client is answered at once: one row for each reason, with its code, its status, its
sentence and what docs/errors.md says of it.

A reason's code is stable: clients read it, and it is a label of metrics.
"""

from __future__ import annotations

import enum


class Reason(enum.StrEnum):
    """The code, with all that belongs to it."""

    status: int
    """The HTTP status that the client gets."""
    sentence: str
    """What the client is told, with a place for what is known only then."""
    when: str
    """When it is given, for who runs the server ..."""
    remedy: str
    """... and what to do about it."""
    retry_after: float | None
    """Seconds after which trying again makes sense, where the case at hand does not tell; None:
    waiting does not help."""
    param: str | None
    """The field of the request that is at fault."""

    def __new__(
        cls,
        code: str,
        status: int,
        sentence: str,
        when: str,
        remedy: str,
        retry_after: float | None = None,
        param: str | None = None,
    ) -> Reason:
        reason = str.__new__(cls, code)
        reason._value_ = code
        reason.status = status
        reason.sentence = sentence
        reason.when = when
        reason.remedy = remedy
        reason.retry_after = retry_after
        reason.param = param
        return reason

    INVALID_JSON = (
        "invalid-json",
        400,
        "The request {problem}.",
        "The body of a request to a known inference API is not a JSON object.",
        "Send plain (not compressed) JSON in UTF-8.",
    )
    MISSING_MODEL = (
        "missing-model",
        400,
        'The request body has {model}. Set "model" to a model\'s name.',
        "The body has no `model`, or one that is not a string of 1 to 1,024 characters.",
        "Set `model` to the name of a model or adapter that the pool serves.",
        None,
        "model",
    )
    NO_POOL_FOR_MODEL = (
        "no-pool-for-model",
        404,
        "The request asks for {asked}, and its path and host lead to no pool. {known} An "
        "InferenceModel or InferenceModelRewrite makes a name known.",
        "The route names no pool, and no pool is known to serve the model.",
        "Ask for one of the models that the message lists; name further ones in an InferenceModel "
        "or InferenceModelRewrite, or let the route choose the pool.",
        None,
        "model",
    )
    UPLOAD_TIMEOUT = (
        "upload-timeout",
        408,
        "The request body did not arrive within {seconds:g} s.",
        "The body did not arrive within the upload timeout (300 s unless configured).",
        "Send it faster, or raise the timeout.",
    )
    BODY_TOO_LARGE = (
        "body-too-large",
        413,
        "The request body is larger than {limit} bytes.",
        "The body is larger than the limit (32 MiB unless configured).",
        "Send less, or raise the limit of the endpoint picker (and Envoy's buffers where bodies "
        "are buffered).",
    )
    SHED = (
        "shed",
        429,
        "All endpoints of the pool {pool} are busy, and requests of priority {priority} are "
        "dropped while they are. Try again later.",
        "All endpoints are busy, and the request's priority is one that is dropped then.",
        "Try again after `retry-after`, add pods, or raise the priority of its objective.",
        1.0,
    )
    QUEUE_FULL = (
        "queue-full",
        429,
        "The queue for the pool {pool} has no room for this request. Try again later.",
        "All endpoints are busy, and as many requests (or bytes) wait already as may, or one of "
        "higher priority took the place.",
        "Try again after `retry-after`, add pods, or raise the limits of the queue.",
        1.0,
    )
    QUEUE_TIMEOUT = (
        "queue-timeout",
        429,
        "All endpoints of the pool {pool} were busy for the {seconds:.1f} s that this request "
        "waited. Try again later.",
        "All endpoints were busy for as long as the request may wait in the queue (20 s unless "
        "configured, or what it asked for in `x-poolpilot-queue-timeout`).",
        "Try again after `retry-after`, add pods, or let requests wait longer.",
        1.0,
    )
    BODY_NOT_VISIBLE = (
        "body-not-visible",
        500,
        "The model must be rewritten, but {problem}. Set request_body_mode to "
        "FULL_DUPLEX_STREAMED or BUFFERED.",
        "The model has to be rewritten, but Envoy's processing mode does not let the picker "
        "change the body.",
        "Set `request_body_mode` to `FULL_DUPLEX_STREAMED` or `BUFFERED`.",
    )
    BODIES_FULL = (
        "bodies-full",
        503,
        "The endpoint picker holds as many bytes of request bodies as it has memory for, and this "
        "request has more of them than others. Try again later.",
        "All bodies that are held at the same time are more than the memory for them (a quarter of "
        "the picker's memory limit unless configured), and this one was the largest.",
        "Try again after `retry-after`; send large bodies faster, or fewer at a time; or give the "
        "picker more memory.",
        5.0,
    )
    NO_READY_ENDPOINTS = (
        "no-ready-endpoints",
        503,
        "The pool {pool} {problem}. Check that its pods run and are ready.",
        "The pool has no ready endpoint.",
        "Check that its pods run and are ready (`poolpilot status`).",
        5.0,
    )
    NO_ENDPOINT_IN_SUBSET = (
        "no-endpoint-in-subset",
        503,
        "None of the endpoints that this request may use is a ready endpoint of the pool {pool}.",
        "The gateway restricts the request to endpoints of which none is a ready one of the pool.",
        "Check the subset hint that the gateway sends, and the pods it names.",
    )
    UNKNOWN_POOL = (
        "unknown-pool",
        503,
        "The InferencePool {pool} is not known to the endpoint picker. Check that it exists and "
        "that the picker watches it.",
        "The route names a pool that the picker does not know.",
        "Check that the InferencePool exists, and that the picker watches its namespace or file.",
        1.0,
    )
    STARTING = (
        "starting",
        503,
        "The endpoint picker is {busy}. Try again in a moment.",
        "The picker has not read its configuration yet, or has not yet asked the pods which models "
        "they serve.",
        "Try again; Envoy should not send requests to a picker whose health check fails.",
        1.0,
    )
    SHUTTING_DOWN = (
        "shutting-down",
        503,
        "The endpoint picker is stopping, and the request was still waiting for an endpoint. Try "
        "again.",
        "The picker is stopping, and the request was still waiting in its queue.",
        "Try again: another picker takes over.",
        1.0,
    )
    PICK_TIMEOUT = (
        "pick-timeout",
        503,
        "No endpoint was chosen {problem}.",
        "No endpoint was chosen within the pick timeout (30 s unless configured).",
        "Try again; if it lasts, look at the saturation of the pool.",
        1.0,
    )
