"""What a pod says at /metrics: vLLM's names, labels and buckets (its V1 engine).

Written by hand: routers scrape twenty times a second, and a client library takes ten times longer.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator

from sim.adapters import AdapterSlots
from sim.config import PodConfig
from sim.engine import Engine
from sim.events import Decoded, Event, Finished, FirstToken

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_TTFT = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_PER_TOKEN = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)
_REQUEST = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0),
    *(240.0, 480.0, 960.0, 1920.0, 7680.0),
)


def _tokens_buckets(limit: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50, ... up to the longest request."""
    steps = (float(m * 10**e) for e in itertools.count() for m in (1, 2, 5))
    return tuple(itertools.takewhile(lambda bucket: bucket <= limit, steps))


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class Histogram:
    """A Prometheus histogram that takes many equal observations at the price of one."""

    def __init__(self, name: str, about: str, labels: str, buckets: tuple[float, ...]) -> None:
        self._name = name
        self._head = f"# HELP {name} {about}\n# TYPE {name} histogram\n"
        self._labels = labels
        self._buckets = buckets
        self._lines = [f'{name}_bucket{{{labels},le="{le}"}} ' for le in (*buckets, "+Inf")]
        self._counts = [0] * (len(buckets) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        return sum(self._counts)

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect.bisect_left(self._buckets, value)] += times
        self.sum += value * times

    def lines(self) -> Iterator[str]:
        yield self._head
        total = 0
        for line, count in zip(self._lines, self._counts, strict=True):
            total += count
            yield f"{line}{total}\n"
        yield f"{self._name}_sum{{{self._labels}}} {self.sum}\n"
        yield f"{self._name}_count{{{self._labels}}} {total}\n"


