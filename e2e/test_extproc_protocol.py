"""The endpoint picker protocol through a real Envoy, for every body mode.

The picker is scripted, so each test says what is picked and sees what Envoy makes of it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from e2e.static_envoy import (
    MODES,
    POOL,
    Envoy,
    Pod,
    ScriptedPicker,
    Seen,
    configuration,
    dead_endpoint,
    eventually,
    running_envoy,
)
from extproc.exchange import ExchangeSettings
from extproc.reasons import Reason
from extproc.request import Api, InferenceRequest, Refused
from extproc.service.access_log import AccessLog
from extproc.service.ext_proc import ExternalProcessor
from extproc.service.grpc_health import Health
from extproc.transport.grpcio import serve_grpcio
from extproc.transport.native import serve_native
from pools.model import ObjectName

pytestmark = pytest.mark.asyncio(loop_scope="module")

WHOLE_BODY = ("BUFFERED", "FULL_DUPLEX_STREAMED")
LIMIT = 8 << 20
PICK_TIMEOUT = 0.5


@dataclass
class Gateway:
    """Envoy with two pods and a dead endpoint behind it, and our server beside it."""

    envoy: Envoy
    picker: ScriptedPicker
    pods: list[Pod]
    dead: str
    http: aiohttp.ClientSession
    processor: ExternalProcessor

    async def post(
        self,
        mode: str,
        body: Any,
        *,
        path: str = "v1/completions",
        listener: str = "plain",
        **more: Any,
    ) -> tuple[int, bytes, dict[str, str]]:
        url = f"{self.envoy.listeners[listener]}/{mode.lower()}/{path}"
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        async with self.http.post(url, data=data, **more) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return response.status, await response.read(), headers

    def received(self) -> Seen:
        """The one request that a pod got."""
        (seen,) = [request for pod in self.pods for request in pod.requests]
        return seen


TRANSPORTS = {"native": serve_native, "grpcio": serve_grpcio}


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=TRANSPORTS)
async def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as stack:
        pods = [await stack.enter_async_context(Pod().running()) for _ in range(2)]
        dead = stack.enter_context(dead_endpoint())
        picker = ScriptedPicker()
        settings = ExchangeSettings(
            body_limit=LIMIT, pick_timeout=PICK_TIMEOUT, upload_timeout=1.0, restore_model=True
        )
        processor = ExternalProcessor(picker, settings)
        health = Health()
        services = {
            **processor.services(),
            **AccessLog(picker).services(),
            **health.services(),
        }
        server = await TRANSPORTS[request.param](services, "127.0.0.1:0")
        stack.push_async_callback(server.stop, 0)
        folder: Path = tmp_path_factory.mktemp("envoy")
        addresses = [dead, *(pod.address for pod in pods)]
        envoy = await stack.enter_async_context(
            running_envoy(configuration(addresses, server.address), folder)
        )
        connector = aiohttp.TCPConnector(force_close=True)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=20),
                skip_auto_headers=["Accept"],
            )
        )
        yield Gateway(envoy, picker, pods, dead, http, processor)


@pytest.fixture
def gateway(stack: Gateway) -> Gateway:
    """As new: nothing asked, nothing received, everything routed to the second pod."""
    stack.picker.forget()
    stack.picker.route_to(stack.pods[1].address)
    for pod in stack.pods:
        pod.requests.clear()
        pod.status = 200
        pod.reply = None
    return stack


COMPLETION = {"model": "tweet-summary", "prompt": "Say hi", "max_tokens": 5}


@pytest.mark.parametrize("mode", MODES)
async def test_the_pick_is_obeyed_in_every_body_mode(gateway: Gateway, mode: str) -> None:
    for pod in (*gateway.pods, *gateway.pods):
        gateway.picker.route_to(pod.address)
        status, text, _ = await gateway.post(mode, COMPLETION)
        assert (status, text.decode()) == (200, f"from {pod.address}")
    bodies = [seen.body for pod in gateway.pods for seen in pod.requests]
    assert bodies == [json.dumps(COMPLETION).encode()] * 4


@pytest.mark.parametrize("mode", [*WHOLE_BODY, "BUFFERED_PARTIAL"])
async def test_the_model_in_the_body_is_read_before_the_pick(gateway: Gateway, mode: str) -> None:
    await gateway.post(mode, COMPLETION)
    (asked,) = gateway.picker.asked
    assert (asked.model, asked.api, asked.max_tokens) == ("tweet-summary", Api.COMPLETIONS, 5)
    assert asked.pool == POOL


@pytest.mark.parametrize("mode", MODES)
async def test_a_four_megabyte_body_arrives_whole(gateway: Gateway, mode: str) -> None:
    body = json.dumps({"model": "m", "prompt": "word " * 800_000}).encode()
    status, _, _ = await gateway.post(mode, body)
    assert status == 200
    assert gateway.received().body == body


@pytest.mark.parametrize("mode", MODES)
async def test_a_request_without_a_body_is_answered_at_its_headers(
    gateway: Gateway, mode: str
) -> None:
    url = f"{gateway.envoy.listeners['plain']}/{mode.lower()}/v1/models"
    async with gateway.http.get(url) as response:
        assert await response.text() == f"from {gateway.pods[1].address}"
    assert gateway.picker.asked[0].api is Api.OTHER


@pytest.mark.parametrize("mode", MODES)
async def test_an_unknown_api_passes_through(gateway: Gateway, mode: str) -> None:
    status, _, _ = await gateway.post(mode, b"\x00\x01 not JSON", path="v1/audio/transcriptions")
    assert status == 200
    assert gateway.received().body == b"\x00\x01 not JSON"


@pytest.mark.parametrize("mode", MODES)
async def test_a_dead_first_endpoint_is_followed_by_the_next_in_the_list(
    gateway: Gateway, mode: str
) -> None:
    gateway.picker.route_to(gateway.dead, gateway.pods[0].address)
    for _ in range(5):
        status, text, _ = await gateway.post(mode, COMPLETION)
        assert (status, text.decode()) == (200, f"from {gateway.pods[0].address}")


@pytest.mark.parametrize("mode", MODES)
async def test_a_destination_header_of_the_client_has_no_effect(
    gateway: Gateway, mode: str
) -> None:
    forged = {"x-gateway-destination-endpoint": gateway.pods[0].address}
    _, text, _ = await gateway.post(mode, COMPLETION, headers=forged)
    assert text.decode() == f"from {gateway.pods[1].address}"
    told = gateway.received().headers["x-gateway-destination-endpoint"]
    assert told == gateway.pods[1].address


@pytest.mark.parametrize("listener", ["plain", "length"])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("mode", [*WHOLE_BODY, "BUFFERED_PARTIAL"])
async def test_a_rewrite_changes_the_model_and_nothing_else(
    gateway: Gateway, mode: str, chunked: bool, listener: str
) -> None:
    gateway.picker.route_to(gateway.pods[1].address, model="tweet-summary-2024-11-25")
    body = b'{ "seed": 1e2,"model":"tweet-summary", "prompt": "\\u0041"}'

    async def in_chunks() -> AsyncIterator[bytes]:
        yield body[:20]
        yield body[20:]

    for _ in range(3):  # a wrong length would break the next request on the pod's connection
        gateway.pods[1].requests.clear()
        data = in_chunks() if chunked else body
        status, _, _ = await gateway.post(mode, data, listener=listener)
        assert status == 200
        seen = gateway.received()
        assert seen.body == body.replace(b"tweet-summary", b"tweet-summary-2024-11-25")
        if "content-length" in seen.headers:
            assert int(seen.headers["content-length"]) == len(seen.body)
        else:
            assert seen.headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize("rewrite", [False, True])
@pytest.mark.parametrize("route", ["none", "streamed", "buffered", "buffered_partial", "no-retry"])
async def test_a_request_may_end_with_trailers(gateway: Gateway, route: str, rewrite: bool) -> None:
    """In full duplex only without retries: with them Envoy 1.40 sends such a body twice
    (envoyproxy/envoy#46095), whatever we answer."""
    sent = json.dumps(COMPLETION).encode()
    wanted = sent
    if rewrite and route in ("buffered", "no-retry"):
        gateway.picker.route_to(gateway.pods[1].address, model="target")
        wanted = sent.replace(b"tweet-summary", b"target")
    host, _, port = gateway.envoy.listeners["plain"].removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /%b/v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        b"transfer-encoding: chunked\r\ntrailer: x-check\r\n\r\n"
        b"%x\r\n%b\r\n0\r\nx-check: 1\r\n\r\n" % (route.encode(), len(sent), sent)
    )
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert gateway.received().body == wanted


