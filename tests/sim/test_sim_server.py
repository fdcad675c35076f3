"""The pod as its clients see it: over real HTTP, with the time scale turned up."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sim.config import BASE_MODEL, PodConfig
from sim.cost import CostModel
from sim.engine import EngineConfig
from sim.pod import Pod

FAST = 100.0


def config(**changes: Any) -> PodConfig:
    return PodConfig(**{"port": 0, "name": "vllm-7", "time_scale": FAST, **changes})


@pytest.fixture
async def pod() -> AsyncIterator[Pod]:
    async with Pod(config()) as pod:
        yield pod


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def client(pod: Pod) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{pod.url}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


async def eventually(holds: Callable[[], bool | Awaitable[bool]], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            answer = holds()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.005)


def at_rest(pod: Pod) -> bool:
    state = pod.state()
    return not (state["running"] or state["waiting"] or state["kv_blocks"]["used"])


async def state(http: aiohttp.ClientSession, pod: Pod) -> dict[str, Any]:
    async with http.get(f"{pod.url}/admin/state") as response:
        return await response.json()


async def metrics(http: aiohttp.ClientSession, pod: Pod) -> dict[str, list[Any]]:
    async with http.get(f"{pod.url}/metrics") as response:
        assert response.status == 200
        families = text_string_to_metric_families(await response.text())
    samples: dict[str, list[Any]] = {}
    for family in families:
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample)
    return samples


# Answers


async def test_the_quickstarts_request_is_answered_and_signed(http, pod):
    body = {
        "model": "tweet-summary",
        "prompt": "Write as if you were a critic: San Francisco",
        "max_tokens": 100,
        "temperature": 0,
    }
    async with http.post(f"{pod.url}/v1/completions", json=body) as response:
        answer = await response.json()
        assert response.status == 200
        assert response.headers["x-sim-pod"] == "vllm-7"
    assert answer["object"] == "text_completion"
    assert answer["model"] == "tweet-summary"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 100


async def test_a_completion_without_max_tokens_has_sixteen(client):
    answer = await client.completions.create(model=BASE_MODEL, prompt="Hello")
    assert answer.usage.completion_tokens == 16


async def test_an_answer_in_a_chat_ends_by_itself_unless_told_how_long_it_is(client):
    messages = [{"role": "user", "content": "Hello"}]
    free = await client.chat.completions.create(model=BASE_MODEL, messages=messages)
    assert free.object == "chat.completion"
    assert free.choices[0].finish_reason == "stop"
    told = await client.chat.completions.create(
        model=BASE_MODEL, messages=messages, max_completion_tokens=7
    )
    assert told.choices[0].finish_reason == "length"
    assert told.usage.completion_tokens == 7
    assert told.choices[0].message.role == "assistant"


async def test_with_stop_early_a_limit_is_only_a_limit():
    async with (
        Pod(config(stop_early=True, output_tokens_mean=20.0)) as pod,
        openai.AsyncOpenAI(base_url=f"{pod.url}/v1", api_key="none") as client,
    ):
        early = await client.completions.create(model=BASE_MODEL, prompt="a", max_tokens=5000)
        assert early.choices[0].finish_reason == "stop"
        assert early.usage.completion_tokens < 5000
        full = await client.completions.create(
            model=BASE_MODEL, prompt="a", max_tokens=300, extra_body={"ignore_eos": True}
        )
        assert full.choices[0].finish_reason == "length"
        assert full.usage.completion_tokens == 300


async def test_several_prompts_as_text_or_token_ids_get_a_choice_each(client):
    texts = await client.completions.create(model=BASE_MODEL, prompt=["one", "two"], max_tokens=3)
    assert [choice.index for choice in texts.choices] == [0, 1]
    assert texts.usage.completion_tokens == 6
    ids = await client.completions.create(
        model=BASE_MODEL, prompt=[[1, 2, 3], [4, 5]], max_tokens=3
    )
    assert len(ids.choices) == 2
    assert ids.usage.prompt_tokens == 5
    one = await client.completions.create(model=BASE_MODEL, prompt=[1, 2, 3], max_tokens=3)
    assert one.usage.prompt_tokens == 3


async def test_n_samples_differ_and_count_their_prompt_once(client):
    prompt = "a prompt of some length " * 20
    one = await client.completions.create(model=BASE_MODEL, prompt=prompt, max_tokens=8)
    three = await client.completions.create(model=BASE_MODEL, prompt=prompt, max_tokens=8, n=3)
    assert len({choice.text for choice in three.choices}) == 3
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens == 24


async def test_echo_puts_the_prompt_before_the_answer(client):
    answer = await client.completions.create(
        model=BASE_MODEL, prompt="Say it: ", max_tokens=2, echo=True
    )
    assert answer.choices[0].text.startswith("Say it: ")


async def test_the_same_request_gets_the_same_text_streamed_or_not_and_another_seed_another(client):
    async def text(**more: Any) -> str:
        answer = await client.completions.create(
            model=BASE_MODEL, prompt="Once", max_tokens=50, **more
        )
        if more.get("stream"):
            return "".join([c.choices[0].text async for c in answer])
        return answer.choices[0].text

    plain = await text(seed=1)
    assert await text(seed=1, stream=True) == plain
    assert await text(seed=2) != plain


async def test_a_repeated_prompt_is_told_as_cached(client):
    prompt = list(range(1000))
    cold = await client.completions.create(model=BASE_MODEL, prompt=prompt)
    warm = await client.completions.create(model=BASE_MODEL, prompt=prompt)
    assert cold.usage.prompt_tokens_details.cached_tokens == 0
    assert warm.usage.prompt_tokens_details.cached_tokens == 992


@pytest.mark.parametrize("other", [{"model": "sql-lora"}, {"extra_body": {"cache_salt": "mine"}}])
async def test_another_adapter_or_salt_shares_no_cache(client, other):
    ask: dict[str, Any] = {"model": BASE_MODEL, "prompt": list(range(1000))}
    await client.completions.create(**ask)
    answer = await client.completions.create(**{**ask, **other})
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


async def test_the_next_turn_of_a_conversation_finds_prompt_and_answer_in_the_cache(client):
    messages = [{"role": "user", "content": "Tell me a story about a fox. " * 20}]
    first = await client.chat.completions.create(
        model=BASE_MODEL, messages=messages, max_tokens=200
    )
    messages += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "Go on."},
    ]
    second = await client.chat.completions.create(model=BASE_MODEL, messages=messages, max_tokens=1)
    so_far = first.usage.total_tokens
    assert so_far - 17 <= second.usage.prompt_tokens_details.cached_tokens <= so_far


# Streams


async def test_a_chat_stream_is_what_strict_clients_ask_for(http, pod):
    body = {
        "model": BASE_MODEL,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 20,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with http.post(f"{pod.url}/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        raw = await response.text()
    events = raw.split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") for event in events)
    assert events.pop() == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None] * (len(chunks) - 2) + [
        "length"
    ]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 20


async def test_a_stream_sends_usage_only_when_asked(client):
    stream = await client.completions.create(
        model=BASE_MODEL, prompt="a", max_tokens=3, stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


async def test_tokens_of_several_choices_arrive_interleaved_and_complete(client):
    stream = await client.completions.create(
        model=BASE_MODEL, prompt=["one", "two"], max_tokens=40, stream=True
    )
    text = {0: "", 1: ""}
    async for chunk in stream:
        text[chunk.choices[0].index] += chunk.choices[0].text
    assert [len(text[i].split()) for i in (0, 1)] == [40, 40]


async def test_tokens_come_as_they_are_made_and_headers_before_them():
    # A first token that takes 500 ms of prefill, then 99 tokens at a step each.
    async with Pod(config(time_scale=1.0)) as pod, aiohttp.ClientSession() as http:
        loop = asyncio.get_running_loop()
        began = loop.time()
        body = {"prompt": list(range(6500)), "max_tokens": 100, "stream": True}
        async with http.post(f"{pod.url}/v1/completions", json=body) as response:
            headers = loop.time() - began
            arrivals = [loop.time() - began async for line in response.content if line.strip()]
    assert headers < arrivals[0] / 2
    assert arrivals[0] >= 0.49
    assert arrivals[-1] - arrivals[0] >= 0.9 * 99 * CostModel().step_seconds(0, 1)
    assert len(arrivals) > 20


async def test_a_client_of_http_1_0_gets_its_stream_too(pod):
    reader, writer = await asyncio.open_connection("127.0.0.1", pod.port)
    body = b'{"prompt":"a","max_tokens":2,"stream":true}'
    writer.write(
        b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    answer = await reader.read()
    writer.close()
    head, _, events = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert events.startswith(b"data: {")
    assert events.endswith(b"data: [DONE]\n\n")


async def test_a_client_that_reads_late_loses_nothing():
    async with Pod(config(time_scale=10_000.0)) as pod:
        reader, writer = await asyncio.open_connection("127.0.0.1", pod.port, limit=1024)
        body = b'{"prompt":"a","max_tokens":100000,"stream":true}'
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        await eventually(lambda: pod.state()["running"] == 1)
        await eventually(lambda: at_rest(pod))
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += await reader.read(65536)
        writer.close()
    words = 0
    for line in received.splitlines():
        if line.startswith(b"data: {"):
            words += len(json.loads(line[6:])["choices"][0]["text"].split())
    assert words == 100_000


# Refusals


async def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as refused:
        await client.completions.create(model="gpt-5", prompt="a")
    assert refused.value.body == {
        "message": "The model `gpt-5` does not exist.",
        "type": "NotFoundError",
        "param": "model",
        "code": 404,
    }


async def test_a_prompt_beyond_the_context_length_is_a_bad_request():
    async with (
        Pod(config(max_model_len=4096)) as pod,
        openai.AsyncOpenAI(base_url=f"{pod.url}/v1", api_key="none") as client,
    ):
        fits = await client.completions.create(model=BASE_MODEL, prompt=[1] * 4095, max_tokens=1)
        assert fits.usage.total_tokens == 4096
        with pytest.raises(openai.BadRequestError, match="maximum context length is 4096 tokens"):
            await client.completions.create(model=BASE_MODEL, prompt=[1] * 4096, max_tokens=1)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("completions", b"{"),
        ("completions", b"[]"),
        ("completions", b'{"model": 3, "prompt": "a"}'),
        ("completions", b'{"prompt": ""}'),
        ("completions", b'{"prompt": []}'),
        ("completions", b'{"prompt": ["a", 1]}'),
        ("completions", b'{"prompt": [-1]}'),
        ("completions", b'{"prompt": "a", "max_tokens": 0}'),
        ("completions", b'{"prompt": "a", "n": 0}'),
        ("completions", b'{"model": "\xed", "prompt": "a"}'),
        ("completions", b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
        ("completions", b"{}"),
        ("chat/completions", b"{}"),
        ("chat/completions", b'{"messages": []}'),
        ("chat/completions", b'{"messages": [{"content": "a"}]}'),
        (
            "chat/completions",
            b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
        ),
    ],
)
async def test_a_body_that_makes_no_sense_is_refused_in_vllms_shape(http, pod, path, body):
    async with http.post(f"{pod.url}/v1/{path}", data=body) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert error["code"] == 400
    assert error["type"] == "BadRequestError"
    assert error["message"]
    assert at_rest(pod)


async def test_an_unknown_path_is_not_found(http, pod):
    async with http.get(f"{pod.url}/v2/anything") as response:
        assert (response.status, await response.json()) == (404, {"detail": "Not Found"})


async def test_a_prompt_of_four_megabytes_is_served_where_the_context_allows(http):
    roomy = config(
        time_scale=10_000.0,
        max_model_len=2_000_000,
        engine=EngineConfig(kv_cache_tokens=2_000_000),
    )
    async with Pod(roomy) as pod:
        body = {"prompt": "four " * 820_000, "max_tokens": 2}
        async with http.post(f"{pod.url}/v1/completions", json=body) as response:
            answer = await response.json()
    assert answer["usage"]["prompt_tokens"] > 800_000


# Models and adapters


async def test_models_are_the_base_and_its_adapters(client):
    cards = {card.id: card async for card in client.models.list()}
    assert cards[BASE_MODEL].parent is None
    assert cards[BASE_MODEL].max_model_len == 131_072
    assert cards["tweet-summary"].parent == BASE_MODEL
    assert {"sql-lora", "sql-lora-0", "tweet-summary-4"} <= cards.keys()


async def test_an_adapter_can_be_loaded_used_and_unloaded(http, pod, client):
    async def post(path: str, body: dict[str, str]) -> int:
        async with http.post(f"{pod.url}/v1/{path}", json=body) as response:
            return response.status

    adapter = {"lora_name": "fresh", "lora_path": "/adapters/fresh"}
    with pytest.raises(openai.NotFoundError):
        await client.completions.create(model="fresh", prompt="a")
    assert await post("load_lora_adapter", adapter) == 200
    assert await post("load_lora_adapter", adapter) == 400
    answer = await client.completions.create(model="fresh", prompt="a")
    assert answer.model == "fresh"
    assert (await state(http, pod))["adapters"]["resident"] == ["fresh"]
    assert await post("unload_lora_adapter", {"lora_name": "fresh"}) == 200
    assert (await state(http, pod))["adapters"]["resident"] == []
    assert await post("unload_lora_adapter", {"lora_name": "fresh"}) == 404
    assert await post("load_lora_adapter", {"lora_name": "fresh"}) == 400


# Metrics


async def test_metrics_carry_vllms_names_and_labels_and_add_up(http, pod, client):
    for _ in range(3):
        await client.completions.create(model=BASE_MODEL, prompt=list(range(100)), max_tokens=10)
    samples = await metrics(http, pod)
    expected = {
        "vllm:num_requests_running": 0,
        "vllm:num_requests_waiting": 0,
        "vllm:kv_cache_usage_perc": 0,
        "vllm:prompt_tokens_total": 300,
        "vllm:generation_tokens_total": 30,
        "vllm:prefix_cache_queries_total": 300,
        "vllm:prefix_cache_hits_total": 192,
        "vllm:num_preemptions_total": 0,
        "vllm:time_to_first_token_seconds_count": 3,
        "vllm:time_per_output_token_seconds_count": 27,
        "vllm:inter_token_latency_seconds_count": 27,
        "vllm:e2e_request_latency_seconds_count": 3,
        "vllm:request_queue_time_seconds_count": 3,
        "vllm:request_prompt_tokens_sum": 300,
        "vllm:request_generation_tokens_sum": 30,
    }
    for name, value in expected.items():
        (sample,) = samples[name]
        assert (name, sample.value) == (name, value)
        assert sample.labels == {"model_name": BASE_MODEL, "engine": "0"}
    reasons = {s.labels["finished_reason"]: s.value for s in samples["vllm:request_success_total"]}
    assert reasons == {"length": 3, "stop": 0, "abort": 0, "error": 0}
    (cache,) = samples["vllm:cache_config_info"]
    assert (cache.labels["block_size"], cache.labels["num_gpu_blocks"]) == ("16", "19208")
    assert "vllm:gpu_cache_usage_perc" not in samples


async def test_old_routers_find_the_old_name_of_the_cache_gauge(http):
    async with Pod(config(legacy_metrics=True)) as pod:
        assert "vllm:gpu_cache_usage_perc" in await metrics(http, pod)


async def test_times_in_metrics_are_those_that_a_client_measures(http):
    async with Pod(config(time_scale=10.0)) as pod:
        body = {"prompt": list(range(13_000)), "max_tokens": 1}
        async with http.post(f"{pod.url}/v1/completions", json=body):
            pass
        (total,) = (await metrics(http, pod))["vllm:time_to_first_token_seconds_sum"]
    assert total.value == pytest.approx(0.1, rel=0.01)


async def test_the_newest_adapter_series_tells_who_runs_and_who_waits(http):
    slow = config(time_scale=1.0, engine=EngineConfig(max_loras=1))
    async with Pod(slow) as pod:

        async def newest() -> dict[str, str]:
            series = (await metrics(http, pod))["vllm:lora_requests_info"]
            return max(series, key=lambda sample: sample.value).labels

        assert await newest() == {
            "max_lora": "1",
            "running_lora_adapters": "",
            "waiting_lora_adapters": "",
        }
        tasks = []
        for running, waiting, model in [
            ("sql-lora", "", "sql-lora"),
            ("sql-lora", "tweet-summary", "tweet-summary"),
        ]:
            body = {"model": model, "prompt": "a", "max_tokens": 1000}
            tasks.append(
                asyncio.create_task(http.post(f"{pod.url}/v1/completions", json=body).__aenter__())
            )
            expected = {
                "max_lora": "1",
                "running_lora_adapters": running,
                "waiting_lora_adapters": waiting,
            }

            async def told(expected: dict[str, str] = expected) -> bool:
                return await newest() == expected

            await eventually(told)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_pod_without_adapters_has_no_adapter_metric(http):
    async with Pod(config(adapters=())) as pod:
        assert "vllm:lora_requests_info" not in await metrics(http, pod)


# Clients that leave


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_frees_what_its_request_held(http, stream):
    async with Pod(config(time_scale=1.0)) as pod:
        body = {"prompt": list(range(1000)), "max_tokens": 10_000, "stream": stream}
        task = asyncio.create_task(http.post(f"{pod.url}/v1/completions", json=body).__aenter__())
        await eventually(lambda: pod.state()["running"] == 1)
        assert pod.state()["kv_blocks"]["used"] >= 63
        if stream:
            (await task).close()
        else:
            task.cancel()
        await eventually(lambda: at_rest(pod))
        reasons = {
            s.labels["finished_reason"]: s.value
            for s in (await metrics(http, pod))["vllm:request_success_total"]
        }
        assert reasons["abort"] == 1
        assert pod.recent[-1]["outcome"] == "aborted"


# Failures


async def test_a_status_can_be_ordered_by_header(http, pod):
    async with http.post(
        f"{pod.url}/v1/completions", json={"prompt": "a"}, headers={"x-sim-fail": "status=503"}
    ) as response:
        assert response.status == 503
        assert (await response.json())["error"]["code"] == 503
        assert response.headers["x-sim-pod"] == "vllm-7"


async def test_a_reset_can_be_ordered_by_header(http, pod):
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.post(
            f"{pod.url}/v1/completions", json={"prompt": "a"}, headers={"x-sim-fail": "reset"}
        )


async def test_a_hang_lasts_until_the_client_gives_up(http, pod):
    with pytest.raises(asyncio.TimeoutError):
        await http.post(
            f"{pod.url}/v1/completions",
            json={"prompt": "a"},
            headers={"x-sim-fail": "hang"},
            timeout=aiohttp.ClientTimeout(total=0.2),
        )
    assert at_rest(pod)


async def test_a_delay_is_waited_for_and_then_all_is_well(http, pod):
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with http.post(
        f"{pod.url}/v1/completions", json={"prompt": "a"}, headers={"x-sim-fail": "delay=200ms"}
    ) as response:
        assert response.status == 200
    assert loop.time() - began >= 0.2


async def test_a_stream_can_break_after_some_chunks(http, pod):
    response = await http.post(
        f"{pod.url}/v1/completions",
        json={"prompt": "a", "max_tokens": 5000, "stream": True},
        headers={"x-sim-fail": "reset-after=3"},
    )
    assert response.status == 200
    received = bytearray()

    async def read() -> None:
        async for line in response.content:
            received.extend(line)

    with pytest.raises(aiohttp.ClientError):
        await read()
    assert received.count(b"data: {") <= 3  # a reset may take with it what was on its way
    await eventually(lambda: at_rest(pod))


async def test_a_stream_can_break_at_its_very_end_and_nobody_logs_an_error(http, pod, caplog):
    response = await http.post(
        f"{pod.url}/v1/completions",
        json={"prompt": "a", "max_tokens": 1, "stream": True},
        headers={"x-sim-fail": "reset-after=1"},
    )
    with pytest.raises(aiohttp.ClientError):
        await response.read()
    await eventually(lambda: len(pod.recent) == 1)
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]


async def test_a_plain_answer_can_break_in_its_middle(http, pod):
    response = await http.post(
        f"{pod.url}/v1/completions",
        json={"prompt": "a", "max_tokens": 500},
        headers={"x-sim-fail": "reset-after=1"},
    )
    assert response.status == 200
    with pytest.raises(aiohttp.ClientError):
        await response.read()
    await eventually(lambda: at_rest(pod))


async def test_an_order_that_nobody_understands_is_refused_with_what_is_known(http, pod):
    async with http.post(
        f"{pod.url}/v1/completions", json={"prompt": "a"}, headers={"x-sim-fail": "explode"}
    ) as response:
        assert response.status == 400
        assert "reset-after=3" in (await response.json())["error"]["message"]


async def test_an_admin_call_fails_the_next_requests_and_no_more(http, pod):
    async def ask() -> int:
        async with http.post(f"{pod.url}/v1/completions", json={"prompt": "a"}) as response:
            return response.status

    order = {"fail": "status=500", "count": 2}
    async with http.post(f"{pod.url}/admin/fail", json=order) as response:
        assert (await response.json())["failures"] == {
            "inference": {"fail": "status=500", "rate": 1.0, "left": 2}
        }
    assert [await ask() for _ in range(3)] == [500, 500, 200]


async def test_metrics_can_be_made_to_fail_while_inference_goes_on(http, pod):
    order = {"on": "metrics", "fail": "status=500"}
    await http.post(f"{pod.url}/admin/fail", json=order)
    async with http.get(f"{pod.url}/metrics") as response:
        assert response.status == 500
    async with http.post(f"{pod.url}/v1/completions", json={"prompt": "a"}) as response:
        assert response.status == 200
    await http.post(f"{pod.url}/admin/fail", json={"on": "metrics", "fail": None})
    async with http.get(f"{pod.url}/metrics") as response:
        assert response.status == 200


@pytest.mark.parametrize(
    "order",
    [
        {"fail": "explode"},
        {"fail": "reset", "on": "everything"},
        {"fail": "reset", "rate": 0},
        {"fail": "reset", "count": 0},
        {"fial": "reset"},
    ],
    ids=str,
)
async def test_an_admin_call_that_makes_no_sense_changes_nothing(http, pod, order):
    async with http.post(f"{pod.url}/admin/fail", json=order) as response:
        assert response.status == 400
    assert not pod.orders


async def test_health_can_be_flipped(http, pod):
    async def health() -> int:
        async with http.get(f"{pod.url}/health") as response:
            return response.status

    assert await health() == 200
    await http.post(f"{pod.url}/admin/health", json={"healthy": False})
    assert await health() == 503
    await http.post(f"{pod.url}/admin/health", json={"healthy": True})
    assert await health() == 200


async def test_a_reset_pod_is_as_new_and_its_requests_are_cut(http):
    async with Pod(config(time_scale=1.0)) as pod:
        body = {"prompt": list(range(1000)), "max_tokens": 10_000}
        task = asyncio.create_task(http.post(f"{pod.url}/v1/completions", json=body).__aenter__())
        await eventually(lambda: pod.state()["running"] == 1)
        await http.post(f"{pod.url}/admin/fail", json={"fail": "reset"})
        async with http.post(f"{pod.url}/admin/reset") as response:
            fresh = await response.json()
        assert (fresh["running"], fresh["kv_blocks"]["cached"]) == (0, 0)
        assert fresh["failures"] == {}
        with pytest.raises(aiohttp.ClientConnectionError):
            await task
        body = {"prompt": "a", "max_tokens": 1}
        async with http.post(f"{pod.url}/v1/completions", json=body) as response:
            assert response.status == 200


async def test_recent_requests_can_be_read_back_by_the_clients_id(http, pod):
    async with http.post(
        f"{pod.url}/v1/completions",
        json={"model": "sql-lora", "prompt": list(range(320)), "max_tokens": 5},
        headers={"x-request-id": "abc"},
    ) as response:
        assert (await response.json())["id"] == "cmpl-abc"
    async with http.get(f"{pod.url}/admin/requests") as response:
        (note,) = await response.json()
    assert note.pop("ttft_ms") <= note.pop("e2e_ms")
    assert note == {
        "id": "cmpl-abc",
        "model": "sql-lora",
        "stream": False,
        "prompt_tokens": 320,
        "cached_tokens": 0,
        "output_tokens": 5,
        "outcome": "finished",
    }


async def test_a_dropped_prefix_cache_is_cold_again(http, pod, client):
    ask: dict[str, Any] = {"model": BASE_MODEL, "prompt": list(range(100))}
    await client.completions.create(**ask)
    await http.post(f"{pod.url}/reset_prefix_cache")
    answer = await client.completions.create(**ask)
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


# Life


async def test_a_taken_port_is_an_error_and_not_shared(pod):
    with pytest.raises(OSError, match="in use"):
        await Pod(config(port=pod.port)).start()


async def test_a_stopping_pod_finishes_what_it_has_and_says_that_it_is_going():
    async with aiohttp.ClientSession() as http:
        pod = Pod(config(time_scale=1.0))
        await pod.start()
        async with http.get(f"{pod.url}/health") as response:
            assert response.status == 200  # and the connection stays open
        body = {"prompt": "a", "max_tokens": 60, "stream": True}
        async with aiohttp.ClientSession() as other:
            response = await other.post(f"{pod.url}/v1/completions", json=body)
            stopping = asyncio.create_task(pod.stop())
            await eventually(lambda: not pod.state()["healthy"])
            async with http.get(f"{pod.url}/health") as health:
                assert health.status == 503
                assert health.headers["connection"] == "close"
            assert (await response.text()).endswith("data: [DONE]\n\n")
        await stopping
        with (
            pytest.raises(ConnectionRefusedError),
            socket.create_connection(("127.0.0.1", pod.port)),
        ):
            pass


async def test_a_request_that_outlasts_the_grace_is_cut(http):
    pod = Pod(config(time_scale=1.0, grace_seconds=0.1))
    await pod.start()
    body = {"prompt": "a", "max_tokens": 100_000, "stream": True}
    response = await http.post(f"{pod.url}/v1/completions", json=body)
    async with asyncio.timeout(5):
        await pod.stop()
    with pytest.raises(aiohttp.ClientError):
        await response.read()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"port": 70_000}, "port 70000"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"model": ""}, "model"),
        ({"adapters": ("a", "a")}, "'a' is given twice"),
        ({"adapters": ("a,b",)}, "comma"),
        ({"time_scale": 0.0}, "time_scale"),
        ({"max_model_len": 400_000}, "raise kv_cache_tokens"),
        ({"output_tokens_mean": 0.0}, "output_tokens_mean"),
        ({"grace_seconds": -1.0}, "grace_seconds"),
    ],
)
def test_a_pod_that_cannot_be_is_refused_by_the_name_of_the_field(changes, said):
    with pytest.raises(ValueError, match=said):
        config(**changes)
