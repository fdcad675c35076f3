"""Why an endpoint is, or is not, where requests can reach it: from its manifest to each Envoy.

Pure: looks at values and says what it sees.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pools.addresses import host_port, is_ip
from pools.model import (
    AbsentEndpoint,
    Endpoint,
    InferencePool,
    Problem,
    World,
)
from xds.debug.change_log import Removal
from xds.debug.nodes import time_json
from xds.provider import FeatureVariant
from xds.resource import CLUSTER, ENDPOINT, Resource
from xds.status import NodeStatus, StreamStatus, TypeStatus
from xds.translate.names import pool_cluster
from xds.wire import endpoint_pb2

Json = dict[str, object]

_MOST_MATCHES = 20
_MOST_DEPARTURES = 10
_HINTS = 5


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that an answer is drawn from."""

    world: World
    nodes: Sequence[NodeStatus]
    variants: Sequence[FeatureVariant]
    removals: Sequence[Removal]
    """Newest first."""


def why(query: str, inputs: Inputs) -> Json:
    """``query``: an address, ``address:port``, or a pod's or host's name, or a part of one."""
    query = query.strip()
    found = list(_matches(query, inputs.world))
    shown = [_explain(endpoint, pool, inputs) for endpoint, pool in found[:_MOST_MATCHES]]
    absence = [] if found else list(_absence(query, inputs))
    return {
        "query": query,
        "summary": _summary(query, shown, absence, len(found)),
        "verdict": _verdict(shown, absence),
        "matches": shown,
        "omitted": max(0, len(found) - _MOST_MATCHES),
        "absence": absence,
        "departures": [
            _departure(one)
            for one in inputs.removals
            if _names(query, one.endpoint) or query.lower() in one.endpoint.name.lower()
        ][:_MOST_DEPARTURES],
        "similar": [] if found else _similar(query, inputs.world),
    }


def _matches(query: str, world: World) -> Iterator[tuple[Endpoint, InferencePool]]:
    """Endpoints of exactly this name or address; where there are none, those with it in theirs."""
    everything = [
        (endpoint, pool)
        for name, pool in world.pools.items()
        for endpoint in world.endpoints_of(name)
    ]
    exact = [pair for pair in everything if _names(query, pair[0])]
    if exact or not query or is_ip(query.strip("[]")):
        return iter(exact)
    part = query.lower()
    return iter([pair for pair in everything if part in pair[0].name.lower()])


def _names(query: str, endpoint: Endpoint) -> bool:
    base, rank, number = endpoint.name.rpartition("-rank-")
    pod = base if rank and number.isdigit() else endpoint.name
    return query in (
        endpoint.key,
        endpoint.address,
        f"[{endpoint.address}]",
        endpoint.name,
        pod,
        pod.removesuffix(f"-{endpoint.address}"),
        host_port(endpoint.address, endpoint.metrics_port or endpoint.port),
    )


def _explain(endpoint: Endpoint, pool: InferencePool, inputs: Inputs) -> Json:
    name = pool_cluster(pool.name)
    nodes = [
        shown
        for node in inputs.nodes
        if (shown := _on_node(node, name, endpoint, inputs.variants)) is not None
    ]
    nodes.sort(key=lambda shown: shown["state"] == "known")
    origin = inputs.world.endpoint_origins.get(endpoint.key)
    return {
        "endpoint": endpoint.key,
        "name": endpoint.name,
        "pool": str(pool.name),
        "draining": endpoint.draining,
        "origin": str(origin) if origin else "",
        "pool_origin": str(pool.origin or ""),
        "resource": f"endpoints/{name}",
        "steps": list(_steps(endpoint, pool, inputs)),
        "nodes": nodes,
    }


def _step(step: str, ok: bool, text: str, **more: object) -> Json:
    return {"step": step, "state": "ok" if ok else "blocked", "text": text, **more}


def _steps(endpoint: Endpoint, pool: InferencePool, inputs: Inputs) -> Iterator[Json]:
    origin = inputs.world.endpoint_origins.get(endpoint.key)
    where = f" by {origin}" if origin else ""
    yield _step("manifest", True, f"{endpoint.key} is described{where}")
    draining = "; it is draining, so new requests go elsewhere" if endpoint.draining else ""
    yield _step("pool", True, f"it belongs to {pool.origin or pool.name}{draining}")
    for variant in inputs.variants:
        yield _in_variant(endpoint, pool, variant)


