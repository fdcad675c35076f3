"""Command-line options that several commands share. Each has an environment variable, for
containers."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import typer

from poolpilot.logs import LogFormat, LogLevel

SERVING = "Serving"
LOGS = "Logs"

Level = Annotated[
    LogLevel,
    typer.Option(
        "--log-level",
        envvar="POOLPILOT_LOG_LEVEL",
        help="Least level that is logged.",
        rich_help_panel=LOGS,
    ),
]
Format = Annotated[
    LogFormat,
    typer.Option(
        "--log-format",
        envvar="POOLPILOT_LOG_FORMAT",
        help="auto: for people on a terminal, JSON elsewhere.",
        rich_help_panel=LOGS,
    ),
]
Grace = Annotated[
    float,
    typer.Option(
        "--grace",
        envvar="POOLPILOT_GRACE",
        min=0,
        help="Seconds that what is in progress gets to finish after SIGTERM or Ctrl-C.",
        rich_help_panel=SERVING,
    ),
]


def listen_address(text: str, option: str) -> tuple[str, int]:
    """Host and port to listen on, from ``host:port`` or ``[ipv6]:port``; port 0 is any free one."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}", param_hint=option) from error
    if not host or port is None or parts.netloc != text:
        raise typer.BadParameter(
            f"{text!r} is not of the form host:port, or [address]:port for IPv6", param_hint=option
        )
    return host, port
