"""Tables made from HTTPRoutes, or from pools alone: which entries each hostname has.

The rules are those of the Gateway API: which hostnames routes and listeners share, which of two
routes wins, and what a request gets that belongs to another listener or to none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pools.attachment import ANY_HOST, covering, covers, shared_hostname
from pools.contract import POOL_HEADER
from pools.model import (
    Filters,
    GatewayListener,
    PathChange,
    PathChangeType,
    PathMatch,
    PathMatchType,
    RouteMatch,
    UrlRewrite,
    ValueMatch,
)
from xds.translate.rules import (
    Attached,
    Backends,
    ListenerContext,
    Rank,
    ranked_entries,
    shared_mode,
)
from xds.translate.table import Answer, ByModel, Entry, Forward, Host, Table

_OWN_PREFIX = Filters(rewrite=UrlRewrite(path=PathChange(PathChangeType.PREFIX, "/")))


@dataclass(frozen=True, slots=True)
class _Joined:
    """The entries of a route for one hostname of one listener."""

    domain: str
    entries: tuple[tuple[Rank, Entry], ...]


def table_for(
    listeners: Sequence[GatewayListener],
    routes: Iterable[Attached],
    backends: Backends,
    context: ListenerContext,
    serving: str | None = None,
) -> Table:
    """The table of one port, all of whose listeners are given. ``serving``: of that listener alone,
    where each has its own connections, as with TLS; what is asked there of the others is answered
    with 421, so that the client opens a connection to them."""
    notes: list[str] = []
    joined: dict[tuple[str, str], list[_Joined]] = {}
    """By listener and hostname."""
    for attached in routes:
        entries = tuple(ranked_entries(attached, backends, context, notes))
        for listener in listeners:
            if listener.name in attached.sections:
                for hostname in attached.route.hostnames or (ANY_HOST,):
                    domain = shared_hostname(hostname or ANY_HOST, hostname_of(listener))
                    if domain is not None:
                        joined.setdefault((listener.name, domain), []).append(
                            _Joined(domain, entries)
                        )
    domains = {domain for listener_name, domain in joined if serving in (None, listener_name)}
    domains |= {hostname_of(one) for one in listeners}
    domains.add(ANY_HOST)
    hosts = tuple(
        Host(domain, _entries_of(domain, listeners, joined, serving))
        for domain in sorted(domains, key=host_rank)
    )
    return Table(hosts, tuple(dict.fromkeys(notes)))


def _entries_of(
    domain: str,
    listeners: Sequence[GatewayListener],
    joined: Mapping[tuple[str, str], Sequence[_Joined]],
    serving: str | None,
) -> tuple[Entry, ...]:
    """What a request for ``domain`` may get: the routes of the most specific listener, those with
    the more specific hostname first, then by the precedence of their matches."""
    owners = [x for x in listeners if covers(hostname_of(x), domain)]
    owner = min(owners, key=lambda x: host_rank(hostname_of(x)), default=None)
    if serving is not None and owner is not None and owner.name != serving:
        return (_MISDIRECTED,)
    best: dict[str, tuple[tuple[int, int, str], Rank, Entry]] = {}
    for one in _covering(domain, owner, joined):
        rank_of_host = host_rank(one.domain)
        for rank, entry in one.entries:
            if entry.name not in best or rank_of_host < best[entry.name][0]:
                best[entry.name] = (rank_of_host, rank, entry)
    entries = [entry for _, _, entry in sorted(best.values(), key=lambda e: (e[0], e[1]))]
    if not any(entry.match == RouteMatch() for entry in entries):
        entries.append(_not_found("No route matches this host and path."))
    return tuple(entries)


def _covering(
    domain: str,
    owner: GatewayListener | None,
    joined: Mapping[tuple[str, str], Sequence[_Joined]],
) -> Iterator[_Joined]:
    if owner is not None:
        for pattern in covering(domain):
            yield from joined.get((owner.name, pattern), ())


def table_of_pools(backends: Backends, *, by_model: bool = True) -> Table:
    """Without any HTTPRoute: a single pool gets every request. Several get one path prefix each,
    and requests without a prefix go to the pool that serves their model.

    ``by_model``: off where Envoy cannot keep clients from sending :data:`POOL_HEADER` themselves.
    """
    pools = backends.pools
    if not pools:
        return Table((Host(ANY_HOST, (_not_found("No InferencePool is described yet."),)),))
    if len(pools) == 1:
        (pool,) = pools.values()
        every = Entry(f"pool/{pool.name}", RouteMatch(), Forward((backends.pool(pool),)))
        return Table((Host(ANY_HOST, (every,)),))
    ordered = sorted(pools.values(), key=lambda pool: pool.name)
    entries = [
        Entry(
            f"pool/{pool.name}",
            RouteMatch(PathMatch(PathMatchType.PREFIX, f"/{pool.name}")),
            Forward((backends.pool(pool),), filters=_OWN_PREFIX),
        )
        for pool in ordered
    ]
    if by_model:
        entries += [
            Entry(
                f"model/{pool.name}",
                RouteMatch(headers=(ValueMatch(POOL_HEADER, str(pool.name)),)),
                Forward((backends.pool(pool),)),
            )
            for pool in ordered
        ]
        last = Entry("by-model", RouteMatch(), ByModel(shared_mode(p.body_mode for p in ordered)))
    else:
        choice = ", ".join(f"/{name}/v1/..." for name in sorted(pools))
        last = _not_found(
            f"Several pools are served here; put one of these before the path: {choice}"
        )
    return Table((Host(ANY_HOST, (*entries, last)),))


def hostname_of(listener: GatewayListener) -> str:
    return (listener.hostname or ANY_HOST).lower()


def host_rank(hostname: str) -> tuple[int, int, str]:
    """Sorts hostnames, the most specific first."""
    kind = 2 if hostname == ANY_HOST else 1 if hostname.startswith("*.") else 0
    return kind, -len(hostname), hostname


def _not_found(message: str) -> Entry:
    return Entry("not-found", RouteMatch(), Answer(404, "route_not_found", message))


_MISDIRECTED = Entry(
    "misdirected",
    RouteMatch(),
    Answer(421, "misdirected", "This host is served on connections that were opened for its name."),
)
