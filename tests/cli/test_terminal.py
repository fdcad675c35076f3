"""Commands in a shell: whoever reads the output may stop, or be a terminal without our letters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from poolpilot.demo import quickstart

LIMIT = 30.0


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    for name, text in quickstart.manifests([("vllm-0", "127.0.0.1", 8000)]).items():
        (tmp_path / name).write_text(text)
    return tmp_path


def poolpilot(
    *arguments: str, stdout: int = subprocess.PIPE, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "poolpilot", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )


@pytest.mark.parametrize(
    "command", [("check", "."), ("check", ".", "--render"), ("manifests", "plain-envoy")]
)
def test_a_reader_who_has_enough_is_no_failure(command: tuple[str, ...], manifests: Path) -> None:
    command = tuple(str(manifests) if word == "." else word for word in command)
    reader, writer = os.pipe()
    os.close(reader)
    process = poolpilot(*command, stdout=writer)
    os.close(writer)
    _, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, "rror" in errors.replace("0 errors", "")) == (0, False), errors


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def test_letters_that_a_terminal_has_not_are_marked(manifests: Path) -> None:
    (manifests / "broken.yaml").write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: größe}\nspec: {}\n", encoding="utf-8"
    )
    process = poolpilot("check", str(manifests), env=ASCII)
    output, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, errors) == (1, "")
    assert "Service default/gr??e" in output


def test_help_can_be_read_on_any_terminal() -> None:
    process = poolpilot("serve", "all", "--help", env=ASCII)
    output, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, errors) == (0, "")
    assert "Both servers in one process" in output


def test_ctrl_c_is_how_watching_ends() -> None:
    terminal, stdout = os.openpty()
    process = poolpilot("status", "--watch", "--xds", "http://127.0.0.1:1", stdout=stdout)
    os.close(stdout)
    shown = b""
    while b"Trying again" not in shown:
        shown += os.read(terminal, 4096)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    os.close(terminal)
    assert (process.returncode, errors) == (0, "")
