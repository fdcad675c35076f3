"""The gate to the nodes: what of all that is made is published, and what stays instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xds.snapshot import InconsistentError, Snapshot


@dataclass(frozen=True, slots=True)
class Published:
    """What nodes of one kind get."""

    snapshot: Snapshot | None = None
    """The last good one; None: there never was one, and the nodes wait."""
    problem: str = ""
    """Why the newest state is not what they get; empty: it is."""
    error: Exception | None = None
    """The problem, where it is a fault of the program that makes snapshots."""


def publish(before: Published, make: Callable[[], Snapshot | None]) -> Published:
    """Publish what ``make`` makes; where that fails, what was published before stays.

    A snapshot that refers to what is not in it cannot be made (:class:`Snapshot`). One of equal
    content stays the same object. None: nothing is known of these nodes, so they wait. Raises
    PermissionError where ``make`` does: nodes that may have nothing keep nothing either.
    """
    try:
        made = make()
    except PermissionError:
        raise
    except InconsistentError as error:
        return Published(before.snapshot, str(error))
    except Exception as error:
        problem = f"cannot be made: {type(error).__name__}: {error}"
        return Published(before.snapshot, problem, error)
    last = before.snapshot
    same = (
        made is not None
        and last is not None
        and (made.version, made.notes) == (last.version, last.notes)
    )
    return Published(last if same else made)
