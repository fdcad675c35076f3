"""What a node is meant to have, what it has acknowledged, and what its Envoy says: compared.

Everything comes as config dumps (:mod:`xds.debug.config_dump`), so that the command line can do
with an Envoy that only it can reach what the server does with one on its own machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from xds.debug.config_dump import Dumped, Json, read_dump
from xds.debug.snapshots import type_name
from xds.debug.text import unified_diff
from xds.resource import ENDPOINT, SECRET

Dumps = Mapping[str, Mapping[str, Dumped]]


class Finding(StrEnum):
    """Worst first."""

    REJECTED = "rejected"
    """The node will not have the wanted form."""
    MISSING = "missing"
    """Acknowledged, but Envoy does not have it."""
    DIFFERENT = "different"
    """Envoy has another form than it acknowledged."""
    UNKNOWN = "unknown"
    """Envoy has something that this server never gave it."""
    WARMING = "warming"
    """Envoy waits for something before it uses it."""
    WAITING = "waiting"
    """Not acknowledged yet."""
    LEAVING = "leaving"
    """No longer wanted, and not yet given up."""
    SAME = "same"


_ORDER = {finding: rank for rank, finding in enumerate(Finding)}
BAD = frozenset({Finding.REJECTED, Finding.MISSING, Finding.DIFFERENT, Finding.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Compared:
    """One resource. A version is None where a party does not have it."""

    type_url: str
    name: str
    finding: Finding
    wanted: str | None
    acked: str | None
    envoy: str | None
    """Also None where Envoy was not asked. In State-of-the-World Envoy tells the version of the
    whole type, so content is compared and not this."""
    error: str = ""
    acked_diff: str = ""
    """Unified diff from what was acknowledged to what is wanted."""
    envoy_diff: str = ""
    """Unified diff from what was acknowledged to what Envoy has."""

    def as_json(self) -> Json:
        return {
            "type": type_name(self.type_url),
            "name": self.name,
            "finding": self.finding.value,
            "wanted": self.wanted,
            "acked": self.acked,
            "envoy": self.envoy,
            "error": self.error,
            "acked_diff": self.acked_diff,
            "envoy_diff": self.envoy_diff,
        }


def compare(wanted: object, acked: object, envoy: object = None) -> list[Compared]:
    """Compare dumps, worst finding first. ``envoy``: the answer of an Envoy's
    ``/config_dump?include_eds``; None where nobody asked. Raises ValueError for what is no dump."""
    ours, theirs = read_dump(wanted), read_dump(acked)
    real = None if envoy is None else read_dump(envoy)
    found = []
    for type_url in dict.fromkeys([*ours, *theirs, *(real or ())]):
        names = dict.fromkeys([*ours.get(type_url, ()), *theirs.get(type_url, ())])
        # Envoy's dump also has the endpoints of clusters that need no EDS.
        if real is not None and type_url != ENDPOINT:
            names |= dict.fromkeys(real.get(type_url, ()))
        found += [
            _compare(type_url, name, _get(ours, type_url, name), _get(theirs, type_url, name), real)
            for name in names
        ]
    return sorted(found, key=lambda one: (_ORDER[one.finding], one.type_url, one.name))


def _get(dumps: Dumps, type_url: str, name: str) -> Dumped | None:
    return dumps.get(type_url, {}).get(name)


def _compare(
    type_url: str,
    name: str,
    wanted: Dumped | None,
    acked: Dumped | None,
    real: Dumps | None,
) -> Compared:
    envoy = _get(real, type_url, name) if real is not None else None
    in_use = envoy if envoy is not None and envoy.content is not None else None
    error = (wanted.error if wanted else "") or (envoy.error if envoy else "")
    known = acked.content if acked else None
    if known is None and acked and wanted and acked.version == wanted.version:
        known = wanted.content
    acked_diff = envoy_diff = ""
    if wanted is not None and (acked is None or acked.version != wanted.version):
        acked_diff = unified_diff(
            comparable(type_url, known), comparable(type_url, wanted.content), "acked", "wanted"
        )
    if in_use is not None and known is not None:
        envoy_diff = unified_diff(
            comparable(type_url, known, health=False),
            comparable(type_url, in_use.content, health=False),
            "acked",
            "envoy",
        )
    return Compared(
        type_url,
        name,
        _finding(wanted, acked, envoy, asked=real is not None, differs=bool(envoy_diff)),
        wanted.version if wanted else None,
        acked.version if acked else None,
        in_use.version if in_use else None,
        error,
        acked_diff,
        envoy_diff,
    )


def _finding(
    wanted: Dumped | None, acked: Dumped | None, envoy: Dumped | None, *, asked: bool, differs: bool
) -> Finding:
    in_use = envoy is not None and envoy.content is not None
    if (wanted is not None and wanted.error) or (envoy is not None and envoy.error):
        return Finding.REJECTED
    if wanted is None and acked is None:
        return Finding.UNKNOWN
    if asked and acked is not None and not in_use:
        return Finding.MISSING
    if differs:
        return Finding.DIFFERENT
    if wanted is None:
        return Finding.LEAVING
    if acked is None or acked.version != wanted.version:
        return Finding.WAITING
    if envoy is not None and envoy.state == "warming":
        return Finding.WARMING
    return Finding.SAME


def comparable(type_url: str, content: Json | None, *, health: bool = True) -> object:
    """Content in one form, whoever wrote it. Envoy tells endpoints without the ``health`` that was
    assigned to them: what it tells is what it found out itself."""
    if content is None:
        return None
    if type_url == ENDPOINT:
        return _endpoints(content, health)
    if type_url == SECRET:
        # Its name is matched already, and redacted with the rest in what Envoy says.
        content = {key: value for key, value in content.items() if key != "name"}
    return _normal(content)


def _normal(value: object) -> object:
    """64-bit numbers are strings in protobuf's JSON, but not for everyone who writes it."""
    if isinstance(value, dict):
        return {key: _normal(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_normal(item) for item in value]
    if isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit():
        return int(value)
    return value


def _endpoints(content: Mapping[str, Any], health: bool) -> Json:
    """Envoy's dump tells what it made of an assignment, with health and weights filled in."""
    hosts = []
    for locality in content.get("endpoints", ()):
        where = locality.get("locality") or {}
        for host in locality.get("lb_endpoints", ()):
            endpoint = host.get("endpoint", {})
            socket = endpoint.get("address", {}).get("socket_address", {})
            shown: dict[str, object] = {
                "address": socket.get("address", ""),
                "port": socket.get("port_value", 0),
            }
            if endpoint.get("hostname"):
                shown["hostname"] = endpoint["hostname"]
            if health and host.get("health_status"):
                shown["health"] = host["health_status"]
            if host.get("load_balancing_weight", 1) != 1:
                shown["weight"] = host["load_balancing_weight"]
            if locality.get("priority"):
                shown["priority"] = locality["priority"]
            if where:
                shown["locality"] = "/".join(str(part) for part in where.values())
            hosts.append(shown)
    hosts.sort(key=lambda shown: (str(shown["address"]), str(shown["port"])))
    return {"endpoints": hosts}
