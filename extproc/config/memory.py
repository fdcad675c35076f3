"""How much memory this process may use."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/")


def memory_limit(root: Path = _ROOT) -> int:
    """Bytes: the least limit of the control groups that the process is in (version 1 or 2), or what
    the machine has."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder, name in _groups(root):
        # The limit of a group above counts as well.
        for group in (folder, *folder.parents):
            limit = _number(group / name)
            if limit is not None:
                found.append(limit)
            if group == root / "sys/fs/cgroup":
                break
    return min(found)


def _groups(root: Path) -> list[tuple[Path, str]]:
    mount = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    groups: list[tuple[Path, str]] = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        inside = path.lstrip("/")
        # In a container the path is often that of the host, while its own group is the mount.
        if not controllers:
            groups += [(mount / inside, "memory.max"), (mount, "memory.max")]
        elif "memory" in controllers.split(","):
            name = "memory.limit_in_bytes"
            groups += [(mount / "memory" / inside, name), (mount / "memory", name)]
    return groups


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() and int(text) > 0 else None


def _trim() -> Callable[[], None]:
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # not glibc
        return lambda: None
    return lambda: trim(0) and None


give_back: Final = _trim()
"""Give memory that was freed, and that the C library has kept, back to the system."""
