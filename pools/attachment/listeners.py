"""What becomes of a Gateway's listeners."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pools.attachment.resolver import Refusal, Resolver
from pools.attachment.values import AttachedGateway, AttachedListener, Condition
from pools.model import Gateway, GatewayListener, ListenerProtocol, TlsCertificate


def attach_gateway(gateway: Gateway, resolver: Resolver) -> AttachedGateway:
    """Without the numbers of routes, which depend on what this comes to."""
    conflicts = _conflicts(gateway.listeners)
    listeners = tuple(
        _listener(gateway, one, conflicts.get(one.name), resolver) for one in gateway.listeners
    )
    return AttachedGateway(gateway.name, listeners, _of_gateway(listeners))


@dataclass(frozen=True, slots=True)
class _Certificates:
    usable: tuple[TlsCertificate, ...] = ()
    refusals: tuple[Refusal, ...] = ()


def _listener(
    gateway: Gateway,
    listener: GatewayListener,
    conflict: Refusal | None,
    resolver: Resolver,
) -> AttachedListener:
    certificates = _certificates(gateway, listener, resolver)
    refused = conflict
    if listener.problem is not None:
        refused = Refusal(listener.problem.reason, listener.problem.message)
    unresolved = [*certificates.refusals, *_kinds(listener)]
    lacks_certificate = listener.protocol is ListenerProtocol.HTTPS and not certificates.usable
    served = refused is None and not lacks_certificate
    if refused is not None:
        why_not = refused.message
    else:
        why_not = "; ".join(one.message for one in unresolved)
    return AttachedListener(
        listener,
        served,
        certificates.usable,
        conditions=(
            _condition("Accepted", refused),
            Condition("Programmed", True, "Programmed")
            if served
            else Condition("Programmed", False, "Invalid", why_not),
            Condition(
                "ResolvedRefs",
                False,
                unresolved[0].reason,
                "; ".join(one.message for one in unresolved),
            )
            if unresolved
            else Condition("ResolvedRefs", True, "ResolvedRefs"),
            Condition("Conflicted", False, "NoConflicts")
            if conflict is None
            else Condition("Conflicted", True, conflict.reason, conflict.message),
        ),
    )


def _certificates(gateway: Gateway, listener: GatewayListener, resolver: Resolver) -> _Certificates:
    if listener.protocol is not ListenerProtocol.HTTPS or listener.problem is not None:
        return _Certificates()
    if not listener.certificates:
        message = "tls.certificateRefs names no certificate"
        return _Certificates(refusals=(Refusal("InvalidCertificateRef", message),))
    usable: list[TlsCertificate] = []
    refusals: list[Refusal] = []
    for i, ref in enumerate(listener.certificates):
        found = resolver.certificate(gateway.name, ref)
        if isinstance(found, Refusal):
            where = f"tls.certificateRefs[{i}]"
            refusals.append(Refusal(found.reason, f"{where}: {found.message}"))
        else:
            usable.append(found)
    return _Certificates(tuple(usable), tuple(refusals))


def _kinds(listener: GatewayListener) -> list[Refusal]:
    if not listener.allowed.unknown_kinds:
        return []
    named = ", ".join(listener.allowed.unknown_kinds)
    message = f"allowedRoutes.kinds: {named} is not served here; HTTPRoute is"
    return [Refusal("InvalidRouteKinds", message)]


def _conflicts(listeners: Sequence[GatewayListener]) -> dict[str, Refusal]:
    """By the listener's name. Of listeners that cannot be told apart none is served: the Gateway
    API forbids to choose one."""
    found: dict[str, Refusal] = {}
    fit = [one for one in listeners if one.problem is None]
    for port in dict.fromkeys(one.port for one in fit):
        on_port = [one for one in fit if one.port == port]
        protocols = sorted({one.protocol.value for one in on_port})
        hostnames = Counter((one.hostname or "").lower() for one in on_port)
        for one in on_port:
            others = ", ".join(other.name for other in on_port if other.name != one.name)
            if len(protocols) > 1:
                found[one.name] = Refusal(
                    "ProtocolConflict",
                    f"port {port} is given to {' and '.join(protocols)} (listeners {one.name},"
                    f" {others}): use a port for each",
                )
            elif hostnames[(one.hostname or "").lower()] > 1:
                found[one.name] = Refusal(
                    "HostnameConflict",
                    f"another listener has port {port} and hostname {one.hostname or '(any)'} too:"
                    " none of them is served until they differ",
                )
    return found


def _of_gateway(listeners: Sequence[AttachedListener]) -> tuple[Condition, ...]:
    refused = [one.listener.name for one in listeners if not _accepted(one)]
    dead = [one.listener.name for one in listeners if not one.served]
    names = ", ".join(refused)
    if not refused:
        accepted = Condition("Accepted", True, "Accepted")
    elif len(refused) < len(listeners):
        message = f"listeners {names} are not served; their conditions say why"
        accepted = Condition("Accepted", True, "ListenersNotValid", message)
    else:
        message = f"no listener can be served ({names}); their conditions say why"
        accepted = Condition("Accepted", False, "ListenersNotValid", message)
    if len(dead) < len(listeners):
        programmed = Condition("Programmed", True, "Programmed")
    else:
        message = "no listener can be served; their conditions say why"
        programmed = Condition("Programmed", False, "Invalid", message)
    return accepted, programmed


def _accepted(listener: AttachedListener) -> bool:
    return listener.conditions[0].status


def _condition(kind: str, refused: Refusal | None) -> Condition:
    if refused is None:
        return Condition(kind, True, kind)
    return Condition(kind, False, refused.reason, refused.message)
