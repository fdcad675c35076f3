"""Asking the running servers what they know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
Output = Annotated[
    Literal["json", "yaml", "names"],
    typer.Option("--output", "-o", help="In full as JSON or YAML, or only what there is."),
]

XDS_URL = "http://127.0.0.1:18001"
EXTPROC_URL = "http://127.0.0.1:9090"

WIDTH = 140
"""Columns that tables get at least."""


def status(
    xds: Xds = XDS_URL,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Stay, and show every change, until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what the xDS server knows: problems in the manifests, pools, and each Envoy's state.

    The worst comes first, with the words in which an Envoy rejected something. Exits 1 if there is
    an error in the manifests, or an Envoy that rejected something.

    [bold]Examples[/bold]

      poolpilot status

      poolpilot status --watch --xds http://127.0.0.1:18001
    """
    import asyncio
    import contextlib

    from poolpilot import report

    if watch:
        if as_json:
            raise typer.BadParameter("cannot be used with --watch", param_hint="--json")
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_watch(xds))
        return
    world, nodes = _ask(xds, "/debug/world", "/debug/xds/nodes")
    if as_json:
        _print_json({"world": world, "nodes": nodes["nodes"]})
    else:
        _console().print(report.status(world, nodes["nodes"]), soft_wrap=True)
    if report.has_errors(world, nodes["nodes"]):
        raise typer.Exit(1)


def snapshot(
    group: Annotated[
        str, typer.Argument(help="A group of nodes; without it, all groups are listed.")
    ] = "",
    kind: Annotated[
        str,
        typer.Argument(metavar="[TYPE]", help="listeners, routes, clusters or endpoints."),
    ] = "",
    name: Annotated[str, typer.Argument(help="One resource.")] = "",
    output: Output = "json",
    xds: Xds = XDS_URL,
) -> None:
    """Print the configuration that Envoys get, with Envoy's field names.

    [bold]Examples[/bold]

      poolpilot snapshot -o names

      poolpilot snapshot default clusters pool/default/llama -o yaml
    """
    from urllib.parse import quote

    parts = "/".join(quote(part.strip("/"), safe="/") for part in (group, kind, name) if part)
    (document,) = _ask(xds, f"/debug/xds/snapshots{'/' if parts else ''}{parts}")
    if output == "names":
        typer.echo("\n".join(_names(document)))
    else:
        _print(document, output)


def diff(
    node: Annotated[
        str, typer.Argument(help="The node's id; can be left out where only one is connected.")
    ] = "",
    admin: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Its Envoy's admin interface, as seen from here: compare with what it really has.",
        ),
    ] = "",
    xds: Xds = XDS_URL,
    as_json: AsJson = False,
) -> None:
    """Compare what an Envoy is meant to have, what it has acknowledged, and what it has.

    Exits 1 if something was rejected, or if Envoy does not have what it acknowledged.

    [bold]Examples[/bold]

      poolpilot diff envoy-1

      poolpilot diff envoy-1 --admin http://127.0.0.1:19000
    """
    from poolpilot import comparison

    found = _compared(xds, node or _only_node(xds), admin)
    if as_json:
        _print_json({"resources": found})
    else:
        _console().print(comparison.difference(found, asked=bool(admin)), soft_wrap=True)
    if comparison.is_bad(found):
        raise typer.Exit(1)


def why(
    pod: Annotated[
        str, typer.Argument(metavar="POD", help="A pod's or host's name, an IP, or IP:port.")
    ],
    xds: Xds = XDS_URL,
    as_json: AsJson = False,
) -> None:
    """Say why an endpoint is there, or why it is not: from its manifest to each Envoy.

    Exits 0 if every Envoy that is to have it has it, otherwise 1.

    [bold]Examples[/bold]

      poolpilot why llama-7

      poolpilot why 10.0.0.7:8000
    """
    from urllib.parse import quote

    from poolpilot import comparison

    (found,) = _ask(xds, f"/debug/xds/why?q={quote(pod, safe='')}")
    if as_json:
        _print_json(found)
    else:
        _console().print(comparison.explanation(found), soft_wrap=True)
    if found["verdict"] != "served":
        raise typer.Exit(1)


