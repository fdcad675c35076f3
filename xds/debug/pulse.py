"""What tells that a page has become another one."""

from __future__ import annotations

from inspection.live import Pulse
from xds.provider import WorldProvider


def pulse(provider: WorldProvider, changes: int) -> Pulse:
    """What :class:`inspection.live.Live` compares. ``changes``: how many the xDS server counted."""
    world = provider.world
    return {
        "world": (world.revision, len(world.problems)) if world is not None else None,
        "snapshots": tuple(
            [
                (v.group, v.features, v.snapshot.version if v.snapshot else None, v.problem)
                for v in provider.variants()
            ]
        ),
        "nodes": changes,
        "history": changes,
    }
