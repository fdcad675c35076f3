from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poolpilot.errors import PoolPilotError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from extproc.picking.admission.settings import AdmissionSettings
    from extproc.picking.profiles import ProfileSet
    from sim.fleet.experiment import Result, Run
    from sim.fleet.traffic import Workload

FLEET = "Fleet"
PICKER = "Endpoint picker"
OUTPUT = "Output"
WIDTH = 180
"""Columns that the table gets where the output is not a terminal."""


def simulate(
    workload: Annotated[
        str,
        typer.Argument(
            metavar="WORKLOAD",
            help="w1 to w12 (see --list), or a trace: a .jsonl file in Mooncake's format.",
        ),
    ] = "",
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", "-p", help="A policy to try. Repeat; without any, all."),
    ] = None,
    load: Annotated[
        list[float] | None,
        typer.Option(
            "--load",
            "--rate",
            "-r",
            min=0.001,
            help="Requests per second (or clients, or speed of a trace, as the workload counts). "
            "Repeat; without any, the workload's own.",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(min=1, help="Runs of each policy and load, each with other random numbers."),
    ] = 3,
    pods: Annotated[
        int | None,
        typer.Option(
            min=1, help="Pods; without it as the workload has them.", rich_help_panel=FLEET
        ),
    ] = None,
    scrape_interval: Annotated[
        float,
        typer.Option(min=0.01, help="Seconds between two scrapes of a pod.", rich_help_panel=FLEET),
    ] = 0.2,
    scrape_delay: Annotated[
        float,
        typer.Option(min=0, help="Seconds that a scrape is old on arrival.", rich_help_panel=FLEET),
    ] = 0.005,
    kv_cache_tokens: Annotated[
        int | None,
        typer.Option(min=16, help="Tokens in a pod's KV cache.", rich_help_panel=FLEET),
    ] = None,
    max_num_seqs: Annotated[
        int | None,
        typer.Option(min=1, help="Sequences that a pod computes at once.", rich_help_panel=FLEET),
    ] = None,
    max_loras: Annotated[
        int | None,
        typer.Option(min=1, help="Adapters that a pod uses at once.", rich_help_panel=FLEET),
    ] = None,
    prefill: Annotated[
        float | None,
        typer.Option(
            min=1, help="Prompt tokens that a pod computes a second.", rich_help_panel=FLEET
        ),
    ] = None,
    decode_base_ms: Annotated[
        float | None,
        typer.Option(min=0.001, help="Time of a decode step, before ...", rich_help_panel=FLEET),
    ] = None,
    decode_sequence_ms: Annotated[
        float | None,
        typer.Option(min=0, help="... this for each sequence in it.", rich_help_panel=FLEET),
    ] = None,
    profiles: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            exists=True,
            help="The endpoint picker's profiles file: its profiles are policies too (without "
            "--policy, its default alone), and its load and admission hold for every policy.",
            rich_help_panel=PICKER,
        ),
    ] = None,
    admission: Annotated[
        bool | None,
        typer.Option(
            "--admission/--no-admission",
            help="Let requests wait while the pool is full: as --profiles says, or else with the "
            "defaults. Without either, what --profiles says.",
            rich_help_panel=PICKER,
        ),
    ] = None,
    cool_down: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds that a pod which fails gets no requests, the first time; without it 2.",
            rich_help_panel=PICKER,
        ),
    ] = None,
    slow_start: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Seconds over which its share then grows to the full; without it 10.",
            rich_help_panel=PICKER,
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", "-j", min=1, help="Runs at once; default: cores.")
    ] = None,
    json_: Annotated[
        bool,
        typer.Option("--json", help="Print every number as JSON.", rich_help_panel=OUTPUT),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write a page with charts.", rich_help_panel=OUTPUT),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Write the charts into this directory, as PNG (needs the extra 'plots').",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show workloads and policies.")] = False,
) -> None:
    """Try policies on a simulated fleet, with the code that picks endpoints for real requests.

    Each pod takes as long as a GPU pod of the published runs would; time is virtual, so minutes of
    traffic take seconds.

    [bold]Examples[/bold]

      poolpilot simulate w1 --policy default --policy round-robin

      poolpilot simulate w1 --rate 20 --rate 60 --html w1.html

      poolpilot simulate w12 --profiles profiles.yaml --admission

      poolpilot simulate trace.jsonl --pods 16 --json
    """
    from dataclasses import replace

    from rich.console import Console

    from extproc.picking.endpoint_health import HealthPolicy
    from extproc.picking.scraping import ScrapeSettings
    from poolpilot.simulation.document import as_json
    from poolpilot.simulation.page import page
    from poolpilot.simulation.plots import prepare_plots, write_plots
    from poolpilot.simulation.table import catalogue, table
    from sim.fleet.experiment import cells

    if list_ or not workload:
        Console(width=WIDTH, highlight=False).print(catalogue())
        return
    chosen = _workload(workload)
    picker = _profiles(profiles)
    health = {"cool_down": cool_down, "slow_start": slow_start}
    runs = _runs(
        chosen,
        policies=_policies(policy, picker),
        loads=load or list(chosen.loads),
        seeds=seeds,
        pods=pods or chosen.pods,
        engine={
            "kv_cache_tokens": kv_cache_tokens,
            "max_num_seqs": max_num_seqs,
            "max_loras": max_loras,
        },
        cost={
            "prefill_tokens_per_second": prefill,
            "decode_base_seconds": decode_base_ms and decode_base_ms / 1000,
            "decode_per_sequence_seconds": decode_sequence_ms and decode_sequence_ms / 1000,
        },
        profiles=_text_of(profiles) if profiles is not None else "",
        fleet={
            "scrape_delay": scrape_delay,
            "scrape": ScrapeSettings(interval=scrape_interval),
            "health": replace(
                HealthPolicy(),
                **{k: v for k, v in health.items() if v is not None},  # type: ignore[arg-type]
            ),
            "load": picker.load,
            "admission": _admission(picker, admission),
        },
    )
    # Not after minutes of simulating, whose results would be lost.
    if html is not None:
        _prepare_page(html)
    if plots is not None:
        prepare_plots(plots)
    grid = cells(_perform(runs, processes))
    if html is not None:
        html.write_text(page(chosen, runs[0], grid), encoding="utf-8")
    if plots is not None:
        write_plots(chosen, grid, plots)
    if json_:
        sys.stdout.write(as_json(chosen, runs[0], grid))
    else:
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=WIDTH)
        console.print(table(chosen, runs[0].pods, seeds, grid))