def picks(
    pick: Annotated[
        str, typer.Argument(metavar="[ID]", help="One pick (or x-request-id), step by step.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many of the last picks.")] = 20,
    pool: Annotated[
        str | None, typer.Option(metavar="NAMESPACE/NAME", help="Only this pool's.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only for this model.")] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="IP:PORT", help="Only those sent to, or served by, this endpoint."),
    ] = None,
    outcome: Annotated[
        str | None,
        typer.Option(
            help="Only those that came out so: routed, in-progress, failed, refused, or the code "
            "of a refusal such as shed."
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on, one line for each new pick.")
    ] = False,
    extproc: Extproc = EXTPROC_URL,
    as_json: AsJson = False,
) -> None:
    """Show which endpoint each of the last requests was sent to, and why.

    [bold]Examples[/bold]

      poolpilot picks --model tweet-summary

      poolpilot picks --follow

      poolpilot explain 1f3a9c20-7
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
    wanted = {
        "limit": limit,
        "pool": pool,
        "model": model,
        "endpoint": endpoint,
        "outcome": outcome,
    }
    given = {key: value for key, value in wanted.items() if value is not None}
    if follow:
        from poolpilot.commands import explain

        explain.follow(extproc, given, as_json)
        return
    query = urlencode(given)
    (document,) = asyncio.run(debug.fetch_all(f"{extproc}/debug/decisions?{query}"))
    if as_json:
        _print_json(document)
    else:
        _console().print(report.picks(document["decisions"]), soft_wrap=True)


def _ask(xds: str, *paths: str) -> list[Any]:
    """Documents of the xDS server. Raises NoAnswerError that says how to ask another one."""
    import asyncio

    from poolpilot import debug

    try:
        return asyncio.run(debug.fetch_all(*(xds.rstrip("/") + path for path in paths)))
    except debug.UnreachableError as error:
        raise debug.UnreachableError(
            f"{error}\nIs the xDS server running? Say where its debug pages are with --xds URL or "
            "POOLPILOT_XDS_URL"
        ) from error


async def _watch(xds: str) -> None:
    import asyncio

    import aiohttp
    from rich.live import Live
    from rich.text import Text

    from poolpilot import debug, report

    base = xds.rstrip("/")
    with Live(console=_console(), screen=True) as live:
        async with aiohttp.ClientSession(timeout=debug.LIMIT) as session:
            while True:
                try:
                    world = await debug.fetch(session, f"{base}/debug/world")
                    nodes = await debug.fetch(session, f"{base}/debug/xds/nodes")
                    live.update(report.status(world, nodes["nodes"]))
                except debug.NoAnswerError as error:
                    live.update(Text(f"{error}\nTrying again.", style="yellow"))
                await asyncio.sleep(1)


def _only_node(xds: str) -> str:
    (document,) = _ask(xds, "/debug/xds/nodes")
    ids = [node["id"] for node in document["nodes"]]
    if len(ids) != 1:
        raise typer.BadParameter(
            f"name one of the nodes that are connected: {', '.join(ids) or 'none is'}",
            param_hint="NODE",
        )
    return str(ids[0])


def _compared(xds: str, node: str, admin: str) -> list[dict[str, Any]]:
    import asyncio
    from urllib.parse import quote

    from poolpilot import debug

    page = f"/debug/xds/nodes/{quote(node, safe='/')}"
    if not admin:
        (document,) = _ask(xds, f"{page}/diff")
        found: list[dict[str, Any]] = document["resources"]
        return found
    from xds.debug.admin import PATH
    from xds.debug.compare import compare
    from xds.debug.redact import redacted

    url = admin if "://" in admin else f"http://{admin}"
    (envoy,) = asyncio.run(debug.fetch_all(url.rstrip("/") + PATH))
    wanted, acked = _ask(xds, f"{page}/config_dump?as=wanted", f"{page}/config_dump?as=acked")
    try:
        return [one.as_json() for one in compare(wanted, acked, redacted(envoy))]
    except ValueError as error:
        raise debug.NoAnswerError(f"{url}: {error}; is it Envoy's admin interface?") from error


def _names(document: dict[str, Any]) -> Sequence[str]:
    """What a document of the snapshot pages is about, one a line."""
    if "snapshots" in document:
        return [f"{one['group']} {one['version'] or '-'}" for one in document["snapshots"]]
    if "resources" in document:
        return [f"{kind}/{name}" for kind, named in document["resources"].items() for name in named]
    if "name" in document:
        return [document["name"]]
    return [
        one["name"] for listed in document.values() if isinstance(listed, list) for one in listed
    ]


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    # A line that a narrow terminal wraps is easier to read than columns that are cut off.
    console.width = max(console.width, WIDTH)
    return console


def _print(document: object, output: str) -> None:
    if output == "json":
        _print_json(document)
        return
    import yaml

    typer.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), nl=False)


def _print_json(document: object) -> None:
    import json

    typer.echo(json.dumps(document, indent=2))