def _in_variant(endpoint: Endpoint, pool: InferencePool, variant: FeatureVariant) -> Json:
    who = f"group {variant.group}"
    snapshot = variant.snapshot
    if snapshot is None:
        return _step("configuration", False, f"{who} has no configuration: {variant.problem}")
    name = pool_cluster(pool.name)
    assignment = snapshot.of_type(ENDPOINT).get(name)
    if assignment is None or name not in snapshot.of_type(CLUSTER):
        note = next((n for n in snapshot.notes if str(pool.name) in n), "")
        reason = note or "no route that this group serves leads to the pool"
        return _step("configuration", False, f"{who} does not have the pool: {reason}")
    if endpoint.key not in addresses(assignment):
        stale = f": {variant.problem}" if variant.problem else ""
        return _step("configuration", False, f"{who} keeps an older configuration{stale}")
    text = f"{who} has it in {name}, version {assignment.version}, configuration {snapshot.version}"
    return _step("configuration", True, text)


def _on_node(
    node: NodeStatus, name: str, endpoint: Endpoint, variants: Sequence[FeatureVariant]
) -> Json | None:
    """What one Envoy has of it; None for a node of a group that is not to have the pool."""
    served = any(
        v.group == node.group and v.snapshot and name in v.snapshot.of_type(CLUSTER)
        for v in variants
    )
    found = _assignment_of(node)
    if found is None:
        if not served:
            return None
        state, text = "not subscribed", "it has not asked for endpoints"
        rejected = _rejected_cluster(node, name)
        if rejected:
            state, text = "rejected", f"it rejects the pool's cluster: {rejected}"
        return {"id": node.node.id, "state": state, "text": text, "at": None, "phase": None}
    stream, described = found
    wanted, has = described.wanted.get(name), described.has.get(name)
    if wanted is None and has is None and not served:
        return None
    state, text = _delivered(described, name, endpoint, wanted, has)
    rejected = _rejected_cluster(node, name)
    if rejected and state != "known":
        state, text = "rejected", f"it rejects the pool's cluster: {rejected}"
    at = described.acked.at if described.acked is not None else None
    return {
        "id": node.node.id,
        "state": state,
        "text": text,
        "at": time_json(at) if state == "known" and at is not None else None,
        "phase": stream.phase,
    }


def _assignment_of(node: NodeStatus) -> tuple[StreamStatus, TypeStatus] | None:
    for stream in node.streams:
        for described in stream.types:
            if described.type_url == ENDPOINT:
                return stream, described
    return None


def _rejected_cluster(node: NodeStatus, name: str) -> str:
    for stream in node.streams:
        for described in stream.types:
            for rejected in described.rejected:
                if described.type_url == CLUSTER and rejected.name == name:
                    return rejected.message
    return ""


def _delivered(
    described: TypeStatus,
    name: str,
    endpoint: Endpoint,
    wanted: Resource | None,
    has: Resource | None,
) -> tuple[str, str]:
    if has is not None and endpoint.key in _known(has, wanted):
        return "known", f"it has acknowledged it with version {has.version}"
    for rejected in described.rejected:
        if rejected.name == name:
            return "rejected", f"it rejects the assignment: {rejected.message}"
    if wanted is None:
        return "not subscribed", "it has not asked for the endpoints of this pool"
    if endpoint.key not in addresses(wanted):
        return "waiting", "its rollout has not come to this change yet"
    if described.pending_nonce:
        return "sent", f"it was sent, and there is no ACK yet (nonce {described.pending_nonce})"
    return "waiting", "it is about to be sent: the rollout waits for other types"


def _known(has: Resource, wanted: Resource | None) -> frozenset[str]:
    if not has.body and wanted is not None and wanted.version == has.version:
        return addresses(wanted)
    return addresses(has)


def addresses(assignment: Resource) -> frozenset[str]:
    """``ip:port`` of every endpoint of a ClusterLoadAssignment."""
    return _addresses(assignment.body)


@lru_cache(maxsize=32)
def _addresses(body: bytes) -> frozenset[str]:
    """Hundreds of nodes have the same few assignments."""
    message = endpoint_pb2.ClusterLoadAssignment()
    message.ParseFromString(body)
    return frozenset(
        host_port(
            host.endpoint.address.socket_address.address,
            host.endpoint.address.socket_address.port_value,
        )
        for locality in message.endpoints
        for host in locality.lb_endpoints
    )


