"""Command-line options that several commands share. Each has an environment variable, for
containers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import typer

from poolpilot.logs import LogFormat, LogLevel
from pools.addresses import split_host_port

SERVING = "Serving"
LOGS = "Logs"
TLS = "TLS"
TRACES = "Traces"

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


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """The options above as a group (see :mod:`poolpilot.grouping`)."""

    SERVER: ClassVar = "log"

    log_level: Level = LogLevel.INFO
    log_format: Format = LogFormat.AUTO


def listen_address(text: str) -> tuple[str, int]:
    """Host and port to listen on; port 0 is any free one. Raises ValueError."""
    host, port = split_host_port(text)
    if not host:
        raise ValueError(f"{text!r} is not of the form host:port: a host is missing")
    return host, port
