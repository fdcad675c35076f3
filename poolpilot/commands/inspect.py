from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

Xds = Annotated[
    str,
    typer.Option(
        "--xds",
        metavar="URL",
        envvar="POOLPILOT_XDS_URL",
        help="Debug pages of the xDS server.",
    ),
]
Extproc = Annotated[
    str,
    typer.Option(
        "--extproc",
        metavar="URL",
        envvar="POOLPILOT_EXTPROC_URL",
        help="Debug pages of the endpoint picker.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the server said, as JSON.")]

XDS_URL = "http://127.0.0.1:18001"

WIDTH = 140
"""Columns that tables get at least."""
EXTPROC_URL = "http://127.0.0.1:9090"


def status(xds: Xds = XDS_URL, as_json: AsJson = False) -> None:
    """Show what the xDS server knows: problems in the manifests, pools, and each Envoy's state.

    Exits 1 if there is an error in the manifests, or an Envoy that rejected something.

    [bold]Example[/bold]

      poolpilot status --xds http://127.0.0.1:18001
    """
    import asyncio

    from poolpilot import debug, report

    world, nodes = asyncio.run(debug.fetch_all(f"{xds}/debug/world", f"{xds}/debug/xds/nodes"))
    if as_json:
        _print_json({"world": world, "nodes": nodes["nodes"]})
    else:
        _console().print(report.status(world, nodes["nodes"]), soft_wrap=True)
    if report.has_errors(world, nodes["nodes"]):
        raise typer.Exit(1)


def snapshot(
    path: Annotated[
        str,
        typer.Argument(
            metavar="[GROUP[/TYPE[/NAME]]]",
            help="What to show: all groups of nodes, or one group's resources, or those of one "
            "type (listeners, routes, clusters, endpoints), or one resource.",
        ),
    ] = "",
    xds: Xds = XDS_URL,
) -> None:
    """Print the configuration that Envoys get, as JSON with Envoy's field names.

    [bold]Examples[/bold]

      poolpilot snapshot

      poolpilot snapshot default/clusters/pool/default/llama
    """
    import asyncio

    from poolpilot import debug

    url = f"{xds}/debug/xds/snapshots" + (f"/{path.strip('/')}" if path else "")
    (document,) = asyncio.run(debug.fetch_all(url))
    _print_json(document)


def picks(
    pick: Annotated[
        str, typer.Argument(metavar="[ID]", help="One pick (or x-request-id), step by step.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many of the last picks.")] = 20,
    pool: Annotated[
        str | None, typer.Option(metavar="NAMESPACE/NAME", help="Only this pool's.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only for this model.")] = None,
    extproc: Extproc = EXTPROC_URL,
    as_json: AsJson = False,
) -> None:
    """Show which endpoint each of the last requests was sent to, and why.

    [bold]Examples[/bold]

      poolpilot picks --model tweet-summary

      poolpilot picks 1f3a9c20-7
    """
    import asyncio
    from urllib.parse import quote, urlencode

    from poolpilot import debug, report

    if pick:
        (document,) = asyncio.run(
            debug.fetch_all(f"{extproc}/debug/decisions/{quote(pick, safe='')}")
        )
        _print_json(document)
        return
    wanted = {"limit": limit, "pool": pool, "model": model}
    query = urlencode({key: value for key, value in wanted.items() if value is not None})
    (document,) = asyncio.run(debug.fetch_all(f"{extproc}/debug/decisions?{query}"))
    if as_json:
        _print_json(document)
    else:
        _console().print(report.picks(document["decisions"]), soft_wrap=True)


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    # A line that a narrow terminal wraps is easier to read than columns that are cut off.
    console.width = max(console.width, WIDTH)
    return console


def _print_json(document: object) -> None:
    import json

    typer.echo(json.dumps(document, indent=2))