async def test_full_duplex_keeps_the_length_where_envoy_allows_it(gateway: Gateway) -> None:
    await gateway.post("FULL_DUPLEX_STREAMED", COMPLETION, listener="length")
    assert gateway.received().headers["content-length"] == str(len(json.dumps(COMPLETION)))


@pytest.mark.parametrize("listener", ["plain", "length"])
async def test_the_beginning_of_a_large_body_is_enough_for_a_rewrite(
    gateway: Gateway, listener: str
) -> None:
    gateway.picker.route_to(gateway.pods[1].address, model="target")
    body = {"model": "asked", "prompt": "word " * 800_000}
    status, _, _ = await gateway.post("BUFFERED_PARTIAL", body, listener=listener)
    assert (status, gateway.picker.asked[0].model) == (200, "asked")
    assert json.loads(gateway.received().body) == {**body, "model": "target"}


@pytest.mark.parametrize("listener", ["plain", "length"])
async def test_a_streamed_body_is_rewritten_when_a_header_tells_its_model(
    gateway: Gateway, listener: str
) -> None:
    gateway.picker.route_to(gateway.pods[1].address, model="target")
    body = {"prompt": "word " * 60_000, "model": "asked"}
    told = {"x-gateway-model-name": "asked"}
    status, _, _ = await gateway.post("STREAMED", body, headers=told, listener=listener)
    assert status == 200
    assert json.loads(gateway.received().body) == {**body, "model": "target"}


