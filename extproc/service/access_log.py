"""The access log service: Envoy tells how each routed request ended.

Envoy streams an entry for every request when it is over (``DownstreamEnd``) and answers nothing are
expected. Our pick's id comes back in the entry's dynamic metadata. An entry without one tells of a
request that Envoy gave up before it had its pick, or that was not routed by us.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct, Value

from extproc.request import Completed, Picker
from extproc.service.sent_picks import SentPicks
from extproc.transport.api import Handler, Services, Stream
from extproc.wire import access_log_pb2 as pb
from pools.addresses import host_port
from pools.contract import (
    CACHE_CREATION_TOKENS,
    CACHE_READ_TOKENS,
    CACHED_TOKENS,
    COMPLETION_TOKENS,
    LB_NAMESPACE,
    OWN_NAMESPACE,
    PICK_KEY,
    PROMPT_TOKENS,
    SERVED,
    USAGE_NAMESPACE,
)

log = structlog.get_logger(__name__)

METHOD: Final = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"

FLAGS: Final[dict[str, str]] = {
    "failed_local_healthcheck": "LH",
    "no_healthy_upstream": "UH",
    "upstream_request_timeout": "UT",
    "local_reset": "LR",
    "upstream_remote_reset": "UR",
    "upstream_connection_failure": "UF",
    "upstream_connection_termination": "UC",
    "upstream_overflow": "UO",
    "no_route_found": "NR",
    "delay_injected": "DI",
    "fault_injected": "FI",
    "rate_limited": "RL",
    "unauthorized_details": "UAEX",
    "rate_limit_service_error": "RLSE",
    "downstream_connection_termination": "DC",
    "upstream_retry_limit_exceeded": "URX",
    "stream_idle_timeout": "SI",
    "invalid_envoy_request_headers": "IH",
    "downstream_protocol_error": "DPE",
    "upstream_max_stream_duration_reached": "UMSDR",
    "response_from_cache_filter": "RFCF",
    "no_filter_config_found": "NFCF",
    "duration_timeout": "DT",
    "upstream_protocol_error": "UPE",
    "no_cluster_found": "NC",
    "overload_manager": "OM",
    "dns_resolution_failure": "DF",
    "downstream_remote_reset": "DR",
}
"""Envoy's short names of its response flags, as in its text access log."""

_ENDS: Final = frozenset((pb.NotSet, pb.DownstreamEnd))


def completions(
    message: bytes, pick_of: Callable[[str, str], str] = lambda request_id, pick_id: pick_id
) -> list[Completed]:
    """The ends of requests that one ``StreamAccessLogsMessage`` tells of. ``pick_of`` gives the
    pick of a request, by its id and the pick that Envoy saw; empty: none is known."""
    ends: list[Completed] = []
    for entry in pb.StreamAccessLogsMessage.FromString(message).http_logs.log_entry:
        common = entry.common_properties
        if common.access_log_type not in _ENDS:
            continue
        metadata = common.metadata.filter_metadata
        pick_id = pick_of(entry.request.request_id, _text(metadata.get(OWN_NAMESPACE), PICK_KEY))
        if pick_id:
            ends.append(_completed(pick_id, entry, common, metadata))
    return ends


def _completed(
    pick_id: str,
    entry: pb.HttpAccessLogEntry,
    common: pb.AccessLogCommon,
    metadata: Mapping[str, Struct],
) -> Completed:
    # Every entry passes here: what is read of a message is read once, as each look takes time.
    first_byte = (
        _seconds(common.time_to_first_upstream_rx_byte)
        if common.HasField("time_to_first_upstream_rx_byte")
        else None
    )
    duration = (
        common.duration if common.HasField("duration") else common.time_to_last_downstream_tx_byte
    )
    tried = _endpoint(common.upstream_remote_address.socket_address)
    answered = _text(metadata.get(LB_NAMESPACE), SERVED) or tried
    flags = (
        frozenset(FLAGS[name.name] for name, _ in common.response_flags.ListFields())
        if common.HasField("response_flags")
        else _NO_FLAGS
    )
    usage = metadata.get(USAGE_NAMESPACE)
    counts = usage.fields if usage is not None else _NO_COUNTS
    prompt_tokens = _tokens(counts.get(PROMPT_TOKENS))
    cached_tokens = _tokens(counts.get(CACHED_TOKENS))
    if cached_tokens is None:
        # The Anthropic API leaves what came from the cache, and what went there, out of the
        # prompt's tokens.
        cached_tokens = _tokens(counts.get(CACHE_READ_TOKENS))
        if prompt_tokens is not None:
            created = _tokens(counts.get(CACHE_CREATION_TOKENS))
            prompt_tokens += (cached_tokens or 0) + (created or 0)
    request, response = entry.request, entry.response
    return Completed(
        pick_id=pick_id,
        code=response.response_code.value,
        duration=_seconds(duration),
        time_to_first_byte=first_byte,
        # An address alone only says that Envoy tried; a byte says that someone answered.
        served=answered if first_byte is not None else "",
        tried=tried or answered,
        attempts=common.upstream_request_attempt_count or 1,
        flags=flags,
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        completion_tokens=_tokens(counts.get(COMPLETION_TOKENS)),
        request_bytes=request.request_body_bytes,
        response_bytes=response.response_body_bytes,
    )


_NO_FLAGS: Final[frozenset[str]] = frozenset()
_NO_COUNTS: Final[Mapping[str, Value]] = {}


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _text(namespace: Struct | None, key: str) -> str:
    """A text in one namespace of Envoy's metadata; empty where there is none."""
    value = namespace.fields.get(key) if namespace is not None else None
    return value.string_value if value is not None else ""


def _endpoint(socket: pb.SocketAddress) -> str:
    return host_port(socket.address, socket.port_value) if socket.address else ""


def _tokens(value: Value | None) -> int | None:
    """A count that a pod wrote into its response: anything may be in it."""
    if value is None:
        return None
    count = value.number_value
    if not count:
        text = value.string_value
        if text.isdecimal() and len(text) < 16:
            count = float(text)
        elif value.WhichOneof("kind") != "number_value":
            return None
    return int(count) if 0 <= count < 2**53 else None


class AccessLog:
    """Serves :data:`METHOD`: settles each pick that an entry names. ``sent_picks`` knows those
    that Envoy may not have seen."""

    def __init__(
        self,
        picker: Picker,
        sent_picks: SentPicks | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._picker = picker
        self._sent_picks = sent_picks or SentPicks()
        self._clock = clock

    def services(self) -> Services:
        return {METHOD: self.stream}

    def stream(self, stream: Stream) -> Handler:
        return _Entries(stream, self._picker, self._pick_of)

    def _pick_of(self, request_id: str, pick_id: str) -> str:
        return self._sent_picks.ended(request_id, pick_id, self._clock())


class _Entries:
    __slots__ = ("_pick_of", "_picker", "_stream")

    def __init__(self, stream: Stream, picker: Picker, pick_of: Callable[[str, str], str]) -> None:
        self._stream = stream
        self._picker = picker
        self._pick_of = pick_of

    def on_message(self, message: bytes) -> None:
        for completed in completions(message, self._pick_of):
            self._picker.settle(completed)

    def on_half_close(self) -> None:
        self._stream.finish()

    def on_closed(self) -> None:
        pass
