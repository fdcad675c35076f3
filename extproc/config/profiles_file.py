"""Following a profiles file: an edit takes effect at once, a mistake keeps what was there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import structlog
import watchfiles

from extproc.picking.profiles.document import errors_of, read_profiles
from extproc.picking.profiles.profile_set import ProfileSet
from pools.model import Problem, Severity
from pools.tasks import Parts
from pools.waiting import set_within
from pools.watching import POLL, Watch, signal_changes

log = structlog.get_logger(__name__)


def _watch(path: Path) -> AsyncIterator[object]:
    # The directory: editors and ConfigMaps put another file in the place of the old one.
    return watchfiles.awatch(path.parent, watch_filter=None, debounce=50, step=10, recursive=False)


class ProfilesError(ValueError):
    """There is no usable profiles file to begin with. The message names what is wrong."""


class ProfilesFile:
    """The last good content of a file."""

    def __init__(self, path: Path, watch: Watch = _watch, poll: float = POLL) -> None:
        """Raises :class:`ProfilesError` if the file cannot be used: later mistakes keep what is
        in force, but at the start there is nothing to keep."""
        self.path = path
        self._watch = watch
        self._poll = poll
        self._content = ""
        self.problems: tuple[Problem, ...] = ()
        """What is wrong with the file as it is now."""
        first = self._read()
        if first is None:
            raise ProfilesError("\n".join(str(problem) for problem in errors_of(self.problems)))
        self.current = first
        """In force."""

    async def changes(self) -> AsyncIterator[ProfileSet]:
        """Each further good content, once it is there."""
        changed = asyncio.Event()
        parts = Parts()
        watching = signal_changes(self._watch, self.path, changed, self._poll)
        parts.start("watch of the profiles file", watching)
        try:
            while True:
                await parts.watch(set_within(changed, self._poll))
                changed.clear()
                profiles = self._read()
                if profiles is not None:
                    self.current = profiles
                    yield profiles
        finally:
            await parts.stop()

    def _read(self) -> ProfileSet | None:
        """What the file says; None if that is nothing new, or not usable."""
        try:
            content = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            problem = Problem(Severity.ERROR, f"cannot be read: {reason}", source=str(self.path))
            self._found((problem,))
            self._content = ""
            return None
        if content == self._content:
            return None
        self._content = content
        profiles, problems = read_profiles(content, str(self.path))
        self._found(problems)
        return profiles

    def _found(self, problems: tuple[Problem, ...]) -> None:
        if problems == self.problems:
            return
        self.problems = problems
        for problem in problems:
            say = log.error if problem.severity is Severity.ERROR else log.warning
            say("profiles file", problem=str(problem))
