"""What each model server calls its metrics.

The table follows the model server protocol of the inference gateway. Each signal is read on its
own: a server that lacks one still gives the others. Where a name changed, the newer comes first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from extproc.picking.scheduling.signals import Adapters, CacheConfig, Latency, Signals
from extproc.signals.exposition import Series, block_of, chosen, finite, newest, series_of

TOGETHER = 2.0
"""Seconds within which several API servers of one model server say what they run."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's name and the labels that its series must have."""

    name: bytes
    labels: Mapping[str, str] | None = None

    def read(self, page: bytes) -> list[Series]:
        found = [one for one in series_of(page, self.name) if finite(one.value)]
        if self.labels is not None:
            found = [one for one in found if self.labels.items() <= one.labels.items()]
        return newest(found)


@dataclass(frozen=True, slots=True)
class CacheLabels:
    """A metric whose labels tell the size of the KV cache."""

    metric: Metric
    block_size: str
    blocks: str


@dataclass(frozen=True, slots=True)
class Engine:
    """One kind of model server."""

    name: str
    prefix: bytes
    """What all its metrics begin with: tells the engine of a page."""
    waiting: tuple[Metric, ...]
    running: tuple[Metric, ...]
    kv_usage: tuple[Metric, ...]
    adapters: bytes | None = None
    """The metric whose labels name LoRA adapters."""
    cache_labels: CacheLabels | None = None
    block_size: Metric | None = None
    blocks: Metric | None = None
    first_token: bytes | None = None
    """The histogram of seconds to the first token, without ``_count`` or ``_sum``."""
    progress: tuple[Metric, ...] = ()
    """Counters that grow as long as the engine works."""
    awake: Metric | None = None
    """1 for an engine that takes requests, 0 for one that sleeps."""

    def read(self, page: bytes) -> Signals:
        """The signals that the page has."""
        adapters: Adapters | None = None
        if self.adapters is not None:
            block = block_of(page, self.adapters)
            adapters = _adapters(page, block)
            page = page[: block[0]] + page[block[1] :]
        return Signals(
            waiting=_total(page, self.waiting),
            running=_total(page, self.running),
            kv_usage=_mean_share(page, self.kv_usage),
            adapters=adapters,
            cache=self._cache(page),
            latency=_latency(page, self.first_token) if self.first_token is not None else None,
            progress=_progress(page, self.progress),
            asleep=_asleep(page, self.awake) if self.awake is not None else None,
        )

    def _cache(self, page: bytes) -> CacheConfig | None:
        block_size: int | None = None
        blocks: int | None = None
        if self.cache_labels is not None:
            for series in self.cache_labels.metric.read(page):
                block_size = _positive(series.labels.get(self.cache_labels.block_size))
                blocks = _positive(series.labels.get(self.cache_labels.blocks))
        elif self.block_size is not None and self.blocks is not None:
            for series in self.block_size.read(page):
                block_size = _positive(series.value)
            for series in self.blocks.read(page):
                blocks = _positive(series.value)
        return None if block_size is None else CacheConfig(block_size, blocks)


def _total(page: bytes, names: tuple[Metric, ...]) -> int | None:
    """The sum of the series: a server with several engines in one process has one for each."""
    for metric in names:
        if found := metric.read(page):
            total = sum(one.value for one in found)
            return max(0, round(total)) if finite(total) else None
    return None


def _mean_share(page: bytes, names: tuple[Metric, ...]) -> float | None:
    for metric in names:
        if found := metric.read(page):
            mean = sum(one.value for one in found) / len(found)
            return min(1.0, max(0.0, mean))
    return None


def _adapters(page: bytes, block: tuple[int, int]) -> Adapters | None:
    """The value is the time at which the labels were true: the newest series counts.

    vLLM leaves a series for every order of names that there ever was, and lists all names in both
    labels.
    """
    found = False
    active: set[str] = set()
    waiting: set[str] = set()
    capacity = 0
    for labels in chosen(page, block, _newest_times):
        found = True
        active |= _names(labels.get("running_lora_adapters", ""))
        waiting |= _names(labels.get("waiting_lora_adapters", ""))
        capacity = _positive(labels.get("max_lora")) or capacity
    return Adapters(frozenset(active), frozenset(waiting - active), capacity) if found else None


