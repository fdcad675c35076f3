"""Does anything grow? ``python -m bench.soak`` sends a million requests through Envoy.

Both servers and Envoy run as an operator would run them; behind them are tiny servers that answer
at once, so that the requests and not the pods are the load. Memory and open files of each process
are read all the while. Afterwards nothing may be in flight, no request may have gone by the picker
or failed, and neither server may have grown since its warm-up (the first fifth of the requests).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import statistics
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.transport import run_loop
from poolpilot.demo.ports import LOOPBACK, Ports
from poolpilot.demo.quickstart import MODELS, manifests
from poolpilot.demo.stack import Stack
from poolpilot.envoy_binary import find_envoy

PODS = ("pod-0", "pod-1", "pod-2", "pod-3")
WATCHED = ("xds", "extproc", "envoy")
CONNECTIONS = 32
PROMPTS = 512
"""Different prompts, of which each model gets its own."""
WARM_UP = 0.2
"""Share of the requests after which memory may grow no more."""
ALLOWED_MB = 4.0
ALLOWED_FDS = 4
NEVER = (
    "http.inference.ext_proc.failure_mode_allowed",
    "http.inference.ext_proc.streams_failed",
    "cluster.ext-proc.upstream_rq_active_overflow",
)
"""Envoy's counters of requests that went by the picker."""

