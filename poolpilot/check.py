"""Manifests without a server: what Envoy would get from them, and whether it would take it."""

from __future__ import annotations

import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import yaml

from poolpilot.errors import PoolPilotError
from pools.model import Severity, World
from xds.bootstrap import envoy_yaml, static_bootstrap
from xds.translate import translate
from xds.translate.render import render_static

VALIDATE_LIMIT = 60.0
"""Seconds that Envoy gets."""


class EnvoyFailedError(PoolPilotError):
    """Envoy said nothing about the configuration."""


def configuration(world: World) -> tuple[str, tuple[str, ...]]:
    """Envoy's whole configuration as YAML, one document for each Gateway (one in all where there is
    none), and notes on what was left out."""
    documents = []
    notes: list[str] = []
    for gateway in world.gateways or (None,):
        snapshot = translate(world, gateway=gateway)
        notes += snapshot.notes
        documents.append(static_bootstrap(render_static(snapshot)))
    return envoy_yaml(*documents), tuple(dict.fromkeys(notes))


def validate(text: str, envoy: str) -> str:
    """Have Envoy check each document of ``text``. What it objects to; empty: nothing.

    Raises EnvoyFailedError where it cannot be run or does not end.
    """
    objections = []
    for document in yaml.safe_load_all(text):
        with tempfile.TemporaryDirectory(prefix="poolpilot-") as directory:
            path = Path(directory) / "envoy.yaml"
            path.write_text(envoy_yaml(document))
            try:
                done = subprocess.run(
                    [envoy, "--mode", "validate", "-c", path, "--log-level", "error"],
                    capture_output=True,
                    text=True,
                    timeout=VALIDATE_LIMIT,
                    check=False,
                )
            except OSError as error:
                raise EnvoyFailedError(f"{envoy} cannot be run: {error.strerror}") from error
            except subprocess.TimeoutExpired as error:
                message = f"{envoy} was not done within {VALIDATE_LIMIT:g} s"
                raise EnvoyFailedError(message) from error
        if done.returncode:
            objections.append(f"Envoy rejects the configuration:\n{done.stderr or done.stdout}")
    return "\n".join(objections)


def counts(world: World) -> str:
    """``2 pools, 5 endpoints, 1 route: 0 errors, 1 warning``."""
    problems = Counter(problem.severity for problem in world.problems)
    there = (
        _plural(len(world.pools), "pool"),
        _plural(sum(len(endpoints) for endpoints in world.endpoints.values()), "endpoint"),
        _plural(len(world.routes), "route"),
    )
    found = (
        _plural(problems[Severity.ERROR], "error"),
        _plural(problems[Severity.WARNING], "warning"),
    )
    return f"{', '.join(there)}: {', '.join(found)}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
