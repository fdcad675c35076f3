"""A client of the xDS server that does as a test says: acknowledges, rejects, or keeps silent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import grpc

from xds.resource import CLUSTER, ENDPOINT, LISTENER, ROUTE
from xds.wire import discovery_pb2 as pb
from xds.wire import endpoint_pb2

_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"


class ScriptedNode:
    """Asks as an Envoy with ADS does (State-of-the-World): all clusters and listeners, then the
    endpoints and routes that those name."""

    def __init__(
        self,
        port: int,
        node_id: str,
        *,
        cluster: str = "test",
        version: tuple[int, int, int] = (1, 40, 0),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.rejected: dict[str, str] = {}
        """Type URL to the words with which the next responses of this type are rejected."""
        self.silent = False
        """Answers nothing while set."""
        self.received: list[pb.DiscoveryResponse] = []
        self._node = pb.Node(id=node_id, cluster=cluster, user_agent_name="envoy")
        number = self._node.user_agent_build_version.version
        number.major_number, number.minor_number, number.patch = version
        self._node.metadata.update(dict(metadata or {}))
        self._channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{port}",
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._call: Any = None
        self._reading: asyncio.Task[None] | None = None
        self._names: dict[str, list[str]] = {CLUSTER: [], LISTENER: []}
        self._accepted: dict[str, str] = {}

    async def __aenter__(self) -> ScriptedNode:
        self._call = self._channel.stream_stream(_METHOD)()
        await self._ask(CLUSTER, node=self._node)
        await self._ask(LISTENER)
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._reading is not None
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await self._reading
        self._call.cancel()
        await self._channel.close()

    async def _read(self) -> None:
        while True:
            data = await self._call.read()
            if not isinstance(data, bytes):
                return
            response = pb.DiscoveryResponse.FromString(data)
            self.received.append(response)
            if not self.silent:
                await self._answer(response)

    async def _answer(self, response: pb.DiscoveryResponse) -> None:
        words = self.rejected.get(response.type_url)
        error = None
        if words is not None:
            error = pb.Status(code=13, message=words)
        else:
            self._accepted[response.type_url] = response.version_info
        await self._ask(response.type_url, nonce=response.nonce, error=error)
        if words is None:
            await self._follow(response)

    async def _follow(self, response: pb.DiscoveryResponse) -> None:
        """Ask for what these resources refer to."""
        if response.type_url == CLUSTER:
            clusters = [endpoint_pb2.Cluster.FromString(r.value) for r in response.resources]
            await self._want(
                ENDPOINT, [c.name for c in clusters if c.HasField("eds_cluster_config")]
            )
        elif response.type_url == LISTENER:
            # A Listener's name is its first field, as a Cluster's is.
            listeners = [endpoint_pb2.Cluster.FromString(r.value) for r in response.resources]
            await self._want(ROUTE, [one.name for one in listeners])

    async def _want(self, type_url: str, names: list[str]) -> None:
        if self._names.get(type_url) != names:
            self._names[type_url] = names
            last = [r for r in self.received if r.type_url == type_url]
            await self._ask(type_url, nonce=last[-1].nonce if last else "")

    async def _ask(
        self,
        type_url: str,
        *,
        nonce: str = "",
        node: pb.Node | None = None,
        error: pb.Status | None = None,
    ) -> None:
        request = pb.DiscoveryRequest(
            type_url=type_url,
            node=node,
            version_info=self._accepted.get(type_url, ""),
            resource_names=self._names[type_url],
            response_nonce=nonce,
            error_detail=error,
        )
        await self._call.write(request.SerializeToString())
