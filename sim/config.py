"""How a simulated pod is set up."""

from __future__ import annotations

import math
import os
import socket
from dataclasses import dataclass, field

from sim.engine import EngineConfig

BASE_MODEL = "meta-llama/Llama-2-7b-hf"
QUICKSTART_ADAPTERS = tuple(
    f"{name}{suffix}"
    for name in ("tweet-summary", "sql-lora")
    for suffix in ("", "-0", "-1", "-2", "-3", "-4")
)


def pod_name() -> str:
    """What Kubernetes or Docker calls this pod."""
    return os.environ.get("POD_NAME") or os.environ.get("HOSTNAME") or socket.gethostname()


@dataclass(frozen=True, slots=True, kw_only=True)
class PodConfig:
    """One simulated vLLM pod. ValueError names the field that cannot be."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free one
    name: str = field(default_factory=pod_name)
    model: str = BASE_MODEL
    adapters: tuple[str, ...] = QUICKSTART_ADAPTERS
    max_model_len: int = 131_072  # tokens, prompt and output
    engine: EngineConfig = field(default_factory=EngineConfig)
    time_scale: float = 1.0  # simulated seconds that pass in one real second
    stream_interval: int = 1  # tokens in a chunk after the first, as vLLM's --stream-interval
    seed: int = 0
    # Output length where the request does not say: mean of a log-normal distribution.
    output_tokens_mean: float = 200.0
    # Draw the length even where max_tokens is given, so that answers end with "stop" before it.
    stop_early: bool = False
    legacy_metrics: bool = False  # vllm:gpu_cache_usage_perc too, as before November 2025
    grace_seconds: float = 5.0  # real time that requests get to finish after SIGTERM

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not between 0 and 65535")
        if not self.name or not self.name.isprintable():
            raise ValueError(f"name {self.name!r} must be printable and not empty: it is a header")
        if not self.model:
            raise ValueError("model must not be empty")
        names = [self.model, *self.adapters]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"model name {name!r} is given twice")
            if not name or "," in name:
                raise ValueError(f"adapter name {name!r} must not be empty or hold a comma")
        if not (self.time_scale > 0 and math.isfinite(self.time_scale)):
            raise ValueError(f"time_scale {self.time_scale} must be above 0")
        if self.stream_interval < 1:
            raise ValueError(f"stream_interval {self.stream_interval} must be at least 1")
        if self.output_tokens_mean < 1:
            raise ValueError(f"output_tokens_mean {self.output_tokens_mean} must be at least 1")
        if self.grace_seconds < 0:
            raise ValueError("grace_seconds must not be negative")
        capacity = self.engine.num_blocks * self.engine.block_size
        if not 2 <= self.max_model_len <= capacity:
            raise ValueError(
                f"max_model_len {self.max_model_len} must be between 2 and what the KV cache holds"
                f" ({capacity} tokens): raise kv_cache_tokens or lower max_model_len"
            )
