"""Who answers for an ordinary Service: its EndpointSlices, joined with its ports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from pools.model import EndpointSlice, Service, ServicePort

SERVICE_LABEL = "kubernetes.io/service-name"
"""Of an EndpointSlice: the Service that it belongs to."""


def conditions(
    ready: bool | None, serving: bool | None, terminating: bool | None
) -> tuple[bool, bool]:
    """Whether an endpoint is ready, and whether it still serves while it ends. What is not said is
    to be taken as ready, says the API."""
    is_ready = ready is not False
    return is_ready, not is_ready and bool(serving) and bool(terminating)


def with_addresses(service: Service, slices: Iterable[EndpointSlice]) -> Service:
    """The Service with the addresses of each port.

    Those that are ready; where none is, those that still serve while they end. IPv4 where there is
    any: of both families each address would be the same server once more.
    """
    slices = tuple(slices)
    return replace(
        service,
        ports=tuple(
            replace(port, addresses=tuple(sorted(_of_port(port, slices)))) for port in service.ports
        ),
    )


def _of_port(port: ServicePort, slices: tuple[EndpointSlice, ...]) -> set[tuple[str, int]]:
    for group in ("ready", "ending"):
        found = set(_addresses(port, slices, group))
        if found:
            return {one for one in found if ":" not in one[0]} or found
    return set()


def _addresses(
    port: ServicePort, slices: tuple[EndpointSlice, ...], group: str
) -> Iterator[tuple[str, int]]:
    for one in slices:
        for name, number in one.ports:
            if name == port.name:
                for address in one.ready if group == "ready" else one.ending:
                    yield address, number
