"""Envoy Gateway and the definitions of its kinds, by version: found, or built once with Go.

``python -m e2e.envoy_gateway.binaries`` builds what is missing and says where it is. Each program
comes from the directory ``<POOLPILOT_ENVOY_GATEWAY>/<version>`` if that variable is set, else from
``~/.cache/poolpilot/envoy-gateway/<version>``.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from e2e.kube.binaries import BUILD_VARIABLE, MissingError

VERSIONS = ("v1.9.1", "v1.8.0", "v1.5.0", "v1.2.8")
"""The newest first. 1.2.8 stands for 1.2.1, whose module no longer can be built."""
VERSIONS_VARIABLE = "POOLPILOT_ENVOY_GATEWAY_VERSIONS"
"""Which of them to test: ``all``, or some with commas between. By default the newest."""
MODULE = "github.com/envoyproxy/gateway"
VARIABLE = "POOLPILOT_ENVOY_GATEWAY"
_PROGRAM = "envoy-gateway"
_DEFINITIONS = "crds"


@dataclass(frozen=True, slots=True)
class EnvoyGatewayBuild:
    version: str
    program: Path
    definitions: Path
    """A directory of CustomResourceDefinitions: its own kinds and the Gateway API's."""


def wanted() -> tuple[str, ...]:
    """The versions to test."""
    asked = os.environ.get(VERSIONS_VARIABLE, VERSIONS[0])
    return VERSIONS if asked == "all" else tuple(asked.split(","))


def directory_of(version: str) -> Path:
    """Where the program of a version is, or would be."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given) / version
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "poolpilot" / "envoy-gateway" / version


def find(version: str) -> EnvoyGatewayBuild:
    """Raises MissingError where it is not there and is not to be built."""
    directory = directory_of(version)
    if not _is_complete(directory):
        _build_if_wanted(version, directory)
    return EnvoyGatewayBuild(version, directory / _PROGRAM, directory / _DEFINITIONS)


def _is_complete(directory: Path) -> bool:
    return os.access(directory / _PROGRAM, os.X_OK) and (directory / _DEFINITIONS).is_dir()


def _build_if_wanted(version: str, directory: Path) -> None:
    if os.environ.get(BUILD_VARIABLE, "0") != "1" or os.environ.get(VARIABLE):
        raise MissingError(
            f"no Envoy Gateway {version} in {directory}: run `python -m e2e.envoy_gateway.binaries`"
            f" once (minutes), or set {BUILD_VARIABLE}=1, or {VARIABLE} to a directory that has"
            f" {version}/{_PROGRAM} and {version}/{_DEFINITIONS}"
        )
    go = shutil.which("go")
    if go is None:
        raise MissingError(f"no Envoy Gateway {version}, and there is no Go to build it with")
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_complete(directory):
            _build(go, version, directory)


def _build(go: str, version: str, directory: Path) -> None:
    told = _go([go, "mod", "download", "-json", f"{MODULE}@{version}"], directory)
    source = Path(json.loads(told)["Dir"])
    with tempfile.TemporaryDirectory(prefix="poolpilot-build-") as scratch:
        # In a copy of the module, so that its own go.mod decides over all versions.
        copy = Path(scratch) / "gateway"
        shutil.copytree(source, copy)
        for path in (copy, *copy.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)
        definitions = Path(scratch) / _DEFINITIONS
        definitions.mkdir()
        for path in _definitions(copy):
            shutil.copyfile(path, definitions / path.name)
        made = directory / f".{_PROGRAM}.{os.getpid()}"
        _go(
            [go, "build", "-trimpath", "-ldflags=-s -w", "-o", str(made), f"./cmd/{_PROGRAM}"],
            copy,
        )
        shutil.rmtree(directory / _DEFINITIONS, ignore_errors=True)
        shutil.copytree(definitions, directory / _DEFINITIONS)
        # Last, and at once or not at all: a build that was cut short leaves nothing that counts.
        made.replace(directory / _PROGRAM)


def _definitions(module: Path) -> list[Path]:
    charts = module / "charts"
    for folder in (
        charts / "gateway-helm" / "charts" / "crds" / "crds",
        charts / "gateway-helm" / "crds",
    ):
        if folder.is_dir():
            return sorted(folder.rglob("*.yaml"))
    raise MissingError(f"no CustomResourceDefinitions below {charts}")


def _go(command: list[str], where: Path) -> str:
    done = subprocess.run(
        command,
        cwd=where,
        env={**os.environ, "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise MissingError(f"{' '.join(command[:3])}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def main() -> int:
    os.environ[BUILD_VARIABLE] = "1"
    failed = 0
    for version in sys.argv[1:] or VERSIONS:
        try:
            sys.stdout.write(f"{find(version).program}\n")
        except MissingError as error:
            sys.stderr.write(f"{version}: {error}\n")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
