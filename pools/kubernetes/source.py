"""The ``kubernetes`` source: Worlds from an API server that is watched."""

from __future__ import annotations

import datetime
import random
import re
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from pools.kubernetes.connection import Connection
from pools.kubernetes.credentials import Credentials, CredentialsError
from pools.kubernetes.follower import Follower, Timing
from pools.kubernetes.kinds import ALL_KINDS, Kind
from pools.model import World
from pools.source import SourceError, Succession
from pools.well_known import CONTROLLER

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """What to watch, and where."""

    kubeconfig: Path | None = None
    """None: the files of ``KUBECONFIG``, else the pod's service account, else ``~/.kube/config``.
    """
    context: str | None = None
    """Of the kubeconfig; None: its current one."""
    namespaces: tuple[str, ...] = ()
    """Empty: all."""
    kinds: tuple[Kind, ...] = ALL_KINDS
    controller: str = CONTROLLER
    """Gateways count if their GatewayClass names this controller."""
    local_hosts: bool = False
    """Whether PoolEndpoints may name loopback and link-local addresses: whoever may write them can
    then have Envoy ask its own admin port, or the metadata service of a cloud."""
    timing: Timing = field(default_factory=Timing)

    def __post_init__(self) -> None:
        for namespace in self.namespaces:
            if not _NAMESPACE.fullmatch(namespace):
                raise ValueError(
                    f"{namespace!r} is not a namespace: lower-case letters, digits and '-'"
                )


class KubernetesSource:
    """An API server as a Source. ``clock`` counts seconds, ``now`` tells the time of day."""

    def __init__(
        self,
        settings: KubernetesSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._now = now
        self._chance = chance

    async def worlds(self) -> AsyncGenerator[World, None]:
        """Yield a World for each consistent state that differs from the last.

        The first one comes when everything was listed once. Raises SourceError if the client
        library is missing or the configuration cannot be read. Close the iterator
        (``contextlib.aclosing``) to end the watches.
        """
        settings = self._settings
        credentials = Credentials(settings.kubeconfig, settings.context)
        try:
            await credentials.access()
        except CredentialsError as error:
            raise SourceError(str(error)) from error
        async with Connection(credentials) as connection:
            follower = Follower(
                connection,
                settings.kinds,
                settings.namespaces,
                settings.controller,
                settings.timing,
                local_hosts=settings.local_hosts,
                clock=self._clock,
                now=self._now,
                chance=self._chance,
            )
            try:
                follower.start()
                succession = Succession()
                while True:
                    await follower.settled()
                    world = succession.next(follower.world())
                    if world is not None:
                        yield world
            finally:
                await follower.stop()
