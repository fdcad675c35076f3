"""References between objects: whether they lead anywhere, and whether they may."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pools.attachment.inputs import Inputs, ServiceFacts
from pools.attachment.values import ServiceRef
from pools.model import (
    BackendKind,
    CertificateRef,
    InferencePool,
    ObjectName,
    ReferenceGrant,
    RouteBackend,
    TlsCertificate,
)
from pools.well_known import GATEWAY_GROUP, PICKER_PORT, POOL_GROUPS

PLAIN_PROTOCOLS = ("kubernetes.io/h2c", "kubernetes.io/ws")
TLS_PROTOCOLS = ("https", "tls")
STANDARD_PREFIX = "kubernetes.io/"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason of a ``False`` condition, with its message."""

    reason: str
    message: str


class Resolver:
    """Looks up what the objects of one World name."""

    def __init__(self, inputs: Inputs, own_pickers: Collection[str]) -> None:
        self._inputs = inputs
        self._own_pickers = own_pickers
        self._granted = _granted(inputs.grants)

    def certificate(self, gateway: ObjectName, ref: CertificateRef) -> TlsCertificate | Refusal:
        """What a listener of ``gateway`` shows."""
        if ref.unknown_kind:
            return Refusal(
                "InvalidCertificateRef", f"{ref.unknown_kind} is not a Secret; name one of those"
            )
        if not self._permitted("Gateway", gateway.namespace, "", "Secret", ref.name):
            return Refusal("RefNotPermitted", _no_grant("Gateway", gateway, "Secret", ref.name))
        found = self._inputs.certificates.get(ref.name)
        if found is None and "Secret" in self._inputs.unread:
            return Refusal(
                "InvalidCertificateRef",
                f"Secret {ref.name} may not be read: allow get, list and watch of secrets",
            )
        if found is None:
            return Refusal(
                "InvalidCertificateRef",
                f"there is no Secret {ref.name} of type kubernetes.io/tls",
            )
        if found.problem:
            return Refusal("InvalidCertificateRef", f"Secret {ref.name}: {found.problem}")
        return found

    def backend(self, route: ObjectName, ref: RouteBackend) -> Refusal | None:
        """Why requests cannot be sent there; None if they can."""
        if ref.unknown_kind:
            return Refusal(
                "InvalidKind",
                f"{ref.unknown_kind} is no backend here: name an InferencePool"
                f" (group {POOL_GROUPS[0]}) or a Service",
            )
        if ref.kind is BackendKind.INFERENCE_POOL:
            return self._pool(route, ref.name)
        return self._service(route, ref)

    def picker(self, pool: InferencePool) -> ServiceRef | Refusal | None:
        """Who picks for a pool; None: we do."""
        ref = pool.picker
        if ref is None or not self._inputs.of_cluster:
            return None
        if ref.group or ref.kind != "Service":
            return Refusal(
                "InvalidExtensionRef",
                f"spec.endpointPickerRef: {ref.group or 'core'}/{ref.kind} is no endpoint picker"
                " here: name a Service, or leave it out for our own picker",
            )
        name = ObjectName(pool.name.namespace, ref.name)
        if ref.name in self._own_pickers or str(name) in self._own_pickers:
            return None
        service, port = self._inputs.services.get(name), ref.port or PICKER_PORT
        if service is None and self._services_unread:
            return ServiceRef(name, port)
        if service is None:
            message = f"spec.endpointPickerRef.name: there is no Service {name}"
        elif service.external:
            message = (
                f"spec.endpointPickerRef.name: Service {name} is of type ExternalName, where no"
                " picker may be"
            )
        elif port not in service.ports:
            message = f"spec.endpointPickerRef.port.number: {_no_port(name, port, service)}"
        else:
            return ServiceRef(name, port)
        return Refusal("InvalidExtensionRef", message)

    def may_name_pool(self, route: ObjectName, pool: ObjectName) -> bool:
        """Whether a route may name the pool as a backend."""
        known = self._inputs.pools.get(pool)
        group = known.origin.api_version.partition("/")[0] if known and known.origin else ""
        return any(
            self._permitted("HTTPRoute", route.namespace, one, "InferencePool", pool)
            for one in ((group,) if group else POOL_GROUPS)
        )

    def _pool(self, route: ObjectName, name: ObjectName) -> Refusal | None:
        if not self.may_name_pool(route, name):
            return Refusal("RefNotPermitted", _no_grant("HTTPRoute", route, "InferencePool", name))
        if name not in self._inputs.pools:
            return Refusal(
                "BackendNotFound",
                f"InferencePool {name} does not exist; create it or correct the name",
            )
        return None

    def _service(self, route: ObjectName, ref: RouteBackend) -> Refusal | None:
        name, port = ref.name, ref.port
        if not self._permitted("HTTPRoute", route.namespace, "", "Service", name):
            return Refusal("RefNotPermitted", _no_grant("HTTPRoute", route, "Service", name))
        if port is None:
            return Refusal("BackendNotFound", f"Service {name} has no port; set backendRefs.port")
        if not self._inputs.of_cluster:
            return None
        service = self._inputs.services.get(name)
        if service is None and self._services_unread:
            return None
        if service is None:
            return Refusal(
                "BackendNotFound", f"Service {name} does not exist; create it or correct the name"
            )
        if service.external:
            return Refusal(
                "UnsupportedValue",
                f"Service {name} is of type ExternalName, to which nothing may be sent",
            )
        protocol = service.ports.get(port)
        if protocol is None:
            return Refusal("BackendNotFound", _no_port(name, port, service))
        if protocol in TLS_PROTOCOLS or (
            protocol.startswith(STANDARD_PREFIX) and protocol not in PLAIN_PROTOCOLS
        ):
            return Refusal(
                "UnsupportedProtocol",
                f"port {port} of Service {name} has appProtocol {protocol}, which is not spoken"
                " here: HTTP/1.1 and kubernetes.io/h2c are",
            )
        return None

    @property
    def _services_unread(self) -> bool:
        return "Service" in self._inputs.unread

    def _permitted(
        self, kind: str, namespace: str, group: str, target: str, name: ObjectName
    ) -> bool:
        """Whether an object of the Gateway API in ``namespace`` may name something."""
        if namespace == name.namespace or not self._inputs.of_cluster:
            return True
        source = (GATEWAY_GROUP, kind, namespace)
        granted = self._granted.get((name.namespace, source), frozenset())
        return (group, target, None) in granted or (group, target, name.name) in granted


_Source = tuple[str, str, str]
_Targets = frozenset[tuple[str, str, str | None]]


def _granted(grants: Iterable[ReferenceGrant]) -> Mapping[tuple[str, _Source], _Targets]:
    granted: dict[tuple[str, _Source], _Targets] = {}
    for grant in grants:
        for source in grant.sources:
            key = (grant.name.namespace, source)
            granted[key] = granted.get(key, frozenset()) | set(grant.targets)
    return granted


def _no_grant(kind: str, source: ObjectName, target: str, name: ObjectName) -> str:
    return (
        f"{target} {name} is in another namespace, and no ReferenceGrant there lets {kind}s of"
        f" namespace {source.namespace} name it"
    )


def _no_port(name: ObjectName, port: int, service: ServiceFacts) -> str:
    there = ", ".join(map(str, service.ports))
    return f"Service {name} has no port {port}" + (f"; it has {there}" if there else "")