def _absence(query: str, inputs: Inputs) -> Iterator[Json]:
    """Reasons for which nothing of this name is there, the most telling first."""
    for one in inputs.world.absent:
        if _is_absent_one(query, one):
            where = f" of InferencePool {one.pool}" if one.pool is not None else ""
            address = f" ({one.address})" if one.address else ""
            yield {"reason": "absent", "text": f"{one.name}{address}{where}: {one.reason}"}
    last = next(
        (d for d in inputs.removals if _names(query, d.endpoint)),
        None,
    )
    if last is not None:
        where = f"; it was described by {last.origin}" if last.origin else ""
        yield {
            "reason": "removed",
            "text": f"{last.endpoint.key} ({last.endpoint.name}) left InferencePool {last.pool} at "
            f"{time_json(last.at)}, with revision {last.revision}: {last.cause}{where}",
        }
    named, others = _split(query, inputs.world.problems)
    for problem in named:
        yield {"reason": "problem", "text": str(problem), "problem": problem.parts()}
    if last is None and not named:
        for problem in others[:_HINTS]:
            yield {
                "reason": "possible",
                "text": str(problem),
                "problem": problem.parts(),
            }
    pool = next((p for n, p in inputs.world.pools.items() if query in (str(n), n.name)), None)
    if pool is not None:
        count = len(inputs.world.endpoints_of(pool.name))
        yield {
            "reason": "pool",
            "text": f"this is the name of {pool.origin or pool.name}, which has {count} endpoints",
        }


def _is_absent_one(query: str, absent: AbsentEndpoint) -> bool:
    host = query.rpartition(":")[0] if query.count(":") == 1 else query.partition("]")[0]
    return query in (absent.name, absent.address) or (
        bool(absent.address) and host.strip("[]") == absent.address
    )


def _split(query: str, problems: Iterable[Problem]) -> tuple[list[Problem], list[Problem]]:
    """Problems that name what was asked for, and others that may hide an endpoint."""
    word = query.lower()
    host = word.rpartition(":")[0] or word
    named, others = [], []
    for problem in problems:
        text = str(problem).lower()
        if word and (word in text or (len(host) > 3 and f"'{host}'" in text)):
            named.append(problem)
        elif problem.origin is None or problem.origin.kind in ("PoolEndpoints", "InferencePool"):
            others.append(problem)
    return named, others


def _departure(one: Removal) -> Json:
    return {
        "endpoint": one.endpoint.key,
        "name": one.endpoint.name,
        "pool": str(one.pool),
        "at": time_json(one.at),
        "revision": one.revision,
        "cause": one.cause,
        "origin": one.origin,
    }


def _similar(query: str, world: World) -> list[str]:
    names: dict[str, None] = {}
    for endpoints in world.endpoints.values():
        for endpoint in endpoints:
            names[endpoint.name] = None
            names[endpoint.key] = None
    pools = [str(name) for name in world.pools]
    return difflib.get_close_matches(query, [*names, *pools], n=_HINTS, cutoff=0.6)


def _verdict(matches: Sequence[Json], absence: Sequence[Json]) -> str:
    if not matches:
        certain = any(one["reason"] != "possible" for one in absence)
        return "absent" if certain else "unknown"
    nodes = [node for one in matches for node in _list(one["nodes"])]
    blocked = any(step["state"] == "blocked" for one in matches for step in _list(one["steps"]))
    if nodes and all(node["state"] == "known" for node in nodes) and not blocked:
        return "served"
    if any(node["state"] == "known" for node in nodes):
        return "partly"
    return "not served"


def _summary(query: str, matches: Sequence[Json], absence: Sequence[Json], count: int) -> str:
    verdict = _verdict(matches, absence)
    if not matches:
        if verdict == "absent":
            return f"{query} is not there: {_text(absence[0])}"
        unread = "; it may be in what could not be used, see below" if absence else ""
        return f"{query} is in no manifest, and was not since this server started{unread}."
    what = f"{matches[0]['endpoint']} of {matches[0]['pool']}" if count == 1 else f"{count} matches"
    nodes = [node for one in matches for node in _list(one["nodes"])]
    known = sum(node["state"] == "known" for node in nodes)
    if verdict == "served":
        return f"{what}: every Envoy that is to have it has it ({_times(known)})."
    blocked = next(
        (s for one in matches for s in _list(one["steps"]) if s["state"] == "blocked"), None
    )
    if blocked is not None:
        return f"{what}: {_text(blocked)}."
    if not nodes:
        return f"{what}: ready to be sent, and no Envoy of its group is connected."
    behind = next(node for node in nodes if node["state"] != "known")
    return f"{what}: {known} of {_times(len(nodes))} have it; {behind['id']}: {_text(behind)}."


def _list(value: object) -> list[Json]:
    assert isinstance(value, list)
    return value


def _text(item: Json) -> str:
    return str(item["text"])


def _times(count: int) -> str:
    return f"{count} Envoy{'' if count == 1 else 's'}"
