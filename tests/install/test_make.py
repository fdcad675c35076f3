"""`make demo` and its kin on a machine that has nothing yet, or the wrong Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

OLD_PYTHON = f"""#!/bin/sh
test "$1" = -c || exit 1
exec {sys.executable} -c 'import platform, sys
sys.version_info = (3, 9, 18, "final", 0)
platform.python_version = lambda: "3.9.18"
exec(sys.argv[1])' "$2"
"""
NEW_PYTHON = f"""#!/bin/sh
exec {sys.executable} "$@"
"""
# Notes what is to be installed; `poolpilot` says where it was called.
UV = """#!/bin/sh
echo "$@" >> uv.log
test -z "$UV_FAILS" || exit 1
case $1 in
venv) for last; do :; done; mkdir -p "$last/bin"; ln -s "$4" "$last/bin/python" ;;
pip)
  printf '#!/bin/sh\\necho "poolpilot $*"\\n' > .venv/bin/poolpilot
  chmod +x .venv/bin/poolpilot ;;
esac
"""


@dataclass
class Checkout:
    """As much of one as `make` reads, and a PATH with nothing but what a machine has anyway."""

    path: Path
    programs: Path
    environment: dict[str, str] = field(default_factory=dict)

    def program(self, name: str, text: str) -> Path:
        file = self.programs / name
        file.write_text(text)
        file.chmod(0o755)
        return file

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", *arguments],
            cwd=self.path,
            env={"PATH": str(self.programs), "HOME": str(self.path), **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def venv(self) -> Path:
        return self.path / ".venv"

    def installed(self) -> list[str]:
        """The extras of each install, in order."""
        lines = (self.path / "uv.log").read_text().splitlines()
        return [line.rpartition("[")[2].rstrip("]") for line in lines if line.startswith("pip")]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    path, programs = tmp_path / "checkout", tmp_path / "bin"
    programs.mkdir()
    (path / "tools").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "tools/install.sh"):
        shutil.copy(ROOT / name, path / name)
    for name in ("sh", "make", "sed", "tr", "rm", "mkdir", "ln", "chmod", "touch", "find", "grep"):
        found = shutil.which(name)
        assert found, name
        (programs / name).symlink_to(found)
    checkout = Checkout(path, programs)
    checkout.program("uv", UV)
    return checkout


def test_a_python_that_is_too_old_is_told_at_once_and_leaves_nothing(checkout: Checkout) -> None:
    checkout.program("python3", OLD_PYTHON)
    done = checkout.make("demo")
    assert done.returncode
    assert "PoolPilot needs Python 3.11 or newer; python3 is 3.9.18." in done.stderr
    assert "make demo PYTHON=/path/to/python3.11" in done.stderr
    assert not checkout.venv.exists()
    assert not (checkout.path / "uv.log").exists()


def test_a_newer_python_on_the_path_is_named(checkout: Checkout) -> None:
    checkout.program("python3", OLD_PYTHON)
    checkout.program("python3.12", NEW_PYTHON)
    assert "There is python3.12: make demo PYTHON=python3.12" in checkout.make("demo").stderr


def test_no_python_at_all_is_told_as_well(checkout: Checkout) -> None:
    done = checkout.make("demo")
    assert done.returncode
    assert "needs Python 3.11 or newer; python3 cannot be run." in done.stderr


def test_the_next_call_with_a_good_python_works(checkout: Checkout) -> None:
    checkout.program("python3", OLD_PYTHON)
    assert checkout.make("demo").returncode
    good = checkout.program("good", NEW_PYTHON)
    done = checkout.make("demo", f"PYTHON={good}", "ARGS=--load 8")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "poolpilot demo --load 8\n"


def test_an_environment_of_a_python_that_is_too_old_is_made_anew(checkout: Checkout) -> None:
    checkout.program("python3", NEW_PYTHON)
    (checkout.venv / "bin").mkdir(parents=True)
    old = checkout.venv / "bin" / "python"
    old.write_text(OLD_PYTHON)
    old.chmod(0o755)
    assert checkout.make("demo").returncode == 0
    assert old.is_symlink()


def test_an_install_that_fails_leaves_no_half_made_environment(checkout: Checkout) -> None:
    checkout.program("python3", NEW_PYTHON)
    checkout.environment["UV_FAILS"] = "1"
    assert checkout.make("demo").returncode
    assert not checkout.venv.exists()
    del checkout.environment["UV_FAILS"]
    assert checkout.make("demo").returncode == 0


def test_the_demo_installs_what_it_needs_and_the_rest_comes_with_what_needs_it(
    checkout: Checkout,
) -> None:
    checkout.program("python3", NEW_PYTHON)
    first = checkout.make("demo")
    assert "Installing PoolPilot with its extras envoy,fast into .venv" in first.stderr
    assert "Installing" not in checkout.make("demo").stderr
    assert checkout.make("setup").returncode == 0
    assert checkout.make("setup").returncode == 0
    assert checkout.installed() == ["envoy,fast", "dev,compile,envoy,fast,kubernetes"]


def test_who_has_everything_installs_nothing_for_the_demo(checkout: Checkout) -> None:
    checkout.program("python3", NEW_PYTHON)
    assert checkout.make("setup").returncode == 0
    assert checkout.make("demo").returncode == 0
    assert checkout.installed() == ["dev,compile,envoy,fast,kubernetes"]


def test_new_requirements_are_installed(checkout: Checkout) -> None:
    checkout.program("python3", NEW_PYTHON)
    assert checkout.make("demo").returncode == 0
    stamp = (checkout.venv / ".installed-demo").stat()
    os.utime(checkout.path / "pyproject.toml", ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 10**9))
    assert checkout.make("demo").returncode == 0
    assert checkout.installed() == ["envoy,fast", "envoy,fast"]
