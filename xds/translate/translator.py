"""From a World to what Envoy gets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pools.attachment import (
    AttachedListener,
    AttachedRoute,
    AttachedWorld,
    Attachments,
    ServiceRef,
    attach,
)
from pools.model import (
    BackendKind,
    Endpoint,
    Gateway,
    GatewayListener,
    InferencePool,
    ListenerProtocol,
    ObjectName,
    Service,
    ServicePort,
    TlsCertificate,
    World,
)
from xds.resource import Resource
from xds.snapshot import Snapshot
from xds.translate.clusters import cluster_of_picker, cluster_of_pool, cluster_of_service
from xds.translate.endpoints import assignment, assignment_of_service
from xds.translate.extproc import picker_clusters
from xds.translate.features import ALL, Features, missing
from xds.translate.listeners import Chain, http_listener
from xds.translate.names import picker_cluster, service_cluster
from xds.translate.pack import Memo
from xds.translate.routes import route_configuration
from xds.translate.rules import Attached, Backends, ListenerContext
from xds.translate.settings import SocketAddress, TranslateSettings
from xds.translate.table import ServiceTarget, Table
from xds.translate.virtual_hosts import table_for, table_of_pools

DEFAULT_GATEWAY = "default"
"""Name of the listener set that exists when no Gateway is described."""


def translate(
    world: World,
    settings: TranslateSettings | None = None,
    gateway: Gateway | None = None,
    features: Features = ALL,
) -> Snapshot:
    """The whole configuration for one group of Envoys. For repeated use see :class:`Translator`."""
    settings = settings or TranslateSettings()
    return Translator(settings).translate(attach(world, settings.own_pickers), gateway, features)


class Translator:
    """Translates one World after the other, making anew only what changed.

    The result is the same as :func:`translate`'s: what is remembered is compared by its whole
    input. Resources that did not change are the same objects as before.
    """

    def __init__(self, settings: TranslateSettings) -> None:
        self.settings = settings
        self._bytes: Memo[bytes] = Memo()
        self._entries: Memo[Memo[bytes]] = Memo()
        """By route configuration: what its entries came to when it was made, however long ago."""
        self._resources: Memo[Resource] = Memo()
        self._tables: Memo[Table] = Memo()
        self._pickers = picker_clusters(settings.ext_proc)
        self._overview: _Overview | None = None

    def next_world(self) -> None:
        """Call between Worlds: forgets what the last one did not use."""
        for memo in (self._bytes, self._entries, self._resources, self._tables):
            memo.evict_unused()

    def translate(
        self,
        attached: AttachedWorld,
        gateway: Gateway | None,
        features: Features,
        *,
        cause: str = "",
    ) -> Snapshot:
        """The configuration for the Envoys of ``gateway``; without one, a single listener that
        serves every route."""
        overview = self._overview
        if overview is None or overview.attached is not attached:
            overview = self._overview = _Overview(attached)
        world, attachments = attached.world, attached.attachments
        notes = list(missing(features))
        resources = []
        targets = _Targets()
        origin = str(gateway.origin or f"Gateway {gateway.name}") if gateway else "default"
        for port, listeners in _by_port(gateway, attachments, self.settings).items():
            name = f"{gateway.name if gateway else DEFAULT_GATEWAY}/{port}"
            chains = tuple(_chains(name, listeners))
            for chain, serving in chains:
                table = self._table(overview, gateway, port, listeners, serving, features)
                notes.extend(table.notes)
                targets.add(table)
                resources.append(self._routes(chain.routes, table, features, origin))
            resources.append(
                self._listener(
                    name, port, [chain for chain, _ in chains], features, origin, world.of_cluster
                )
            )
            targets.certificates.update(
                (one.name, one) for listener in listeners for one in listener.certificates
            )
        resources += self._pickers
        if self.settings.trace_collector is not None and features.traces:
            resources.append(self._collector(self.settings.trace_collector))
        resources += [self._cluster(world.pools[pool], features) for pool in sorted(targets.pools)]
        # Of every pool: a cluster that another control plane made may ask for its endpoints.
        resources += [
            self._assignment(pool, world.endpoints_of(pool.name)) for pool in world.pools.values()
        ]
        for service, number in sorted(targets.services):
            resources += self._service(service, number, world.services.get(service))
        for picker in sorted(targets.pickers):
            resources += self._picker(picker, world.services[picker.name])
        resources += [self._secret(one) for one in targets.certificates.values()]
        notes.extend(overview.notes)
        if gateway is not None:
            notes.extend(_unserved(gateway, attachments, origin))
        return Snapshot.of(resources, cause=cause, notes=dict.fromkeys(notes))

    def _table(
        self,
        overview: _Overview,
        gateway: Gateway | None,
        port: int,
        listeners: Sequence[AttachedListener],
        serving: str | None,
        features: Features,
    ) -> Table:
        world = overview.attached.world
        backends = Backends(world.pools, overview.attached.attachments.pools)
        by_model = features.early_header_mutation
        if not world.routes and not (world.of_cluster and gateway):
            return self._tables.get(
                ("pools alone", by_model),
                backends,
                lambda: table_of_pools(backends, by_model=by_model),
            )
        plain = tuple(one.listener for one in listeners)
        names = frozenset(one.name for one in plain)
        attached = tuple(
            Attached(one.route, sections, one.lost, one.refused)
            for one in overview.routes(gateway)
            if (sections := names & one.sections(gateway.name) if gateway else names)
        )
        context = ListenerContext(port, _scheme(plain), by_model=by_model)
        return self._tables.get(
            (gateway.name if gateway else None, port, serving, by_model),
            (plain, attached, backends),
            lambda: table_for(plain, attached, backends, context, serving),
        )

    def _listener(
        self,
        name: str,
        port: int,
        chains: Sequence[Chain],
        features: Features,
        origin: str,
        pool_pickers: bool,
    ) -> Resource:
        return self._resources.get(
            ("listener", name, features),
            (port, chains, origin, pool_pickers),
            lambda: http_listener(
                name,
                port,
                chains,
                features,
                self.settings,
                pool_pickers=pool_pickers,
                origin=origin,
            ),
        )

    def _routes(self, name: str, table: Table, features: Features, origin: str) -> Resource:
        entries = self._entries.get((name, features), None, Memo)

        def make() -> Resource:
            entries.evict_unused()
            return route_configuration(name, table, features, self.settings, entries, origin=origin)

        return self._resources.get(("routes", name, features), (table, origin), make)

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

    def _service(
        self, name: ObjectName, number: int, service: Service | None
    ) -> Iterator[Resource]:
        known = service.port(number) if service is not None else None
        yield self._resources.get(
            ("service", name, number),
            known.app_protocol if known else None,
            lambda: cluster_of_service(name, number, known, self.settings),
        )
        if known is not None:
            yield self._answering(service_cluster(name, number), known, f"Service {name}")

    def _picker(self, picker: ServiceRef, service: Service) -> Iterator[Resource]:
        known = service.port(picker.port)
        assert known is not None, "or it would not be attached"
        yield self._resources.get(
            ("picker", picker), known.app_protocol, lambda: cluster_of_picker(picker, known)
        )
        yield self._answering(picker_cluster(picker), known, f"Service {picker.name}")

    def _answering(self, cluster: str, port: ServicePort, origin: str) -> Resource:
        return self._resources.get(
            ("answering", cluster),
            port.addresses,
            lambda: assignment_of_service(cluster, port, origin),
        )

    def _secret(self, certificate: TlsCertificate) -> Resource:
        from xds.translate.certificates import secret_of

        return self._resources.get(
            ("certificate", certificate.name), certificate, lambda: secret_of(certificate)
        )


class _Overview:
    """What is the same for all Gateways of a World."""

    def __init__(self, attached: AttachedWorld) -> None:
        self.attached = attached
        world, attachments = attached.world, attached.attachments
        self.notes = (*_unused(world), *_unattached(world, attachments))
        self._routes: dict[ObjectName, list[AttachedRoute]] = {}
        for route in attachments.routes.values():
            for gateway in {one.parent.gateway for one in route.parents}:
                self._routes.setdefault(gateway, []).append(route)

    def routes(self, gateway: Gateway | None) -> Iterable[AttachedRoute]:
        """Those that name ``gateway``; without one, all."""
        if gateway is None:
            return self.attached.attachments.routes.values()
        return self._routes.get(gateway.name, ())


class _Targets:
    """All that the tables of a Gateway lead to."""

    def __init__(self) -> None:
        self.pools: set[ObjectName] = set()
        self.services: set[tuple[ObjectName, int]] = set()
        self.pickers: set[ServiceRef] = set()
        self.certificates: dict[ObjectName, TlsCertificate] = {}

    def add(self, table: Table) -> None:
        for target in table.targets():
            if isinstance(target, ServiceTarget):
                self.services.add((target.service, target.port))
                continue
            self.pools.add(target.pool)
            if target.picker is not None:
                self.pickers.add(target.picker)


def _by_port(
    gateway: Gateway | None, attachments: Attachments, settings: TranslateSettings
) -> dict[int, tuple[AttachedListener, ...]]:
    """The listeners that are served, by port."""
    if gateway is None:
        only = GatewayListener("default", settings.listen_port)
        return {settings.listen_port: (AttachedListener(only, served=True),)}
    ports: dict[int, tuple[AttachedListener, ...]] = {}
    for one in attachments.gateways[gateway.name].served:
        ports[one.listener.port] = (*ports.get(one.listener.port, ()), one)
    return ports


def _chains(name: str, listeners: Sequence[AttachedListener]) -> Iterator[tuple[Chain, str | None]]:
    """The chains of a port, each with the listener that it serves; None: all."""
    if _scheme([one.listener for one in listeners]) == "http":
        yield Chain(name), None
        return
    for one in listeners:
        certificates = tuple(certificate.name for certificate in one.certificates)
        yield (
            Chain(f"{name}/{one.listener.name}", _server_name(one.listener), certificates),
            one.listener.name,
        )


def _server_name(listener: GatewayListener) -> str | None:
    return listener.hostname.lower() if listener.hostname else None


def _scheme(listeners: Sequence[GatewayListener]) -> str:
    """Of a port; listeners with different ones are not served."""
    return "https" if listeners[0].protocol is ListenerProtocol.HTTPS else "http"


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


def _unattached(world: World, attachments: Attachments) -> Iterable[str]:
    """Routes that no listener of any Gateway takes."""
    if not world.gateways:
        return
    there = ", ".join(str(gateway.name) for gateway in world.gateways)
    for attached in attachments.routes.values():
        if any(parent.sections for parent in attached.parents):
            continue
        route = attached.route
        messages = [
            condition.message
            for parent in attached.parents
            for condition in parent.conditions
            if condition.type == "Accepted" and condition.message
        ]
        if not messages:
            wanted = ", ".join(str(parent.gateway) for parent in route.parents) or "nothing"
            messages = [f"parentRefs name {wanted}; the Gateways are: {there}"]
        yield (
            f"{route.origin or f'HTTPRoute {route.name}'}: it serves nothing: "
            f"{'; '.join(dict.fromkeys(messages))}"
        )


def _unserved(gateway: Gateway, attachments: Attachments, origin: str) -> Iterable[str]:
    """Listeners that take no requests, and certificates that are not shown."""
    for one in attachments.gateways[gateway.name].listeners:
        messages = [
            condition.message
            for condition in one.conditions
            if condition.message and condition.status is (condition.type == "Conflicted")
        ]
        if not messages:
            continue
        what = "has a problem" if one.served else "is not served"
        yield f"{origin}: listener {one.listener.name} {what}: {'; '.join(dict.fromkeys(messages))}"
