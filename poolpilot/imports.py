"""Why one of our own packages cannot be imported.

Ours have common names. `xds` is also the name of a package of xds-protos, which grpcio-csds and
grpcio-admin need. Installed as wheels the two share a folder and get along; an editable checkout's
`xds` has a folder of its own, and Python looks into site-packages first.
"""

from __future__ import annotations

import sys
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
"""Where our packages are: a checkout, or site-packages."""

OURS = ("pools", "inspection", "xds", "extproc", "sim", "poolpilot")


def explain_import(error: ImportError) -> str | None:
    """One line on what is in the way and what to do; None: it is not a package of ours that is
    missing."""
    package = (error.name or "").partition(".")[0]
    if package not in OURS:
        return None
    found = PathFinder.find_spec(package, sys.path)
    if found is not None and str(HOME / package) not in map(_resolved, _folders(found)):
        there = _folders(found)[0] if _folders(found) else found.origin
        return (
            f"`import {package}` finds {there}{_of(package)}, not PoolPilot's {HOME / package}, "
            "because this PoolPilot is run from a checkout; install it as a wheel (`pip install .` "
            "in the checkout), which can live beside others, or use an environment of its own"
        )
    return (
        f"{error.name} is missing from {HOME}: another package took the file away when it was "
        "installed or removed; install PoolPilot again (`pip install --force-reinstall --no-deps` "
        "and the wheel or checkout)"
    )


def _folders(spec: ModuleSpec) -> list[str]:
    return list(spec.submodule_search_locations or ())


def _resolved(folder: str) -> str:
    return str(Path(folder).resolve())


def _of(package: str) -> str:
    others = set(metadata.packages_distributions().get(package, ())) - {"poolpilot"}
    return f" of {', '.join(sorted(others))}" if others else ""
