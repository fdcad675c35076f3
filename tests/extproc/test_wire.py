"""Our protobuf subsets against the full definitions, and our encoders against protobuf's."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.data.accesslog import v3 as entries
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as filters
from envoy_data_plane.envoy.service.accesslog import v3 as access_log
from envoy_data_plane.envoy.service.ext_proc import v3 as ext_proc
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2 as official_health
from hypothesis import given
from hypothesis import strategies as st

from extproc.exchange.opening import opening_of
from extproc.wire import access_log_pb2, decode, encode, ext_proc_pb2, health_pb2
from extproc.wire import ext_proc_pb2 as pb

PLACES = (core, entries, filters, access_log, ext_proc)
RENAMED = {
    "StreamAccessLogsMessage.HTTPAccessLogEntries": "StreamAccessLogsMessageHttpAccessLogEntries",
    "ResponseFlags.Unauthorized": "ResponseFlagsUnauthorized",
    "ProcessingMode.HeaderSendMode": "ProcessingModeHeaderSendMode",
    "ProcessingMode.BodySendMode": "ProcessingModeBodySendMode",
    "HeaderValueOption.HeaderAppendAction": "HeaderValueOptionHeaderAppendAction",
    "CommonResponse.ResponseStatus": "CommonResponseResponseStatus",
}
TYPES = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_MESSAGE: "message",
    FieldDescriptor.TYPE_ENUM: "enum",
}


def every_message(descriptors: Any) -> Iterator[Descriptor]:
    for descriptor in descriptors:
        if not descriptor.GetOptions().map_entry:
            yield descriptor
            yield from every_message(descriptor.nested_types)


def name_of(descriptor: Descriptor | EnumDescriptor) -> str:
    full: str = descriptor.full_name
    return full.removeprefix("poolpilot.wire.extproc.")


def original(descriptor: Descriptor | EnumDescriptor) -> Any:
    if name_of(descriptor) == "HttpStatus":
        from envoy_data_plane.envoy.type import v3

        return v3.HttpStatus
    name = RENAMED.get(name_of(descriptor), name_of(descriptor))
    (found,) = [getattr(place, name) for place in PLACES if hasattr(place, name)]
    return found


MESSAGES = [
    message
    for file in (ext_proc_pb2, access_log_pb2)
    for message in every_message(file.DESCRIPTOR.message_types_by_name.values())
]


@pytest.mark.parametrize("message", MESSAGES, ids=name_of)
def test_each_field_has_the_name_number_label_and_type_that_envoy_gives_it(
    message: Descriptor,
) -> None:
    theirs = original(message)
    hints = get_type_hints(theirs)
    fields = {f.name: f.metadata["betterproto"] for f in dataclasses.fields(theirs)}
    for field in message.fields:
        meta = fields[field.name]
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        assert field.number == meta.number
        assert meta.proto_type == ("map" if is_map else TYPES[field.type])
        assert bool(field.is_repeated) == (meta.repeated or is_map)
        oneof = field.containing_oneof
        assert (oneof.name if oneof else None) == meta.group
        hint = str(hints[field.name])
        if is_map:
            value = field.message_type.fields_by_name["value"]
            assert TYPES[value.type] == meta.map_meta[1].proto_type
            if value.message_type is not None:
                assert f"{value.message_type.name}" in hint
        elif field.message_type is not None:
            ours = RENAMED.get(name_of(field.message_type), field.message_type.name)
            wrapped = {"Duration": "timedelta", "UInt32Value": "int"}
            assert wrapped.get(ours, ours) in hint
        elif field.enum_type is not None and field.enum_type.name != "StatusCode":
            assert RENAMED.get(name_of(field.enum_type), field.enum_type.name) in hint


ENUMS = [enum for message in MESSAGES for enum in message.enum_types] + [
    access_log_pb2.DESCRIPTOR.enum_types_by_name["AccessLogType"]
]


@pytest.mark.parametrize("enum", ENUMS, ids=name_of)
def test_each_enum_value_has_the_number_that_envoy_gives_it(enum: EnumDescriptor) -> None:
    theirs = {str(member.name).lower(): int(member) for member in original(enum)}
    for value in enum.values:
        assert theirs[value.name.lower()] == value.number


@pytest.mark.parametrize(
    "name", ["HealthCheckRequest", "HealthCheckResponse", "HealthListRequest", "HealthListResponse"]
)
def test_the_health_messages_are_the_official_ones(name: str) -> None:
    ours = getattr(health_pb2, name).DESCRIPTOR
    theirs = getattr(official_health, name).DESCRIPTOR
    assert [(f.name, f.number, f.type, f.is_repeated) for f in ours.fields] == [
        (f.name, f.number, f.type, f.is_repeated) for f in theirs.fields
    ]
    assert [(v.name, v.number) for e in ours.enum_types for v in e.values] == [
        (v.name, v.number) for e in theirs.enum_types for v in e.values
    ]


def test_the_generated_modules_are_up_to_date(tmp_path: Path) -> None:
    """If not: make proto."""
    root = Path(encode.__file__).parents[2]
    protos = sorted(str(path.relative_to(root)) for path in root.glob("extproc/wire/*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}"]
    subprocess.run([*command, *protos], cwd=root, check=True)
    for proto in protos:
        generated = proto.replace(".proto", "_pb2.py")
        assert (tmp_path / generated).read_text() == (root / generated).read_text()


# -- encoders ----------------------------------------------------------------------------------

text = st.text(min_size=1, max_size=200)
header_lists = st.lists(st.tuples(text, text), max_size=3).map(tuple)


def expected_pick(
    response: Any, endpoints: str, pick_id: str, headers: Any, length: int | None, clear: bool
) -> None:
    """Fill in what a pick must look like, by protobuf's own means."""
    set_headers = [("x-gateway-destination-endpoint", endpoints), *headers]
    if length is not None and length >= 0:
        set_headers.append(("content-length", str(length)))
    mutation = response.response.header_mutation
    for name, value in set_headers:
        mutation.set_headers.add(
            header=pb.HeaderValue(key=name, raw_value=value.encode()),
            append_action=pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
    if length == encode.REMOVED:
        mutation.remove_headers.append("content-length")
    response.response.clear_route_cache = clear


def expected_metadata(message: pb.ProcessingResponse, endpoints: str, pick_id: str) -> None:
    lb = message.dynamic_metadata.fields["envoy.lb"].struct_value
    lb.fields["x-gateway-destination-endpoint"].string_value = endpoints
    ours = message.dynamic_metadata.fields["poolpilot"].struct_value
    ours.fields["pick"].string_value = pick_id


@given(text, text, header_lists, st.none() | st.integers(-1, 1 << 40), st.booleans())
def test_a_pick_in_the_headers_is_encoded_as_protobuf_would(
    endpoints: str, pick_id: str, headers: Any, length: int | None, clear: bool
) -> None:
    wanted = pb.ProcessingResponse()
    expected_pick(wanted.request_headers, endpoints, pick_id, headers, length, clear)
    expected_metadata(wanted, endpoints, pick_id)
    got = encode.headers_response(
        endpoints, pick_id, headers=headers, content_length=length, clear_route_cache=clear
    )
    assert pb.ProcessingResponse.FromString(got) == wanted


@given(text, text, header_lists, st.none() | st.integers(-1, 1 << 40), st.none() | st.binary())
def test_a_pick_in_the_body_is_encoded_as_protobuf_would(
    endpoints: str, pick_id: str, headers: Any, length: int | None, body: bytes | None
) -> None:
    wanted = pb.ProcessingResponse()
    expected_pick(wanted.request_body, endpoints, pick_id, headers, length, False)
    expected_metadata(wanted, endpoints, pick_id)
    if body is not None:
        wanted.request_body.response.body_mutation.body = body
    got = encode.body_response(
        endpoints, pick_id, headers=headers, content_length=length, body=body
    )
    assert pb.ProcessingResponse.FromString(got) == wanted


@given(st.integers(0, 70_000), st.booleans(), st.booleans())
def test_a_streamed_chunk_is_encoded_as_protobuf_would(
    size: int, end_of_stream: bool, response: bool
) -> None:
    wanted = pb.ProcessingResponse()
    half = wanted.response_body if response else wanted.request_body
    streamed = half.response.body_mutation.streamed_response
    streamed.SetInParent()
    streamed.body = b"x" * size
    streamed.end_of_stream = end_of_stream
    got = encode.streamed_body(b"x" * size, end_of_stream, response=response)
    assert got == wanted.SerializeToString()


@given(st.integers(0, 200_000), st.booleans())
def test_a_large_chunk_is_split_and_only_its_last_piece_ends_the_stream(
    size: int, end_of_stream: bool
) -> None:
    chunk = bytes(range(256)) * (size // 256)
    pieces = [
        pb.ProcessingResponse.FromString(m).request_body.response.body_mutation.streamed_response
        for m in encode.streamed_chunks(chunk, end_of_stream)
    ]
    assert b"".join(piece.body for piece in pieces) == chunk
    assert all(len(piece.body) <= encode.CHUNK_LIMIT for piece in pieces)
    assert [p.end_of_stream for p in pieces] == [False] * (len(pieces) - 1) + [end_of_stream]


# -- decoders ----------------------------------------------------------------------------------

PLAIN = {":method": "POST", ":path": "/v1/completions", "x-request-id": "r1"}

values = st.text(max_size=20).map(str.encode) | st.binary(max_size=200)
metadata = st.dictionaries(text, st.dictionaries(text, text, max_size=2), max_size=2)
"""Namespaces and what is in them."""


@st.composite
def requests(draw: st.DrawFn) -> pb.ProcessingRequest:
    """Any message that Envoy might send of a request's headers or body, and some that it would
    not."""
    message = pb.ProcessingRequest(observability_mode=draw(st.booleans()))
    if draw(st.booleans()):
        message.request_body.body = draw(st.binary(max_size=300))
        message.request_body.end_of_stream = draw(st.booleans())
    else:
        headers = message.request_headers
        headers.end_of_stream = draw(st.booleans())
        for name, value in draw(st.lists(st.tuples(text, values), max_size=6)):
            headers.headers.headers.add(key=name, raw_value=value)
        if draw(st.integers(0, 9)) == 0:
            headers.headers.headers.add(key="old", value="as text")
    for namespace, fields in draw(metadata).items():
        message.metadata_context.filter_metadata[namespace].update(fields)
    if draw(st.booleans()):
        config = message.protocol_config
        config.request_body_mode = draw(st.integers(0, 200))
        config.response_body_mode = draw(st.integers(0, 5))
        config.send_body_without_waiting_for_header_response = draw(st.booleans())
    return message


def same_opening(found: decode.RequestHeaders, message: pb.ProcessingRequest) -> None:
    wanted = opening_of(message)
    for name in ("values", "end_of_stream", "observed", "modes"):
        assert getattr(found, name) == getattr(wanted, name)
    assert pb.Metadata.FromString(found.metadata) == message.metadata_context


def decoded_alike(data: bytes, message: pb.ProcessingRequest) -> None:
    opening = decode.request_headers(data)
    if opening is not None:
        assert message.WhichOneof("request") == "request_headers"
        same_opening(opening, message)
    piece = decode.request_body(data)
    if piece is not None:
        assert message.WhichOneof("request") == "request_body"
        assert piece == (message.request_body.body, message.request_body.end_of_stream)
        assert opening is None


@given(requests())
def test_what_is_decoded_by_hand_is_what_protobuf_decodes(message: pb.ProcessingRequest) -> None:
    decoded_alike(message.SerializeToString(), message)


@given(requests(), st.integers(0), st.binary(max_size=3))
def test_a_damaged_message_is_left_to_protobuf(
    message: pb.ProcessingRequest, at: int, other: bytes
) -> None:
    data = message.SerializeToString()
    at %= len(data) + 1
    data = data[:at] + other + data[at + len(other) :]
    try:
        read = pb.ProcessingRequest.FromString(data)
    except DecodeError:
        # Bytes of a body and of metadata are not looked into; all else must be plain to be taken.
        opening = decode.request_headers(data)
        if opening is not None:
            with pytest.raises(DecodeError):
                pb.Metadata.FromString(opening.metadata)
    else:
        decoded_alike(data, read)


def test_what_envoy_sends_is_decoded_by_hand() -> None:
    """Envoy 1.40, with metadata to forward and none there."""
    message = pb.ProcessingRequest()
    for name, value in PLAIN.items():
        message.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    message.protocol_config.request_body_mode = pb.ProcessingMode.FULL_DUPLEX_STREAMED
    message.metadata_context.SetInParent()
    opening = decode.request_headers(message.SerializeToString())
    assert opening is not None
    assert (opening.values, opening.modes) == (PLAIN, (4, 0, False))
    for end in (False, True):
        for size in (0, 1, 127, 128, 65_536):
            message = pb.ProcessingRequest()
            message.request_body.body = b"x" * size
            message.request_body.end_of_stream = end
            message.metadata_context.SetInParent()
            assert decode.request_body(message.SerializeToString()) == (b"x" * size, end)
