"""Reading model servers' pages of metrics."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from extproc.picking.scheduling.signals import Adapters, CacheConfig, Signals
from extproc.signals.engines import ENGINES, SGLANG, TENSORRT_LLM, TRITON, VLLM, engine_of
from extproc.signals.exposition import Series, series_of

VLLM_PAGE = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-2-7b-hf"} 7.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="meta-llama/Llama-2-7b-hf"} 3.0
vllm:num_requests_waiting_by_reason{reason="capacity"} 99.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="meta-llama/Llama-2-7b-hf"} 0.25
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",cache_dtype="auto",num_gpu_blocks="2810"} 1.0
# TYPE vllm:lora_requests_info gauge
vllm:lora_requests_info{max_lora="4",running_lora_adapters="old",waiting_lora_adapters=""} 1.7e+09
vllm:lora_requests_info{max_lora="4",running_lora_adapters="a, b",waiting_lora_adapters="c"} 1.8e+09
vllm:time_to_first_token_seconds_bucket{le="0.001"} 0.0
"""


def read(page: bytes) -> Signals:
    engine = engine_of(page)
    assert engine is not None
    return engine.read(page)


def test_a_page_of_vllm_gives_all_signals() -> None:
    assert read(VLLM_PAGE) == Signals(
        waiting=3,
        running=7,
        kv_usage=0.25,
        adapters=Adapters(frozenset({"a", "b"}), frozenset({"c"}), 4),
        cache=CacheConfig(16, 2810),
    )


def test_the_newest_adapters_count_wherever_they_stand() -> None:
    newer = b'vllm:lora_requests_info{max_lora="2",running_lora_adapters="new"} 1.8e+09\n'
    older = b'vllm:lora_requests_info{max_lora="2",running_lora_adapters="old"} 1.7e+09\n'
    for page in (newer + older, older + newer):
        adapters = read(page).adapters
        assert adapters is not None
        assert adapters.active == {"new"}


LORA = (
    b'vllm:lora_requests_info{max_lora="2",running_lora_adapters="%b",waiting_lora_adapters="%b"}'
)


def test_an_adapter_that_both_labels_name_is_one() -> None:
    adapters = read(LORA % (b"a,b", b"b,a,c") + b" 1.796080895343458e+09\n").adapters
    assert adapters == Adapters(frozenset({"a", "b"}), frozenset({"c"}), 2)


def test_of_several_api_servers_each_says_what_it_runs_itself() -> None:
    """As vLLM 0.32 writes it with ``--api-server-count 2``: a series that both have written has the
    sum of their times."""
    now = time.time()
    page = b"".join(
        LORA % (names, names) + b" %r\n" % value
        for names, value in [
            (b"a", now - 0.5),
            (b"b", now),
            (b"", 2 * now - 30),
            (b"c", 2 * now - 1),
            (b"old", now - 100),
        ]
    )
    adapters = read(page).adapters
    assert adapters is not None
    assert adapters.active == {"a", "b", "c"}


def test_the_series_of_years_of_adapters_cost_next_to_nothing() -> None:
    rest = VLLM_PAGE.replace(b"vllm:lora", b"other:lora")
    names = [b",".join(b"adapter-%d" % ((n * 7 + i) % 100) for i in range(8)) for n in range(5000)]
    old = b"".join(LORA % (one, one) + b" 1.7%09de+09\n" % n for n, one in enumerate(names))
    page = rest + old + LORA % (b"new", b"new") + b" 1.79608089e+09\n" + old
    began = time.process_time()
    for _ in range(3):
        adapters = read(page).adapters
    assert adapters == Adapters(frozenset({"new"}), frozenset(), 2)
    # Twice as many as are promised to take 2 ms; all of them parsed would take 180.
    assert (time.process_time() - began) / 3 < 0.05


@pytest.mark.parametrize(("awake", "asleep"), [(b"1.0", False), (b"0.0", True)])
def test_a_server_that_sleeps_says_so(awake: bytes, asleep: bool) -> None:
    state = b'vllm:engine_sleep_state{engine="0",model_name="m",sleep_state='
    page = state + b'"awake"} ' + awake + b"\n" + state + b'"weights_offloaded"} 1.0\n'
    assert read(page).asleep is asleep


def test_what_the_engine_has_worked_on_grows() -> None:
    page = b'vllm:prompt_tokens_total{engine="0"} 7\nvllm:prompt_tokens_created{engine="0"} 1.7e9\n'
    assert read(page + b"vllm:generation_tokens_total 5\n").progress == 12


def test_the_older_name_of_the_cache_usage_is_read_and_the_newer_goes_before_it() -> None:
    old = b"vllm:gpu_cache_usage_perc 0.5\n"
    assert read(old).kv_usage == 0.5
    assert read(old + b"vllm:kv_cache_usage_perc 0.75\n").kv_usage == 0.75


def test_a_server_without_lora_still_gives_its_queue() -> None:
    assert read(b"vllm:num_requests_waiting 4\n") == Signals(waiting=4)


