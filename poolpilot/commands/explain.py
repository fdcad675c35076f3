from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from poolpilot.commands.inspect import EXTPROC_URL, WIDTH, AsJson, Extproc

INTERVAL = 0.5
"""Seconds between two questions for new decisions."""
MOST = 1000
"""Decisions that are shown of those that came in between."""


def explain(
    pick: Annotated[
        str, typer.Argument(metavar="ID", help="A pick's id, or the request's x-request-id.")
    ],
    extproc: Extproc = EXTPROC_URL,
    as_json: AsJson = False,
) -> None:
    """Say why a request went where it went: who was considered, who was left out and why, the
    scores, and how it ended.

    [bold]Examples[/bold]

      poolpilot explain 1f3a9c20-7

      poolpilot explain 0b5b3d0e-6b0a-4a3e-8a53-0c7f1f0f7f3c
    """
    import asyncio
    import json
    from urllib.parse import quote

    from rich.console import Console

    from poolpilot import debug
    from poolpilot.explanation import explanation

    url = f"{extproc}/debug/decisions/{quote(pick, safe='')}"
    (document,) = asyncio.run(debug.fetch_all(url))
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    console = Console(highlight=False)
    console.width = max(console.width, WIDTH)
    console.print(explanation(document), soft_wrap=True)


def follow(extproc: str, query: Mapping[str, object], as_json: bool) -> None:
    """Print each decision as it is made, one a line, until interrupted."""
    import asyncio
    import contextlib

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_follow(extproc, query, as_json))


async def _follow(extproc: str, query: Mapping[str, object], as_json: bool) -> None:
    import asyncio
    import json
    from urllib.parse import urlencode

    import aiohttp

    from poolpilot import debug
    from poolpilot.explanation import line

    after = ""
    async with aiohttp.ClientSession(timeout=debug.LIMIT) as session:
        while True:
            asked = {**query, "after": after, "limit": MOST} if after else query
            url = f"{extproc}/debug/decisions?{urlencode(asked)}"
            document = await debug.fetch(session, url)
            for decision in reversed(document["decisions"]):
                typer.echo(json.dumps(decision) if as_json else line(decision))
                after = decision["id"]
            await asyncio.sleep(INTERVAL)
