"""PoolPilot in environments of its own, outside the checkout: `make test-install`.

Not among `make test`: each of these installs anew from the package index. Which Pythons there are
is printed; the others are skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from e2e.envoy_gateway.network import private_network
from tests.install.test_command_lines import blocks

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).parent / "uv"
VERSIONS = ("3.11", "3.12", "3.13")
"""Those that pyproject.toml names."""

Installer = Literal["pip", "uv"]
EXTRAS = "[envoy,fast]"
DEMO = ("demo", "--ports", "auto", "--requests", "30", "--time-scale", "20", "--json")


def python_of(version: str) -> Path | None:
    """An interpreter of that version: on PATH, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    on_path = shutil.which(f"python{version}")
    candidates = [Path(on_path)] if on_path else []
    candidates += sorted(pyenv.glob(f"{version}.*/bin/python"))
    for candidate in candidates:
        # One of pyenv's shims is there for versions that are not chosen too.
        said = subprocess.run(
            [candidate, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if said.stdout.strip() == version:
            return candidate
    return None


def run(command: Sequence[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    """It, with nothing of this checkout in its environment."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VIRTUAL_ENV", "POOLPILOT", "UV_"))
    }
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Environment:
    """A virtual environment and a directory to be in, both with nothing in them at first."""

    path: Path
    installer: Installer

    @classmethod
    def new(cls, folder: Path, version: str, installer: Installer) -> Environment:
        python = python_of(version)
        if python is None:
            pytest.skip(f"there is no Python {version} on this machine")
        path = folder / "environment"
        if installer == "uv":
            succeeded(run([UV, "venv", "--python", python, path], folder))
        else:
            succeeded(run([python, "-m", "venv", path], folder))
        return cls(path, installer)

    def _do(self, verb: str, *arguments: str | Path) -> None:
        if self.installer == "uv":
            command = [UV, "pip", verb, "--python", self.path / "bin" / "python"]
        else:
            command = [self.path / "bin" / "python", "-m", "pip", verb]
            arguments += ("--yes",) if verb == "uninstall" else ()
        succeeded(run([*command, *arguments], self.path.parent))

    def install(self, *what: str | Path) -> None:
        self._do("install", *what)

    def uninstall(self, *what: str) -> None:
        self._do("uninstall", *what)

    def poolpilot(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run([self.path / "bin" / "poolpilot", *arguments], self.path.parent)

    def python(self, code: str) -> str:
        return succeeded(run([self.path / "bin" / "python", "-c", code], self.path.parent))

    def demo(self) -> None:
        """Everything runs, and all of 30 requests are answered."""
        report = json.loads(succeeded(self.poolpilot(*DEMO)))
        assert (report["ok"], report["requests"], report["errors"]) == (30, 30, {})


@dataclass(frozen=True)
class Built:
    wheel: Path
    sdist: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    succeeded(run([UV, "build", "--out-dir", folder, ROOT], folder))
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


every_python = pytest.mark.parametrize("version", VERSIONS)
every_installer = pytest.mark.parametrize("installer", ["pip", "uv"])


@every_python
@every_installer
def test_a_wheel_runs_the_demo(
    tmp_path: Path, built: Built, version: str, installer: Installer
) -> None:
    environment = Environment.new(tmp_path, version, installer)
    environment.install(f"{built.wheel}{EXTRAS}")
    environment.demo()


@every_installer
def test_a_source_distribution_runs_the_demo(
    tmp_path: Path, built: Built, installer: Installer
) -> None:
    environment = Environment.new(tmp_path, VERSIONS[0], installer)
    environment.install(f"{built.sdist}{EXTRAS}")
    environment.demo()


@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
def test_the_lowest_versions_that_are_allowed_run_the_demo(
    tmp_path: Path, built: Built, version: str
) -> None:
    environment = Environment.new(tmp_path, version, "uv")
    environment.install("--resolution", "lowest-direct", f"{built.wheel}{EXTRAS}")
    environment.demo()


@every_installer
def test_beside_xds_protos_whichever_comes_or_goes_first(
    tmp_path: Path, built: Built, installer: Installer
) -> None:
    environment = Environment.new(tmp_path, VERSIONS[0], installer)
    theirs = "import envoy.config.cluster.v3.cluster_pb2, xds.core.v3.authority_pb2"

    environment.install("xds-protos")
    environment.install(f"{built.wheel}{EXTRAS}")
    environment.demo()
    environment.python(theirs)

    environment.uninstall("xds-protos")
    environment.demo()

    environment.install("xds-protos")
    environment.demo()
    environment.python(theirs)

    environment.uninstall("poolpilot")
    environment.python(theirs)


def test_an_editable_checkout_beside_xds_protos_says_why_it_cannot(tmp_path: Path) -> None:
    environment = Environment.new(tmp_path, VERSIONS[0], "uv")
    environment.install("xds-protos", "--editable", f"{ROOT}{EXTRAS}")
    for command in (DEMO, ("check", "."), ("serve", "xds", "--manifests", "."), ("bootstrap",)):
        done = environment.poolpilot(*command)
        assert done.returncode == 1, command
        assert done.stderr.startswith("poolpilot: `import xds` finds "), done.stderr
        assert "of xds-protos, not PoolPilot's" in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    environment.uninstall("xds-protos")
    environment.demo()


@pytest.mark.parametrize("number", [0, 1], ids=["from the checkout", "as a wheel"])
def test_the_page_on_installing_works_as_printed(tmp_path: Path, number: int) -> None:
    page = [list(block.commands()) for block in blocks(ROOT / "docs" / "install.md")]
    commands = [block for block in page if block and block[0].startswith("pip ")][number]
    clone = tmp_path / "clone"
    succeeded(run(["git", "clone", "--quiet", ROOT, clone], tmp_path))
    environment = Environment.new(tmp_path, VERSIONS[0], "pip")
    path = f"PATH={environment.path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        # What is installed takes the package index, what is run takes the well-known ports.
        with contextlib.nullcontext() if command.startswith("pip ") else private_network():
            succeeded(run(["env", path, "bash", "-c", command], clone))
    environment.demo()


def test_make_demo_in_a_clone_installs_less_than_300_mb(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    succeeded(run(["git", "clone", "--quiet", ROOT, clone], tmp_path))
    python = python_of(VERSIONS[0])
    assert python is not None
    # As on most machines, without uv.
    path = os.pathsep.join(
        folder
        for folder in os.environ["PATH"].split(os.pathsep)
        if not (Path(folder) / "uv").exists()
    )
    arguments = " ".join(DEMO[1:])
    done = run(
        ["env", f"PATH={path}", "make", "demo", f"PYTHON={python}", f"ARGS={arguments}"], clone
    )
    assert json.loads(succeeded(done).splitlines()[-1])["ok"] == 30
    sizes = (file.lstat().st_size for file in (clone / ".venv").rglob("*"))
    assert sum(sizes) < 300e6
