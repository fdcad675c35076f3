"""The processes of a live run, and how much of the machine they got."""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.live.forms import Form
from bench.live.router import router
from poolpilot.demo.ports import Ports
from poolpilot.demo.quickstart import POOL, endpoints, manifests
from poolpilot.demo.stack import Stack
from poolpilot.envoy_binary import find_envoy
from sim.engine import EngineConfig
from sim.fleet.traffic import OBJECTIVES, Death, Drain, Incident

STREAM_INTERVAL = 20
"""Tokens in a chunk after the first: what passes each token on is not what is compared here."""
STARTING = 0.8
"""Real seconds that a simulated server takes to start."""
_RUNNING = re.compile(r"^vllm:num_requests_(?:running|waiting)\{[^}]*\} (\S+)$", re.M)
_OBJECTIVES = "---\n".join(
    f"""\
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceObjective
metadata:
  name: {name}
spec:
  priority: {priority}
  poolRef:
    name: {POOL}
"""
    for name, priority in OBJECTIVES.items()
)
_FIRST_TOKENS = re.compile(r"^vllm:time_to_first_token_seconds_(sum|count)\{[^}]*\} (\S+)$", re.M)


@dataclass(frozen=True, slots=True)
class Servers:
    """All ready."""

    url: str
    pods: Sequence[str]
    """URLs."""
    processes: Mapping[str, int]
    """By name; those of pods begin with ``pod-``."""
    suffer: Callable[[Incident], Awaitable[None]] | None = None
    """Does to the pods what an incident says."""
    restarted: Collection[str] = ()
    """Names of the pods to which it did: they do not know of what was before."""

    def pods_ttft(self) -> float:
        """The mean by the account of the pods that were never restarted, in real seconds."""
        total = count = 0.0
        for number, pod in enumerate(self.pods):
            if f"pod-{number}" in self.restarted:
                continue
            with urllib.request.urlopen(f"{pod}/metrics", timeout=10) as page:
                for which, value in _FIRST_TOKENS.findall(page.read().decode()):
                    if which == "sum":
                        total += float(value)
                    else:
                        count += float(value)
        return total / count


def _busy(pod: str) -> bool:
    with urllib.request.urlopen(f"{pod}/metrics", timeout=10) as page:
        return any(float(value) for value in _RUNNING.findall(page.read().decode()))


def _draining(manifest: str, name: str) -> str:
    """The manifest with this endpoint draining."""
    return manifest.replace(f"  - name: {name}\n", f"  - name: {name}\n    draining: true\n")


def _options(engine: EngineConfig) -> list[str]:
    cost = engine.cost
    return [
        f"--kv-cache-tokens={engine.kv_cache_tokens}",
        f"--max-num-seqs={engine.max_num_seqs}",
        f"--max-loras={engine.max_loras}",
        f"--prefill={cost.prefill_tokens_per_second:.12g}",
        f"--decode-base-ms={cost.decode_base_seconds * 1000:.12g}",
        f"--decode-sequence-ms={cost.decode_per_sequence_seconds * 1000:.12g}",
        f"--adapter-load-ms={cost.adapter_load_seconds * 1000:.12g}",
    ]


def _stack(form: Form, directory: str, extproc_options: Sequence[str] = ()) -> Stack:
    engines = form.workload.engines(form.workload.pods, form.engine)
    names = [f"pod-{number}" for number in range(len(engines))]
    return Stack(
        Path(directory),
        Ports.free(len(names)),
        names,
        find_envoy(),
        pod_options=[
            f"--time-scale={form.time_scale:g}",
            f"--max-model-len={min(form.engine.kv_cache_tokens, 131_072)}",
            f"--stream-interval={STREAM_INTERVAL}",
            "--grace=0",
            *(f"--adapter={name}" for name in form.adapters),
        ],
        options_of={name: _options(engine) for name, engine in zip(names, engines, strict=True)},
        extproc_options=extproc_options,
        log_level="warning",
    )


