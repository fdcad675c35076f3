"""Worlds from a Kubernetes API server.

``kinds`` says what is watched; ``reflection`` and ``cache`` are the pure parts of list-then-watch;
``follower`` has the loops; ``connection`` and ``credentials`` talk to the server.
"""

from __future__ import annotations

from pools.kubernetes.follower import Timing
from pools.kubernetes.kinds import ALL_KINDS, PICKER_KINDS
from pools.kubernetes.source import KubernetesSettings, KubernetesSource

__all__ = [
    "ALL_KINDS",
    "PICKER_KINDS",
    "KubernetesSettings",
    "KubernetesSource",
    "Timing",
]
