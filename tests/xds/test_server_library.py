"""The example in the documentation runs, and does what the page says."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import grpc

from tests.xds.wire_client import DELTA, WireClient
from xds.resource import CLUSTER, ENDPOINT

PAGE = Path(__file__).parents[2] / "docs" / "xds-library.md"


def example() -> dict[str, object]:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(source, str(PAGE), "exec"), names)
    return names


async def test_the_example_serves_a_cluster_whose_endpoint_keeps_changing():
    main = example()["main"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = asyncio.ensure_future(main(port, pause=0.02))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 10)
            client = WireClient(channel, DELTA, node="any", cluster="")
            await client.send(CLUSTER)
            await client.send(ENDPOINT, resource_names_subscribe=["llama"])
            seen = set()
            while len(seen) < 3:
                response = await client.receive()
                await client.ack(response)
                if response.type_url == ENDPOINT:
                    seen.update(r.version for r in response.resources)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
