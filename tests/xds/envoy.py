"""A real Envoy that takes its configuration from an xDS server, for tests and benchmarks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from poolpilot.demo.processes import Children
from poolpilot.envoy_binary import find_envoy


async def until(
    condition: Callable[[], Awaitable[bool] | bool], what: str, limit: float = 10.0
) -> float:
    """Poll until it holds; returns the seconds it took."""
    began = time.monotonic()
    while True:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return time.monotonic() - began
        assert time.monotonic() - began < limit, f"not within {limit:g} s: {what}"
        await asyncio.sleep(0.002)


class Envoy:
    def __init__(self, admin: str) -> None:
        self.admin = admin
        self.http = httpx.AsyncClient(timeout=5.0)

    async def stats(self, pattern: str) -> dict[str, int]:
        answer = await self.http.get(
            f"{self.admin}/stats", params={"format": "json", "filter": pattern}
        )
        return {s["name"]: s["value"] for s in answer.json()["stats"] if "name" in s}

    async def clusters(self) -> dict[str, list[int]]:
        """Active clusters and the ports of their endpoints."""
        answer = (await self.http.get(f"{self.admin}/clusters?format=json")).json()
        return {
            c["name"]: sorted(
                h["address"]["socket_address"]["port_value"] for h in c.get("host_statuses", ())
            )
            for c in answer.get("cluster_statuses", ())
        }

    async def dump(self) -> dict[str, Any]:
        answer: dict[str, Any] = (await self.http.get(f"{self.admin}/config_dump")).json()
        return answer

    async def port(self, listener: str) -> int:
        """Where a listener listens; 0 while it does not."""
        answer = (await self.http.get(f"{self.admin}/listeners?format=json")).json()
        for status in answer.get("listener_statuses", ()):
            if status["name"] == listener:
                return int(status["local_address"]["socket_address"]["port_value"])
        return 0


@asynccontextmanager
async def envoy(
    directory: Path,
    xds_port: int,
    *,
    delta: bool,
    node: str = "envoy-1",
    cluster: str = "test",
    amend: Callable[[dict[str, Any]], None] = lambda _bootstrap: None,
) -> AsyncIterator[Envoy]:
    """``amend`` may change the bootstrap, which is for ADS, before Envoy reads it."""
    bootstrap: dict[str, Any] = {
        "node": {"id": node, "cluster": cluster},
        "admin": {"address": _address(0)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC" if delta else "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "cds_config": {"resource_api_version": "V3", "ads": {}},
            "lds_config": {"resource_api_version": "V3", "ads": {}},
        },
        "static_resources": {"clusters": [_xds_cluster(xds_port)]},
    }
    amend(bootstrap)
    children, admin_path = _start(directory, bootstrap)
    try:
        await until(lambda: admin_path.exists() and bool(admin_path.read_text()), "admin address")
        running = Envoy(f"http://{admin_path.read_text()}")
        try:
            yield running
        finally:
            await running.http.aclose()
    finally:
        children.stop(0.0)


def _start(directory: Path, bootstrap: dict[str, Any]) -> tuple[Children, Path]:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "envoy.json").write_text(json.dumps(bootstrap))
    admin_path = directory / "admin"
    admin_path.unlink(missing_ok=True)
    children = Children(directory)
    children.start(
        "envoy",
        [
            find_envoy(),
            *("-c", str(directory / "envoy.json")),
            *("--admin-address-path", str(admin_path)),
            *("--concurrency", "1", "--log-level", "warning", "--disable-hot-restart"),
            *("--file-flush-interval-msec", "50", "--drain-time-s", "1"),
        ],
    )
    return children, admin_path


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _xds_cluster(port: int) -> dict[str, Any]:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": "xds",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "xds",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}],
        },
    }
