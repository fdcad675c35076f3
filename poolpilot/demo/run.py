"""What ``poolpilot demo`` does from start to end."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path

import aiohttp
import msgspec
from rich.console import Console
from rich.live import Live

from poolpilot import debug
from poolpilot.demo import quickstart
from poolpilot.demo.load import Report, ask, mix, send
from poolpilot.demo.ports import Ports
from poolpilot.demo.processes import ChildDiedError
from poolpilot.demo.stack import POLL, Stack
from poolpilot.demo.table import line, table
from poolpilot.envoy_binary import find_envoy
from poolpilot.errors import PoolPilotError
from poolpilot.lifecycle import explained, stop_signals
from pools.tasks import PartEndedError, Parts, unless_set

READY_LIMIT = 60.0
REFRESH = 0.5
"""Seconds between two frames of the live table."""
LINE_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    pods: int = 3
    free_ports: bool = False
    requests: int | None = None
    """Send this many requests and report, instead of showing the pods."""
    as_json: bool = False
    load: float = 0.0
    """Requests per second that the demo sends by itself."""
    time_scale: float = 1.0
    delta: bool = False
    transport: str = "native"
    """Of the endpoint picker."""
    envoy: str | None = None
    log_dir: Path | None = None


async def run(options: Options) -> int:
    """The exit status. Raises PoolPilotError for what the user can mend."""
    # What a program may read goes to stdout; with --json that is the report alone.
    console = Console(stderr=options.as_json, highlight=False)
    with ExitStack() as cleanup:
        directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="poolpilot-")))
        envoy = find_envoy(options.envoy)
        ports = Ports.free(options.pods) if options.free_ports else Ports.fixed(options.pods)
        stack = Stack(
            directory,
            ports,
            [f"vllm-{n}" for n in range(options.pods)],
            envoy,
            delta=options.delta,
            pod_options=[f"--time-scale={options.time_scale:g}"],
            extproc_options=[f"--transport={options.transport}"],
            log_dir=options.log_dir,
        )
        cleanup.callback(stack.stop)
        async with stop_signals() as stop:
            return await unless_set(stop, _demo(options, stack, console)) or 0


async def _demo(options: Options, stack: Stack, console: Console) -> int:
    start = time.monotonic()
    stack.write(quickstart.manifests(stack.placed()))
    stack.start()
    with console.status("starting") as status:
        await stack.ready(READY_LIMIT, lambda what: status.update(f"{what} is ready"))
    console.print(
        f"Ready after {time.monotonic() - start:.1f} s: Envoy, the xDS server, the endpoint picker"
        f" and {len(stack.pods)} simulated vLLM pods.",
        soft_wrap=True,
    )
    if options.requests is not None:
        return await _report(options.requests, options.as_json, stack, console)
    console.print(_introduction(stack), soft_wrap=True)
    parts = Parts()
    parts.start("watch over the processes", _guard(stack))
    parts.start("table", _watch(stack, console))
    if options.load:
        parts.start("load", _load(options.load, stack.url))
    try:
        await parts.run()
    except PartEndedError as ended:
        if isinstance(ended.origin, ChildDiedError):
            raise ended.origin from None
        raise PoolPilotError(explained(ended)) from ended


def _introduction(stack: Stack) -> str:
    return f"""
Send a request:

  curl {stack.url}/v1/completions -H 'content-type: application/json' \\
    -d '{{"model": "{quickstart.ADAPTER}", "prompt": "Write as if you were a critic: \
San Francisco", "max_tokens": 100}}'

Manifests   {stack.manifests}  (edit them: what you save takes effect)
Picks       {stack.extproc_url}    Configuration  {stack.xds_url}    Envoy  {stack.admin_url}
Ctrl-C stops everything.
"""


async def _report(count: int, as_json: bool, stack: Stack, console: Console) -> int:
    with console.status(f"sending {count} requests"):
        report = await send(stack.url, mix(quickstart.MODELS, count))
    if as_json:
        print(msgspec.json.encode(asdict(report)).decode(), flush=True)  # noqa: T201
    else:
        console.print(_summary(report), soft_wrap=True)
    stack.children.check()
    return 0 if report.all_answered else 1


def _summary(report: Report) -> str:
    lines = [
        f"{report.ok} of {report.requests} requests answered;"
        f" p50 {report.p50_ms:g} ms, p99 {report.p99_ms:g} ms",
        *(f"  {pod}: {count}" for pod, count in report.by_pod.items()),
        *(f"  failed, {count} times: {error}" for error, count in report.errors.items()),
    ]
    return "\n".join(lines)


async def _guard(stack: Stack) -> None:
    """Raises ChildDiedError when a process ends."""
    while True:
        stack.children.check()
        await asyncio.sleep(POLL)


async def _watch(stack: Stack, console: Console) -> None:
    """Show the pods until cancelled."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            async for rows in _frames(stack, REFRESH):
                live.update(table(rows), refresh=True)
    else:
        async for rows in _frames(stack, LINE_EVERY):
            console.print(f"{time.strftime('%H:%M:%S')} {line(rows)}", soft_wrap=True)


async def _frames(stack: Stack, interval: float) -> AsyncIterator[list[debug.PodRow]]:
    async with aiohttp.ClientSession(timeout=debug.LIMIT) as session:
        while True:
            # A picker that does not answer is busy, or dead, which is the guard's business.
            with contextlib.suppress(debug.NoAnswerError):
                yield await debug.endpoint_rows(session, stack.extproc_url)
            await asyncio.sleep(interval)


async def _load(rate: float, url: str) -> None:
    """Send ``rate`` requests per second, evenly mixed, at random moments."""
    questions = cycle(mix(quickstart.MODELS, 4 * len(quickstart.MODELS), max_tokens=200))
    requests = Parts()
    async with aiohttp.ClientSession() as session:
        try:
            while True:
                await requests.watch(asyncio.sleep(random.expovariate(rate)))
                requests.start_job("request", ask(session, url, next(questions)))
        finally:
            await requests.stop()
