"""Logs: one JSON object a line for machines, colours for people.

Everything goes to stderr, so that what a command prints on stdout stays clean. Records of libraries
that use the standard ``logging`` module come out in the same form, and so do Python's warnings. No
line holds up who wrote it (:mod:`poolpilot.log_queue`).
"""

from __future__ import annotations

import logging
import sys
from enum import StrEnum
from typing import TextIO

import structlog
from prometheus_client import CollectorRegistry
from structlog.typing import Processor

from poolpilot.log_queue import FLUSH_WITHIN, DroppedLines, LogQueue


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    AUTO = "auto"
    """Console on a terminal, JSON everywhere else."""
    JSON = "json"
    CONSOLE = "console"


_TRACEBACKS = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
"""Without local variables: they hold prompts, keys and whole requests."""


def configure(
    level: LogLevel = LogLevel.INFO,
    form: LogFormat = LogFormat.AUTO,
    stream: TextIO | None = None,
) -> None:
    """Set up structlog and ``logging`` for this process. Later calls replace earlier ones."""
    out = stream if stream is not None else sys.stderr
    console = form is LogFormat.CONSOLE or (form is LogFormat.AUTO and out.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(
            fmt="%H:%M:%S" if console else "iso", utc=not console, key="time"
        ),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Processor] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(),
                timestamp_key="time",
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
        if console
        else [
            structlog.processors.ExceptionRenderer(_TRACEBACKS),
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
    )
    handler = LogQueue(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    flush()  # of an earlier call
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # A line per scrape or per debug request would drown what matters.
    for chatty in ("uvicorn.access", "uvicorn.error", "aiohttp.access", "watchfiles", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def flush(within: float = FLUSH_WITHIN) -> None:
    """Wait until what was logged is written, but no longer than ``within`` seconds."""
    queue = _queue()
    if queue is not None:
        queue.flush(within)


def count_dropped_lines(registry: CollectorRegistry, name: str) -> None:
    """Show in ``registry``, as counter ``name``, how many lines were left out."""
    registry.register(DroppedLines(name, _queue))


def _queue() -> LogQueue | None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogQueue):
            return handler
    return None
