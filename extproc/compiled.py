"""Whether the path of a request runs as C (docs/compiled.md)."""

from __future__ import annotations

from importlib.util import find_spec


def is_compiled() -> bool:
    """True in a wheel that was built with the compiler, False from the sources."""
    # All modules of the path are compiled together, so any one tells.
    spec = find_spec("extproc.picking.scheduling.candidate")
    return spec is not None and not str(spec.origin).endswith(".py")
