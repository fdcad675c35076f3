"""What a directory of manifests says, and what it said last where it says nothing any more.

The rules, for every object by its kind and name:

- A good version replaces the one before at once, in whatever file it is.
- A broken version, a broken file, a file or directory that cannot be read, an empty file: the last
  good version stays for as long as that lasts.
- An object that is in no file any more goes once it was away for the grace period, while every
  other file can be read and at least one good object is left. Otherwise it stays: it may be in what
  cannot be read, and a directory with nothing left in it is a volume that was not mounted rather
  than a wish.

Whatever is kept is reported for as long as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pools.manifests import Key, Manifest, Object, Reading, is_usable, key_of
from pools.model import Problem, Severity

LAST_GOOD = " (the last good version stays in effect)"
"""What is added to an error of an object that was good before."""
DEFAULT_GRACE = 2.0
"""Seconds for which an object stays after it was last seen in any file."""


@dataclass(slots=True)
class _Held:
    """The last good version of an object."""

    value: Object
    live: bool = True
    """Whether the file says this now."""
    absent_since: float | None = None
    """Since when the file, though it can be read, has no such object."""


@dataclass(slots=True)
class _File:
    reading: Reading | str | None
    """What it says now; a string is why it cannot be read, None means it is not there."""
    held: dict[Key, _Held] = field(default_factory=dict)
    duplicates: list[Object] = field(default_factory=list)
    """Good objects that the same file already had."""

    @property
    def blocks_removal(self) -> bool:
        """Whether any object may be in it without our knowing."""
        if isinstance(self.reading, Reading):
            return any(manifest.obscure for manifest in self.reading.manifests)
        return isinstance(self.reading, str)


class Catalog:
    """The state of a directory by the rules above. No clock and no disk: both are passed in."""

    def __init__(self, grace: float = DEFAULT_GRACE) -> None:
        self._grace = grace
        self._files: dict[str, _File] = {}
        self._unreadable = ""

    def update(
        self, readings: Mapping[str, Reading | str], now: float, *, unreadable: str = ""
    ) -> None:
        """Take in what all files of the directory say now.

        A reading that is text is the reason why its file cannot be read. ``unreadable`` says why
        the directory, or a part of it, cannot be listed: then no file that is missing counts as
        deleted. Call it again at :meth:`deadline`.
        """
        self._unreadable = unreadable
        for path in self._files.keys() | readings.keys():
            file = self._files.setdefault(path, _File(None))
            reading = readings.get(path)
            if reading is None or reading is not file.reading:
                _take(file, reading)
            self._mark_absent(file, now)
        self._let_go(now)

    def _mark_absent(self, file: _File, now: float) -> None:
        """Note since when each object is away, if it is."""
        gone = file.reading is None and not self._unreadable
        present: set[Key | None] = set()
        if isinstance(file.reading, Reading) and file.reading.documents:
            gone = not file.blocks_removal
            present = {manifest.key for manifest in file.reading.manifests}
        for key, held in file.held.items():
            absent = gone and key not in present
            since = now if held.absent_since is None else held.absent_since
            held.absent_since = since if absent else None

    def _let_go(self, now: float) -> None:
        live = {key for file in self._files.values() for key, h in file.held.items() if h.live}
        free = self._may_remove()
        for path, file in list(self._files.items()):
            for key, held in list(file.held.items()):
                if held.absent_since is None:
                    continue
                if key in live or (free and held.absent_since + self._grace <= now):
                    del file.held[key]
            if file.reading is None and not file.held:
                del self._files[path]

    def _may_remove(self) -> bool:
        files = self._files.values()
        return (
            not self._unreadable
            and not any(file.blocks_removal for file in files)
            and any(held.live for file in files for held in file.held.values())
        )

    def deadline(self) -> float | None:
        """When to call :meth:`update` again though nothing changed."""
        if not self._may_remove():
            return None
        return min(
            (
                held.absent_since + self._grace
                for file in self._files.values()
                for held in file.held.values()
                if held.absent_since is not None
            ),
            default=None,
        )

    def objects(self) -> list[Object]:
        """Every object in effect: what the files say now by path and line, then what is kept."""
        live: list[Object] = []
        kept: dict[Key, Object] = {}
        for _, file in sorted(self._files.items()):
            for key, held in file.held.items():
                if held.live:
                    live.append(held.value)
                else:
                    kept.setdefault(key, held.value)
            live += file.duplicates
        said = {key_of(value) for value in live}
        return live + [value for key, value in sorted(kept.items()) if key not in said]

    def problems(self) -> list[Problem]:
        found = []
        if self._unreadable:
            message = f"the directory cannot be read ({self._unreadable}); its last state is kept"
            found.append(Problem(Severity.ERROR, message))
        elif self._files and all(file.reading is None for file in self._files.values()):
            message = "the directory has no manifests any more; its last state is kept"
            found.append(Problem(Severity.ERROR, message))
        for path, file in sorted(self._files.items()):
            found += self._problems_of(path, file)
        return found

    def _problems_of(self, path: str, file: _File) -> Iterator[Problem]:
        kept = "; what it held stays in effect" if file.held else ""
        if isinstance(file.reading, str):
            yield Problem(Severity.ERROR, f"cannot be read: {file.reading}{kept}", source=path)
        elif isinstance(file.reading, Reading):
            if not file.reading.documents and file.held:
                message = f"is empty{kept}: to remove that, delete the file"
                yield Problem(Severity.WARNING, message, source=path)
            for manifest in file.reading.manifests:
                yield from _problems_of(manifest, file)
        for held in file.held.values():
            if held.absent_since is not None and not self._unreadable:
                where = path if file.reading is not None else f"{path}, which is gone"
                message = f"is no longer in {where}; {self._until()}"
                yield Problem(Severity.WARNING, message, held.value.origin)

    def _until(self) -> str:
        if self._may_remove():
            return f"it stays in effect for {self._grace:g} seconds in case it comes back"
        for path, file in sorted(self._files.items()):
            if file.blocks_removal:
                return f"it stays in effect until all of {path} can be read"
        return "it stays in effect because no other good manifest is left"


def _problems_of(manifest: Manifest, file: _File) -> Iterator[Problem]:
    kept = ""
    if (
        manifest.key in file.held
        and file.held[manifest.key].value is not manifest.object
        and (manifest.object is None or not is_usable(manifest.object))
    ):
        kept = LAST_GOOD
    elif manifest.obscure and not all(held.live for held in file.held.values()):
        kept = " (what this file held before stays in effect)"
    for problem in manifest.problems:
        if kept and problem.severity is Severity.ERROR:
            yield dataclasses.replace(problem, message=problem.message + kept)
        else:
            yield problem


def _take(file: _File, reading: Reading | str | None) -> None:
    file.reading = reading
    file.duplicates = []
    for held in file.held.values():
        held.live = False
    if not isinstance(reading, Reading):
        return
    fresh: dict[Key, _Held] = {}
    for manifest in reading.manifests:
        if manifest.object is None or manifest.key is None:
            continue
        before = file.held.get(manifest.key)
        if before is not None and is_usable(before.value) and not is_usable(manifest.object):
            continue
        if manifest.key in fresh:
            file.duplicates.append(manifest.object)
        else:
            fresh[manifest.key] = _Held(manifest.object)
    # In the order of the file, so that the first of two objects counts.
    file.held = fresh | {key: held for key, held in file.held.items() if key not in fresh}
