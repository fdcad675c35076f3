"""The processes of a live run, and how much of the machine they got."""

from __future__ import annotations

import re
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.live.forms import Form
from bench.live.router import router
from poolpilot.demo.ports import Ports
from poolpilot.demo.quickstart import manifests
from poolpilot.demo.stack import Stack
from poolpilot.envoy_binary import find_envoy
from sim.engine import EngineConfig

STREAM_INTERVAL = 20
"""Tokens in a chunk after the first: what passes each token on is not what is compared here."""
_FIRST_TOKENS = re.compile(r"^vllm:time_to_first_token_seconds_(sum|count)\{[^}]*\} (\S+)$", re.M)


@dataclass(frozen=True, slots=True)
class Servers:
    """All ready."""

    url: str
    pods: Sequence[str]
    """URLs."""
    processes: Mapping[str, int]
    """By name; those of pods begin with ``pod-``."""

    def pods_ttft(self) -> float:
        """The mean by the pods' own account, in real seconds."""
        total = count = 0.0
        for pod in self.pods:
            with urllib.request.urlopen(f"{pod}/metrics", timeout=10) as page:
                for which, value in _FIRST_TOKENS.findall(page.read().decode()):
                    if which == "sum":
                        total += float(value)
                    else:
                        count += float(value)
        return total / count


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


@asynccontextmanager
async def behind_envoy(form: Form, profile: str) -> AsyncIterator[Servers]:
    """The real Envoy with both servers, everything started anew."""
    with tempfile.TemporaryDirectory() as directory:
        stack = _stack(form, directory, [f"--profile={profile}", "--transport=native"])
        try:
            stack.write(manifests(stack.placed()))
            stack.start()
            await stack.ready(60)
            names = ("extproc", "envoy", *stack.pods)
            yield Servers(
                stack.url,
                [stack.pod_url(name) for name in stack.pods],
                {name: stack.children[name].pid for name in names},
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
            shares[name] = Share((used - before[0]) / seconds, (waited - before[1]) / seconds)
        return shares


def _schedstat(pid: int) -> tuple[float, float]:
    """Seconds on a CPU and seconds waiting for one, over all threads."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    numbers = [task.read_text().split() for task in tasks]
    return sum(int(n[0]) for n in numbers) / 1e9, sum(int(n[1]) for n in numbers) / 1e9
