"""What the first message of an exchange tells: the request, and how Envoy is set up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from extproc.apis.path import api_of
from extproc.exchange.settings import BodyMode
from extproc.exchange.subset import subset_of
from extproc.request import Api, InferenceRequest
from extproc.wire import ext_proc_pb2 as pb
from extproc.wire.decode import RequestHeaders
from pools.contract import REQUEST_ID
from pools.model import ObjectName

MODEL_HEADER: Final = "x-gateway-model-name"
"""Where a body-reading filter before us put the model name; used where we see no body."""


def describe(opening: RequestHeaders, pool: ObjectName | None) -> InferenceRequest:
    """The request as its headers tell it.

    Raises ``google.protobuf.message.DecodeError`` if the metadata beside them is none."""
    headers = opening.values
    method, path = headers.get(":method", ""), headers.get(":path", "")
    request = InferenceRequest(
        headers.get(REQUEST_ID, ""),
        pool,
        path,
        method,
        headers,
        objective=headers.get("x-gateway-inference-objective", ""),
        fairness_id=headers.get("x-gateway-inference-fairness-id", ""),
        subset=subset_of(pb.Metadata.FromString(opening.metadata)) if opening.metadata else None,
    )
    request.api = Api.OTHER if is_chatty(request) else api_of(method, path)
    return request


def opening_of(message: pb.ProcessingRequest) -> RequestHeaders:
    """As :func:`extproc.wire.decode.request_headers`, of any message with the headers of a
    request."""
    headers = message.request_headers
    values: dict[str, str] = {}
    for header in headers.headers.headers:
        # Envoy sends raw bytes; before 1.27 it sent text.
        key, value = header.key, header.raw_value.decode("latin-1") or header.value
        values[key] = f"{values[key]},{value}" if key in values else value
    return RequestHeaders(
        values,
        end_of_stream=headers.end_of_stream,
        metadata=message.metadata_context.SerializeToString(),
        observed=message.observability_mode,
        modes=modes_of(message),
    )


def modes_of(message: pb.ProcessingRequest) -> tuple[int, int, bool] | None:
    """How Envoy says that it is set up; None where it does not (before 1.33)."""
    if not message.HasField("protocol_config"):
        return None
    config = message.protocol_config
    return (
        config.request_body_mode,
        config.response_body_mode,
        config.send_body_without_waiting_for_header_response,
    )


def speaks_grpc(headers: Mapping[str, str]) -> bool:
    return headers.get("content-type", "").startswith("application/grpc")


def is_chatty(request: InferenceRequest) -> bool:
    """Both sides may talk at once (WebSocket, CONNECT, gRPC): the end of the request's body is not
    to be waited for."""
    return (
        "upgrade" in request.headers or request.method == "CONNECT" or speaks_grpc(request.headers)
    )


def body_mode(number: int) -> BodyMode:
    """The mode of that number. One that we do not know yet sends us messages that we cannot
    answer."""
    return _BODY_MODES.get(number, _SILENT)


_BODY_MODES: Final[dict[int, BodyMode]] = {mode.value: mode for mode in BodyMode}
_SILENT: Final = BodyMode.NONE