class _Troubles:
    """What can happen to the pods of a stack."""

    def __init__(self, stack: Stack, scale: float) -> None:
        self._stack = stack
        self._scale = scale
        self.restarted: set[str] = set()

    async def suffer(self, incident: Incident) -> None:
        if isinstance(incident, Death):
            name = self._stack.pods[incident.pod]
            self.restarted.add(name)
            self._stack.children[name].kill()
            await asyncio.sleep(max(0.0, incident.away / self._scale - STARTING))
            self._stack.start_pod(name)
        elif isinstance(incident, Drain):
            await self._drain(self._stack.pods[incident.pod])

    async def _drain(self, name: str) -> None:
        stack = self._stack
        others = [pod for pod in stack.pods if pod != name]
        stack.write({"endpoints.yaml": _draining(endpoints(stack.placed()), name)})
        while await asyncio.to_thread(_busy, stack.pod_url(name)):  # noqa: ASYNC110
            await asyncio.sleep(1.0 / self._scale)
        stack.write({"endpoints.yaml": endpoints(stack.placed(*others))})
        self.restarted.add(name)
        stack.children[name].kill()
        stack.start_pod(name)
        await asyncio.sleep(STARTING)
        stack.write({"endpoints.yaml": endpoints(stack.placed())})


@asynccontextmanager
async def behind_envoy(form: Form, profile: str) -> AsyncIterator[Servers]:
    """The real Envoy with both servers, everything started anew."""
    with tempfile.TemporaryDirectory() as directory:
        options = [f"--profile={profile}", "--transport=native"]
        if form.admission:
            file = Path(directory) / "profiles.yaml"
            file.write_text(form.profiles(profile))
            options = [f"--profiles={file}", "--transport=native"]
        stack = _stack(form, directory, options)
        try:
            stack.write({**manifests(stack.placed()), "objectives.yaml": _OBJECTIVES})
            stack.start()
            await stack.ready(60)
            names = ("extproc", "envoy", *stack.pods)
            troubles = _Troubles(stack, form.time_scale)
            yield Servers(
                stack.url,
                [stack.pod_url(name) for name in stack.pods],
                {name: stack.children[name].pid for name in names},
                troubles.suffer,
                troubles.restarted,
            )
        finally:
            stack.stop()


@asynccontextmanager
async def behind_router(form: Form, policy: str, binary: str) -> AsyncIterator[Servers]:
    """The same pods behind another router."""
    with tempfile.TemporaryDirectory() as directory:
        stack = _stack(form, directory)
        try:
            for name in stack.pods:
                stack.start_pod(name)
            pods = [stack.pod_url(name) for name in stack.pods]
            with router(pods, policy, binary) as started:
                processes = {name: stack.children[name].pid for name in stack.pods}
                yield Servers(started.url, pods, {**processes, "router": started.process.pid})
        finally:
            stack.stop()


@dataclass(frozen=True, slots=True)
class Share:
    """How much of the machine a process had and missed, in CPU seconds a second."""

    used: float
    waited: float
    """Ready to run, while others ran."""


class Watch:
    """From its making on."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = processes
        self._began = time.monotonic()
        self._before = {name: _schedstat(pid) for name, pid in processes.items()}

    def shares(self) -> Mapping[str, Share]:
        """Until now, by name."""
        seconds = time.monotonic() - self._began
        shares = {}
        for name, pid in self._processes.items():
            used, waited = _schedstat(pid)
            before = self._before[name]
            # Of one that was killed nothing is known any more.
            shares[name] = Share(
                max(0.0, used - before[0]) / seconds, max(0.0, waited - before[1]) / seconds
            )
        return shares


def _schedstat(pid: int) -> tuple[float, float]:
    """Seconds on a CPU and seconds waiting for one, over all threads."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    numbers = [task.read_text().split() for task in tasks]
    return sum(int(n[0]) for n in numbers) / 1e9, sum(int(n[1]) for n in numbers) / 1e9