@pytest.mark.parametrize("size", [0, 1_000, 60_000])
async def test_a_body_sent_ahead_of_the_answer_tells_its_model(gateway: Gateway, size: int) -> None:
    gateway.picker.route_to(gateway.pods[1].address, model="target")
    body = {"model": "asked", "prompt": "word " * size}
    status, _, _ = await gateway.post("STREAMED", body, listener="early")
    assert (status, gateway.picker.asked[0].model) == (200, "asked")
    assert json.loads(gateway.received().body) == {**body, "model": "target"}


async def test_a_model_beyond_the_first_bytes_does_not_hold_up_a_streamed_body(
    gateway: Gateway,
) -> None:
    body = {"prompt": "word " * 200_000, "model": "asked"}
    status, _, _ = await gateway.post("STREAMED", body, listener="early")
    assert (status, gateway.picker.asked[0].model) == (200, "")
    assert json.loads(gateway.received().body) == body


async def test_a_rewrite_of_a_body_that_envoy_keeps_is_an_error(gateway: Gateway) -> None:
    gateway.picker.route_to(gateway.pods[1].address, model="target")
    headers = {"x-gateway-model-name": "asked"}
    status, text, told = await gateway.post("NONE", COMPLETION, headers=headers)
    assert (status, told["x-poolpilot-reason"]) == (500, "body-not-visible")
    assert "request_body_mode" in json.loads(text)["error"]["message"]


