"""What an HTTPRoute does to requests and responses: its filters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pools.manifests.fields import (
    Fields,
    Place,
    Read,
    choice,
    did_you_mean,
    integer,
    list_of,
    port_number,
    struct,
    text,
    unique,
    word,
)
from pools.model import (
    HTTP_TOKEN,
    REDIRECTS,
    Filters,
    HeaderChanges,
    PathChange,
    PathChangeType,
    Redirect,
    UrlRewrite,
)

PATH = re.compile(r"/(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})*")

_PRECISE_HOST = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

token = text("an HTTP header name", HTTP_TOKEN, high=256)
_header_value = text(
    "a header's value without line breaks",
    re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*"),
    high=4096,
)
_new_path = text("a path that starts with '/'", PATH, high=1024)
_new_host = text("a host name", _PRECISE_HOST, high=253)


def filters(*, of_backend: bool = False) -> Read[Filters]:
    """The list ``filters`` of a rule, or of one of its backends."""
    read_all = list_of(struct(lambda fields: _filter(fields, of_backend)), 0, 16)

    def read(place: Place) -> Filters:
        found: dict[str, Any] = {}
        unsupported: list[str] = []
        given = read_all(place)
        for name, value in given:
            if isinstance(value, str):
                unsupported.append(value)
            else:
                found[_TYPES[name].attribute] = value
        unique(place, [name for name, _ in given if name in _TYPES], "types of filters")
        if "redirect" in found and "rewrite" in found:
            place.error("must not have both a RequestRedirect and a URLRewrite")
        return Filters(**found, unsupported=tuple(dict.fromkeys(unsupported)))

    return read


def _filter(fields: Fields, of_backend: bool) -> tuple[str, object]:
    """Its type and its value; a text names what we have not."""
    name = fields.required("type", text("a type of filter", high=63))
    if not name:
        return name, name
    known = _TYPES.get(name)
    if known is None or (of_backend and not known.of_backends):
        where = "on a single backend" if known is not None else "here"
        hint = "" if known is not None else did_you_mean(name, _TYPES)
        fields.at("type").refuse(
            f"{name} is not supported {where}{hint}: what the rule sends this way is answered with"
            " an error"
        )
        fields.any_others()
        return name, name
    value = fields.required(known.field, known.read)
    if isinstance(value, HeaderChanges):
        for header in _protected(value):
            fields.at(known.field).refuse(
                f"must not change {header!r}: a URLRewrite changes the host and the path"
            )
            return name, f"{name} of {header!r}"
    return name, value


def _protected(changes: HeaderChanges) -> list[str]:
    """Headers that Envoy lets nobody change in this way."""
    names = [*(name for name, _ in (*changes.set, *changes.add)), *changes.remove]
    return [name for name in names if name == "host" or not HTTP_TOKEN.fullmatch(name)]


_headers = list_of(
    struct(lambda f: (f.required("name", token).lower(), f.required("value", _header_value))), 0, 16
)
# The API has no rules for these names.
_names = list_of(text("an HTTP header name", high=4096), 0, 16)


def _header_changes(fields: Fields) -> HeaderChanges:
    return HeaderChanges(
        _first_of_each(fields.optional("set", _headers, ())),
        _first_of_each(fields.optional("add", _headers, ())),
        tuple(dict.fromkeys(name.lower() for name in fields.optional("remove", _names, ()))),
    )


def _first_of_each(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Of several entries for one name the first counts, says the API."""
    values: dict[str, str] = {}
    for name, value in headers:
        values.setdefault(name, value)
    return tuple(values.items())


def _url_rewrite(fields: Fields) -> UrlRewrite:
    return UrlRewrite(
        fields.optional("hostname", _new_host, None),
        fields.optional("path", struct(_path_change), None),
    )


def _redirect(fields: Fields) -> Redirect:
    return Redirect(
        fields.optional("scheme", word("http", "https"), None),
        fields.optional("hostname", _new_host, None),
        fields.optional("port", port_number, None),
        fields.optional("path", struct(_path_change), None),
        fields.optional("statusCode", _status, 302),
    )


def _status(place: Place) -> int:
    value = integer(100, 599, "a status code")(place)
    if value not in REDIRECTS and place.report is not None and not place.report.failed:
        place.must_be(f"one of {', '.join(map(str, REDIRECTS))}")
    return value


def _path_change(fields: Fields) -> PathChange:
    kind = fields.required("type", choice(PathChangeType))
    if kind is PathChangeType.FULL:
        return PathChange(kind, fields.required("replaceFullPath", _new_path))
    return PathChange(kind, fields.required("replacePrefixMatch", _new_prefix))


def _new_prefix(place: Place) -> str:
    return "/" if place.node.value == "" else _new_path(place)


@dataclass(frozen=True, slots=True)
class _Type:
    attribute: str
    """Of :class:`Filters`."""
    field: str
    read: Read[Any]
    of_backends: bool = False


_TYPES: Mapping[str, _Type] = {
    "RequestHeaderModifier": _Type(
        "request_headers", "requestHeaderModifier", struct(_header_changes), True
    ),
    "ResponseHeaderModifier": _Type(
        "response_headers", "responseHeaderModifier", struct(_header_changes), True
    ),
    "URLRewrite": _Type("rewrite", "urlRewrite", struct(_url_rewrite)),
    "RequestRedirect": _Type("redirect", "requestRedirect", struct(_redirect)),
}
