"""Resources in the shape of Envoy's ``/config_dump``, so that what reads Envoy's reads ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from xds.debug.snapshots import content
from xds.resource import (
    CLUSTER,
    ENDPOINT,
    EXTENSION_CONFIG,
    LISTENER,
    ROUTE,
    RUNTIME,
    SCOPED_ROUTE,
    SECRET,
    VIRTUAL_HOST,
    Resource,
)
from xds.status import RejectedResource, TypeStatus

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class DumpEntry:
    """One resource to be shown."""

    resource: Resource
    body: bool = True
    """False: only its name and version are known."""
    updated_at: float | None = None
    rejected: RejectedResource | None = None


@dataclass(frozen=True, slots=True)
class _Section:
    """Where resources of a type stand in a dump."""

    message: str
    type_url: str
    items: str
    item: str
    active: bool = False
    """Listeners: the resource stands in ``active_state``."""


_SECTIONS = (
    _Section("ClustersConfigDump", CLUSTER, "dynamic_active_clusters", "cluster"),
    _Section("EndpointsConfigDump", ENDPOINT, "dynamic_endpoint_configs", "endpoint_config"),
    _Section("ListenersConfigDump", LISTENER, "dynamic_listeners", "listener", True),
    _Section("RoutesConfigDump", ROUTE, "dynamic_route_configs", "route_config"),
    _Section("ScopedRoutesConfigDump", SCOPED_ROUTE, "dynamic_scoped_route_configs", "config"),
    _Section("SecretsConfigDump", SECRET, "dynamic_active_secrets", "secret"),
    _Section("EcdsConfigDump", EXTENSION_CONFIG, "ecds_filters", "ecds_filter"),
    _Section("RuntimesConfigDump", RUNTIME, "dynamic_runtimes", "runtime"),
    _Section("VirtualHostsConfigDump", VIRTUAL_HOST, "dynamic_virtual_hosts", "virtual_host"),
)
"""The last two are ours: Envoy's dump shows neither."""

_ADMIN = "type.googleapis.com/envoy.admin.v3."
_OTHER_STATES = ("warming_state", "draining_state")


def config_dump(
    by_type: Mapping[str, Iterable[DumpEntry]],
    versions: Mapping[str, str],
    names: re.Pattern[str] = re.compile(".*", re.DOTALL),
) -> Json:
    """A dump of these resources whose name matches. ``versions``: of each type as a whole."""
    return {
        "configs": [
            _section(section, by_type[section.type_url], versions, names)
            for section in _SECTIONS
            if section.type_url in by_type
        ]
    }


def _section(
    section: _Section,
    entries: Iterable[DumpEntry],
    versions: Mapping[str, str],
    names: re.Pattern[str],
) -> Json:
    shown: Json = {"@type": _ADMIN + section.message}
    if section.type_url in versions:
        shown["version_info"] = versions[section.type_url]
    shown[section.items] = [
        _item(section, entry) for entry in entries if names.fullmatch(entry.resource.name)
    ]
    return shown


def _item(section: _Section, entry: DumpEntry) -> Json:
    resource = entry.resource
    state: Json = {"version_info": resource.version}
    if entry.body:
        state[section.item] = {"@type": resource.type_url, **content(resource)}
    if entry.updated_at is not None:
        state["last_updated"] = _time(entry.updated_at)
    item: Json = {"name": resource.name}
    item |= {"active_state": state} if section.active else state
    if resource.origin:
        item["origin"] = resource.origin
    if entry.rejected is not None:
        item["client_status"] = "NACKED"
        item["error_state"] = {
            "last_update_attempt": _time(entry.rejected.at),
            "details": entry.rejected.message,
            "version_info": entry.rejected.version or "",
        }
    return item


def wanted_of(described: TypeStatus) -> list[DumpEntry]:
    """What the node is meant to have of a type, with what it rejects."""
    rejected = {one.name: one for one in described.rejected}
    return [
        DumpEntry(resource, rejected=rejected.get(name))
        for name, resource in described.wanted.items()
    ]


def acked_of(described: TypeStatus) -> list[DumpEntry]:
    """What the node has acknowledged. Content is missing where it was acknowledged to an earlier
    run of this server and is another one now."""
    at = described.acked.at if described.acked is not None else None
    entries = []
    for name, has in described.has.items():
        wanted = described.wanted.get(name)
        known = has
        if not has.body and wanted is not None and wanted.version == has.version:
            known = wanted
        entries.append(DumpEntry(known, bool(known.body), at))
    return entries


@dataclass(frozen=True, slots=True)
class Dumped:
    """A resource that was read from a dump, ours or Envoy's."""

    name: str
    version: str
    content: Json | None
    """None: only the version is known, or nothing of it is in use."""
    error: str = ""
    """Why its newest form was rejected."""
    state: str = "active"
    """``warming`` while it waits for what it needs."""


def read_dump(dump: object) -> dict[str, dict[str, Dumped]]:
    """Every dynamic resource in a dump by type URL and name. Raises ValueError for something else
    than a dump."""
    if not isinstance(dump, dict) or not isinstance(dump.get("configs"), list):
        raise ValueError("this is not a config dump: it has no list `configs`")
    found: dict[str, dict[str, Dumped]] = {}
    for part in dump["configs"]:
        message = str(part.get("@type", "")).removeprefix(_ADMIN)
        section = next((s for s in _SECTIONS if s.message == message), None)
        if section is None:
            continue
        named = found.setdefault(section.type_url, {})
        for item in _items(section, part):
            # A resource that is both active and warming is in use.
            if item.name not in named or named[item.name].content is None:
                named[item.name] = item
    return found


_Reader = Callable[[Json], Dumped | None]


def _items(section: _Section, part: Json) -> Iterator[Dumped]:
    lists = {section.items: "active"}
    if section.type_url == CLUSTER:
        lists["dynamic_warming_clusters"] = "warming"
    if section.type_url == SECRET:
        lists["dynamic_warming_secrets"] = "warming"
    for key, state in lists.items():
        items = part.get(key, [])
        for item in items if isinstance(items, list) else []:
            read = _read(section, item, state)
            if read is not None:
                yield read


def _read(section: _Section, item: Json, state: str) -> Dumped | None:
    holder: object = item
    if section.active:
        holder = item.get("active_state")
        for other in _OTHER_STATES:
            if not holder and item.get(other):
                holder, state = item[other], other.removesuffix("_state")
    holder = holder if isinstance(holder, dict) else {}
    body = holder.get(section.item)
    error = item.get("error_state")
    failed: object = None
    details = ""
    if isinstance(error, dict):
        details = str(error.get("details", ""))
        failed = error.get("failed_configuration")
    name = item.get("name") or _name(body) or _name(failed)
    if not name:
        return None
    version = str(holder.get("version_info", ""))
    return Dumped(str(name), version, body if isinstance(body, dict) else None, details, state)


def _name(body: object) -> str:
    if not isinstance(body, dict):
        return ""
    return str(body.get("name") or body.get("cluster_name") or "")


def _time(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds")
