"""One simulated vLLM pod: an HTTP server over one engine."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web

from pools.addresses import host_port
from sim import openai
from sim.admin import Admin
from sim.answers import Answer, EventStream, PlainChoice, StreamedChoice, cut, end_stream
from sim.config import PodConfig
from sim.driver import Driver
from sim.engine import Engine
from sim.events import Request
from sim.failures import HEADER, Failure, Orders, parse_failure
from sim.metrics import CONTENT_TYPE, Metrics
from sim.openai import ApiError, ChunkWriter, Job
from sim.replies import JSON, json_reply, read_json, refusing
from sim.tokens import block_hashes

POD_HEADER = "x-sim-pod"
VERSION = "0.11.0"  # the vLLM release whose surface this follows
_MAX_BODY = 256 * 1024 * 1024
_RECENT = 200


class _AdapterBody(msgspec.Struct):
    lora_name: str = ""
    lora_path: str = ""


class Pod:
    """``async with Pod(config) as pod`` serves until the block ends."""

    engine: Engine
    orders: Orders
    recent: deque[dict[str, Any]]  # the last requests, oldest first
    healthy: bool

    def __init__(self, config: PodConfig) -> None:
        self.config = config
        self.port = config.port
        self._created = int(time.time())
        self._draining = False
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._under_way: set[Answer] = set()
        self._handling = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._begin()

    def _begin(self) -> None:
        config = self.config
        self.engine = Engine(config.engine)
        self._metrics = Metrics(config)
        self._driver = Driver(self.engine, self._metrics, config.time_scale)
        self._adapters = {name: f"/adapters/{name}" for name in config.adapters}
        self._sequences = 0
        self.healthy = True
        self.orders = Orders(config.seed)
        self.recent = deque(maxlen=_RECENT)

    @property
    def url(self) -> str:
        return f"http://{host_port(self.config.host, self.port)}"

    async def start(self) -> None:
        """Listen; afterwards ``port`` is the real one. OSError if it is taken."""
        runner = web.AppRunner(
            self._app(),
            access_log=None,
            handler_cancellation=True,  # a client that hangs up ends its request
            shutdown_timeout=0.1,  # stop() has waited already
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

    async def stop(self) -> None:
        """Accept no connection any more, let requests finish for ``grace_seconds``, cut the rest.
        Connections that are open get one more answer each."""
        self._draining = True
        if self._runner is None or self._site is None:
            return
        await self._site.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.grace_seconds):
                await self._idle.wait()
        await self._runner.cleanup()
        self._runner = None
        self._driver.close()

    async def __aenter__(self) -> Pod:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    def reset(self) -> None:
        """Be as a container that was restarted, but keep the port: requests are cut, nothing is
        cached, counters are zero, failures are forgotten."""
        for answer in list(self._under_way):
            answer.cancel()
        self._driver.close()
        self._begin()

    def state(self) -> dict[str, Any]:
        """What the pod does right now, as JSON values."""
        self._driver.settle()
        engine = self.engine
        kv, adapters = engine.kv, engine.adapters
        return {
            "pod": self.config.name,
            "model": self.config.model,
            "healthy": self.healthy and not self._draining,
            "running": engine.running,
            "waiting": engine.waiting,
            "kv_blocks": {"total": kv.capacity, "used": kv.used, "cached": kv.cached},
            "prefix_tokens": {"queried": engine.prefix_queries, "hit": engine.prefix_hits},
            "preemptions": engine.preemptions,
            "adapters": {
                "slots": adapters.slots,
                "resident": sorted(adapters.resident),
                "running": sorted(adapters.active),
                "waiting": sorted(engine.waiting_adapters),
                "loads": adapters.loads,
            },
            "failures": self.orders.describe(),
        }

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
                web.get("/metrics", self._expose),
                web.post("/reset_prefix_cache", self._reset_prefix_cache),
                *Admin(self).routes(),
                web.route("*", "/{path:.*}", self._not_found),
            ]
        )
        app.on_response_prepare.append(self._sign)
        return app

    async def _sign(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers[POD_HEADER] = self.config.name
        if self._draining:
            response.headers["connection"] = "close"
            response.force_close()

    # Inference

    @refusing
    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._infer(request, openai.read_completion, "cmpl")

    @refusing
    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._infer(request, openai.read_chat, "chatcmpl")

    async def _infer(
        self, request: web.Request, read: Callable[[bytes, PodConfig], Job], prefix: str
    ) -> web.StreamResponse:
        self._handling += 1
        self._idle.clear()
        try:
            body = await request.read()
            failure = self._fate(request, "inference")
            await self._suffer(request, failure)
            job = read(body, self.config)
            if job.model != self.config.model and job.model not in self._adapters:
                message = f"The model `{job.model}` does not exist."
                raise ApiError(404, message, "NotFoundError", "model")
            answer_id = f"{prefix}-{request.headers.get('x-request-id') or uuid.uuid4().hex}"
            return await self._answer(request, Answer(job, answer_id), failure)
        except ConnectionError:  # the client left while something was written
            await cut(request)
        finally:
            self._handling -= 1
            if not self._handling:
                self._idle.set()

    async def _answer(
        self, request: web.Request, answer: Answer, failure: Failure
    ) -> web.StreamResponse:
        job, driver = answer.job, self._driver
        sequences: list[str] = []
        self._under_way.add(answer)
        try:
            if not job.stream:
                self._submit(job, [PlainChoice(answer, c) for c in job.choices], sequences)
                await answer.done()
                body = answer.body()
                if failure.reset_after is not None:
                    await self._send_half(request, body)
                return web.Response(body=body, content_type=JSON)
            response = web.StreamResponse(
                headers={"content-type": "text/event-stream; charset=utf-8"}
            )
            await response.prepare(request)
            stream = EventStream(request, failure.reset_after)
            writer = ChunkWriter(job, answer.id, answer.created)
            interval = self.config.stream_interval
            choices = [StreamedChoice(answer, c, stream, writer, interval) for c in job.choices]
            self._submit(job, choices, sequences)
            await answer.done()
            end_stream(answer, stream, writer)
            await response.write_eof()
            return response
        finally:
            self._under_way.discard(answer)
            for sequence in sequences:
                driver.abort(sequence)
            self.recent.append(answer.note(self.config.time_scale))

    def _submit(
        self, job: Job, listeners: Sequence[PlainChoice | StreamedChoice], sequences: list[str]
    ) -> None:
        adapter = None if job.model == self.config.model else job.model
        size = self.config.engine.block_size
        for choice, listener in zip(job.choices, listeners, strict=True):
            self._sequences += 1
            tokens = [*choice.prompt, *choice.output]
            request = Request(
                id=str(self._sequences),
                prompt_tokens=len(choice.prompt),
                output_tokens=len(choice.output),
                blocks=block_hashes(tokens, size, (adapter, job.cache_salt)),
                adapter=adapter,
            )
            self._driver.submit(request, listener, streaming=job.stream)
            sequences.append(request.id)

    # Failures

    def _fate(self, request: web.Request, kind: str) -> Failure:
        if (header := request.headers.get(HEADER)) is None:
            return self.orders.take(kind)
        try:
            return parse_failure(header)
        except ValueError as error:
            raise ApiError(400, f"{HEADER}: {error}", param=HEADER) from None

    async def _suffer(self, request: web.Request, failure: Failure) -> None:
        """What goes wrong before the answer."""
        if failure.delay:
            await asyncio.sleep(failure.delay)
        if failure.reset:
            await cut(request)
        if failure.hang:
            await asyncio.get_running_loop().create_future()  # until the client gives up
        if failure.status is not None:
            message = "A failure that the client or an admin call has ordered."
            raise ApiError(failure.status, message, "SimulatedFailure")

    async def _send_half(self, request: web.Request, body: bytes) -> None:
        response = web.StreamResponse(headers={"content-type": JSON})
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        await cut(request)

    # The rest of vLLM's surface

    async def _models(self, request: web.Request) -> web.Response:
        body = openai.models(self.config, tuple(self._adapters.items()), self._created)
        return web.Response(body=body, content_type=JSON)

    @refusing
    async def _load_adapter(self, request: web.Request) -> web.Response:
        asked = await read_json(request, _AdapterBody)
        name = asked.lora_name
        if not name or not asked.lora_path:
            message = "Both 'lora_name' and 'lora_path' must be provided."
            raise ApiError(400, message, "InvalidUserInput")
        if "," in name:
            message = f"The name '{name}' holds a comma, which metrics use between names."
            raise ApiError(400, message, "InvalidUserInput")
        if name in self._adapters or name == self.config.model:
            message = f"The lora adapter '{name}' has already been loaded."
            raise ApiError(400, message, "InvalidUserInput")
        self._adapters[name] = asked.lora_path
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    @refusing
    async def _unload_adapter(self, request: web.Request) -> web.Response:
        name = (await read_json(request, _AdapterBody)).lora_name
        if not name:
            raise ApiError(400, "'lora_name' must be provided.", "InvalidUserInput")
        if self._adapters.pop(name, None) is None:
            raise ApiError(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
        self.engine.adapters.evict(name)
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    @refusing
    async def _health(self, request: web.Request) -> web.Response:
        await self._suffer(request, self._fate(request, "health"))
        return web.Response(status=200 if self.healthy and not self._draining else 503)

    async def _version(self, request: web.Request) -> web.Response:
        return json_reply({"version": VERSION})

    @refusing
    async def _expose(self, request: web.Request) -> web.Response:
        await self._suffer(request, self._fate(request, "metrics"))
        self._driver.settle()
        text = self._metrics.render(self.engine, time.time())
        return web.Response(body=text.encode(), headers={"content-type": CONTENT_TYPE})

    async def _reset_prefix_cache(self, request: web.Request) -> web.Response:
        self._driver.settle()
        self.engine.kv.forget()
        return web.Response()

    async def _not_found(self, request: web.Request) -> web.Response:
        return json_reply({"detail": "Not Found"}, status=404)
