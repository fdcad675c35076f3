"""The simulated vLLM pod: an HTTP server over one engine."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web

from sim.answers import Answer, EventStream, PlainChoice, StreamedChoice, end_stream, reset
from sim.config import PodConfig
from sim.driver import Driver
from sim.engine import Engine, Request
from sim.failures import HEADER, Failure, parse_failure
from sim.metrics import CONTENT_TYPE, Metrics
from sim.openai import ApiError, ChunkWriter, Job, answer, models, read_chat, read_completion
from sim.tokens import block_hashes

log = structlog.get_logger(__name__)

POD_HEADER = "x-sim-pod"
VERSION = "0.11.0"  # the vLLM release whose surface this follows
_MAX_BODY = 256 * 1024 * 1024
_RECENT = 200
_JSON = "application/json"


@dataclass(slots=True)
class _Order:
    """Failures that an admin call asked for."""

    failure: Failure
    text: str
    rate: float
    left: int | None  # requests still to fail; None: all


class _OrderBody(msgspec.Struct, forbid_unknown_fields=True):
    fail: str | None = None  # None: end it
    on: str = "inference"
    rate: float = 1.0
    count: int | None = None


class _HealthBody(msgspec.Struct, forbid_unknown_fields=True):
    healthy: bool


class _AdapterBody(msgspec.Struct):
    lora_name: str = ""
    lora_path: str = ""


_S = TypeVar("_S")
_FAILABLE = ("inference", "metrics", "health")


class Pod:
    """One simulated pod. ``async with Pod(config) as pod`` serves until the block ends."""

    def __init__(self, config: PodConfig) -> None:
        self.config = config
        self.port = config.port
        self._created = int(time.time())
        self._random = random.Random(config.seed)
        self._draining = False
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._handling = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._as_new()

    def _as_new(self) -> None:
        self.engine = Engine(self.config.engine)
        self.metrics = Metrics(self.config)
        self.driver = Driver(self.engine, self.metrics, self.config.time_scale)
        self.adapters = {name: f"/adapters/{name}" for name in self.config.adapters}
        self._healthy = True
        self._orders: dict[str, _Order] = {}
        self._recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)
        self._sequence_count = 0
        self._underway: set[Answer] = set()

    @property
    def url(self) -> str:
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self.port}"

    # Life

    async def start(self) -> None:
        """Listen; afterwards ``port`` is the real one. OSError if it is taken."""
        runner = web.AppRunner(
            self._app(),
            access_log=None,
            handler_cancellation=True,  # a client that hangs up ends its request
            shutdown_timeout=0.1,  # requests were waited for in stop() already
        )
        await runner.setup()
        site = web.TCPSite(
            runner, self.config.host, self.config.port, backlog=1024, reuse_port=False
        )
        try:
            await site.start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner, self._site = runner, site
        self.port = runner.addresses[0][1]
        log.info("pod serves", pod=self.config.name, url=self.url, model=self.config.model)

    async def stop(self) -> None:
        """Accept nothing more, let requests finish for ``grace_seconds``, then cut them."""
        self._draining = True
        if self._runner is None or self._site is None:
            return
        await self._site.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.grace_seconds):
                await self._idle.wait()
        await self._runner.cleanup()
        self._runner = None
        self.driver.close()

    async def __aenter__(self) -> Pod:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    # HTTP

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=_MAX_BODY)
        app.add_routes(
            [
                web.post("/v1/completions", self._completions),
                web.post("/v1/chat/completions", self._chat),
                web.get("/v1/models", self._models),
                web.post("/v1/load_lora_adapter", self._load_adapter),
                web.post("/v1/unload_lora_adapter", self._unload_adapter),
                web.get("/health", self._health),
                web.get("/ping", self._health),
                web.post("/ping", self._health),
                web.get("/version", self._version),
                web.get("/metrics", self._metrics),
                web.post("/reset_prefix_cache", self._reset_prefix_cache),
                web.post("/admin/fail", self._admin_fail),
                web.post("/admin/health", self._admin_health),
                web.post("/admin/reset", self._admin_reset),
                web.get("/admin/state", self._admin_state),
                web.get("/admin/requests", self._admin_requests),
                web.route("*", "/{path:.*}", self._not_found),
            ]
        )
        app.on_response_prepare.append(self._sign)
        return app

    async def _sign(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers[POD_HEADER] = self.config.name

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._infer(request, read_completion, "cmpl")

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._infer(request, read_chat, "chatcmpl")

    async def _infer(
        self, request: web.Request, read: Callable[[bytes, PodConfig], Job], prefix: str
    ) -> web.StreamResponse:
        self._handling += 1
        self._idle.clear()
        try:
            body = await request.read()
            failure = self._failure(request, "inference")
            await self._fail_first(request, failure)
            job = read(body, self.config)
            if job.model != self.config.model and job.model not in self.adapters:
                message = f"The model `{job.model}` does not exist."
                raise ApiError(404, message, "NotFoundError", "model")
            answer_id = f"{prefix}-{request.headers.get('x-request-id') or uuid.uuid4().hex}"
            return await self._answer(request, job, answer_id, failure)
        except ApiError as error:
            return web.Response(status=error.status, body=error.body, content_type=_JSON)
        finally:
            self._handling -= 1
            if not self._handling:
                self._idle.set()

    async def _answer(
        self, request: web.Request, job: Job, answer_id: str, failure: Failure
    ) -> web.StreamResponse:
        under_way = Answer(job)
        created = int(time.time())
        sequences: list[str] = []
        driver = self.driver
        self._underway.add(under_way)
        try:
            if not job.stream:
                self._submit(job, [PlainChoice(under_way, c) for c in job.choices], sequences)
                await under_way.done
                cached = under_way.timeline.cached_tokens
                body = answer(job, answer_id, created, cached)
                if failure.reset_after is not None:
                    return await self._answer_half(request, body)
                return web.Response(body=body, content_type=_JSON)
            response = web.StreamResponse(
                headers={"content-type": "text/event-stream; charset=utf-8"}
            )
            await response.prepare(request)
            stream = EventStream(request, failure.reset_after)
            writer = ChunkWriter(job, answer_id, created)
            choices = [StreamedChoice(under_way, c, stream, writer) for c in job.choices]
            self._submit(job, choices, sequences)
            await under_way.done
            end_stream(under_way, stream, writer)
            await response.write_eof()
            return response
        finally:
            self._underway.discard(under_way)
            for sequence in sequences:
                driver.abort(sequence)
            self._note(under_way, answer_id)

    def _submit(
        self,
        job: Job,
        listeners: Sequence[PlainChoice | StreamedChoice],
        sequences: list[str],
    ) -> None:
        adapter = None if job.model == self.config.model else job.model
        size = self.config.engine.block_size
        for choice, listener in zip(job.choices, listeners, strict=True):
            self._sequence_count += 1
            tokens = [*choice.prompt, *choice.output]
            request = Request(
                id=str(self._sequence_count),
                prompt_tokens=len(choice.prompt),
                output_tokens=len(choice.output),
                blocks=block_hashes(tokens, size, (adapter, job.cache_salt)),
                adapter=adapter,
            )
            self.driver.submit(request, listener, streaming=job.stream)
            sequences.append(request.id)

    def _note(self, under_way: Answer, answer_id: str) -> None:
        timeline = under_way.timeline
        job = under_way.job
        finished = under_way.done.done() and not under_way.done.cancelled()

        def milliseconds(end: float | None) -> float | None:
            if end is None or timeline.arrived is None:
                return None
            return round((end - timeline.arrived) / self.config.time_scale * 1000, 3)

        self._recent.append(
            {
                "id": answer_id,
                "model": job.model,
                "stream": job.stream,
                "prompt_tokens": sum(len(c.prompt) for c in job.choices if c.counts_prompt),
                "cached_tokens": timeline.cached_tokens,
                "output_tokens": sum(len(c.output) for c in job.choices),
                "outcome": "finished" if finished else "aborted",
                "ttft_ms": milliseconds(timeline.first_token),
                "e2e_ms": milliseconds(timeline.finished),
            }
        )

    # Failures

    def _failure(self, request: web.Request, on: str) -> Failure:
        if (header := request.headers.get(HEADER)) is not None:
            try:
                return parse_failure(header)
            except ValueError as error:
                raise ApiError(400, f"{HEADER}: {error}", param=HEADER) from None
        order = self._orders.get(on)
        if order is None or self._random.random() >= order.rate:
            return Failure()
        if order.left is not None:
            order.left -= 1
            if not order.left:
                del self._orders[on]
        return order.failure

    async def _fail_first(self, request: web.Request, failure: Failure) -> None:
        """What goes wrong before the answer."""
        if failure.delay:
            await asyncio.sleep(failure.delay)
        if failure.hang:
            await asyncio.get_running_loop().create_future()  # until the client gives up
        if failure.reset:
            reset(request)
            raise ConnectionResetError
        if failure.status is not None:
            message = "Failure on order of the client or an admin call."
            raise ApiError(failure.status, message, "SimulatedFailure")

    async def _answer_half(self, request: web.Request, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": _JSON})
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        reset(request)
        raise ConnectionResetError

    # The rest of vLLM's surface

    async def _models(self, request: web.Request) -> web.Response:
        body = models(self.config, tuple(self.adapters.items()), self._created)
        return web.Response(body=body, content_type=_JSON)

    async def _load_adapter(self, request: web.Request) -> web.Response:
        try:
            asked = await _read(request, _AdapterBody)
            name = asked.lora_name
            if not name or not asked.lora_path or "," in name:
                message = "Both 'lora_name' and 'lora_path' must be provided."
                raise ApiError(400, message, "InvalidUserInput")
            if name in self.adapters or name == self.config.model:
                message = f"The lora adapter '{name}' has already been loaded."
                raise ApiError(400, message, "InvalidUserInput")
        except ApiError as error:
            return web.Response(status=error.status, body=error.body, content_type=_JSON)
        self.adapters[name] = asked.lora_path
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload_adapter(self, request: web.Request) -> web.Response:
        try:
            name = (await _read(request, _AdapterBody)).lora_name
            if not name:
                raise ApiError(400, "'lora_name' must be provided.", "InvalidUserInput")
            if name not in self.adapters:
                message = f"The lora adapter '{name}' cannot be found."
                raise ApiError(404, message, "NotFoundError")
        except ApiError as error:
            return web.Response(status=error.status, body=error.body, content_type=_JSON)
        del self.adapters[name]
        self.engine.adapters.evict(name)
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _health(self, request: web.Request) -> web.Response:
        if (failed := await self._fail_aside(request, "health")) is not None:
            return failed
        return web.Response(status=200 if self._healthy and not self._draining else 503)

    async def _version(self, request: web.Request) -> web.Response:
        return _json({"version": VERSION})

    async def _metrics(self, request: web.Request) -> web.Response:
        if (failed := await self._fail_aside(request, "metrics")) is not None:
            return failed
        self.driver.settle()
        text = self.metrics.render(self.engine, time.time())
        return web.Response(body=text.encode(), headers={"content-type": CONTENT_TYPE})

    async def _fail_aside(self, request: web.Request, on: str) -> web.Response | None:
        if not self._orders and HEADER not in request.headers:
            return None
        try:
            await self._fail_first(request, self._failure(request, on))
        except ApiError as error:
            return web.Response(status=error.status, body=error.body, content_type=_JSON)
        return None

    async def _reset_prefix_cache(self, request: web.Request) -> web.Response:
        self.driver.settle()
        self.engine.kv.forget()
        return web.Response()

    async def _not_found(self, request: web.Request) -> web.Response:
        return _json({"detail": "Not Found"}, status=404)

    # For tests and demos

    async def _admin_fail(self, request: web.Request) -> web.Response:
        try:
            asked = await _read(request, _OrderBody)
            if asked.on not in _FAILABLE:
                raise ApiError(400, f"on must be one of {', '.join(_FAILABLE)}", param="on")
            if not 0 < asked.rate <= 1 or (asked.count is not None and asked.count < 1):
                raise ApiError(400, "rate must be above 0 and at most 1, count at least 1")
            if asked.fail is None:
                self._orders.pop(asked.on, None)
            else:
                failure = parse_failure(asked.fail)
                self._orders[asked.on] = _Order(failure, asked.fail, asked.rate, asked.count)
        except ValueError as error:
            refused = ApiError(400, str(error), param="fail")
            return web.Response(status=400, body=refused.body, content_type=_JSON)
        except ApiError as error:
            return web.Response(status=error.status, body=error.body, content_type=_JSON)
        return _json(self._state())

    async def _admin_health(self, request: web.Request) -> web.Response:
        try:
            self._healthy = (await _read(request, _HealthBody)).healthy
        except ApiError as error:
            return web.Response(status=error.status, body=error.body, content_type=_JSON)
        return _json(self._state())

    async def _admin_reset(self, request: web.Request) -> web.Response:
        """As a container that was restarted, but without closing the port."""
        for under_way in list(self._underway):
            under_way.done.cancel()
        self.driver.close()
        self._as_new()
        return _json(self._state())

    async def _admin_state(self, request: web.Request) -> web.Response:
        self.driver.settle()
        return _json(self._state())

    async def _admin_requests(self, request: web.Request) -> web.Response:
        return _json(list(self._recent))

    def _state(self) -> dict[str, Any]:
        engine = self.engine
        return {
            "pod": self.config.name,
            "model": self.config.model,
            "healthy": self._healthy and not self._draining,
            "running": engine.running,
            "waiting": engine.waiting,
            "kv_blocks": {
                "total": engine.kv.capacity,
                "used": engine.kv.used,
                "cached": engine.kv.cached,
            },
            "prefix_tokens": {"queried": engine.prefix_queries, "hit": engine.prefix_hits},
            "preemptions": engine.preemptions,
            "adapters": {
                "slots": engine.adapters.slots,
                "resident": sorted(engine.adapters.resident),
                "running": sorted(engine.adapters.active),
                "waiting": sorted(engine.waiting_adapters),
                "loads": engine.adapters.loads,
            },
            "failures": {
                on: {"fail": order.text, "rate": order.rate, "left": order.left}
                for on, order in self._orders.items()
            },
        }


async def _read(request: web.Request, kind: type[_S]) -> _S:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise ApiError(400, f"Invalid request body: {error}") from None


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type=_JSON)


@contextlib.asynccontextmanager
async def pods(configs: Sequence[PodConfig]) -> AsyncIterator[list[Pod]]:
    """Several pods in this process, listening while the block runs."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Pod(config)) for config in configs]


async def serve_many(
    configs: Sequence[PodConfig], *, ready: Callable[[Sequence[Pod]], None] | None = None
) -> None:
    """Serve pods until SIGTERM or SIGINT, or until cancelled; ``ready`` is told their ports."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stopped.set)
    try:
        started = [Pod(config) for config in configs]
        try:
            for pod in started:
                await pod.start()
            if ready is not None:
                ready(started)
            await stopped.wait()
        finally:
            await asyncio.gather(*(pod.stop() for pod in started))
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def serve(config: PodConfig, *, ready: Callable[[Pod], None] | None = None) -> None:
    """:func:`serve_many` for one pod."""
    await serve_many([config], ready=None if ready is None else lambda pods: ready(pods[0]))
