"""Servers as processes: they stop when asked, and say why when they cannot start."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from poolpilot.demo import quickstart
from poolpilot.demo.ports import LOOPBACK, reserve
from poolpilot.probe import probe

LIMIT = 30.0
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "poolpilot", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    for name, text in quickstart.manifests([("vllm-0", LOOPBACK, 1)]).items():
        (tmp_path / name).write_text(text)
    return tmp_path


def command(name: str, manifests: Path, address: str, http: str) -> list[str]:
    match name:
        case "fake-vllm":
            return ["fake-vllm", "--address", http]
        case "serve xds":
            return [
                "serve",
                "xds",
                f"-m{manifests}",
                f"--address={address}",
                "--http-address",
                http,
            ]
        case _:
            return [
                *("serve", "extproc", f"-m{manifests}", f"--address={address}"),
                *("--health-address", "", "--http-address", http),
            ]


@pytest.mark.parametrize("name", ["fake-vllm", "serve xds", "serve extproc"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_ready_stops_when_asked(
    start: Start, manifests: Path, name: str, number: signal.Signals
) -> None:
    http, grpc = reserve(), reserve()
    url = f"http://{LOOPBACK}:{http.port}/{'health' if name == 'fake-vllm' else 'readyz'}"
    process = start(*command(name, manifests, f"{LOOPBACK}:{grpc.port}", f"{LOOPBACK}:{http.port}"))
    deadline = time.monotonic() + LIMIT
    while objection := probe(url):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, objection
        time.sleep(0.02)

    process.send_signal(number)
    _, errors = process.communicate(timeout=LIMIT)

    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    for port in (http, grpc):
        port.close()


@pytest.mark.parametrize("name", ["serve xds", "serve extproc"])
def test_a_server_whose_log_nobody_reads_serves_and_stops(manifests: Path, name: str) -> None:
    reader, full = os.pipe()
    os.set_blocking(full, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(full, bytes(4096))
    os.set_blocking(full, True)
    http, grpc = reserve(), reserve()
    arguments = command(name, manifests, f"{LOOPBACK}:{grpc.port}", f"{LOOPBACK}:{http.port}")
    process = subprocess.Popen(
        [sys.executable, "-m", "poolpilot", *arguments], stderr=full, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + LIMIT
        while objection := probe(f"http://{LOOPBACK}:{http.port}/readyz"):
            assert process.poll() is None
            assert time.monotonic() < deadline, objection
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
    finally:
        process.kill()
        process.wait()
        for end in (reader, full):
            os.close(end)
        for port in (http, grpc):
            port.close()


@pytest.mark.parametrize("name", ["fake-vllm", "serve xds", "serve extproc"])
def test_a_server_whose_port_is_taken_says_so_and_ends(
    start: Start, manifests: Path, name: str
) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        taken = f"{LOOPBACK}:{other.getsockname()[1]}"
        http = taken if name == "fake-vllm" else f"{LOOPBACK}:0"
        _, errors = start(*command(name, manifests, taken, http)).communicate(timeout=LIMIT)
    last = errors.splitlines()[-1]
    assert last.startswith("poolpilot: ")
    assert f"cannot listen on {taken}" in last
    assert "Traceback" not in errors


@pytest.mark.parametrize("server", ["xds", "extproc"])
def test_a_directory_that_is_not_there_is_explained(
    start: Start, tmp_path: Path, server: str
) -> None:
    directory = tmp_path / "nowhere"
    process = start(
        *("serve", server, f"-m{directory}", f"--address={LOOPBACK}:0"),
        *("--http-address", f"{LOOPBACK}:0"),
        *(("--health-address", "") if server == "extproc" else ()),
    )
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert f"there is no directory {directory}: create it" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_the_probe_tells_what_is_wrong() -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        port = silent.getsockname()[1]
    assert "refused" in probe(f"http://{LOOPBACK}:{port}/readyz")
