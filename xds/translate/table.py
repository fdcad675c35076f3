"""Route tables: what the HTTPRoutes of a Gateway mean, before it is written in Envoy's words.

The rules are those of the Gateway API: which routes attach to which listener, which hostnames they
share, which of two matches wins, and what a request gets whose backend is not there. Everything
here is a plain value, so that an unchanged part of a table is recognised by equality.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pools.model import (
    BackendKind,
    BodyMode,
    FailureMode,
    GatewayListener,
    HTTPRoute,
    InferencePool,
    ObjectName,
    PathMatch,
    PathMatchType,
    RouteBackend,
    RouteMatch,
    RouteRule,
    ValueMatch,
    ValueMatchType,
)
from xds.translate.names import POOL_HEADER

ANY_HOST = "*"


@dataclass(frozen=True, slots=True)
class PoolTarget:
    """A share of a route's requests that goes to a pool, by way of the endpoint picker."""

    pool: ObjectName
    weight: int = 1
    failure_mode: FailureMode = FailureMode.FAIL_CLOSE
    body_mode: BodyMode = BodyMode.FULL_DUPLEX_STREAMED


@dataclass(frozen=True, slots=True)
class ServiceTarget:
    """A share that goes to an ordinary Service; the picker is not asked."""

    service: ObjectName
    port: int
    weight: int = 1


Target = PoolTarget | ServiceTarget


@dataclass(frozen=True, slots=True)
class Forward:
    targets: tuple[Target, ...]
    """Never empty, weights above zero."""
    lost_weight: int = 0
    """The share whose backend does not exist: it is answered with 500, as the Gateway API says."""
    strip_prefix: str = ""
    request_timeout: float = 0.0
    """Seconds; 0: no limit."""
    try_timeout: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Envoy answers by itself, with an error in the form that OpenAI clients understand."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ByModel:
    """The picker finds the pool by the request's model, and leads to the pool's own entry with the
    header :data:`POOL_HEADER`. It refuses what it finds no pool for."""

    body_mode: BodyMode


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    match: RouteMatch
    action: Forward | Answer | ByModel


@dataclass(frozen=True, slots=True)
class Host:
    domain: str
    """An exact hostname, ``*.suffix``, or ``*``."""
    entries: tuple[Entry, ...]
    """In the order in which they are tried; the last one matches everything."""


@dataclass(frozen=True, slots=True)
class Table:
    hosts: tuple[Host, ...]
    notes: tuple[str, ...] = ()
    """What in these routes cannot be had, naming the object."""

    def targets(self) -> Iterator[Target]:
        for host in self.hosts:
            for entry in host.entries:
                if isinstance(entry.action, Forward):
                    yield from entry.action.targets


def table_for(
    listeners: Sequence[GatewayListener],
    routes: Iterable[tuple[HTTPRoute, frozenset[str]]],
    pools: Mapping[ObjectName, InferencePool],
) -> Table:
    """The table of one port: its listeners, and each route with the names of those listeners that
    it is attached to."""
    notes: list[str] = []
    attached: list[_Attached] = []
    for route, sections in routes:
        entries = tuple(_ranked_entries(route, pools, notes))
        joined = False
        for listener in listeners:
            if listener.name not in sections:
                continue
            for hostname in route.hostnames or (ANY_HOST,):
                domain = shared_hostname(hostname or ANY_HOST, _hostname(listener))
                if domain is not None:
                    joined = True
                    attached.append(_Attached(domain, listener.name, entries))
        if not joined and sections:
            notes.append(
                f"{_of(route)}: none of its hostnames ({', '.join(route.hostnames)}) belongs to a "
                f"listener that it is attached to, so it serves nothing there"
            )
    domains = {a.domain for a in attached} | {_hostname(x) for x in listeners}
    domains.add(ANY_HOST)
    hosts = tuple(
        Host(domain, _entries_of(domain, listeners, attached))
        for domain in sorted(domains, key=_host_rank)
    )
    return Table(hosts, tuple(notes))


