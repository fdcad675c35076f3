"""Endpoint assignments: the only resources that are both large and often new.

They are written with protobuf's C classes (``xds.wire``), a thousand times faster than
envoy-data-plane.
"""

from __future__ import annotations

from pools.model import Endpoint, InferencePool, ServicePort
from xds.resource import ENDPOINT, Resource
from xds.translate.names import pool_cluster
from xds.translate.pack import resource
from xds.wire import endpoint_pb2 as wire


def assignment(pool: InferencePool, endpoints: tuple[Endpoint, ...]) -> Resource:
    """All endpoints of a pool, with the pods' names for Envoy's access log.

    Draining ones stay in: the picker avoids them, Envoy's fallback too, and a request whose pick
    was made a moment ago is still served."""
    name = pool_cluster(pool.name)
    message = wire.ClusterLoadAssignment(cluster_name=name)
    if endpoints:
        add = message.endpoints.add().lb_endpoints.add
        for endpoint in endpoints:
            host = add()
            host.endpoint.hostname = endpoint.name
            socket = host.endpoint.address.socket_address
            socket.address = endpoint.address
            socket.port_value = endpoint.port
            if endpoint.draining:
                host.health_status = wire.DRAINING
    return resource(
        ENDPOINT,
        name,
        message.SerializeToString(deterministic=True),
        origin=str(pool.origin or f"InferencePool {pool.name}"),
    )


def assignment_of_service(name: str, port: ServicePort, origin: str) -> Resource:
    """Who answers at a port of a Service, for the cluster ``name``."""
    message = wire.ClusterLoadAssignment(cluster_name=name)
    if port.addresses:
        add = message.endpoints.add().lb_endpoints.add
        for address, number in port.addresses:
            socket = add().endpoint.address.socket_address
            socket.address = address
            socket.port_value = number
    return resource(ENDPOINT, name, message.SerializeToString(deterministic=True), origin=origin)
