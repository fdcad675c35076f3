"""Hand-written encoders of the ext-proc answers that every request pays for.

Building the same messages from protobuf objects costs several times as much. Everything constant is
serialised once; the rest is length-prefixed concatenation. A test decodes what these functions give
with the generated classes and compares it field by field.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Final

from extproc.wire import ext_proc_pb2 as pb
from pools.contract import DESTINATION, LB_NAMESPACE, OWN_NAMESPACE, PICK_KEY

CHUNK_LIMIT: Final = 65_536
"""Bytes of body in one streamed answer (Envoy recommends at most 64 KiB)."""

_ONE_BYTE: Final = tuple(bytes((n,)) for n in range(128))


REMOVED: Final = -1
"""As ``content_length``: take the header away, as the length is not known yet."""
_REMOVE_LENGTH: Final = b"\x12\x0econtent-length"


def _varint(value: int) -> bytes:
    if value < 128:
        return _ONE_BYTE[value]
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field (bytes, string or message); ``number`` is below 16."""
    return b"".join((_ONE_BYTE[number << 3 | 2], _varint(len(payload)), payload))


def _set_header(name: str, value: bytes) -> bytes:
    """One ``HeaderMutation.set_headers`` that overwrites what the client sent."""
    header = _field(1, name.encode()) + _field(3, value)
    return _field(1, _field(1, header) + b"\x18\x02")


def _string_entry(key: str, value: bytes) -> bytes:
    """One entry of ``Struct.fields`` that holds a string."""
    return _field(1, _field(1, key.encode()) + _field(2, _field(3, value)))


def _struct_entry(key: str, fields: bytes) -> bytes:
    """One entry of ``Struct.fields`` that holds a struct."""
    return _field(1, _field(1, key.encode()) + _field(2, _field(5, fields)))


@functools.lru_cache(maxsize=4096)
def _destination(endpoints: str) -> tuple[bytes, bytes]:
    """The same value as a header mutation and as metadata: the protocol lets them never differ."""
    value = endpoints.encode()
    return (
        _set_header(DESTINATION, value),
        _struct_entry(LB_NAMESPACE, _string_entry(DESTINATION, value)),
    )


@functools.lru_cache(maxsize=64)
def _pick_entry(size: int) -> bytes:
    """The ``poolpilot`` entry for a pick id of that many bytes, without the id itself."""
    return _struct_entry(OWN_NAMESPACE, _string_entry(PICK_KEY, bytes(size)))[: -size or None]


@functools.lru_cache(maxsize=4096)
def _metadata_head(endpoints: str, size: int) -> bytes:
    """All of ``dynamic_metadata`` but the pick's id of ``size`` bytes, which it ends with: the
    endpoints for Envoy's load balancer, the id for its access log."""
    fields = _destination(endpoints)[1] + _pick_entry(size) + bytes(size)
    return _field(8, fields)[: -size or None]


def _metadata(endpoints: str, pick_id: str) -> bytes:
    pick = pick_id.encode()
    return _metadata_head(endpoints, len(pick)) + pick


def _common(
    endpoints: str,
    headers: Iterable[tuple[str, str]],
    content_length: int | None,
    clear_route_cache: bool,
    body_mutation: bytes = b"",
) -> bytes:
    mutation = _destination(endpoints)[0]
    for name, value in headers:
        mutation += _set_header(name, value.encode())
    if content_length == REMOVED:
        mutation += _REMOVE_LENGTH
    elif content_length is not None:
        mutation += _set_header("content-length", b"%d" % content_length)
    common = _field(2, mutation) + body_mutation
    return common + b"\x28\x01" if clear_route_cache else common


@functools.lru_cache(maxsize=4096)
def _plain_headers_response(endpoints: str, clear_route_cache: bool, size: int) -> bytes:
    """The answer that changes nothing else, up to its pick's id of ``size`` bytes."""
    answer = _field(1, _field(1, _common(endpoints, (), None, clear_route_cache)))
    return answer + _metadata_head(endpoints, size)


def headers_response(
    endpoints: str,
    pick_id: str,
    *,
    headers: tuple[tuple[str, str], ...] = (),
    content_length: int | None = None,
    clear_route_cache: bool = False,
) -> bytes:
    """The pick as the answer to the request headers. ``endpoints`` is the ordered comma list;
    ``content_length`` None leaves the header as it is."""
    if headers or content_length is not None:
        common = _common(endpoints, headers, content_length, clear_route_cache)
        return _field(1, _field(1, common)) + _metadata(endpoints, pick_id)
    pick = pick_id.encode()
    return _plain_headers_response(endpoints, clear_route_cache, len(pick)) + pick


