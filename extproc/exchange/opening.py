"""What the first message of an exchange tells: the request, and how Envoy is set up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from extproc.apis.path import api_of
from extproc.exchange.settings import BodyMode
from extproc.exchange.subset import subset_of
from extproc.request import Api, InferenceRequest
from extproc.wire import ext_proc_pb2 as pb
from pools.model import ObjectName

MODEL_HEADER: Final = "x-gateway-model-name"
"""Where a body-reading filter before us put the model name; used where we see no body."""


def describe(message: pb.ProcessingRequest, pool: ObjectName | None) -> InferenceRequest:
    """The request as its headers tell it."""
    headers = header_values(message.request_headers.headers)
    method, path = headers.get(":method", ""), headers.get(":path", "")
    request = InferenceRequest(
        id=headers.get("x-request-id", ""),
        pool=pool,
        path=path,
        method=method,
        headers=headers,
        objective=headers.get("x-gateway-inference-objective", ""),
        fairness_id=headers.get("x-gateway-inference-fairness-id", ""),
        subset=(
            subset_of(message.metadata_context) if message.HasField("metadata_context") else None
        ),
    )
    request.api = Api.OTHER if is_chatty(request) else api_of(method, path)
    return request


def header_values(headers: pb.HeaderMap) -> dict[str, str]:
    """Repeated headers are joined by a comma."""
    # Envoy sends raw bytes; before 1.27 it sent text.
    listed = headers.headers
    values = {h.key: h.raw_value.decode("latin-1") or h.value for h in listed}
    if len(values) < len(listed):
        values = {}
        for h in listed:
            value = h.raw_value.decode("latin-1") or h.value
            values[h.key] = f"{values[h.key]},{value}" if h.key in values else value
    return values


def speaks_grpc(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").startswith("application/grpc")


def is_chatty(request: InferenceRequest) -> bool:
    """Both sides may talk at once (WebSocket, CONNECT, gRPC): the end of the request's body is not
    to be waited for."""
    return (
        "upgrade" in request.headers or request.method == "CONNECT" or speaks_grpc(request.headers)
    )


def protocol_of(message: pb.ProcessingRequest) -> tuple[BodyMode, BodyMode, bool] | None:
    """Body modes of request and response, and whether request bodies come before the headers are
    answered. None where Envoy does not tell (before 1.33)."""
    if not message.HasField("protocol_config"):
        return None
    config = message.protocol_config
    return (
        _BODY_MODES.get(config.request_body_mode, _SILENT),
        _BODY_MODES.get(config.response_body_mode, _SILENT),
        config.send_body_without_waiting_for_header_response,
    )


_BODY_MODES: Final[dict[int, BodyMode]] = {mode.value: mode for mode in BodyMode}
_SILENT: Final = BodyMode.NONE
"""A mode that we do not know yet sends us messages that we cannot answer."""
