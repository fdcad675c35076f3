"""Several pools behind one base URL: each request goes to the pool that serves its model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from e2e.harness import MODES, READY_LIMIT, Mode, eventually
from poolpilot.demo.load import POD_HEADER
from poolpilot.demo.ports import Ports
from poolpilot.demo.quickstart import endpoints
from poolpilot.demo.stack import Stack
from poolpilot.envoy_binary import find_envoy

PODS = {
    "llama-0": ("--model=llama-3", "--adapter=summaries"),
    "llama-1": ("--model=llama-3", "--adapter=summaries"),
    "qwen-0": ("--model=qwen-3", "--adapter=sql"),
}
LLAMA_PODS, QWEN_PODS = ("llama-0", "llama-1"), ("qwen-0",)
TRANSPORTS: dict[Mode, str] = {"sotw": "native", "delta": "grpcio"}
BODY_MODES = ("FullDuplexStreamed", "Buffered")
ENVOY_MODES = {"FullDuplexStreamed": "FULL_DUPLEX_STREAMED", "Buffered": "BUFFERED"}
MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "Where is San Francisco?"}
]

_POOL = """\
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata:
  name: {name}
  annotations:
    poolpilot.dev/request-body-mode: {body_mode}
spec:
  selector:
    matchLabels:
      app: {name}
  targetPorts:
  - number: 8000
  endpointPickerRef:
    name: extproc
    failureMode: FailOpen
    port:
      number: 9002
---
"""
_MODEL = """\
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModel
metadata:
  name: assistant
spec:
  modelName: assistant
  criticality: Critical
  poolRef:
    name: qwen
  targetModels:
  - name: qwen-3
    weight: 1
"""


def manifests(stack: Stack, body_mode: str) -> dict[str, str]:
    return {
        "pools.yaml": _POOL.format(name="llama", body_mode=body_mode)
        + _POOL.format(name="qwen", body_mode=body_mode)
        + _MODEL,
        "llama.yaml": endpoints(stack.placed(*LLAMA_PODS), "llama"),
        "qwen.yaml": endpoints(stack.placed(*QWEN_PODS), "qwen"),
    }


@pytest.fixture(scope="module", params=MODES)
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Two pools without any HTTPRoute."""
    mode: Mode = request.param
    stack = Stack(
        tmp_path_factory.mktemp(mode),
        Ports.free(len(PODS)),
        list(PODS),
        find_envoy(),
        delta=mode == "delta",
        pod_options=("--time-scale=200",),
        options_of=PODS,
        extproc_options=[f"--transport={TRANSPORTS[mode]}"],
    )
    try:
        stack.write(manifests(stack, BODY_MODES[0]))
        stack.start()
        asyncio.run(stack.ready(READY_LIMIT))
        yield stack
    finally:
        stack.stop()


@pytest.fixture(params=BODY_MODES)
async def url(request: pytest.FixtureRequest, stack: Stack) -> str:
    """Envoy's one base URL, with bodies shown to the picker in each of the modes."""
    wanted = ENVOY_MODES[request.param]
    stack.write(manifests(stack, request.param))
    async with httpx.AsyncClient(base_url=stack.admin_url, trust_env=False) as admin:

        async def routes_show_bodies() -> bool:
            page = (await admin.get("/config_dump?resource=dynamic_route_configs")).text
            return {mode for mode in ENVOY_MODES.values() if f'"{mode}"' in page} == {wanted}

        await eventually(routes_show_bodies, f"Envoy's routes show bodies as {wanted}")
    return f"{stack.url}/v1"


@pytest.fixture
async def client(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncOpenAI]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        yield http


async def complete(http: httpx.AsyncClient, url: str, model: str, **headers: str) -> httpx.Response:
    body = {"model": model, "prompt": "Hi", "max_tokens": 4}
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await http.post(f"{url}/completions", json=body, headers=sent)


@pytest.mark.parametrize(
    ("model", "pods", "told"),
    [
        ("llama-3", LLAMA_PODS, "llama-3"),
        ("qwen-3", QWEN_PODS, "qwen-3"),
        ("summaries", LLAMA_PODS, "summaries"),
        ("sql", QWEN_PODS, "sql"),
        ("assistant", QWEN_PODS, "qwen-3"),
    ],
    ids=["base model", "base model of the other", "adapter", "adapter of the other", "rewritten"],
)
async def test_each_model_is_served_by_its_pool(
    http: httpx.AsyncClient, url: str, model: str, pods: tuple[str, ...], told: str
) -> None:
    for _ in range(10):
        answer = await complete(http, url, model)
        assert answer.status_code == 200, answer.text
        assert answer.headers[POD_HEADER] in pods
        assert answer.json()["model"] == told


async def test_every_pick_is_obeyed(stack: Stack, http: httpx.AsyncClient, url: str) -> None:
    """The endpoint and its pool's route arrive in one reply: none goes to another endpoint."""
    models = ["llama-3", "qwen-3", "assistant"] * 40
    answers = await asyncio.gather(*(complete(http, url, model) for model in models))
    assert [answer.status_code for answer in answers] == [200] * len(models)
    async with httpx.AsyncClient(base_url=stack.extproc_url, trust_env=False) as picker:

        async def all_are_settled() -> bool:
            return bool((await picker.get("/debug")).json()["open_requests"] == 0)

        await eventually(all_are_settled, "Envoy tells how all of them ended")
        page = await picker.get(f"/debug/decisions?limit={len(models)}")
    for decision in page.json()["decisions"]:
        assert decision["completed"]["served"] == decision["endpoints"][0]
        assert decision["pool"] == (
            "default/llama" if decision["model"] == "llama-3" else "default/qwen"
        )


