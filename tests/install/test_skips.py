"""What `make test` says last."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TESTS = """
import pytest

def test_that_runs():
    pass

@pytest.mark.parametrize("number", range(3))
def test_without_docker(number):
    pytest.skip("no Docker engine answers")

@pytest.mark.skipif(True, reason="takes Go")
def test_with_go():
    pass
"""


def last_line(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.skips", "-c", os.devnull, *arguments, folder],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("processes", [[], ["-n", "2"]], ids=["one process", "two processes"])
def test_it_says_how_many_tests_were_skipped_for_what_reason(
    tmp_path: Path, processes: list[str]
) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    assert last_line(tmp_path, *processes) == "Skipped: 3 × no Docker engine answers; 1 × takes Go"


def test_it_says_too_that_nothing_was_skipped(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text("def test_that_runs():\n    pass\n")
    assert last_line(tmp_path) == "Skipped: nothing"


def test_all_our_tests_say_it(request: pytest.FixtureRequest) -> None:
    plugins = request.config.pluginmanager.get_plugins()
    assert any(hasattr(plugin, "pytest_unconfigure") for plugin in plugins if _is_ours(plugin))


def _is_ours(plugin: object) -> bool:
    return getattr(plugin, "__file__", None) == str(ROOT / "conftest.py")
