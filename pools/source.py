"""The seam between where pools are described and the servers that use them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from pools.model import World


class Source(Protocol):
    """Anything that yields Worlds: a directory of manifests, a Kubernetes API server.

    The first World comes as soon as the whole state was read once, and never before: a server that
    answered from half a state would delete the other half. Later ones come when something changed.
    A source survives what goes wrong outside (a broken file, an API server that is away) by keeping
    the last good state and adding a Problem; it raises only for what no retry can mend, such as a
    directory that does not exist at start.
    """

    def worlds(self) -> AsyncIterator[World]: ...
