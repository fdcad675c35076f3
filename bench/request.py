"""What a whole request costs: ``python -m bench.request``.

The configuration that PoolPilot's xDS gives, in a real Envoy at ``--concurrency 1``; the real
endpoint picker, with scraping, scheduling, the ledger and the completion log; ten endpoints, played
by a second Envoy that answers at once. Runs of the variants take turns, and medians are printed.
CPU is that of the picker's process (user and system), divided by the requests that wrk counted; the
scraping it does meanwhile is included.

Variants: ``native`` and ``grpcio`` (the picker's transports), ``none`` (the same Envoy without the
picker: it balances by itself), ``vllm-router`` (the Rust router from PyPI, without Envoy, by its
``cache_aware`` and ``round_robin`` policies; where its command is found). Two more tell where time
goes, if asked for: ``logged`` (the same Envoy without ext-proc, which sends its completion log all
the same) and ``nothing`` (a picker that reads nothing and always names the same pod). ``awake`` is
``native`` with the transport's ``busy_poll``: a core for the sake of single requests.

``python -m bench.request memory``: what exchanges that are open weigh in the whole picker, those
whose body is still arriving and those that are picked for.

Needs wrk (Debian's package ``wrk``) and the Envoy of the ``envoy`` extra.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import grpc

from bench.extproc_exchange import messages
from bench.live.router import router
from bench.transport import (
    ANSWER_WHEN_READ,
    Load,
    Process,
    Result,
    drive,
    envoy,
    free_port,
    run_loop,
    started,
    until,
)
from extproc.exchange import BodyMode
from extproc.service.access_log import METHOD as COMPLETIONS
from extproc.service.ext_proc import METHOD
from extproc.service.grpc_health import Health
from extproc.transport.api import Deaf, Services, Stream
from extproc.transport.native import serve_native
from extproc.wire import ext_proc_pb2 as pb
from extproc.wire.decode import request_body
from extproc.wire.encode import headers_response, streamed_body
from pools.contract import POOL_METADATA
from pools.files import read_once
from xds.bootstrap import BootstrapSettings, static_bootstrap
from xds.translate import TranslateSettings, translate
from xds.translate.features import ALL
from xds.translate.render import render_static
from xds.translate.settings import ExtProcSettings, SocketAddress

ROUTERS = ("vllm-router cache_aware", "vllm-router round_robin")
DEFAULTS = ("native", "grpcio", "none", *ROUTERS)
VARIANTS = (*DEFAULTS, "logged", "nothing", "awake")
BUSY_POLL = ("--transport-limit", "busy_poll=0.005")
METRICS = """\
vllm:num_requests_running{model_name="m"} 3
vllm:num_requests_waiting{model_name="m"} 0
vllm:kv_cache_usage_perc{model_name="m"} 0.3
vllm:lora_requests_info{max_lora="4",running_lora_adapters="a",waiting_lora_adapters=""} 1
vllm:cache_config_info{block_size="16",num_gpu_blocks="19208"} 1
"""
ANSWER = json.dumps(
    {
        "id": "cmpl-1",
        "object": "text_completion",
        "model": "m",
        "choices": [{"index": 0, "text": " ok", "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 500, "completion_tokens": 1, "total_tokens": 501},
    }
)
_HCM = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
    ".HttpConnectionManager"
)


def pods_config(ports: list[int]) -> dict[str, Any]:
    """Model servers that answer at once."""

    def answers(prefix: str, body: str, content_type: str) -> dict[str, Any]:
        return {
            "match": {"prefix": prefix},
            "direct_response": {"status": 200, "body": {"inline_string": body}},
            "response_headers_to_add": [
                {
                    "header": {"key": "content-type", "value": content_type},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }
            ],
        }

    routes = [
        answers("/metrics", METRICS, "text/plain"),
        answers("/v1/models", '{"object":"list","data":[{"id":"m"}]}', "application/json"),
        answers("/", ANSWER, "application/json"),
    ]
    hcm = {
        "@type": _HCM,
        "stat_prefix": "pods",
        "http_filters": ANSWER_WHEN_READ,
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]},
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": f"pod-{port}",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [{"filters": [{"name": "hcm", "typed_config": hcm}]}],
                }
                for port in ports
            ]
        }
    }


def write_manifests(directory: Path, ports: list[int]) -> None:
    endpoints = [{"name": f"pod-{p}", "address": "127.0.0.1", "ports": [p]} for p in ports]
    objects = [
        {
            "apiVersion": "inference.networking.k8s.io/v1",
            "kind": "InferencePool",
            "metadata": {"name": "bench"},
            "spec": {
                "selector": {"matchLabels": {"app": "bench"}},
                "targetPorts": [{"number": 8000}],
            },
        },
        {
            "apiVersion": "poolpilot.dev/v1alpha1",
            "kind": "PoolEndpoints",
            "metadata": {"name": "bench"},
            "spec": {"poolRef": {"name": "bench"}, "endpoints": endpoints},
        },
    ]
    directory.mkdir()
    # JSON is YAML.
    (directory / "bench.yaml").write_text("---\n".join(json.dumps(o) + "\n" for o in objects))


def gateway_config(
    manifests: Path, listener: int, picker: str | None, *, asks: bool = True
) -> dict[str, Any]:
    """What the xDS server would send, without the xDS server. ``asks``: whether Envoy asks the
    picker, or only tells it how requests ended."""
    world = asyncio.run(read_once(manifests))
    settings = TranslateSettings(
        listen_address="127.0.0.1",
        listen_port=listener,
        access_log=False,
        ext_proc=ExtProcSettings(targets=(SocketAddress.parse(picker or "127.0.0.1:1"),)),
    )
    config: Any = render_static(translate(world, settings, None, ALL))
    if picker is None or not asks:
        for manager in _managers(config):
            manager["http_filters"] = [
                f for f in manager["http_filters"] if "ext_proc" not in f["name"]
            ]
            if picker is None:
                manager.pop("access_log", None)
            else:
                # All requests, not only those that the picker was asked about.
                manager["access_log"][0].pop("filter")
            for host in manager["route_config"]["virtual_hosts"]:
                for route in host["routes"]:
                    route.pop("typed_per_filter_config", None)
        if picker is None:
            config["clusters"] = [c for c in config["clusters"] if c["name"].startswith("pool/")]
    admin = BootstrapSettings(admin=SocketAddress("127.0.0.1", free_port()))
    return static_bootstrap(config, admin)


def _managers(config: Any) -> Iterator[Any]:
    for listener in config["listeners"]:
        for chain in listener["filter_chains"]:
            for network_filter in chain["filters"]:
                yield network_filter["typed_config"]


@contextlib.contextmanager
def picker(
    directory: Path, manifests: Path, transport: str, *options: str
) -> Iterator[tuple[Process, str]]:
    grpc, http = free_port(), free_port()
    with started(
        *(sys.executable, "-m", "poolpilot", "serve", "extproc", "--manifests", str(manifests)),
        *("--address", f"127.0.0.1:{grpc}", "--health-address", ""),
        *("--http-address", f"127.0.0.1:{http}", "--transport", transport),
        *("--log-level", "error"),
        *options,
    ) as process:
        until(lambda: urllib.request.urlopen(f"http://127.0.0.1:{http}/readyz", timeout=1).close())
        yield process, f"127.0.0.1:{grpc}"


class Nothing:
    """An exchange that only waits for the end of the body, for ``pod``."""

    def __init__(self, stream: Stream, pod: str) -> None:
        self._stream = stream
        self._pod = pod
        self._pieces: list[bytes] = []

    def on_message(self, message: bytes) -> None:
        piece = request_body(message)
        if piece is None:
            return
        self._pieces.append(piece[0])
        if piece[1]:
            self._stream.send(headers_response(self._pod, "0"))
            self._stream.send(streamed_body(b"".join(self._pieces), end_of_stream=True))

    def on_half_close(self) -> None:
        self._stream.finish()

    def on_closed(self) -> None:
        pass


async def serve_nothing(pod: str) -> None:
    health = Health()
    health.ready = True
    services: Services = {
        METHOD: lambda stream: Nothing(stream, pod),
        COMPLETIONS: lambda stream: Deaf(),
        **health.services(),
    }
    server = await serve_native(services, "127.0.0.1:0")
    print(server.address, flush=True)
    await asyncio.Event().wait()


@contextlib.contextmanager
def nothing(pod: str) -> Iterator[tuple[Process, str]]:
    with started(sys.executable, "-m", "bench.request", "nothing", pod) as process:
        assert process.popen.stdout
        yield process, process.popen.stdout.readline().strip()


def load(url: str, size: int, connections: int, seconds: float, directory: Path) -> Load:
    """Prompts differ from request to request, so that nothing is remembered."""
    text = f"""
