"""A whole gateway on loopback, in real processes, for tests to use and to break.

``Gateway`` is what ``poolpilot demo`` starts (``poolpilot.demo.stack``), with two pools: while the
endpoint picker is away, ``closed`` answers with an error, and in ``open`` (header ``x-pool: open``)
Envoy chooses.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx

from poolpilot.demo.load import POD_HEADER
from poolpilot.demo.ports import Ports
from poolpilot.demo.quickstart import ADAPTER, BASE_MODEL, endpoints
from poolpilot.demo.stack import Stack
from poolpilot.envoy_binary import find_envoy

Mode = Literal["sotw", "delta"]
MODES: tuple[Mode, ...] = ("sotw", "delta")
TRANSPORTS: dict[Mode, str] = {"sotw": "grpcio", "delta": "native"}
"""Of the endpoint picker: each is used with one of the modes, with which it has nothing to do."""
CLOSED, OPEN = "closed", "open"
CLOSED_PODS = ("closed-0", "closed-1", "closed-2")
OPEN_PODS = ("open-0", "open-1")
TO_OPEN = {"x-pool": OPEN}
"""Headers that lead to the pool that fails open."""
READY_LIMIT = 60.0
LIMIT = 20.0
"""Seconds that anything may take to happen."""
COMPLETION = {"model": BASE_MODEL, "prompt": "San Francisco", "max_tokens": 8}

# The pods are so much faster than a GPU that no test waits for tokens, and hold long prompts.
POD_OPTIONS = ("--time-scale=200", "--kv-cache-tokens=4000000", "--max-model-len=3000000")

_POOL = """\
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata:
  name: {name}
spec:
  selector:
    matchLabels:
      app: {name}
  targetPorts:
  - number: 8000
  endpointPickerRef:
    name: extproc
    failureMode: {failure_mode}
    port:
      number: 9002
---
"""
_ROUTES = f"""\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: llm
spec:
  rules:
  - matches:
    - headers:
      - name: x-pool
        value: {OPEN}
    backendRefs:
    - group: inference.networking.k8s.io
      kind: InferencePool
      name: {OPEN}
  - backendRefs:
    - group: inference.networking.k8s.io
      kind: InferencePool
      name: {CLOSED}
---
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModel
metadata:
  name: quickstart
spec:
  modelName: {ADAPTER}
  criticality: Critical
  poolRef:
    name: {CLOSED}
