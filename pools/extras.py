"""What is installed only where it is needed: the extras of pyproject.toml."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from importlib import metadata


def install_command(extra: str) -> str:
    """The shell command that puts what ``extra`` stands for beside the PoolPilot that is running.

    It names the packages themselves, since where PoolPilot came from (a checkout, a wheel, an
    image) need not be there any more. Raises ValueError where there is no such extra.
    """
    try:
        requirements = metadata.requires("poolpilot") or []
    except metadata.PackageNotFoundError:
        # Not installed at all: somebody's PYTHONPATH names a checkout.
        return f"pip install '.[{extra}]' in the checkout"
    wanted = [
        shlex.quote(requirement.strip())
        for requirement, _, marker in (line.partition(";") for line in requirements)
        if re.search(rf"""\bextra == ['"]{re.escape(extra)}['"]""", marker)
    ]
    if not wanted:
        raise ValueError(f"there is no extra {extra!r}")
    python = shlex.quote(sys.executable)
    # Environments that uv made have no pip.
    pip = f"{python} -m pip install" if importlib.util.find_spec("pip") else None
    return " ".join((pip or f"uv pip install --python {python}", *wanted))
