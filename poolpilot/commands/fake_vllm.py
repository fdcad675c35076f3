from __future__ import annotations

from typing import Annotated

import typer

from poolpilot.grouping import option
from poolpilot.logs import LogFormat, LogLevel
from poolpilot.options import SERVING, Format, Level, listen_address

ENGINE = "Engine (defaults: one Llama-2-7b on one large GPU)"


def fake_vllm(
    address: Annotated[
        str,
        option(
            "POOLPILOT_FAKE_VLLM_ADDRESS",
            SERVING,
            "Where to listen.",
            metavar="HOST:PORT",
            check=listen_address,
        ),
    ] = "127.0.0.1:8000",
    name: Annotated[
        str | None,
        typer.Option(
            envvar="POD_NAME",
            help="What the response header x-sim-pod says; without it the host's name.",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Name of the base model.")] = (
        "meta-llama/Llama-2-7b-hf"
    ),
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="A LoRA adapter that can be asked for. Repeat; without any, the quickstart's."
        ),
    ] = None,
    time_scale: Annotated[
        float,
        typer.Option(
            envvar="POOLPILOT_FAKE_VLLM_TIME_SCALE", help="How much faster than a real GPU."
        ),
    ] = 1,
    output_tokens: Annotated[
        float, typer.Option(help="Mean length of answers to requests without max_tokens.")
    ] = 200,
    legacy_metrics: Annotated[
        bool, typer.Option("--legacy-metrics", help="Also the metric names of older vLLMs.")
    ] = False,
    stream_interval: Annotated[
        int, typer.Option(help="Tokens in a chunk of a stream, but for the first.")
    ] = 1,
    max_num_seqs: Annotated[
        int, typer.Option(help="Sequences computed at once.", rich_help_panel=ENGINE)
    ] = 256,
    max_loras: Annotated[
        int, typer.Option(help="Adapters in use at once.", rich_help_panel=ENGINE)
    ] = 4,
    kv_cache_tokens: Annotated[
        int, typer.Option(help="Tokens that the KV cache holds.", rich_help_panel=ENGINE)
    ] = 307_328,
    max_model_len: Annotated[
        int, typer.Option(help="Most tokens of one request.", rich_help_panel=ENGINE)
    ] = 131_072,
    prefill: Annotated[
        float, typer.Option(help="Prompt tokens computed a second.", rich_help_panel=ENGINE)
    ] = 13_000,
    decode_base_ms: Annotated[
        float, typer.Option(help="A decode step without sequences.", rich_help_panel=ENGINE)
    ] = 12,
    decode_sequence_ms: Annotated[
        float, typer.Option(help="Each sequence in a decode step.", rich_help_panel=ENGINE)
    ] = 0.3,
    adapter_load_ms: Annotated[
        float, typer.Option(help="Bringing an adapter into a slot.", rich_help_panel=ENGINE)
    ] = 200,
    log_level: Level = LogLevel.INFO,
    log_format: Format = LogFormat.AUTO,
    grace: Annotated[
        float,
        option(
            "POOLPILOT_GRACE",
            SERVING,
            "Seconds that what is in progress gets to finish after SIGTERM or Ctrl-C.",
            min=0,
        ),
    ] = 5,
) -> None:
    """Serve as one simulated vLLM pod: OpenAI API, metrics, LoRA adapters, batching, KV cache.

    [bold]Examples[/bold]

      poolpilot fake-vllm --address 127.0.0.1:8000 --name pod-0 --time-scale 10

      curl http://127.0.0.1:8000/metrics

      curl -X POST http://127.0.0.1:8000/admin/fail -d '{"fail": "503", "rate": 0.1}'
    """
    from poolpilot import logs
    from poolpilot.lifecycle import run_until_stopped
    from poolpilot.parts import simulated_pod
    from sim.config import QUICKSTART_ADAPTERS, PodConfig, pod_name
    from sim.cost import CostModel
    from sim.engine import EngineConfig

    logs.configure(log_level, log_format)
    host, port = listen_address(address)
    try:
        config = PodConfig(
            host=host,
            port=port,
            name=name or pod_name(),
            model=model,
            adapters=tuple(adapter) if adapter else QUICKSTART_ADAPTERS,
            max_model_len=max_model_len,
            engine=EngineConfig(
                max_num_seqs=max_num_seqs,
                max_loras=max_loras,
                kv_cache_tokens=kv_cache_tokens,
                cost=CostModel(
                    prefill_tokens_per_second=prefill,
                    decode_base_seconds=decode_base_ms / 1000,
                    decode_per_sequence_seconds=decode_sequence_ms / 1000,
                    adapter_load_seconds=adapter_load_ms / 1000,
                ),
            ),
            time_scale=time_scale,
            stream_interval=stream_interval,
            output_tokens_mean=output_tokens,
            legacy_metrics=legacy_metrics,
            grace_seconds=grace,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    run_until_stopped(
        lambda: {"simulated pod": simulated_pod(config)},
        # The pod has the grace period to itself, and a second more to close.
        grace=grace + 1,
    )