_METRICS = (
    b'vllm:num_requests_running{model_name="m"} 1\nvllm:num_requests_waiting{model_name="m"} 0\n'
    b'vllm:kv_cache_usage_perc{model_name="m"} 0.1\n'
)
_COMPLETION = json.dumps(
    {
        "id": "1",
        "object": "text_completion",
        "choices": [{"index": 0, "text": "x" * 200, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 40, "total_tokens": 52},
    }
).encode()


def _response(body: bytes, kind: bytes = b"application/json") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (
        kind,
        len(body),
        body,
    )


_SCRAPED, _ANSWERED = _response(_METRICS, b"text/plain"), _response(_COMPLETION)


class Upstream(asyncio.Protocol):
    """Answers every request with the same, as soon as its body is there."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            body = 0
            at = head.find(b"content-length:")
            if at >= 0:
                body = int(head[at + 15 :].partition(b"\r\n")[0])
            if len(self._buffer) < end + 4 + body:
                return
            self._buffer = self._buffer[end + 4 + body :]
            assert self._transport is not None
            self._transport.write(_SCRAPED if head.startswith(b"get /metrics") else _ANSWERED)


def serve_upstreams(ports: Sequence[int]) -> None:
    """Runs until the process is ended."""

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        for port in ports:
            await loop.create_server(Upstream, LOOPBACK, port, reuse_port=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


class SoakStack(Stack):
    """Its pods are served by a process of this module."""

    def start_pod(self, name: str) -> None:
        pass


@contextlib.contextmanager
def running(directory: Path, options: Sequence[str]) -> Iterator[Stack]:
    stack = SoakStack(
        directory,
        Ports.free(len(PODS)),
        PODS,
        find_envoy(),
        delta=True,
        extproc_options=options,
        log_level="warning",
    )
    stack.write(manifests(stack.placed()))
    upstreams = multiprocessing.get_context("spawn").Process(
        target=serve_upstreams, args=([port for _, _, port in stack.placed()],), daemon=True
    )
    upstreams.start()
    try:
        stack.start()
        asyncio.run(stack.ready(60))
        yield stack
    finally:
        stack.stop()
        upstreams.kill()
        upstreams.join()


@dataclass(frozen=True, slots=True)
class Sample:
    requests: int
    memory: dict[str, float]
    """MB resident, by process."""
    files: dict[str, int]
    """Open files, by process."""


@dataclass
class Soak:
    stack: Stack
    requests: int
    sent: int = 0
    statuses: Counter[bytes] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)

    async def run(self) -> None:
        bodies = [
            json.dumps({"model": model, "prompt": f"Prompt {n}: " + "word " * 100}).encode()
            for model in MODELS
            for n in range(PROMPTS)
        ]
        asking = [
            b"POST /v1/completions HTTP/1.1\r\nhost: soak\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
            for body in bodies
        ]
        await asyncio.gather(*(self._client(asking) for _ in range(CONNECTIONS)))
        self.samples.append(self._sample())

    async def _client(self, asking: Sequence[bytes]) -> None:
        reader, writer = await asyncio.open_connection(LOOPBACK, self.stack.ports.listener.port)
        while self.sent < self.requests:
            number = self.sent
            if number % self.step == 0:
                self.samples.append(self._sample())
            self.sent += 1
            writer.write(asking[number % len(asking)])
            head = await reader.readuntil(b"\r\n\r\n")
            self.statuses[head[9:12]] += 1
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()

    @property
    def step(self) -> int:
        """Requests between two samples."""
        return max(1, self.requests // 200)

    def _sample(self) -> Sample:
        memory, files = {}, {}
        for name in WATCHED:
            process = Path(f"/proc/{self.stack.children[name].pid}")
            status = (process / "status").read_text()
            memory[name] = int(status.partition("VmRSS:")[2].split()[0]) / 1024
            files[name] = sum(1 for _ in (process / "fd").iterdir())
        return Sample(self.sent, memory, files)

    def grown(self, name: str) -> tuple[float, int]:
        """MB and open files that a process has more at the end than after its warm-up; medians of
        the fifth after the warm-up and of the last fifth."""
        early = [s for s in self.samples if WARM_UP <= s.requests / self.requests < 2 * WARM_UP]
        late = [s for s in self.samples if s.requests / self.requests >= 1 - WARM_UP]
        memory, files = (
            [statistics.median(getattr(s, what)[name] for s in some) for some in (early, late)]
            for what in ("memory", "files")
        )
        return memory[1] - memory[0], int(files[1] - files[0])


def _json(url: str) -> dict[str, object]:
    with urllib.request.urlopen(url, timeout=5) as answer:
        found: dict[str, object] = json.load(answer)
    return found


def _in_flight(stack: Stack) -> int:
    rows = _json(f"{stack.extproc_url}/debug/endpoints")["endpoints"]
    assert isinstance(rows, list)
    return sum(row["in_flight"] for row in rows)


def _stat(stack: Stack, name: str) -> int:
    found = _json(f"{stack.admin_url}/stats?format=json&filter=^{name}$")["stats"]
    assert isinstance(found, list)
    return int(found[0]["value"]) if found else 0


def report(soak: Soak, seconds: float) -> list[str]:
    """Prints what was measured. Returns what is not as it must be."""
    wrong = []
    print(
        f"{soak.requests:,} requests in {seconds:.0f} s ({soak.requests / seconds:,.0f} a second)"
    )
    print("requests   " + "".join(f"{name + ' MB':>12}{'fds':>6}" for name in WATCHED))
    tenths = (soak.requests * k / 10 for k in range(11))
    shown = [next(s for s in soak.samples if s.requests >= tenth) for tenth in tenths]
    for sample in shown:
        cells = (f"{sample.memory[n]:12.1f}{sample.files[n]:6}" for n in WATCHED)
        print(f"{sample.requests:<11,}" + "".join(cells))
    for name in WATCHED:
        memory, files = soak.grown(name)
        print(f"{name}: {memory:+.1f} MB and {files:+} open files since the warm-up")
        # Envoy's memory is its own affair, and is only shown.
        if name != "envoy" and (memory > ALLOWED_MB or files > ALLOWED_FDS):
            wrong.append(f"{name} has grown")
    if soak.statuses != {b"200": soak.requests}:
        wrong.append(f"not all requests were answered: {dict(soak.statuses)}")
    deadline = time.monotonic() + 10
    while _in_flight(soak.stack) and time.monotonic() < deadline:
        time.sleep(0.1)
    if in_flight := _in_flight(soak.stack):
        wrong.append(f"{in_flight} requests are still counted as in flight")
    counts = {name: _stat(soak.stack, name) for name in NEVER}
    wrong += [f"{name} is {value}" for name, value in counts.items() if value]
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--transport", choices=("native", "grpcio"), default="native")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        running(Path(directory), [f"--transport={arguments.transport}"]) as stack,
    ):
        soak = Soak(stack, arguments.requests)
        begun = time.monotonic()
        run_loop(soak.run())
        wrong = report(soak, time.monotonic() - begun)
    if wrong:
        raise SystemExit("; ".join(wrong))
    print("nothing has grown, nothing is in flight, no request went by the picker")


if __name__ == "__main__":
    main()
