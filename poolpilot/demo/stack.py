"""The whole path as processes on loopback: which there are, how they start, when they are ready."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from poolpilot.demo.ports import LOOPBACK, Ports
from poolpilot.demo.processes import Children
from poolpilot.errors import PoolPilotError

POLL = 0.05
"""Seconds between two looks at a process that is not ready yet."""
STOP_GRACE = 3.0


class NotReadyError(PoolPilotError):
    """Something did not become ready in time. The message says what, and what it said last."""


@dataclass
class Stack:
    """Starts, watches and stops the processes. Start and stop from the main thread."""

    directory: Path
    """Holds the manifests, Envoy's bootstrap and the logs."""
    ports: Ports
    pods: Sequence[str]
    """Names of the simulated vLLM servers."""
    envoy: str
    """Path of the Envoy binary."""
    delta: bool = False
    """Envoy asks for incremental xDS."""
    pod_options: Sequence[str] = ()
    """Further options of ``poolpilot fake-vllm``."""
    options_of: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further options of single pods, by name."""
    extproc_options: Sequence[str] = ()
    """Further options of ``poolpilot serve extproc``."""
    xds_options: Sequence[str] = ()
    """Further options of ``poolpilot serve xds``."""
    log_level: str = "info"
    log_dir: Path | None = None
    """Where logs go, if not below ``directory``."""
    children: Children = field(init=False)

    def __post_init__(self) -> None:
        self.manifests.mkdir(parents=True, exist_ok=True)
        logs = self.log_dir or self.directory / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.children = Children(logs)

    @property
    def manifests(self) -> Path:
        return self.directory / "manifests"

    @property
    def url(self) -> str:
        """Where Envoy takes requests."""
        return f"http://{LOOPBACK}:{self.ports.listener.port}"

    @property
    def admin_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.admin.port}"

    @property
    def xds_url(self) -> str:
        """The xDS server's HTTP."""
        return f"http://{LOOPBACK}:{self.ports.xds_http.port}"

    @property
    def extproc_url(self) -> str:
        """The endpoint picker's HTTP."""
        return f"http://{LOOPBACK}:{self.ports.extproc_http.port}"

    def pod_url(self, name: str) -> str:
        return f"http://{self.pod_address(name)}"

    def pod_address(self, name: str) -> str:
        return f"{LOOPBACK}:{self.ports.pods[self.pods.index(name)].port}"

    def placed(self, *names: str) -> list[tuple[str, str, int]]:
        """Name, address and port of these pods; without names, of all."""
        return [
            (name, LOOPBACK, port.port)
            for name, port in zip(self.pods, self.ports.pods, strict=True)
            if not names or name in names
        ]

    def write(self, manifests: Mapping[str, str]) -> None:
        """Write manifest files by name. Each appears whole, at once."""
        for name, text in manifests.items():
            fresh = self.directory / f"{name}.new"
            fresh.write_text(text)
            fresh.replace(self.manifests / name)

    def start(self) -> None:
        """Start everything; the manifests must be there."""
        for pod in self.pods:
            self.start_pod(pod)
        self.start_xds()
        self.start_extproc()
        self.start_envoy()

    def start_pod(self, name: str) -> None:
        self._start(
            name,
            "fake-vllm",
            f"--address={self.pod_address(name)}",
            f"--name={name}",
            *self.pod_options,
            *self.options_of.get(name, ()),
        )

    def start_xds(self) -> None:
        self._start(
            "xds",
            *("serve", "xds", f"--manifests={self.manifests}"),
            f"--address={LOOPBACK}:{self.ports.xds.port}",
            f"--http-address={LOOPBACK}:{self.ports.xds_http.port}",
            f"--listen={LOOPBACK}:{self.ports.listener.port}",
            "--no-reuse-port",
            f"--picker={LOOPBACK}:{self.ports.extproc.port}",
            *self.xds_options,
        )

    def start_extproc(self) -> None:
        self._start(
            "extproc",
            *("serve", "extproc", f"--manifests={self.manifests}"),
            f"--address={LOOPBACK}:{self.ports.extproc.port}",
            f"--health-address={LOOPBACK}:{self.ports.extproc_health.port}",
            f"--http-address={LOOPBACK}:{self.ports.extproc_http.port}",
            f"--state={self.directory / 'picker.state'}",
            *self.extproc_options,
        )

    def start_envoy(self) -> None:
        from xds.bootstrap import BootstrapSettings, bootstrap_yaml
        from xds.translate import SocketAddress

        path = self.directory / "envoy.yaml"
        path.write_text(
            bootstrap_yaml(
                BootstrapSettings(
                    xds=(SocketAddress(LOOPBACK, self.ports.xds.port),),
                    admin=SocketAddress(LOOPBACK, self.ports.admin.port),
                    delta=self.delta,
                )
            )
        )
        self.children.start(
            "envoy",
            [
                *(self.envoy, "--config-path", str(path), "--disable-hot-restart"),
                *("--log-level", "warning", "--file-flush-interval-msec", "50"),
                # Two are plenty for one machine's demo, and start faster than one for each core.
                *("--concurrency", "2"),
            ],
        )

    def _start(self, name: str, *arguments: str) -> None:
        self.children.start(
            name,
            [sys.executable, "-m", "poolpilot", *arguments],
            {"POOLPILOT_LOG_LEVEL": self.log_level},
        )

    async def ready(self, limit: float, progress: Callable[[str], None] = lambda _: None) -> None:
        """Wait until every part is ready; ``progress`` hears each as it becomes so.

        Raises ChildDiedError as soon as a process ends, and NotReadyError after ``limit`` seconds.
        """
        deadline = time.monotonic() + limit
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            for what, check in self._checks(session):
                await self._wait(what, check, deadline)
                progress(what)

    def _checks(
        self, session: aiohttp.ClientSession
    ) -> list[tuple[str, Callable[[], Awaitable[str]]]]:
        def answers(url: str) -> Callable[[], Awaitable[str]]:
            async def check() -> str:
                async with session.get(url) as response:
                    if response.status == 200:
                        return ""
                    return f"{response.status} {(await response.text())[:500].strip()}"

            return check

        async def envoy_is_configured() -> str:
            return envoy_waits_for(await envoy_stats(session, self.admin_url), len(self.pods))

        return [
            *((pod, answers(f"{self.pod_url(pod)}/health")) for pod in self.pods),
            ("xds", answers(f"{self.xds_url}/readyz")),
            ("extproc", answers(f"{self.extproc_url}/readyz")),
            ("envoy", envoy_is_configured),
        ]

    async def _wait(
        self,
        what: str,
        check: Callable[[], Awaitable[str]],
        deadline: float,
    ) -> None:
        """Ask ``check`` until it has no objection."""
        while True:
            self.children.check()
            try:
                objection = await check()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                objection = str(error) or type(error).__name__
            if not objection:
                return
            if time.monotonic() > deadline:
                tail = self.children[what].tail()
                raise NotReadyError(
                    f"{what} is not ready: {objection}"
                    + (f"\nits log ends:\n{tail}" if tail else "")
                )
            await asyncio.sleep(POLL)

    def stop(self) -> None:
        self.children.stop(STOP_GRACE)
        self.ports.close()


async def envoy_stats(session: aiohttp.ClientSession, admin_url: str) -> dict[str, int]:
    """Envoy's counters and gauges by name."""
    async with session.get(f"{admin_url}/stats?format=json&type=All") as response:
        document = await response.json(content_type=None)
    return {stat["name"]: stat["value"] for stat in document["stats"] if "value" in stat}


def envoy_waits_for(stats: Mapping[str, int], pods: int) -> str:
    """What Envoy still lacks. Its own ``/ready`` says LIVE even when it has no listener yet."""
    if not stats.get("listener_manager.total_listeners_active"):
        return "it has no listener yet"
    if not stats.get("cluster.ext-proc.membership_healthy"):
        return "it has not found the endpoint picker healthy yet"
    members = sum(
        value
        for name, value in stats.items()
        if name.startswith("cluster.pool/") and name.endswith(".membership_total")
    )
    return "" if members >= pods else f"it knows {members} of {pods} pods"
