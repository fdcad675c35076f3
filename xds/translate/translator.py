"""From a World to what Envoy gets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pools.model import (
    BackendKind,
    Endpoint,
    Gateway,
    GatewayListener,
    HTTPRoute,
    InferencePool,
    ListenerProtocol,
    ObjectName,
    World,
)
from xds.resource import Resource
from xds.snapshot import Snapshot
from xds.translate.clusters import cluster_of_pool, cluster_of_service
from xds.translate.endpoints import assignment
from xds.translate.extproc import picker_clusters
from xds.translate.features import ALL, Features, missing
from xds.translate.listeners import http_listener
from xds.translate.pack import Memo
from xds.translate.routes import route_configuration
from xds.translate.settings import SocketAddress, TranslateSettings
from xds.translate.table import PoolTarget, ServiceTarget, Table, table_for, table_of_pools

DEFAULT_GATEWAY = "default"
"""Name of the listener set that exists when no Gateway is described."""


def translate(
    world: World,
    settings: TranslateSettings | None = None,
    gateway: Gateway | None = None,
    features: Features = ALL,
) -> Snapshot:
    """The whole configuration for one group of Envoys. For repeated use see :class:`Translator`."""
    return Translator(settings or TranslateSettings()).translate(world, gateway, features)


class Translator:
    """Translates one World after the other, making anew only what changed.

    The result is the same as :func:`translate`'s: what is remembered is compared by its whole
    input. Resources that did not change are the same objects as before.
    """

    def __init__(self, settings: TranslateSettings) -> None:
        self.settings = settings
        self._bytes: Memo[bytes] = Memo()
        self._resources: Memo[Resource] = Memo()
        self._tables: Memo[Table] = Memo()
        self._pickers = picker_clusters(settings.ext_proc)

    def next_world(self) -> None:
        """Call between Worlds: forgets what the last one did not use."""
        for memo in (self._bytes, self._resources, self._tables):
            memo.turn()

    def translate(
        self, world: World, gateway: Gateway | None, features: Features, *, cause: str = ""
    ) -> Snapshot:
        """The configuration for the Envoys of ``gateway``; without one, a single listener that
        serves every route."""
        notes = list(missing(features))
        resources = []
        pools: set[ObjectName] = set()
        services: set[ServiceTarget] = set()
        for port, listeners in _by_port(gateway, self.settings, notes).items():
            table = self._table(world, gateway, port, listeners, features)
            notes.extend(table.notes)
            for target in table.targets():
                if isinstance(target, PoolTarget):
                    pools.add(target.pool)
                else:
                    services.add(replace(target, weight=1))
            name = f"{gateway.name if gateway else DEFAULT_GATEWAY}/{port}"
            origin = str(gateway.origin or f"Gateway {gateway.name}") if gateway else "default"
            resources.append(self._listener(name, port, features, origin))
            resources.append(self._routes(name, table, features, origin))
        resources += self._pickers
        if self.settings.trace_collector is not None and features.traces:
            resources.append(self._collector(self.settings.trace_collector))
        for pool in sorted(pools):
            resources.append(self._cluster(world.pools[pool], features))
            resources.append(self._assignment(world.pools[pool], world.endpoints_of(pool)))
        resources += [
            self._service(service)
            for service in sorted(services, key=lambda s: (s.service, s.port))
        ]
        notes.extend(_unused(world))
        notes.extend(_unattached(world))
        return Snapshot.of(resources, cause=cause, notes=dict.fromkeys(notes))

    def _table(
        self,
        world: World,
        gateway: Gateway | None,
        port: int,
        listeners: tuple[GatewayListener, ...],
        features: Features,
    ) -> Table:
        pools = tuple(world.pools.items())
        if not world.routes:
            by_model = features.early_header_mutation
            return self._tables.get(
                ("pools alone", by_model),
                pools,
                lambda: table_of_pools(world.pools, by_model=by_model),
            )
        key = (gateway.name if gateway else None, port)
        attached = tuple(
            (route, sections)
            for route in world.routes
            if (sections := _sections(route, gateway, listeners))
        )
        return self._tables.get(
            key,
            (listeners, attached, pools),
            lambda: table_for(listeners, attached, world.pools),
        )

    def _listener(self, name: str, port: int, features: Features, origin: str) -> Resource:
        return self._resources.get(
            ("listener", name, features),
            (port, origin),
            lambda: http_listener(name, port, name, features, self.settings, origin=origin),
        )

    def _routes(self, name: str, table: Table, features: Features, origin: str) -> Resource:
        return self._resources.get(
            ("routes", name, features),
            (table, origin),
            lambda: route_configuration(
                name, table, features, self.settings, self._bytes, origin=origin
            ),
        )

    def _collector(self, address: SocketAddress) -> Resource:
        from xds.translate.tracing import collector_cluster

        return self._resources.get("traces", (), lambda: collector_cluster(address))

    def _cluster(self, pool: InferencePool, features: Features) -> Resource:
        return self._resources.get(
            ("cluster", pool.name, features),
            (pool.app_protocol, pool.origin),
            lambda: cluster_of_pool(pool, features, self.settings, self._bytes),
        )

    def _assignment(self, pool: InferencePool, endpoints: tuple[Endpoint, ...]) -> Resource:
        return self._resources.get(
            ("endpoints", pool.name),
            (endpoints, pool.origin),
            lambda: assignment(pool, endpoints),
        )

    def _service(self, target: ServiceTarget) -> Resource:
        return self._resources.get(
            target, (), lambda: cluster_of_service(target.service, target.port, self.settings)
        )


def _by_port(
    gateway: Gateway | None, settings: TranslateSettings, notes: list[str]
) -> dict[int, tuple[GatewayListener, ...]]:
    """The listeners that can be served, by port."""
    if gateway is None:
        return {settings.listen_port: (GatewayListener("default", settings.listen_port),)}
    ports: dict[int, tuple[GatewayListener, ...]] = {}
    for one in gateway.listeners:
        if one.protocol is not ListenerProtocol.HTTP:
            notes.append(
                f"{gateway.origin or f'Gateway {gateway.name}'}: listener {one.name} is left out: "
                f"{one.protocol} needs a certificate, and none can be given yet; use HTTP behind "
                "something that ends TLS"
            )
            continue
        ports[one.port] = (*ports.get(one.port, ()), one)
    return ports


def _sections(
    route: HTTPRoute, gateway: Gateway | None, listeners: Iterable[GatewayListener]
) -> frozenset[str]:
    """The names of those listeners that the route attaches to. Without Gateways every route
    attaches, whatever Gateway it names: the one there would be is this one."""
    return frozenset(
        listener.name
        for listener in listeners
        if gateway is None
        or not route.parents
        or any(
            parent.gateway == gateway.name
            and parent.section in (None, listener.name)
            and parent.port in (None, listener.port)
            for parent in route.parents
        )
    )


def _unused(world: World) -> Iterable[str]:
    """Pools that nobody can reach, although there are routes."""
    if not world.routes:
        return
    used = {
        backend.name
        for route in world.routes
        for rule in route.rules
        for backend in rule.backends
        if backend.kind is BackendKind.INFERENCE_POOL
    }
    for name, pool in world.pools.items():
        if name not in used:
            yield (
                f"{pool.origin or f'InferencePool {name}'}: no HTTPRoute leads to this pool, so "
                "Envoy does not know it; name it in a route's backendRefs"
            )


def _unattached(world: World) -> Iterable[str]:
    """Routes that no listener of any Gateway takes."""
    if not world.gateways:
        return
    for route in world.routes:
        if any(_sections(route, gateway, gateway.listeners) for gateway in world.gateways):
            continue
        wanted = ", ".join(
            f"{parent.gateway}"
            + (f" listener {parent.section}" if parent.section else "")
            + (f" port {parent.port}" if parent.port else "")
            for parent in route.parents
        )
        there = ", ".join(str(gateway.name) for gateway in world.gateways)
        yield (
            f"{route.origin or f'HTTPRoute {route.name}'}: parentRefs name {wanted}, which is not "
            f"there, so the route serves nothing; the Gateways are: {there}"
        )