def table_of_pools(pools: Mapping[ObjectName, InferencePool], *, by_model: bool = True) -> Table:
    """Without any HTTPRoute: a single pool gets every request. Several get one path prefix each,
    and requests without a prefix go to the pool that serves their model.

    ``by_model``: off where Envoy cannot keep clients from sending :data:`POOL_HEADER` themselves.
    """
    if not pools:
        return Table((Host(ANY_HOST, (_not_found("No InferencePool is described yet."),)),))
    if len(pools) == 1:
        (pool,) = pools.values()
        every = Entry(f"pool/{pool.name}", RouteMatch(), Forward((_target(pool, 1),)))
        return Table((Host(ANY_HOST, (every,)),))
    ordered = sorted(pools.values(), key=lambda pool: pool.name)
    entries = [
        Entry(
            f"pool/{pool.name}",
            RouteMatch(PathMatch(PathMatchType.PREFIX, f"/{pool.name}")),
            Forward((_target(pool, 1),), strip_prefix=f"/{pool.name}"),
        )
        for pool in ordered
    ]
    if by_model:
        entries += [
            Entry(
                f"model/{pool.name}",
                RouteMatch(headers=(ValueMatch(POOL_HEADER, str(pool.name)),)),
                Forward((_target(pool, 1),)),
            )
            for pool in ordered
        ]
        last = Entry("by-model", RouteMatch(), ByModel(_shared_mode(ordered)))
    else:
        choice = ", ".join(f"/{name}/v1/..." for name in sorted(pools))
        last = _not_found(
            f"Several pools are served here; put one of these before the path: {choice}"
        )
    return Table((Host(ANY_HOST, (*entries, last)),))


def _shared_mode(pools: Iterable[InferencePool]) -> BodyMode:
    """How bodies are shown before the pool is known: as all pools want it if it is one of the modes
    in which the model can be read before the pick."""
    wanted = {pool.body_mode for pool in pools}
    if wanted == {BodyMode.BUFFERED}:
        return BodyMode.BUFFERED
    return BodyMode.FULL_DUPLEX_STREAMED


@dataclass(frozen=True, slots=True)
class _Attached:
    domain: str
    listener: str
    entries: tuple[tuple[_Rank, Entry], ...]


_Rank = tuple[int, int, int, int, int, str, ObjectName, int, int]


def _entries_of(
    domain: str, listeners: Sequence[GatewayListener], attached: Sequence[_Attached]
) -> tuple[Entry, ...]:
    """What a request for ``domain`` may get: the routes of the most specific listener, those with
    the more specific hostname first, then by the precedence of their matches."""
    owners = [x for x in listeners if covers(_hostname(x), domain)]
    owner = min(owners, key=lambda x: _host_rank(_hostname(x)), default=None)
    best: dict[str, tuple[tuple[int, int, str], _Rank, Entry]] = {}
    for one in attached:
        if owner is None or one.listener != owner.name or not covers(one.domain, domain):
            continue
        host_rank = _host_rank(one.domain)
        for rank, entry in one.entries:
            if entry.name not in best or host_rank < best[entry.name][0]:
                best[entry.name] = (host_rank, rank, entry)
    entries = [entry for _, _, entry in sorted(best.values(), key=lambda e: (e[0], e[1]))]
    if not any(entry.match == RouteMatch() for entry in entries):
        entries.append(_not_found("No route matches this host and path."))
    return tuple(entries)


def _ranked_entries(
    route: HTTPRoute, pools: Mapping[ObjectName, InferencePool], notes: list[str]
) -> Iterable[tuple[_Rank, Entry]]:
    for i, rule in enumerate(route.rules):
        where = f"{_of(route)}: rules[{i}]"
        action = _action(rule, pools, where, notes)
        for j, raw in enumerate(rule.matches or (RouteMatch(),)):
            match = _normal(raw)
            problem = _problem(match)
            if problem:
                notes.append(f"{where}.matches[{j}] is left out: {problem}")
                continue
            entry = Entry(f"{route.name}/{i}/{j}", match, action)
            yield (*match_rank(match), route.created or "~", route.name, i, j), entry


def match_rank(match: RouteMatch) -> tuple[int, int, int, int, int]:
    """Sorts matches, those that win first: an exact path, the longest prefix, a regular expression,
    the prefix ``/``; then a method, more headers, more query parameters.

    The Gateway API leaves the place of regular expressions open. Here they come before ``/``,
    because behind it they could never match.
    """
    path = match.path
    kind, length = {
        PathMatchType.EXACT: (0, 0),
        PathMatchType.PREFIX: (1, -len(path.value)) if path.value != "/" else (3, 0),
        PathMatchType.REGEX: (2, -len(path.value)),
    }[path.type]
    return kind, length, match.method is None, -len(match.headers), -len(match.query)


