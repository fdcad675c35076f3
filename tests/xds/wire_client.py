"""A client over real gRPC, for tests of the server's edge."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from xds.wire import discovery_pb2 as pb

ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
SOTW = ADS + "StreamAggregatedResources"
DELTA = ADS + "DeltaAggregatedResources"
LIMIT = 5.0


class WireClient:
    """One stream. ``method`` decides what kind of messages go over it."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        method: str = SOTW,
        node: str = "n",
        cluster: str = "test",
    ) -> None:
        self.delta = "/Delta" in method
        self._call: Any = channel.stream_stream(method)()
        self._node = node
        self._cluster = cluster
        self._first = True

    async def send_bytes(self, data: bytes) -> None:
        await self._call.write(data)

    async def send(self, type_url: str, **fields: Any) -> None:
        message = (pb.DeltaDiscoveryRequest if self.delta else pb.DiscoveryRequest)(
            type_url=type_url, **fields
        )
        if self._first and self._node:
            message.node.id = self._node
            message.node.cluster = self._cluster
        self._first = False
        await self.send_bytes(message.SerializeToString())

    async def receive(self) -> pb.DiscoveryResponse | pb.DeltaDiscoveryResponse:
        data = await asyncio.wait_for(self._call.read(), LIMIT)
        if not isinstance(data, bytes):
            raise AssertionError(f"the stream ended: {await self._call.code()}")
        kind = pb.DeltaDiscoveryResponse if self.delta else pb.DiscoveryResponse
        return kind.FromString(data)

    async def ack(self, response: Any, *names: str) -> None:
        fields: dict[str, Any] = {"response_nonce": response.nonce}
        if not self.delta:
            fields.update(version_info=response.version_info, resource_names=names)
        await self.send(response.type_url, **fields)

    async def nack(self, response: Any, text: str, *names: str) -> None:
        fields: dict[str, Any] = {"response_nonce": response.nonce}
        if not self.delta:
            fields.update(resource_names=names)
        await self.send(response.type_url, error_detail=pb.Status(code=3, message=text), **fields)

    async def ending(self) -> tuple[grpc.StatusCode, str]:
        """How the server ended the stream."""
        code = await asyncio.wait_for(self._call.code(), LIMIT)
        return code, await self._call.details()

    def cancel(self) -> None:
        self._call.cancel()
