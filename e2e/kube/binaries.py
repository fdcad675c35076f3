"""kube-apiserver, etcd and kubectl: found, or built once with Go and kept outside the tree.

``python -m e2e.kube.binaries`` builds what is missing and says where it is.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

KUBERNETES_VERSION = "v1.34.4"
ETCD_VERSION = "v3.6.14"
MODULES = Path(__file__).parent / "modules"
ASSETS_VARIABLE = "KUBEBUILDER_ASSETS"
BUILD_VARIABLE = "POOLPILOT_BUILD_KUBE"
"""1: build what is missing, in CI too. 0: never."""


@dataclass(frozen=True, slots=True)
class _Program:
    module: str
    package: str
    ldflags: str = "-s -w"


_PROGRAMS = {
    "kube-apiserver": _Program(
        "kubernetes",
        "k8s.io/kubernetes/cmd/kube-apiserver",
        f"-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}",
    ),
    "kubectl": _Program(
        "kubernetes",
        "k8s.io/kubernetes/cmd/kubectl",
        f"-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}",
    ),
    "etcd": _Program("etcd", "go.etcd.io/etcd/server/v3"),
}


class MissingError(Exception):
    """A program is not there and is not to be built. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Binaries:
    api_server: Path
    etcd: Path
    kubectl: Path


def cache_directory() -> Path:
    """Where built programs are kept, by version."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    versions = f"{KUBERNETES_VERSION}-etcd-{ETCD_VERSION}"
    return Path(base) / "poolpilot" / "kube" / versions


def find() -> Binaries:
    """From ``KUBEBUILDER_ASSETS`` if that is set, else from the cache; kubectl from ``PATH`` too.

    Raises MissingError.
    """
    return Binaries(_find("kube-apiserver"), _find("etcd"), _find("kubectl"))


def build_missing() -> None:
    """Build what :func:`find` would not find, which takes minutes. Several processes may call this
    at once: one builds, the others wait. Raises MissingError where it is not wanted or fails."""
    if os.environ.get(ASSETS_VARIABLE):
        return
    missing = [name for name in _PROGRAMS if not _is_there(name)]
    if not missing:
        return
    wish = os.environ.get(BUILD_VARIABLE, "0" if os.environ.get("CI") else "1")
    if wish != "1":
        raise MissingError(
            f"{', '.join(missing)} missing: run `python -m e2e.kube.binaries` once (minutes), or"
            f" set {BUILD_VARIABLE}=1, or {ASSETS_VARIABLE} to a directory that has them"
        )
    go = shutil.which("go")
    if go is None:
        raise MissingError(
            f"{', '.join(missing)} missing and there is no Go to build them with: set"
            f" {ASSETS_VARIABLE} to a directory that has them"
        )
    directory = cache_directory()
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in missing:
            if not _is_there(name):
                _build(go, name, directory)


def _find(name: str) -> Path:
    assets = os.environ.get(ASSETS_VARIABLE)
    candidates = [Path(assets) / name] if assets else [cache_directory() / name]
    if name == "kubectl":
        on_path = shutil.which(name)
        candidates += [Path(on_path)] if on_path else []
    for candidate in candidates:
        if os.access(candidate, os.X_OK):
            return candidate
    raise MissingError(f"no {name} in {candidates[0].parent}")


def _is_there(name: str) -> bool:
    try:
        _find(name)
    except MissingError:
        return False
    return True


def _build(go: str, name: str, directory: Path) -> None:
    program = _PROGRAMS[name]
    with tempfile.TemporaryDirectory(prefix="poolpilot-build-") as scratch:
        shutil.copytree(MODULES / program.module, scratch, dirs_exist_ok=True)
        # In its place at once or not at all: a build that was cut short leaves nothing behind.
        made = directory / f".{name}.{os.getpid()}"
        done = subprocess.run(
            [go, "build", "-trimpath", f"-ldflags={program.ldflags}", "-o", made, program.package],
            cwd=scratch,
            env={**os.environ, "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise MissingError(f"go cannot build {name}: {done.stderr[-2000:]}")
        made.replace(directory / name)


def main() -> int:
    os.environ.setdefault(BUILD_VARIABLE, "1")
    try:
        build_missing()
        binaries = find()
    except MissingError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{binaries.api_server}\n{binaries.etcd}\n{binaries.kubectl}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
