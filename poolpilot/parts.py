"""The parts that servers are made of: coroutines that serve until they are cancelled.

Each imports what it needs when it is made, because no process needs all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from poolpilot import logs
from poolpilot.errors import PoolPilotError
from pools.tasks import PartEndedError

if TYPE_CHECKING:
    from extproc.config.settings import PickerConfig
    from poolpilot.sources import MakeSource
    from poolpilot.statuses import MakeStatusWriter
    from sim.config import PodConfig
    from xds.config import XdsServerConfig
    from xds.http import HttpConfig
    from xds.translate import TranslateSettings


class CannotListenError(PoolPilotError):
    """An address that a server was told to listen on cannot be had."""


async def simulated_pod(config: PodConfig) -> None:
    """One simulated vLLM server."""
    from sim.server import Pod

    pod = Pod(config)
    try:
        await pod.start()
    except OSError as error:
        raise CannotListenError(
            f"cannot listen on {config.host}:{config.port}: {error.strerror or error};"
            " choose another with --address"
        ) from error
    try:
        await asyncio.Event().wait()
    finally:
        await pod.stop()


async def xds_server(
    source: MakeSource,
    settings: TranslateSettings,
    server: XdsServerConfig,
    http: HttpConfig,
    grace: float,
    status_writer: MakeStatusWriter | None = None,
) -> None:
    """The xDS server; streams get ``grace`` seconds at the end."""
    from pools.source import SourceError
    from xds.control_plane import ControlPlane
    from xds.tls import TlsError

    reporter = status_writer() if status_writer is not None else None
    with _for_people(SourceError, TlsError):
        plane = ControlPlane(source(), settings, server, http, reporter)
        logs.count_dropped_lines(plane.registry, "poolpilot_xds_log_lines_dropped")
        await plane.run(grace=grace)


async def endpoint_picker(source: MakeSource, config: PickerConfig, grace: float) -> None:
    """The endpoint picker; requests get ``grace`` seconds at the end."""
    from extproc.service.server import EndpointPickerServer, TracesNeedPackageError
    from extproc.transport.tls import TlsFilesError
    from pools.source import SourceError

    with _for_people(SourceError, TracesNeedPackageError, TlsFilesError):
        picker = EndpointPickerServer(source(), config)
        logs.count_dropped_lines(picker.registry, "poolpilot_log_lines_dropped")
        await picker.run(grace)


@contextlib.contextmanager
def _for_people(*kinds: type[Exception]) -> Iterator[None]:
    """Errors of these kinds say what to do, also when a part ended by them."""
    try:
        yield
    except kinds as error:
        raise PoolPilotError(str(error)) from error
    except PartEndedError as error:
        if isinstance(error.origin, kinds):
            raise PoolPilotError(str(error)) from error
        raise
