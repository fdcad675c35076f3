"""What is told to users through the API server: statuses with their conditions, and Events.

``composition`` says what each object's status should be, ``reports`` puts it there without touching
what others wrote, ``events`` says what is wrong; ``election`` chooses the replica that writes.
These are pure. ``elector`` and ``writer`` have the loops.
"""

from __future__ import annotations

from pools.kubernetes.status.writer import StatusSettings, StatusTiming, StatusWriter

__all__ = ["StatusSettings", "StatusTiming", "StatusWriter"]