local n = 0
local text = string.rep("San Francisco ", {max(1, (size - 90) // 14)})
wrk.headers["content-type"] = "application/json"
request = function()
  n = n + 1
  return wrk.format("POST", nil, nil,
    '{{"model":"m","max_tokens":1,"prompt":"' .. n .. ' ' .. text .. '"}}')
end
"""
    return drive(url, text, connections, seconds, directory)


def measure(variant: str, size: int, connections: int, seconds: float, pods: int) -> Result:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = [free_port() for _ in range(pods)]
        stack.enter_context(envoy(directory, "pods", pods_config(ports), ports[0]))
        server: Process | None = None
        proxy: Process | None = None
        if variant in ROUTERS:
            policy = variant.split()[1]
            addresses = [f"http://127.0.0.1:{port}" for port in ports]
            started_router = stack.enter_context(router(addresses, policy))
            server = Process(started_router.process)
            url = f"{started_router.url}/v1/completions"
        else:
            manifests = directory / "manifests"
            write_manifests(manifests, ports)
            address = None
            if variant == "nothing":
                server, address = stack.enter_context(nothing(f"127.0.0.1:{ports[0]}"))
            elif variant != "none":
                transport = "grpcio" if variant == "grpcio" else "native"
                options = BUSY_POLL if variant == "awake" else ()
                server, address = stack.enter_context(
                    picker(directory, manifests, transport, *options)
                )
            port = free_port()
            config = gateway_config(manifests, port, address, asks=variant != "logged")
            proxy = stack.enter_context(envoy(directory, "gateway", config, port))
            url = f"http://127.0.0.1:{port}/v1/completions"
        load(url, size, connections, 2, directory)  # warm
        user, system = server.ticks if server else (0, 0)
        before = [p.cpu if p else 0.0 for p in (server, proxy)]
        run = load(url, size, connections, seconds, directory)
        used = [(p.cpu if p else 0.0) - b for p, b in zip((server, proxy), before, strict=True)]
        server_us, envoy_us = (cpu / run.requests * 1e6 for cpu in used)
        later = server.ticks if server else (0, 0)
        ticks = max(1, sum(later) - user - system)
        share = (later[1] - system) / ticks
        rate = run.requests / run.seconds
        return Result(rate, server_us, envoy_us, run.p50_ms, run.p99_ms, share)


def compare(arguments: argparse.Namespace) -> None:
    variants = [v for v in arguments.variants if v not in ROUTERS or shutil.which("vllm-router")]
    print(
        "| body | connections | variant | req/s | server us | of it kernel | Envoy us | p50 ms "
        "| p99 ms |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for size in arguments.bodies:
        for connections in arguments.connections:
            results: dict[str, list[Result]] = {variant: [] for variant in variants}
            for _ in range(arguments.rounds):
                for variant in variants:
                    results[variant].append(
                        measure(variant, size, connections, arguments.seconds, arguments.pods)
                    )
            for variant, runs in results.items():
                median = {
                    f.name: statistics.median(getattr(run, f.name) for run in runs)
                    for f in fields(Result)
                }
                print(
                    f"| {size} | {connections} | {variant} | {median['requests_per_second']:,.0f}"
                    f" | {median['server_us']:.0f} | {median['kernel_share']:.0%}"
                    f" | {median['envoy_us']:.0f}"
                    f" | {median['p50_ms']:.2f} | {median['p99_ms']:.2f} |",
                    flush=True,
                )


def weigh(exchanges: int, pods: int) -> None:
    """What open exchanges cost the whole picker in memory, on one connection."""
    print("| exchanges | state | before MB | open MB | KB each |")
    print("| --- | --- | --- | --- | --- |")
    for state in ("body arriving", "picked"):
        with contextlib.ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            ports = [free_port() for _ in range(pods)]
            stack.enter_context(envoy(directory, "pods", pods_config(ports), ports[0]))
            manifests = directory / "manifests"
            write_manifests(manifests, ports)
            server, address = stack.enter_context(picker(directory, manifests, "native"))
            opening = _hold_open(server, address, exchanges, picked=state == "picked")
            before, opened = asyncio.run(opening)
        each = (opened - before) * 1024 / exchanges
        print(f"| {exchanges:,} | {state} | {before:.0f} | {opened:.0f} | {each:.1f} |", flush=True)


async def _hold_open(
    server: Process, address: str, exchanges: int, *, picked: bool
) -> tuple[float, float]:
    """Resident memory of the picker before and while exchanges are open, each with a body of 2 KB
    that has ended (and been picked for) or not."""
    sent = messages(2048, BodyMode.FULL_DUPLEX_STREAMED)[: None if picked else -1]
    async with grpc.aio.insecure_channel(address) as channel:
        process = channel.stream_stream(METHOD)

        async def one() -> grpc.aio.StreamStreamCall[bytes, bytes]:
            call = process(metadata=((POOL_METADATA, "default/bench"),))
            for message in sent:
                await call.write(message)
            if picked:
                answer = pb.ProcessingResponse.FromString(await call.read())
                if not answer.HasField("request_headers"):
                    raise RuntimeError(f"an exchange was not picked for: {answer}")
            return call

        held = [await one()]
        before = server.resident_mb
        while len(held) < exchanges:
            held += await asyncio.gather(*(one() for _ in range(min(500, exchanges - len(held)))))
        await asyncio.sleep(1)  # what was written last has to arrive
        return before, server.resident_mb


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.request",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--variants", nargs="+", default=list(DEFAULTS), choices=VARIANTS)
    parser.add_argument("--bodies", type=int, nargs="+", default=[2048, 102_400])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--pods", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    commands = parser.add_subparsers(dest="command")
    memory = commands.add_parser("memory", help="what open exchanges weigh")
    memory.add_argument("--exchanges", type=int, default=10_000)
    commands.add_parser("nothing").add_argument("pod")
    arguments = parser.parse_args()
    if arguments.command == "nothing":
        run_loop(serve_nothing(arguments.pod))
        return
    if arguments.command == "memory":
        weigh(arguments.exchanges, arguments.pods)
        return
    if shutil.which("wrk") is None:
        sys.exit("bench.request needs wrk: apt-get install wrk")
    compare(arguments)


if __name__ == "__main__":
    main()
