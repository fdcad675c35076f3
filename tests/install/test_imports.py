"""What is said when one of our packages cannot be imported because of somebody else's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from poolpilot.imports import HOME, OURS, explain_import


def poolpilot(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    """The command with ``path`` before everything that is installed."""
    return subprocess.run(
        [sys.executable, "-m", "poolpilot", *arguments],
        cwd=path,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """All our packages, as a wheel lays them down."""
    for package in OURS:
        shutil.copytree(
            HOME / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path


def test_another_package_of_the_name_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "xds").mkdir()
    (tmp_path / "xds" / "__init__.py").touch()
    said = poolpilot("bootstrap", path=tmp_path)
    assert said.returncode == 1
    assert said.stderr.startswith(f"poolpilot: `import xds` finds {tmp_path / 'xds'}")
    assert str(HOME / "xds") in said.stderr
    assert "install it as a wheel" in said.stderr
    assert said.stderr.count("\n") == 1


def test_a_file_that_was_taken_away_is_named_with_the_way_back(copy: Path) -> None:
    (copy / "xds" / "bootstrap.py").unlink()
    said = poolpilot("bootstrap", path=copy)
    assert said.returncode == 1
    assert said.stderr.startswith(f"poolpilot: xds.bootstrap is missing from {copy}: ")
    assert "--force-reinstall" in said.stderr
    assert said.stderr.count("\n") == 1


def test_xds_needs_no_file_that_xds_protos_has_too(copy: Path) -> None:
    (copy / "xds" / "__init__.py").unlink()
    whole = poolpilot("bootstrap", path=HOME)
    assert whole.returncode == 0
    assert poolpilot("bootstrap", path=copy).stdout == whole.stdout


def test_what_is_not_ours_is_left_to_its_traceback() -> None:
    assert explain_import(ModuleNotFoundError("No module named 'grpc'", name="grpc")) is None
    assert explain_import(ImportError("of no name")) is None


def test_a_picker_starts_without_what_only_the_xds_server_needs() -> None:
    """It is waited for after a restart, and Envoy's messages alone take half a second."""
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "poolpilot", "serve", "extproc", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in said.stderr.splitlines()}
    assert "extproc.config.settings" in imported
    assert not [name for name in imported if name.startswith(("xds", "envoy_data_plane"))]