def _action(
    rule: RouteRule,
    pools: Mapping[ObjectName, InferencePool],
    where: str,
    notes: list[str],
) -> Forward | Answer:
    targets: list[Target] = []
    lost = 0
    for backend in rule.backends:
        target = _resolve(backend, pools, where, notes)
        if target is None:
            lost += backend.weight
        elif backend.weight > 0:
            targets.append(target)
    if targets:
        return Forward(
            tuple(targets),
            lost,
            request_timeout=rule.request_timeout or 0.0,
            try_timeout=rule.backend_timeout or 0.0,
        )
    if not rule.backends:
        notes.append(f"{where} has no backendRefs; its requests are answered with 500")
    elif not lost:
        notes.append(f"{where}: all weights are 0; its requests are answered with 500")
    return Answer(500, "backend_not_found", "The backend of this route does not exist.")


def _resolve(
    backend: RouteBackend,
    pools: Mapping[ObjectName, InferencePool],
    where: str,
    notes: list[str],
) -> Target | None:
    if backend.kind is BackendKind.INFERENCE_POOL:
        pool = pools.get(backend.name)
        if pool is not None:
            return _target(pool, backend.weight)
        fix = "does not exist; create it or correct the name"
    elif backend.port is not None:
        return ServiceTarget(backend.name, backend.port, backend.weight)
    else:
        fix = "has no port; set backendRefs.port"
    notes.append(
        f"{where}: {backend.kind} {backend.name} {fix}. Until then its share of the requests is "
        "answered with 500"
    )
    return None


def _hostname(listener: GatewayListener) -> str:
    return (listener.hostname or ANY_HOST).lower()


def _target(pool: InferencePool, weight: int) -> PoolTarget:
    return PoolTarget(pool.name, weight, pool.failure_mode, pool.body_mode)


def _not_found(message: str) -> Entry:
    return Entry("not-found", RouteMatch(), Answer(404, "route_not_found", message))


def _of(route: HTTPRoute) -> str:
    return str(route.origin) if route.origin else f"HTTPRoute {route.name}"


def _normal(match: RouteMatch) -> RouteMatch:
    """One form for matches that mean the same: ``/v1/`` is the prefix ``/v1``; of several matches
    on one header or query parameter the first counts."""
    path = match.path
    if path.type is PathMatchType.PREFIX:
        path = replace(path, value=path.value.rstrip("/") or "/")
    headers: dict[str, ValueMatch] = {}
    for header in match.headers:
        headers.setdefault(header.name.lower(), replace(header, name=header.name.lower()))
    query: dict[str, ValueMatch] = {}
    for parameter in match.query:
        query.setdefault(parameter.name, parameter)
    return replace(match, path=path, headers=tuple(headers.values()), query=tuple(query.values()))


_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_RE2 = re.compile(r"(?<!\\)(?:\\\\)*(\(\?(?:[=!>(#]|<[=!]|P=)|\\[1-9Z])")


def _problem(match: RouteMatch) -> str:
    """Why Envoy would reject the whole table for this match; empty if it would not."""
    path = match.path
    if path.type is not PathMatchType.REGEX and (
        not path.value.startswith("/") or "?" in path.value or "#" in path.value
    ):
        return f"the path {path.value!r} must begin with / and hold neither ? nor #"
    for name in (*(header.name for header in match.headers), match.method or "GET"):
        if not _TOKEN.fullmatch(name):
            return f"{name!r} is not a name that HTTP allows"
    patterns = [path.value] if path.type is PathMatchType.REGEX else []
    values = (*match.headers, *match.query)
    patterns += [v.value for v in values if v.type is ValueMatchType.REGEX]
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, OverflowError) as error:
            return f"{pattern!r} is not a regular expression: {error}"
        unsupported = _NOT_RE2.search(pattern)
        if unsupported:
            return f"{pattern!r}: Envoy's regular expressions (RE2) have no {unsupported[1]!r}"
    return ""


def covers(pattern: str, hostname: str) -> bool:
    """Whether every request for ``hostname`` (which may be a wildcard itself) is also one for
    ``pattern``. A wildcard stands for one or more labels."""
    if pattern in (ANY_HOST, hostname):
        return True
    return pattern.startswith("*.") and hostname.removeprefix("*").endswith(pattern[1:])


def shared_hostname(one: str, other: str) -> str | None:
    """The more specific of two hostnames if they have requests in common, else None."""
    one, other = one.lower(), other.lower()
    if covers(one, other):
        return other
    return one if covers(other, one) else None


def _host_rank(hostname: str) -> tuple[int, int, str]:
    """Sorts hostnames, the most specific first."""
    kind = 2 if hostname == ANY_HOST else 1 if hostname.startswith("*.") else 0
    return kind, -len(hostname), hostname
