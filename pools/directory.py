"""A directory of manifests on disk: which files it has, which of them changed, what they say."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pools.manifests import Manifest, Reading, read_text
from pools.model import Problem, Severity

SUFFIXES = (".yaml", ".yml", ".json")

Stamp = tuple[int, int, int, int, int]
"""Device, inode, size, and times of change: equal as long as a file is the same."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a directory holds, without the contents. Equal listings mean equal contents."""

    root: tuple[int, int] | None
    """Device and inode of the directory, to notice that it was replaced."""
    files: Mapping[str, Stamp | str]
    """By path relative to the directory, in order; text is why a file cannot be read."""
    unreadable: str = ""
    """Why the directory or a part of it could not be listed."""


def list_directory(directory: Path) -> Listing:
    """List the manifests below ``directory``, following links.

    Hidden files and directories are left out: editors keep their own there, and a mounted
    ConfigMap keeps its versions in ``..<time>`` behind the links that count.
    """
    files: dict[str, Stamp | str] = {}
    failures: list[OSError] = []
    seen: set[tuple[int, int]] = set()
    root: tuple[int, int] | None = None
    for parent, directories, names in os.walk(directory, followlinks=True, onerror=failures.append):
        try:
            status = os.stat(parent)
        except OSError as error:
            failures.append(error)
            directories.clear()
            continue
        identity = (status.st_dev, status.st_ino)
        root = root or identity
        if identity in seen:  # a link that leads back
            directories.clear()
            continue
        seen.add(identity)
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in names:
            if name.endswith(SUFFIXES) and not name.startswith("."):
                path = os.path.join(parent, name)
                files[os.path.relpath(path, directory)] = _stamp(path)
    unreadable = "; ".join(f"{e.filename}: {_reason(e)}" for e in failures)
    return Listing(root, dict(sorted(files.items())), unreadable)


def _stamp(path: str) -> Stamp | str:
    try:
        status = os.stat(path)
    except OSError as error:
        return _reason(error)
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


class Contents:
    """What the files of a directory say. Only a file that changed is read, and only one whose
    bytes changed is parsed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, tuple[Stamp, bytes, Reading]] = {}

    def read(self, listing: Listing) -> dict[str, Reading | str]:
        """The reading of every file, the same object as before where nothing changed.

        Text in place of a reading is the reason why the file cannot be read.
        """
        self._known = {path: known for path, known in self._known.items() if path in listing.files}
        return {
            path: stamp if isinstance(stamp, str) else self._read(path, stamp)
            for path, stamp in listing.files.items()
        }

    def _read(self, path: str, stamp: Stamp) -> Reading | str:
        known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known[2]
        try:
            content = (self._directory / path).read_bytes()
        except OSError as error:
            self._known.pop(path, None)
            return _reason(error)
        digest = hashlib.blake2b(content).digest()
        reading = known[2] if known and known[1] == digest else _parse(content, path)
        self._known[path] = (stamp, digest, reading)
        return reading


def _parse(content: bytes, path: str) -> Reading:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = Problem(Severity.ERROR, "is not UTF-8 text", source=path, line=line)
        return Reading((Manifest(None, None, (problem,)),), 1)
    return read_text(text, path)