"""


async def eventually(
    condition: Callable[[], Awaitable[bool] | bool], what: str, limit: float = LIMIT
) -> None:
    """Wait until ``condition`` holds. Fails after ``limit`` seconds, saying what did not happen."""
    deadline = time.monotonic() + limit
    while True:
        holds = condition()
        if not isinstance(holds, bool):
            holds = await holds
        if holds:
            return
        assert time.monotonic() < deadline, f"did not happen within {limit:g} s: {what}"
        await asyncio.sleep(0.02)


@dataclass
class Traffic:
    """What clients that never stop asking have got so far."""

    by_pod: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def answered(self) -> int:
        return self.by_pod.total()

    async def goes_on(self, count: int = 50) -> None:
        """Wait until ``count`` further requests were answered."""
        before = self.answered
        await eventually(
            lambda: self.answered >= before + count or bool(self.failures),
            f"{count} further answers",
        )


class Gateway:
    """One running stack. Made once for many tests: ``restore`` undoes what a test did to it."""

    def __init__(self, directory: Path, mode: Mode, picker_options: Sequence[str] = ()) -> None:
        self.mode = mode
        self.stack = Stack(
            directory,
            Ports.free(len(CLOSED_PODS) + len(OPEN_PODS)),
            [*CLOSED_PODS, *OPEN_PODS],
            find_envoy(),
            delta=mode == "delta",
            pod_options=POD_OPTIONS,
            extproc_options=[
                f"--transport={TRANSPORTS[mode]}",
                "--explain-header",
                *picker_options,
            ],
        )

    @property
    def url(self) -> str:
        return self.stack.url

    def start(self) -> None:
        """Start everything and wait until it is ready. What was started is stopped on failure."""
        try:
            self._write_manifests()
            self.stack.start()
            asyncio.run(self.stack.ready(READY_LIMIT))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self.stack.stop()

    def restore(self) -> None:
        """As it was after ``start``: every process runs, every pod is in its pool."""
        self._write_manifests()
        starts = {"xds": self.stack.start_xds, "extproc": self.stack.start_extproc}
        for child in self.stack.children:
            if not child.running():
                starts[child.name]()
        asyncio.run(self._ready_again())

    async def _ready_again(self) -> None:
        await self.stack.ready(READY_LIMIT)
        # Envoy may not have noticed yet that something was away.
        await eventually(self.answers, "the gateway answers as before")

    def _write_manifests(self) -> None:
        self.stack.write(
            {
                "pools.yaml": _POOL.format(name=CLOSED, failure_mode="FailClose")
                + _POOL.format(name=OPEN, failure_mode="FailOpen")
                + _ROUTES,
                "open.yaml": endpoints(self.stack.placed(*OPEN_PODS), OPEN),
            }
        )
        self.place(CLOSED_PODS)

    def place(self, pods: Collection[str]) -> None:
        """Edit the manifests: these are now the pods of the pool ``closed``."""
        self.stack.write({"closed.yaml": endpoints(self.stack.placed(*pods), CLOSED)})

    async def pods_known_to_envoy(self) -> set[str]:
        """Names of the pods that are in Envoy's clusters."""
        async with self.client(self.stack.admin_url) as client:
            document = (await client.get("/clusters?format=json")).json()
        addresses = {
            f"{socket['address']}:{socket['port_value']}"
            for cluster in document.get("cluster_statuses", ())
            for host in cluster.get("host_statuses", ())
            for socket in [host["address"]["socket_address"]]
        }
        return {pod for pod in self.stack.pods if self.stack.pod_address(pod) in addresses}

    async def _endpoints(self) -> list[dict[str, Any]]:
        """What the picker knows of each endpoint."""
        async with self.client(self.stack.extproc_url) as client:
            rows: list[dict[str, Any]] = (await client.get("/debug/endpoints")).json()["endpoints"]
        return rows

    async def picker_sees_adapter(self, pod: str, adapter: str) -> bool:
        """Whether the picker has learnt from the pod's metrics that it runs the adapter."""
        return any(
            row["name"] == pod and adapter in row["adapters"] for row in await self._endpoints()
        )

    async def in_flight(self) -> dict[str, int]:
        """Requests that the picker counts as under way, by pod; pods without any are left out."""
        return {
            row["name"]: row["in_flight"] for row in await self._endpoints() if row["in_flight"]
        }

    async def answers(self) -> bool:
        """Whether a request to the pool ``closed`` is answered, which takes every part."""
        async with self.client() as client:
            return (await self.ask(client)).status_code == 200

    def access_log(self, text: str) -> list[dict[str, object]]:
        """Lines of Envoy's access log whose path holds ``text``."""
        return [
            entry
            for line in self.stack.children["envoy"].log.read_text().splitlines()
            if line.startswith("{") and text in (entry := json.loads(line)).get("path", "")
        ]

    def client(self, url: str | None = None) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=url or self.url, timeout=60, trust_env=False)

    async def ask(
        self, client: httpx.AsyncClient, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        return await client.post("/v1/completions", json=COMPLETION, headers=headers)

    @asynccontextmanager
    async def traffic(self, clients: int = 4) -> AsyncIterator[Traffic]:
        """Clients that send one request after the other while the block runs."""
        traffic = Traffic()

        async def one() -> None:
            async with self.client() as client:
                while not traffic.failures:
                    try:
                        response = await self.ask(client)
                    except httpx.HTTPError as error:
                        traffic.failures.append(f"{type(error).__name__}: {error}")
                        return
                    if response.status_code != 200:
                        traffic.failures.append(f"{response.status_code} {response.text}")
                        return
                    traffic.by_pod[response.headers[POD_HEADER]] += 1

        tasks = [asyncio.create_task(one()) for _ in range(clients)]
        try:
            yield traffic
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