@pytest.mark.parametrize(
    ("listener", "mode"),
    [
        ("plain", "NONE"),
        ("plain", "STREAMED"),
        ("early", "STREAMED"),
        ("plain", "FULL_DUPLEX_STREAMED"),
        # Envoy holds a buffered body until it ends, unless we may tell it not to.
        ("override", "BUFFERED"),
        ("override", "BUFFERED_PARTIAL"),
    ],
)
async def test_a_websocket_upgrade_is_answered_at_once_and_talks(
    gateway: Gateway, listener: str, mode: str
) -> None:
    url = f"{gateway.envoy.listeners[listener]}/{mode.lower()}/realtime"
    async with gateway.http.ws_connect(url) as socket:
        for word in ("one", "two"):
            await socket.send_str(word)
            assert await socket.receive_str(timeout=5) == f"{gateway.pods[1].address} heard {word}"


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("refused", "retry_after", "kind"),
    [
        (
            Refused(Reason.NO_READY_ENDPOINTS, "No endpoint is ready."),
            None,
            "service_unavailable_error",
        ),
        (Refused(Reason.SHED, "Too busy.", retry_after=1.2), "2", "rate_limit_error"),
    ],
)
async def test_a_refusal_reaches_the_client_as_an_openai_error(
    gateway: Gateway, mode: str, refused: Refused, retry_after: str | None, kind: str
) -> None:
    gateway.picker.outcome = lambda _: refused
    status, text, headers = await gateway.post(mode, COMPLETION)
    assert status == refused.status
    assert headers["content-type"] == "application/json"
    assert headers["x-poolpilot-reason"] == refused.reason
    assert headers.get("retry-after") == retry_after
    assert json.loads(text) == {
        "error": {
            "message": refused.message,
            "type": kind,
            "param": None,
            "code": refused.reason,
        }
    }
    assert not any(pod.requests for pod in gateway.pods)


@pytest.mark.parametrize("mode", [*WHOLE_BODY, "BUFFERED_PARTIAL"])
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{not json", "invalid-json"),
        (b"", "invalid-json"),
        (b"[]", "invalid-json"),
        (b'{"prompt": "x"}', "missing-model"),
    ],
)
async def test_a_body_that_cannot_be_read_is_the_clients_error(
    gateway: Gateway, mode: str, body: bytes, reason: str
) -> None:
    status, text, headers = await gateway.post(mode, body)
    assert (status, headers["x-poolpilot-reason"]) == (400, reason)
    assert json.loads(text)["error"]["code"] == reason
    assert not gateway.picker.asked


async def _upload(size: int) -> AsyncIterator[bytes]:
    yield b'{"model": "m", "prompt": "'
    for _ in range(size // 65_536):
        yield b"x" * 65_536
    yield b'"}'


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("mode", WHOLE_BODY)
async def test_a_body_beyond_the_limit_is_answered_with_413(
    gateway: Gateway, mode: str, announced: bool
) -> None:
    data: Any = b'{"model": "m"}' + b" " * (LIMIT + 1) if announced else _upload(LIMIT + 65_536)
    status, _, headers = await gateway.post(mode, data)
    assert (status, headers["x-poolpilot-reason"]) == (413, "body-too-large")


async def test_in_full_duplex_a_client_is_refused_when_it_listens(gateway: Gateway) -> None:
    """A client that only writes while it sends must not find its connection reset."""
    gateway.picker.outcome = lambda _: Refused(Reason.SHED, "Too busy.")
    for _ in range(5):
        data = _upload(4 << 20)
        status, _, headers = await gateway.post("FULL_DUPLEX_STREAMED", data, path="v1/files")
        assert (status, headers["x-poolpilot-reason"]) == (429, "shed")


# -- time and hang-ups -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_a_picker_that_never_answers_is_bounded_by_our_deadline(
    gateway: Gateway, mode: str
) -> None:
    gateway.picker.outcome = lambda _: None
    status, _, headers = await gateway.post(mode, COMPLETION)
    assert (status, headers["x-poolpilot-reason"]) == (503, "pick-timeout")
    assert "retry-after" in headers
    assert gateway.picker.withdrawn == gateway.picker.asked


