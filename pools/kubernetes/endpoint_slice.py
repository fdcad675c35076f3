"""EndpointSlices as the API server tells them. A cluster has a great many, and they change with
every pod, so they are read by type and not by field."""

from __future__ import annotations

import msgspec

from pools.addresses import is_ip
from pools.model import (
    EndpointSlice,
    ObjectName,
    Origin,
    Problem,
)
from pools.services import SERVICE_LABEL, conditions


class _Metadata(msgspec.Struct):
    name: str
    namespace: str = ""
    labels: dict[str, str] | None = None


class _Conditions(msgspec.Struct):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Endpoint(msgspec.Struct):
    addresses: list[str]
    conditions: _Conditions | None = None


class _Port(msgspec.Struct):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class _Slice(msgspec.Struct):
    metadata: _Metadata
    endpoints: list[_Endpoint] | None = None
    ports: list[_Port] | None = None


_decoder = msgspec.json.Decoder(_Slice)
_NOTHING_SAID = _Conditions()


def read_endpoint_slice(raw: bytes, source: str) -> tuple[EndpointSlice, tuple[Problem, ...]]:
    """Raises msgspec.MsgspecError if that is no EndpointSlice."""
    decoded = _decoder.decode(raw)
    metadata = decoded.metadata
    ready: list[str] = []
    ending: list[str] = []
    for endpoint in decoded.endpoints or ():
        if not endpoint.addresses or not is_ip(endpoint.addresses[0]):
            continue  # a host name
        said = endpoint.conditions or _NOTHING_SAID
        is_ready, is_ending = conditions(said.ready, said.serving, said.terminating)
        if is_ready:
            ready.append(endpoint.addresses[0])
        elif is_ending:
            ending.append(endpoint.addresses[0])
    service = (metadata.labels or {}).get(SERVICE_LABEL)
    name = ObjectName(metadata.namespace, metadata.name)
    value = EndpointSlice(
        name,
        ObjectName(metadata.namespace, service) if service else None,
        tuple(ready),
        tuple(ending),
        tuple(
            (port.name or "", port.port)
            for port in decoded.ports or ()
            if port.port is not None and port.protocol in (None, "TCP")
        ),
        Origin("EndpointSlice", name, source),
    )
    return value, ()