def _prepare_page(path: Path) -> None:
    try:
        path.open("a").close()
    except OSError as error:
        raise PoolPilotError(f"--html: {error}") from None


def _workload(name: str) -> Workload:
    from sim.workloads import WORKLOADS

    if (workload := WORKLOADS.get(name.lower())) is not None:
        return workload
    path = Path(name)
    if path.suffix != ".jsonl" and not path.exists():
        raise typer.BadParameter(
            f"there is no workload {name!r}; choose one of {', '.join(WORKLOADS)}, or give a"
            " trace (.jsonl)",
            param_hint="WORKLOAD",
        )
    from sim.workloads.mooncake import TraceError, read_trace

    try:
        return read_trace(path)
    except (OSError, TraceError) as error:
        raise typer.BadParameter(str(error), param_hint="WORKLOAD") from error


def _profiles(path: Path | None) -> ProfileSet:
    """What the picker would be started with."""
    from extproc.picking.profiles import builtin, read_profiles
    from extproc.picking.profiles.document import errors_of

    if path is None:
        return builtin("default")
    profiles, problems = read_profiles(_text_of(path), str(path))
    if profiles is None:
        errors = "\n".join(str(problem) for problem in errors_of(problems))
        raise typer.BadParameter(errors, param_hint="--profiles")
    return profiles


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="--profiles") from error


def _admission(picker: ProfileSet, on: bool | None) -> AdmissionSettings | None:
    from extproc.picking.admission.settings import AdmissionSettings

    if on is None:
        return picker.admission
    return (picker.admission or AdmissionSettings()) if on else None


def _policies(names: Sequence[str] | None, picker: ProfileSet) -> list[str]:
    from extproc.picking.scheduling.profiles import PROFILES
    from sim.fleet.policies import POLICIES

    if not names:
        return list(POLICIES) if picker.profiles is PROFILES else [picker.default]
    known = {**POLICIES, **picker.profiles}
    for name in names:
        if name not in known:
            raise typer.BadParameter(
                f"there is no policy {name!r}; choose from {', '.join(known)}",
                param_hint="--policy",
            )
    return list(dict.fromkeys(names))


def _runs(
    workload: Workload,
    *,
    policies: Sequence[str],
    loads: Sequence[float],
    seeds: int,
    pods: int,
    engine: dict[str, int | None],
    cost: dict[str, float | None],
    profiles: str,
    fleet: dict[str, object],
) -> list[Run]:
    from dataclasses import replace

    from sim.engine import EngineConfig
    from sim.fleet.experiment import Run
    from sim.fleet.fleet import FleetConfig

    try:
        config = EngineConfig()
        config = replace(
            config,
            cost=replace(config.cost, **{k: v for k, v in cost.items() if v is not None}),
            **{k: v for k, v in engine.items() if v is not None},  # type: ignore[arg-type]
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    surroundings = FleetConfig(**fleet)  # type: ignore[arg-type]
    return [
        Run(workload, policy, load, seed, pods, config, surroundings, profiles)
        for load in loads
        for seed in range(1, seeds + 1)
        for policy in policies
    ]


def _perform(runs: Sequence[Run], processes: int | None) -> list[Result]:
    """All runs, with their progress on stderr."""
    import os

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from sim.fleet.experiment import perform_all

    results = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task("simulating", total=len(runs))
        for result in perform_all(runs, processes or os.cpu_count() or 1):
            results.append(result)
            progress.update(
                task,
                advance=1,
                description=f"{result.policy} at {result.load:g}, seed {result.seed}",
            )
    order = {(run.load, run.policy): index for index, run in enumerate(runs)}
    return sorted(results, key=lambda result: (order[result.load, result.policy], result.seed))