@pytest.mark.parametrize("mode", WHOLE_BODY)
async def test_an_upload_that_stalls_is_bounded_too(gateway: Gateway, mode: str) -> None:
    never = asyncio.Event()

    async def stalls() -> AsyncIterator[bytes]:
        yield b'{"model": '
        await never.wait()

    status, _, headers = await gateway.post(mode, stalls())
    assert (status, headers["x-poolpilot-reason"]) == (408, "upload-timeout")


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_that_hangs_up_while_it_waits_is_withdrawn(
    gateway: Gateway, mode: str
) -> None:
    gateway.picker.outcome = lambda _: None
    client = asyncio.create_task(gateway.post(mode, COMPLETION))
    await eventually(lambda: bool(gateway.picker.asked))
    client.cancel()
    await eventually(lambda: gateway.picker.withdrawn == gateway.picker.asked)
    await eventually(lambda: gateway.processor.open == 0)


async def test_a_route_with_a_malformed_pool_fails_and_the_next_request_does_not(
    gateway: Gateway,
) -> None:
    status, _, _ = await gateway.post("bad-pool", COMPLETION)
    assert status == 500
    assert not gateway.picker.asked
    status, _, _ = await gateway.post("NONE", COMPLETION)
    assert status == 200


# -- hints, metadata and the end ---------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_the_subset_hint_reaches_the_picker(gateway: Gateway, mode: str) -> None:
    only = gateway.pods[1].address
    for listener, subset in [
        ("plain", None),
        ("hint-list", (only,)),
        ("hint-text", (only.partition(":")[0],)),
        ("hint-none", ()),
    ]:
        gateway.picker.asked.clear()
        await gateway.post(mode, COMPLETION, listener=listener)
        assert gateway.picker.asked[0].subset == subset


async def test_the_access_log_tells_how_a_request_ended(gateway: Gateway) -> None:
    gateway.picker.route_to(gateway.dead, gateway.pods[0].address)
    await gateway.post("FULL_DUPLEX_STREAMED", COMPLETION)
    await eventually(lambda: bool(gateway.picker.completed))
    (end,) = gateway.picker.completed
    assert end.code == 200
    assert end.served == end.tried == gateway.pods[0].address
    assert end.attempts == 2
    assert not end.flags
    assert end.time_to_first_byte is not None
    assert 0 < end.time_to_first_byte <= end.duration < 5
    assert end.response_bytes == len(f"from {gateway.pods[0].address}")


async def test_the_access_log_names_an_endpoint_that_could_not_be_reached(
    gateway: Gateway,
) -> None:
    gateway.picker.route_to(*[gateway.dead] * 4)
    # The list has one distinct entry, so each retry goes elsewhere: take those away as well.
    status, _, _ = await gateway.post("NONE", COMPLETION)
    await eventually(lambda: bool(gateway.picker.completed))
    (end,) = gateway.picker.completed
    assert (end.code, end.attempts > 1) == (status, True)


async def test_a_client_that_hangs_up_during_the_response_is_logged(gateway: Gateway) -> None:
    started = asyncio.Event()

    class Slow(aiohttp.web.StreamResponse):
        async def prepare(self, request: Any) -> Any:
            writer = await super().prepare(request)
            await self.write(b"data: one\n\n")
            started.set()
            await asyncio.Event().wait()
            return writer

    gateway.pods[1].reply = lambda _: Slow()
    client = asyncio.create_task(gateway.post("FULL_DUPLEX_STREAMED", COMPLETION))
    await started.wait()
    client.cancel()
    await eventually(lambda: bool(gateway.picker.completed))
    (end,) = gateway.picker.completed
    assert end.served == gateway.pods[1].address
    assert end.flags & {"DC", "DR"}


@pytest.mark.parametrize("mode", ["NONE", "STREAMED", "BUFFERED", "FULL_DUPLEX_STREAMED"])
async def test_response_phases_settle_the_request_where_a_gateway_sends_them(
    gateway: Gateway, mode: str
) -> None:
    gateway.picker.route_to(gateway.dead, gateway.pods[0].address)
    status, text, _ = await gateway.post(f"response-{mode}", COMPLETION)
    assert (status, text.decode()) == (200, f"from {gateway.pods[0].address}")
    await eventually(lambda: bool(gateway.picker.completed))
    first = gateway.picker.completed[0]
    assert (first.code, first.served) == (200, gateway.pods[0].address)


USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 34,
    "prompt_tokens_details": {"cached_tokens": 8},
}


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("mode", ["STREAMED", "BUFFERED", "FULL_DUPLEX_STREAMED"])
async def test_response_phases_tell_the_tokens_that_a_request_took(
    gateway: Gateway, mode: str, streamed: bool
) -> None:
    # Several chunks of Envoy's, of which none ends where an event does.
    events = [{"choices": [{"delta": {"content": "word " * 9}}], "usage": None}] * 3001
    if streamed:
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        body = "".join([*lines, f"data: {json.dumps({'usage': USAGE})}\n\ndata: [DONE]\n\n"])
        kind = "text/event-stream"
    else:
        body, kind = json.dumps({"choices": ["word " * 50_000], "usage": USAGE}), "application/json"
    gateway.pods[0].reply = lambda _: aiohttp.web.Response(text=body, content_type=kind)
    gateway.picker.route_to(gateway.pods[0].address)
    status, text, _ = await gateway.post(f"response-{mode}", COMPLETION)
    assert (status, text.decode()) == (200, body)
    await eventually(lambda: bool(gateway.picker.completed))
    end = gateway.picker.completed[0]
    assert (end.prompt_tokens, end.cached_tokens, end.completion_tokens) == (12, 8, 34)


@pytest.mark.parametrize("mode", ["STREAMED", "BUFFERED", "FULL_DUPLEX_STREAMED"])
async def test_the_clients_model_name_is_put_back_into_the_response(
    gateway: Gateway, mode: str
) -> None:
    gateway.picker.route_to(gateway.pods[0].address, model="a-much-longer-target")
    gateway.pods[0].reply = lambda seen: aiohttp.web.json_response(
        {"id": "1", "model": json.loads(seen.body)["model"], "choices": ["x" * 300_000]}
    )
    status, text, _ = await gateway.post(f"response-{mode}", COMPLETION)
    assert status == 200
    assert json.loads(gateway.received().body)["model"] == "a-much-longer-target"
    assert json.loads(text)["model"] == "tweet-summary"


async def test_a_pick_in_another_pool_than_the_route_says_clears_the_route_cache(
    gateway: Gateway,
) -> None:
    before = await gateway.envoy.stats("clear_route_cache")
    other = ObjectName("default", "other")
    gateway.picker.route_to(gateway.pods[1].address, pool=other, headers=(("x-pool", "other"),))
    status, _, _ = await gateway.post("FULL_DUPLEX_STREAMED", COMPLETION)
    assert status == 200
    assert gateway.received().headers["x-pool"] == "other"
    assert before == await gateway.envoy.stats("clear_route_cache")


async def test_two_hundred_requests_at_once_in_mixed_modes_are_all_picked_for(
    gateway: Gateway,
) -> None:
    def spread(request: InferenceRequest) -> Any:
        pod = gateway.pods[len(gateway.picker.asked) % 2]
        gateway.picker.route_to(pod.address)
        outcome = gateway.picker.outcome(request)
        gateway.picker.outcome = spread
        return outcome

    gateway.picker.outcome = spread
    bodies = [{"model": "m", "prompt": str(n) * n * 50} for n in range(200)]
    answers = await asyncio.gather(
        *(gateway.post(MODES[n % len(MODES)], body) for n, body in enumerate(bodies))
    )
    assert {status for status, _, _ in answers} == {200}
    assert len(gateway.picker.asked) == 200
    got = sorted(seen.body for pod in gateway.pods for seen in pod.requests)
    assert got == sorted(json.dumps(body).encode() for body in bodies)
    await eventually(lambda: gateway.processor.open == 0)