def test_one_malformed_line_does_not_hide_the_rest() -> None:
    page = VLLM_PAGE.replace(b"} 3.0", b"} three").replace(b'max_lora="4"', b'max_lora="4a"')
    signals = read(page)
    assert signals.waiting is None
    assert signals.running == 7
    assert signals.adapters == Adapters(frozenset({"a", "b"}), frozenset({"c"}), 0)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_a_value_that_is_no_number_is_not_a_signal(value: str) -> None:
    assert read(f"vllm:num_requests_waiting {value}\n".encode()) == Signals()


def test_numbers_whose_sum_is_none_are_no_signal() -> None:
    page = b"vllm:num_requests_waiting 1.7e308\nvllm:num_requests_waiting 1e308"
    name = b"\nvllm:time_to_first_token_seconds"
    page += name + b"_count 1e308" + name + b"_count 1.7e308" + name + b"_sum 1"
    assert read(page) == Signals()


def test_a_line_of_labels_without_end_keeps_nobody_waiting() -> None:
    began = time.process_time()
    assert read(b"vllm:num_requests_waiting{" + b'a="",' * 200_000 + b"} 3").waiting == 3
    assert time.process_time() - began < 1.5


def test_the_engines_of_one_server_are_added_up() -> None:
    page = b"""
vllm:num_requests_waiting{engine="0"} 1
vllm:num_requests_waiting{engine="1"} 2
vllm:kv_cache_usage_perc{engine="0"} 0.2
vllm:kv_cache_usage_perc{engine="1"} 0.6
"""
    assert read(page) == Signals(waiting=3, kv_usage=0.4)


def test_of_series_with_timestamps_the_newest_count() -> None:
    page = b'vllm:num_requests_waiting{pid="1"} 9 1000\nvllm:num_requests_waiting{pid="2"} 2 2000\n'
    assert read(page).waiting == 2


def test_sglang_tensorrt_llm_and_triton_are_told_by_their_names() -> None:
    sglang = b"""sglang:num_queue_reqs{model_name="m"} 1
sglang:num_running_reqs{model_name="m"} 2
sglang:token_usage{model_name="m"} 0.3
sglang:cache_config_info{page_size="64",num_pages="100"} 1
"""
    trtllm = b"""trtllm_num_requests_waiting 1
trtllm_num_requests_running 2
trtllm_kv_cache_utilization 0.3
trtllm_kv_cache_tokens_per_block 64
trtllm_kv_cache_max_blocks 100
"""
    triton = b"""nv_trt_llm_request_metrics{model="t",request_type="waiting",version="1"} 1
nv_trt_llm_request_metrics{model="t",request_type="scheduled",version="1"} 2
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="t"} 0.3
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="t"} 64
nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="t"} 100
"""
    expected = Signals(1, 2, 0.3, None, CacheConfig(64, 100))
    for page, engine in ((sglang, SGLANG), (trtllm, TENSORRT_LLM), (triton, TRITON)):
        assert engine_of(page) is engine
        assert engine.read(page) == expected


def test_a_page_of_something_else_is_no_model_server() -> None:
    assert engine_of(b"go_goroutines 12\nprocess_vllm: 1\n") is None
    assert engine_of(b"") is None
    assert engine_of(VLLM_PAGE) is VLLM


def test_a_name_counts_only_at_the_start_of_a_line_and_as_a_whole() -> None:
    page = b"x 1\nother_x 2\nx_more 3\nx9 8\n# x 4\nx{} 5\nx 6 77"
    assert list(series_of(page, b"x")) == [
        Series({}, 1.0),
        Series({}, 5.0),
        Series({}, 6.0, 77),
    ]


def test_labels_may_hold_what_delimits_them() -> None:
    page = rb'x{a="1,2}",b="say \"hi\"\\",c="",} 1' + b"\n"
    assert list(series_of(page, b"x")) == [Series({"a": "1,2}", "b": 'say "hi"\\', "c": ""}, 1.0)]


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "engine_1"]), st.text(max_size=20), min_size=1, max_size=3
    ),
    st.floats(allow_nan=False),
)
def test_what_a_client_library_writes_is_read_back(labels: dict[str, str], value: float) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("vllm:num_requests_waiting", "Help.", list(labels), registry=registry)
    gauge.labels(**labels).set(value)
    page = generate_latest(registry)
    [series] = series_of(page, b"vllm:num_requests_waiting")
    assert series.labels == {name: text.encode().decode() for name, text in labels.items()}
    assert series.value == value


@given(st.binary(max_size=200))
def test_no_page_makes_the_reader_fail(noise: bytes) -> None:
    page = VLLM_PAGE + noise + b"\nvllm:num_requests_waiting" + noise + b"\n" + VLLM_PAGE
    for engine in ENGINES:
        signals = engine.read(page)
        assert signals.kv_usage is None or 0.0 <= signals.kv_usage <= 1.0
        assert signals.waiting is None or signals.waiting >= 0
        assert signals.running is None or math.isfinite(signals.running)
