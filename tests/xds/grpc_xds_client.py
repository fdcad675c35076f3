"""Serve a gRPC health service to grpcio's own xDS client, through our xDS server.

    python -m tests.xds.grpc_xds_client DIRECTORY

Prints the answer that came over the target ``xds:///health``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import envoy_data_plane.envoy.config.listener.v3 as listener_v3
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.filters.http.router.v3 as router_v3
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm_v3
import grpc
from envoy_data_plane.google.protobuf import Any
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.xds.resources import ADS, cluster, endpoints
from xds.config import XdsServerConfig
from xds.grouped import GroupedSnapshots
from xds.resource import CLUSTER, LISTENER, ROUTE, Resource
from xds.server import XdsServer


def api_listener(name: str, route_name: str) -> Resource:
    manager = hcm_v3.HttpConnectionManager(
        rds=hcm_v3.Rds(config_source=ADS, route_config_name=route_name),
        http_filters=[hcm_v3.HttpFilter(name="router", typed_config=Any.pack(router_v3.Router()))],
    )
    message = listener_v3.Listener(
        name=name, api_listener=listener_v3.ApiListener(api_listener=Any.pack(manager))
    )
    return Resource(LISTENER, name, bytes(message), needs=((ROUTE, route_name),))


def grpc_route(name: str, domain: str, target: str) -> Resource:
    message = route_v3.RouteConfiguration(
        name=name,
        virtual_hosts=[
            route_v3.VirtualHost(
                name="all",
                domains=[domain],
                routes=[
                    route_v3.Route(
                        match=route_v3.RouteMatch(prefix=""),
                        route=route_v3.RouteAction(cluster=target),
                    )
                ],
            )
        ],
    )
    return Resource(ROUTE, name, bytes(message), needs=((CLUSTER, target),))


async def main(directory: Path) -> None:
    snapshots = GroupedSnapshots(lambda _node: "all")
    server = XdsServer(snapshots, XdsServerConfig(port=0))
    await server.start()
    # The xDS server's own health service is what the client asks for.
    snapshots.publish(
        "all",
        [
            api_listener("health", "r"),
            grpc_route("r", "health", "c"),
            cluster("c"),
            endpoints("c", server.port),
        ],
    )
    bootstrap = {
        "xds_servers": [
            {
                "server_uri": f"127.0.0.1:{server.port}",
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {"id": "grpc-client"},
    }
    path = directory / "bootstrap.json"
    path.write_text(json.dumps(bootstrap))
    os.environ["GRPC_XDS_BOOTSTRAP"] = str(path)
    async with grpc.aio.insecure_channel("xds:///health") as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=10, wait_for_ready=True
        )
    sys.stdout.write(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) + "\n")
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