async def test_the_openai_client_needs_one_base_url_plain_and_streaming(
    client: AsyncOpenAI,
) -> None:
    for model in ("llama-3", "qwen-3"):
        chat = await client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=12)
        assert chat.model == model
        assert chat.usage is not None
        assert chat.usage.completion_tokens == 12
        stream = await client.chat.completions.create(
            model=model, messages=MESSAGES, max_tokens=12, stream=True
        )
        chunks = [chunk async for chunk in stream]
        assert {chunk.model for chunk in chunks} == {model}
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


async def test_one_list_tells_the_models_of_all_pools(client: AsyncOpenAI) -> None:
    known = {"assistant": "qwen", "llama-3": "llama", "qwen-3": "qwen", "sql": "qwen"}
    listed = {model.id: model async for model in client.models.list()}
    for name, pool in known.items():
        assert listed[name].owned_by == f"default/{pool}"
        assert await client.models.retrieve(name) == listed[name]
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-9")


async def test_below_a_prefix_a_pod_lists_its_models(
    stack: Stack, http: httpx.AsyncClient, url: str
) -> None:
    answer = await http.get(f"{stack.url}/default/qwen/v1/models")
    assert answer.headers[POD_HEADER] in QWEN_PODS
    assert {model["id"] for model in answer.json()["data"]} == {"qwen-3", "sql"}
    whole = await http.get(f"{url}/models")
    assert POD_HEADER not in whole.headers
    assert (await http.head(f"{url}/models")).content == b""


async def test_an_unknown_model_is_told_the_known_ones(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="gpt-9", messages=MESSAGES)
    error = caught.value
    assert (error.code, error.param, error.type) == (
        "no-pool-for-model",
        "model",
        "not_found_error",
    )
    for known in ("assistant", "llama-3", "qwen-3", "sql", "summaries"):
        assert repr(known) in error.message


async def test_a_pool_header_of_the_client_has_no_effect(http: httpx.AsyncClient, url: str) -> None:
    for _ in range(5):
        answer = await complete(http, url, "llama-3", x_poolpilot_pool="default/qwen")
        assert answer.headers[POD_HEADER] in LLAMA_PODS
    unknown = await complete(http, url, "gpt-9", x_poolpilot_pool="default/qwen")
    assert (unknown.status_code, unknown.headers["x-poolpilot-reason"]) == (
        404,
        "no-pool-for-model",
    )


async def test_a_prefix_chooses_the_pool_whatever_the_model(
    stack: Stack, http: httpx.AsyncClient, url: str
) -> None:
    answer = await complete(http, f"{stack.url}/default/qwen/v1", "qwen-3")
    assert answer.headers[POD_HEADER] in QWEN_PODS
    # A llama model is not known to the pods of this pool: the pod says so, not the picker.
    wrong = await complete(http, f"{stack.url}/default/qwen/v1", "llama-3")
    assert wrong.status_code == 404
    assert wrong.headers[POD_HEADER] in QWEN_PODS


async def test_a_body_of_four_megabytes_finds_its_pool(http: httpx.AsyncClient, url: str) -> None:
    body = {"prompt": "word " * 800_000, "max_tokens": 1, "model": "qwen-3"}
    answer = await http.post(f"{url}/completions", json=body)
    # The pod has read all of it: it is too long for the model.
    assert (answer.status_code, answer.headers[POD_HEADER]) == (400, "qwen-0")
    assert "maximum context length" in answer.text


async def test_an_adapter_that_is_loaded_later_becomes_known(
    stack: Stack, http: httpx.AsyncClient
) -> None:
    url, name = f"{stack.url}/v1", "late"
    load = {"lora_name": name, "lora_path": "/adapters/late"}
    assert (await complete(http, url, name)).status_code == 404
    pod = stack.pod_url("llama-1")
    assert (await http.post(f"{pod}/v1/load_lora_adapter", json=load)).status_code == 200
    try:

        async def is_known() -> bool:
            return (await complete(http, url, name)).status_code != 404

        await eventually(is_known, "the picker has asked the pod again")
    finally:
        unload = {"lora_name": name}
        await http.post(f"{pod}/v1/unload_lora_adapter", json=unload)

        async def is_forgotten() -> bool:
            answer = await complete(http, url, name)
            return "no-pool-for-model" in answer.headers.get("x-poolpilot-reason", "")

        await eventually(is_forgotten, "the picker has asked the pod again")


async def test_without_the_picker_nobody_knows_the_pool_but_prefixes_still_open(
    stack: Stack, http: httpx.AsyncClient, url: str
) -> None:
    stack.children["extproc"].kill()
    try:
        answers = [await complete(http, url, "llama-3") for _ in range(10)]
        assert {answer.status_code for answer in answers} == {503}
        assert json.loads(answers[-1].text)["error"]["code"] == "picker_failed"

        async def the_prefix_opens() -> bool:
            opened = await complete(http, f"{stack.url}/default/llama/v1", "llama-3")
            return opened.headers.get(POD_HEADER) in LLAMA_PODS

        # In full duplex only once Envoy's health check has noticed.
        await eventually(the_prefix_opens, "Envoy chooses a pod of the pool by itself")
    finally:
        stack.start_extproc()
        await stack.ready(READY_LIMIT)

        async def answers_again() -> bool:
            return (await complete(http, url, "llama-3")).status_code == 200

        await eventually(answers_again, "requests find their pool again")
