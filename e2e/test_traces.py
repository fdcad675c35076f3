"""One trace from the client through Envoy and the picker to the pod, as a collector gets it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from e2e.harness import eventually
from e2e.live import Script, envoy
from e2e.static_envoy import Pod
from extproc.config.settings import PickerConfig
from extproc.service.server import EndpointPickerServer
from pools.model import Endpoint, InferencePool, ObjectName, World
from xds.bootstrap import BootstrapSettings, bootstrap
from xds.config import XdsServerConfig
from xds.control_plane import ControlPlane
from xds.http import HttpConfig
from xds.translate import ExtProcSettings, SocketAddress, TranslateSettings, parse_target

POOL = ObjectName("default", "llama")
TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Span]] = {}
        """By service."""
        self.port = 0

    async def start(self, stack: AsyncExitStack) -> None:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]

    async def _take(self, request: web.Request) -> web.Response:
        exported = ExportTraceServiceRequest.FromString(await request.read())
        for resource in exported.resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans.setdefault(names["service.name"], []).extend(scope.spans)
        return web.Response()

    def of_trace(self, service: str) -> list[Span]:
        return [s for s in self.spans.get(service, ()) if s.trace_id.hex() == TRACE]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[tuple[str, Collector, Pod]]:
    async with AsyncExitStack() as stack:
        collector = Collector()
        await collector.start(stack)
        pod = await stack.enter_async_context(Pod().running())
        host, _, port = pod.address.rpartition(":")
        world = World(
            pools={POOL: InferencePool(POOL, (8000,))},
            endpoints={POOL: (Endpoint(host, int(port), "pod"),)},
        )
        for_picker, for_envoy = Script(), Script()
        for source in (for_picker, for_envoy):
            source.say(world)
        server = EndpointPickerServer(
            for_picker,
            PickerConfig(
                address="127.0.0.1:0",
                health_address=None,
                http_address=None,
                trace_collector=f"http://127.0.0.1:{collector.port}",
            ),
        )
        await server.start()
        stack.push_async_callback(server.stop, 0)
        control = ControlPlane(
            for_envoy,
            TranslateSettings(
                listen_address="127.0.0.1",
                listen_port=0,
                ext_proc=ExtProcSettings((parse_target(server.address),)),
                trace_collector=SocketAddress("127.0.0.1", collector.port),
                trace_share=0.0,
            ),
            XdsServerConfig(port=0),
            HttpConfig(port=0),
        )
        await control.start()
        stack.push_async_callback(control.stop, 0)
        settings = BootstrapSettings(xds=(SocketAddress("127.0.0.1", control.port),))
        proxy = await stack.enter_async_context(envoy(bootstrap(settings), tmp_path))
        await eventually(proxy.listening, "a listener is active")

        async def picker_is_healthy() -> bool:
            return await proxy.stat("cluster.ext-proc.membership_healthy") == 1

        await eventually(picker_is_healthy, "Envoy finds the picker healthy")
        assert await proxy.stat("listener_manager.lds.update_rejected") == 0
        yield await proxy.url(), collector, pod


async def test_a_clients_trace_goes_through_envoy_the_picker_and_the_pod(
    gateway: tuple[str, Collector, Pod],
) -> None:
    url, collector, pod = gateway
    body = json.dumps({"model": "llama-3", "prompt": "Hi"})
    traced = {"traceparent": f"00-{TRACE}-{CLIENT}-01"}
    async with aiohttp.ClientSession() as http:
        for headers in ({}, traced):
            async with http.post(f"{url}/v1/completions", data=body, headers=headers) as response:
                assert response.status == 200
    await eventually(
        lambda: bool(collector.of_trace("poolpilot-extproc")) and bool(collector.of_trace("envoy")),
        "both send their spans",
    )
    (pick,) = collector.of_trace("poolpilot-extproc")
    by_id = {span.span_id.hex(): span for span in collector.of_trace("envoy")}
    path = [pick.parent_span_id.hex()]
    while path[-1] in by_id:
        path.append(by_id[path[-1]].parent_span_id.hex())
    assert path[-1] == CLIENT, "the pick is below Envoy's span, and that below the client's"
    assert len(path) >= 2
    attributes = {a.key: a.value for a in pick.attributes}
    assert attributes["poolpilot.pool"].string_value == "default/llama"
    assert attributes["gen_ai.request.model"].string_value == "llama-3"
    assert attributes["server.port"].int_value == int(pod.address.rpartition(":")[2])
    # The pod's own spans hang below Envoy's too.
    seen = [r for r in pod.requests if r.path == "/v1/completions"]
    assert seen[1].headers["traceparent"].split("-")[1] == TRACE
    assert seen[1].headers["traceparent"].split("-")[2] in by_id
    assert len(collector.spans["poolpilot-extproc"]) == 1, "a share of 0 begins no trace"
