"""``python -m sim``: one simulated vLLM pod."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from sim.config import BASE_MODEL, QUICKSTART_ADAPTERS, PodConfig, pod_name
from sim.cost import CostModel
from sim.engine import EngineConfig
from sim.pod import Pod
from sim.server import serve


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sim", description=__doc__)
    cost = CostModel()
    engine = EngineConfig()
    pod = PodConfig()
    add = parser.add_argument
    add("--host", default=pod.host)
    add("--port", type=int, default=pod.port, help="0: any free one, which is printed")
    add("--name", default=pod_name(), help="what x-sim-pod says")
    add("--model", default=BASE_MODEL)
    add("--lora", action="append", help="an adapter; again for more (default: the quickstart's)")
    add("--max-loras", type=int, default=engine.max_loras)
    add("--max-num-seqs", type=int, default=engine.max_num_seqs)
    add("--max-num-batched-tokens", type=int, default=engine.max_num_batched_tokens)
    add("--max-model-len", type=int, default=pod.max_model_len)
    add("--kv-cache-tokens", type=int, default=engine.kv_cache_tokens)
    add("--block-size", type=int, default=engine.block_size)
    add("--prefill-tokens-per-second", type=float, default=cost.prefill_tokens_per_second)
    add("--decode-base-ms", type=float, default=cost.decode_base_seconds * 1000)
    add("--decode-per-sequence-ms", type=float, default=cost.decode_per_sequence_seconds * 1000)
    add("--adapter-load-ms", type=float, default=cost.adapter_load_seconds * 1000)
    add("--time-scale", type=float, default=pod.time_scale)
    add("--stream-interval", type=int, default=pod.stream_interval, help="tokens in a chunk")
    add("--seed", type=int, default=pod.seed)
    add("--stop-early", action="store_true", help="draw output lengths below max_tokens")
    add("--legacy-metrics", action="store_true", help="vllm:gpu_cache_usage_perc too")
    return parser


def _config(args: argparse.Namespace) -> PodConfig:
    cost = CostModel(
        prefill_tokens_per_second=args.prefill_tokens_per_second,
        decode_base_seconds=args.decode_base_ms / 1000,
        decode_per_sequence_seconds=args.decode_per_sequence_ms / 1000,
        adapter_load_seconds=args.adapter_load_ms / 1000,
    )
    engine = EngineConfig(
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens,
        block_size=args.block_size,
        kv_cache_tokens=args.kv_cache_tokens,
        max_loras=args.max_loras,
        cost=cost,
    )
    return PodConfig(
        host=args.host,
        port=args.port,
        name=args.name,
        model=args.model,
        adapters=QUICKSTART_ADAPTERS if args.lora is None else tuple(args.lora),
        max_model_len=args.max_model_len,
        engine=engine,
        time_scale=args.time_scale,
        stream_interval=args.stream_interval,
        seed=args.seed,
        stop_early=args.stop_early,
        legacy_metrics=args.legacy_metrics,
    )


def _say(pod: Pod) -> None:
    sys.stdout.write(f"{pod.config.name} serves {pod.config.model} on {pod.url}\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        asyncio.run(serve(_config(args), ready=_say))
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.exit(1, f"cannot listen on {args.host}:{args.port}: {error.strerror or error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