def body_response(
    endpoints: str,
    pick_id: str,
    *,
    headers: tuple[tuple[str, str], ...] = (),
    content_length: int | None = None,
    clear_route_cache: bool = False,
    body: bytes | None = None,
) -> bytes:
    """The pick as the answer to a buffered body; ``body`` replaces it."""
    replaced = b"" if body is None else _field(3, _field(1, body))
    common = _common(endpoints, headers, content_length, clear_route_cache, replaced)
    return _field(3, _field(1, common)) + _metadata(endpoints, pick_id)


def replaced_body(body: bytes) -> bytes:
    """The answer to one message of a request body that puts ``body`` in its place (not in full
    duplex)."""
    return _field(3, _field(1, _field(3, _field(1, body) if body else b"\x10\x01")))


def replaced_response_body(body: bytes, content_length: int | None) -> bytes:
    """As :func:`replaced_body`, for a response."""
    common = _field(3, _field(1, body) if body else b"\x10\x01")
    if content_length is not None:
        length = _set_header("content-length", b"%d" % content_length)
        common = _field(2, length) + common
    return _field(4, _field(1, common))


def streamed_body(chunk: bytes, end_of_stream: bool, *, response: bool = False) -> bytes:
    """One chunk of a full-duplex body on its way back to Envoy: one copy of the bytes."""
    return b"".join(
        (_streamed_head(len(chunk), end_of_stream, response), chunk, _TAIL[end_of_stream])
    )


_TAIL: Final = (b"", b"\x10\x01")


@functools.lru_cache(maxsize=4096)
def _streamed_head(size: int, end_of_stream: bool, response: bool) -> bytes:
    """Everything of a streamed answer before its ``size`` bytes of body."""
    head = b"\x0a" + _varint(size) if size else b""
    inner = len(head) + size + len(_TAIL[end_of_stream])
    # StreamedBodyResponse, BodyMutation, CommonResponse and BodyResponse around it.
    for tag in (b"\x1a", b"\x1a", b"\x0a", b"\x22" if response else b"\x1a"):
        opening = tag + _varint(inner)
        head = opening + head
        inner += len(opening)
    return head


def streamed_chunks(chunk: bytes, end_of_stream: bool, *, response: bool = False) -> list[bytes]:
    """As :func:`streamed_body`, in as many messages as the chunk's size asks for."""
    size = len(chunk)
    if size <= CHUNK_LIMIT:
        return [streamed_body(chunk, end_of_stream, response=response)]
    return [
        streamed_body(
            chunk[at : at + CHUNK_LIMIT],
            end_of_stream and at + CHUNK_LIMIT >= size,
            response=response,
        )
        for at in range(0, size, CHUNK_LIMIT)
    ]


def immediate_response(
    status: int,
    headers: Iterable[tuple[str, str]],
    body: bytes,
    details: str,
    grpc_status: int | None,
) -> bytes:
    """Answer the client without asking a pod."""
    response = pb.ImmediateResponse(body=body, details=details)
    # Envoy's enum of known codes is open; any status from 200 to 599 is accepted.
    response.status.code = status  # type: ignore[assignment]
    for name, value in headers:
        response.headers.set_headers.add(
            header=pb.HeaderValue(key=name, raw_value=value.encode()),
            append_action=pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
    if grpc_status is not None:
        response.grpc_status.status = grpc_status
    return pb.ProcessingResponse(immediate_response=response).SerializeToString()


REQUEST_HEADERS_CONTINUE: Final = pb.ProcessingResponse(
    request_headers=pb.HeadersResponse()
).SerializeToString()
REQUEST_BODY_CONTINUE: Final = pb.ProcessingResponse(
    request_body=pb.BodyResponse()
).SerializeToString()
REQUEST_TRAILERS_CONTINUE: Final = pb.ProcessingResponse(
    request_trailers=pb.TrailersResponse()
).SerializeToString()
DO_NOT_BUFFER: Final = pb.ProcessingResponse(
    mode_override=pb.ProcessingMode(
        request_body_mode=pb.ProcessingMode.NONE, response_header_mode=pb.ProcessingMode.SKIP
    )
).SerializeToString()
"""To append to an answer to headers: send no body. Counts where Envoy's ``allow_mode_override``
does. Response headers are skipped because the override would else turn them on."""
RESPONSE_HEADERS_CONTINUE: Final = pb.ProcessingResponse(
    response_headers=pb.HeadersResponse()
).SerializeToString()
RESPONSE_BODY_CONTINUE: Final = pb.ProcessingResponse(
    response_body=pb.BodyResponse()
).SerializeToString()
RESPONSE_TRAILERS_CONTINUE: Final = pb.ProcessingResponse(
    response_trailers=pb.TrailersResponse()
).SerializeToString()