def _newest_times(values: Sequence[float]) -> Sequence[int]:
    """Where the newest of these UNIX times are.

    Several API servers of one model server add up their times, and each knows its own requests
    only: then all that is about as new as the newest counts.
    """
    newest_value, now = max(values), time.time()
    if newest_value < 1.5 * now:
        return [values.index(newest_value)]
    times = [value / max(1, round(value / now)) for value in values]
    since = max(times) - TOGETHER
    return [at for at, one in enumerate(times) if one >= since]


def _latency(page: bytes, name: bytes) -> Latency | None:
    counts = Metric(name + b"_count").read(page)
    sums = Metric(name + b"_sum").read(page)
    if not counts or not sums:
        return None
    count, seconds = sum(one.value for one in counts), sum(one.value for one in sums)
    return Latency(int(count), seconds) if finite(count) and finite(seconds) else None


def _progress(page: bytes, counters: tuple[Metric, ...]) -> float | None:
    found = [series.value for metric in counters for series in metric.read(page)]
    total = sum(found)
    return total if found and finite(total) else None


def _asleep(page: bytes, awake: Metric) -> bool | None:
    found = [series.value for series in awake.read(page)]
    return min(found) == 0 if found else None


def _names(joined: str) -> frozenset[str]:
    return frozenset(name for part in joined.split(",") if (name := part.strip()))


def _positive(value: str | float | None) -> int | None:
    try:
        number = int(value) if value is not None else 0
    except ValueError:
        return None
    return number if number > 0 else None


VLLM = Engine(
    name="vllm",
    prefix=b"vllm:",
    waiting=(Metric(b"vllm:num_requests_waiting"),),
    running=(Metric(b"vllm:num_requests_running"),),
    kv_usage=(Metric(b"vllm:kv_cache_usage_perc"), Metric(b"vllm:gpu_cache_usage_perc")),
    adapters=b"vllm:lora_requests_info",
    cache_labels=CacheLabels(Metric(b"vllm:cache_config_info"), "block_size", "num_gpu_blocks"),
    first_token=b"vllm:time_to_first_token_seconds",
    progress=(
        Metric(b"vllm:prompt_tokens_total"),
        Metric(b"vllm:generation_tokens_total"),
        Metric(b"vllm:iteration_tokens_total_count"),
    ),
    awake=Metric(b"vllm:engine_sleep_state", {"sleep_state": "awake"}),
)

SGLANG = Engine(
    name="sglang",
    prefix=b"sglang:",
    waiting=(Metric(b"sglang:num_queue_reqs"),),
    running=(Metric(b"sglang:num_running_reqs"),),
    kv_usage=(Metric(b"sglang:token_usage"),),
    cache_labels=CacheLabels(Metric(b"sglang:cache_config_info"), "page_size", "num_pages"),
    first_token=b"sglang:time_to_first_token_seconds",
    progress=(Metric(b"sglang:prompt_tokens_total"), Metric(b"sglang:generation_tokens_total")),
)

TENSORRT_LLM = Engine(
    name="trtllm-serve",
    prefix=b"trtllm_",
    waiting=(Metric(b"trtllm_num_requests_waiting"),),
    running=(Metric(b"trtllm_num_requests_running"),),
    kv_usage=(Metric(b"trtllm_kv_cache_utilization"),),
    block_size=Metric(b"trtllm_kv_cache_tokens_per_block"),
    blocks=Metric(b"trtllm_kv_cache_max_blocks"),
    first_token=b"trtllm_time_to_first_token_seconds",
)

_TRITON_REQUESTS = b"nv_trt_llm_request_metrics"
_TRITON_BLOCKS = b"nv_trt_llm_kv_cache_block_metrics"

TRITON = Engine(
    name="triton-tensorrt-llm",
    prefix=b"nv_trt_llm_",
    waiting=(Metric(_TRITON_REQUESTS, {"request_type": "waiting"}),),
    running=(Metric(_TRITON_REQUESTS, {"request_type": "scheduled"}),),
    kv_usage=(Metric(_TRITON_BLOCKS, {"kv_cache_block_type": "fraction"}),),
    block_size=Metric(_TRITON_BLOCKS, {"kv_cache_block_type": "tokens_per"}),
    blocks=Metric(_TRITON_BLOCKS, {"kv_cache_block_type": "max"}),
)

ENGINES = (VLLM, SGLANG, TENSORRT_LLM, TRITON)


def engine_of(page: bytes) -> Engine | None:
    """The engine that wrote this page; None if it is none that we know."""
    for engine in ENGINES:
        if page.startswith(engine.prefix) or b"\n" + engine.prefix in page:
            return engine
    return None
