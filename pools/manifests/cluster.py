"""Service, EndpointSlice and Namespace: kinds of Kubernetes itself, of which little matters."""

from __future__ import annotations

from pools.addresses import is_ip
from pools.manifests.fields import (
    Fields,
    Place,
    boolean,
    list_of,
    port_number,
    struct,
    text,
)
from pools.manifests.meta import Meta
from pools.model import (
    EndpointSlice,
    Namespace,
    ObjectName,
    Service,
    ServicePort,
)
from pools.services import SERVICE_LABEL, conditions

_read_text = text("text", high=253)


def namespace(meta: Meta, fields: Fields) -> Namespace:
    fields.any_others()
    return Namespace(meta.name, meta.labels, meta.origin)


def service(meta: Meta, spec: Fields) -> Service:
    kind = spec.optional("type", _read_text, "ClusterIP")
    ports = spec.optional("ports", list_of(struct(_port)), ())
    spec.any_others()
    return Service(
        meta.name,
        tuple(port for port in ports if port is not None),
        kind == "ExternalName",
        meta.origin,
    )


def _port(fields: Fields) -> ServicePort | None:
    protocol = fields.optional("protocol", _read_text, "TCP")
    port = ServicePort(
        fields.required("port", port_number),
        fields.optional("name", _name, ""),
        fields.optional("appProtocol", _read_text, ""),
    )
    fields.any_others()
    return port if protocol == "TCP" else None


def _name(place: Place) -> str:
    return "" if place.node.value == "" else _read_text(place)


def endpoint_slice(meta: Meta, fields: Fields) -> EndpointSlice:
    of_service = meta.labels.get(SERVICE_LABEL)
    endpoints = fields.optional("endpoints", list_of(struct(_endpoint)), ())
    ports = fields.optional("ports", list_of(struct(_slice_port)), ())
    fields.any_others()
    return EndpointSlice(
        meta.name,
        ObjectName(meta.name.namespace, of_service) if of_service else None,
        tuple(address for address, (is_ready, _) in endpoints if is_ready and is_ip(address)),
        tuple(address for address, (_, is_ending) in endpoints if is_ending and is_ip(address)),
        tuple(port for port in ports if port is not None),
        meta.origin,
    )


def _endpoint(fields: Fields) -> tuple[str, tuple[bool, bool]]:
    # All addresses of an endpoint are the same server: the first counts, says the API.
    address, *_ = fields.required("addresses", list_of(_read_text, 1, 100)) or ("",)
    said = fields.optional("conditions", struct(_conditions), (True, False))
    fields.any_others()
    return address, said


def _conditions(fields: Fields) -> tuple[bool, bool]:
    ready, serving, terminating = (
        fields.optional(name, boolean, None) for name in ("ready", "serving", "terminating")
    )
    fields.any_others()
    return conditions(ready, serving, terminating)


def _slice_port(fields: Fields) -> tuple[str, int] | None:
    name = fields.optional("name", _name, "")
    protocol = fields.optional("protocol", _read_text, "TCP")
    number = fields.optional("port", port_number, None)
    fields.any_others()
    return None if number is None or protocol != "TCP" else (name, number)