class Metrics:
    """One pod's counters. Times are real seconds, as a client of the pod measures them."""

    def __init__(self, config: PodConfig) -> None:
        self._config = config
        self._labels = labels = f'model_name="{_escape(config.model)}",engine="0"'
        self._finished: Counter[str] = Counter()
        self._prompt_tokens = 0
        self._generation_tokens = 0
        # vLLM's gauge keeps a series for every set of adapters it has seen; the newest value wins.
        self._adapter_sets: dict[str, float] = {}

        def seconds(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"vllm:{name}_seconds", about, labels, buckets)

        sizes = _tokens_buckets(config.max_model_len)
        self._prompt = Histogram(
            "vllm:request_prompt_tokens", "Number of prefill tokens processed.", labels, sizes
        )
        self._output = Histogram(
            "vllm:request_generation_tokens", "Number of generation tokens.", labels, sizes
        )
        self._ttft = seconds("time_to_first_token", "Time to first token.", _TTFT)
        # The second name is the newer one; vLLM had both for some releases.
        self._between = [
            seconds("time_per_output_token", "Time per output token.", _PER_TOKEN),
            seconds("inter_token_latency", "Inter-token latency.", _PER_TOKEN),
        ]
        self._mean = seconds(
            "request_time_per_output_token", "Mean time per output token.", _PER_TOKEN
        )
        self._e2e = seconds("e2e_request_latency", "End-to-end request latency.", _REQUEST)
        self._queue = seconds("request_queue_time", "Time in the WAITING phase.", _REQUEST)
        self._inference = seconds("request_inference_time", "Time in RUNNING.", _REQUEST)
        self._prefill = seconds("request_prefill_time", "Time in PREFILL.", _REQUEST)
        self._decode = seconds("request_decode_time", "Time in DECODE.", _REQUEST)
        self._arrivals: dict[str, tuple[float, int]] = {}

    def submitted(self, request_id: str, at: float, prompt_tokens: int) -> None:
        self._arrivals[request_id] = (at, prompt_tokens)

    def aborted(self, request_id: str) -> None:
        """A request ended before its time."""
        if self._arrivals.pop(request_id, None) is not None:
            self._finished["abort"] += 1

    def observe(self, event: Event) -> None:
        """Count what the engine did."""
        scale = self._config.time_scale
        match event:
            case Decoded(interval=interval, tokens=tokens):
                self._generation_tokens += tokens
                for histogram in self._between:
                    histogram.observe(interval / scale, tokens)
            case FirstToken(request_id=request_id, at=at):
                arrived, prompt_tokens = self._arrivals[request_id]
                self._generation_tokens += 1
                self._prompt_tokens += prompt_tokens
                self._ttft.observe((at - arrived) / scale)
            case _:
                pass

    def finished(self, event: Finished, output_tokens: int, reason: str) -> None:
        """A request has all its tokens."""
        _, prompt_tokens = self._arrivals.pop(event.request_id)
        scale = self._config.time_scale
        decoding = (event.at - event.first_token) / scale
        self._finished[reason] += 1
        self._prompt.observe(prompt_tokens)
        self._output.observe(output_tokens)
        self._e2e.observe((event.at - event.arrived) / scale)
        self._queue.observe((event.admitted - event.arrived) / scale)
        self._inference.observe((event.at - event.admitted) / scale)
        self._prefill.observe((event.first_token - event.admitted) / scale)
        self._decode.observe(decoding)
        if output_tokens > 1:
            self._mean.observe(decoding / (output_tokens - 1))

    def render(self, engine: Engine, unix_time: float) -> str:
        """The exposition text."""
        return "".join(self._lines(engine, unix_time))

    def _lines(self, engine: Engine, unix_time: float) -> Iterator[str]:
        gauge, counter = self._gauge, self._counter
        yield gauge("num_requests_running", "Requests in execution batches.", engine.running)
        yield gauge("num_requests_waiting", "Requests waiting to be processed.", engine.waiting)
        about = "KV-cache usage. 1 means 100 percent usage."
        yield gauge("kv_cache_usage_perc", about, engine.kv_usage)
        if self._config.legacy_metrics:
            yield gauge("gpu_cache_usage_perc", about, engine.kv_usage)
        yield counter("prefix_cache_queries", "Queried tokens.", engine.prefix_queries)
        yield counter("prefix_cache_hits", "Cached tokens.", engine.prefix_hits)
        yield counter("num_preemptions", "Preemptions by the engine.", engine.preemptions)
        yield counter("prompt_tokens", "Prefill tokens processed.", self._prompt_tokens)
        yield counter("generation_tokens", "Generation tokens.", self._generation_tokens)
        yield self._successes()
        yield self._cache_config(engine)
        yield from self._adapters(engine.adapters, engine.waiting_adapters, unix_time)
        for histogram in (
            *(self._prompt, self._output, self._ttft, *self._between, self._mean, self._e2e),
            *(self._queue, self._inference, self._prefill, self._decode),
        ):
            yield from histogram.lines()

    def _gauge(self, name: str, about: str, value: float) -> str:
        name = f"vllm:{name}"
        return f"# HELP {name} {about}\n# TYPE {name} gauge\n{name}{{{self._labels}}} {value}\n"

    def _counter(self, name: str, about: str, value: int) -> str:
        name = f"vllm:{name}_total"
        return f"# HELP {name} {about}\n# TYPE {name} counter\n{name}{{{self._labels}}} {value}\n"

    def _successes(self) -> str:
        name = "vllm:request_success_total"
        lines = [f"# HELP {name} Finished requests.\n# TYPE {name} counter\n"]
        for reason in ("stop", "length", "abort", "error"):
            count = self._finished[reason]
            lines.append(f'{name}{{{self._labels},finished_reason="{reason}"}} {count}\n')
        return "".join(lines)

    def _cache_config(self, engine: Engine) -> str:
        name = "vllm:cache_config_info"
        config = engine.config
        return (
            f"# HELP {name} Information of the LLMEngine CacheConfig\n# TYPE {name} gauge\n"
            f'{name}{{block_size="{config.block_size}",cache_dtype="auto",'
            f'enable_prefix_caching="{config.enable_prefix_caching}",engine="0",'
            f'gpu_memory_utilization="0.9",num_gpu_blocks="{config.num_blocks}"}} 1.0\n'
        )

    def _adapters(
        self, slots: AdapterSlots, waiting: Iterable[str], unix_time: float
    ) -> Iterator[str]:
        """Adapters that running and waiting requests use. An adapter that is in a slot but idle is
        not told: vLLM does not tell it either."""
        if not (self._config.adapters or slots.loads):
            return  # as a server that was started without LoRA
        name = "vllm:lora_requests_info"
        series = (
            f'{name}{{max_lora="{slots.slots}",'
            f'running_lora_adapters="{_escape(",".join(slots.active))}",'
            f'waiting_lora_adapters="{_escape(",".join(waiting))}"}}'
        )
        self._adapter_sets.pop(series, None)
        self._adapter_sets[series] = unix_time
        while len(self._adapter_sets) > 8:
            del self._adapter_sets[next(iter(self._adapter_sets))]
        yield f"# HELP {name} Running stats on lora requests.\n# TYPE {name} gauge\n"
        for line, value in self._adapter_sets.items():
            yield f"{line} {value}\n"
