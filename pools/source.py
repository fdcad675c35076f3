"""The seam between where pools are described and the servers that use them."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Iterable
from typing import Protocol

import structlog

from pools.model import Problem, Severity, World

log = structlog.get_logger(__name__)


class SourceError(Exception):
    """A source that cannot start. The message says what to do."""


class Source(Protocol):
    """Anything that yields Worlds: a directory of manifests, a Kubernetes API server.

    The first World comes as soon as the whole state was read once, and never before: a server that
    answered from half a state would delete the other half. Later ones come when something changed.
    A source survives what goes wrong outside (a broken file, an API server that is away) by keeping
    the last good state and adding a Problem; it raises only for what no retry can mend, such as a
    directory that does not exist at start. Whoever reads it closes it (``contextlib.aclosing``),
    which ends what runs behind it.
    """

    def worlds(self) -> AsyncGenerator[World, None]: ...


class Succession:
    """Numbers the Worlds of one source, leaves out what changes nothing, and logs each problem
    when it appears and when it is solved."""

    def __init__(self) -> None:
        self._last: World | None = None

    def next(self, world: World) -> World | None:
        """The World with its revision, or None if it says what the last one said."""
        last = self._last
        if last is not None and dataclasses.replace(last, revision=0) == world:
            return None
        _log_problems(world.problems, last.problems if last else ())
        self._last = dataclasses.replace(world, revision=last.revision + 1 if last else 1)
        return self._last


def _log_problems(problems: Iterable[Problem], before: Iterable[Problem]) -> None:
    known = {str(problem) for problem in before}
    now = {str(problem): problem for problem in problems}
    for text, problem in now.items():
        if text not in known:
            level = log.error if problem.severity is Severity.ERROR else log.warning
            level("problem", what=text)
    for text in known - now.keys():
        log.info("problem solved", what=text)
