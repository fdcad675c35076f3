"""``poolpilot demo``, as a person or a script runs it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

LIMIT = 60.0
DEMO = [sys.executable, "-m", "poolpilot", "demo", "--ports", "auto"]
MARK = "POOLPILOT_TEST_RUN"


def until(condition: Callable[[], bool], what: str, limit: float = LIMIT) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {limit:g} s: {what}"
        time.sleep(0.02)


@dataclass
class Run:
    """A mark that a demo and everything that it starts carry in their environment."""

    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: str, **options: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*DEMO, *arguments], env={**os.environ, MARK: self.mark}, **options
        )
        self.started.append(process)
        return process

    def processes(self) -> dict[int, str]:
        """Command lines of all processes of this run that are alive, by pid."""
        found = {}
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"{MARK}={self.mark}".encode() in environ.read_bytes():
                    command = environ.with_name("cmdline").read_bytes()
                    found[int(environ.parent.name)] = command.replace(b"\0", b" ").decode()
            except OSError:
                continue
        return {pid: command for pid, command in found.items() if command}


@pytest.fixture
def run() -> Iterator[Run]:
    run = Run()
    yield run
    for process in run.started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("mode", ["--sotw", "--delta"])
def test_requests_are_answered_and_reported_as_one_json_object(run: Run, mode: str) -> None:
    process = run.start(
        *("--requests", "36", "--json", "--time-scale", "50", mode), stdout=subprocess.PIPE
    )
    output, _ = process.communicate(timeout=LIMIT)

    report = json.loads(output)
    assert process.returncode == 0
    assert report.keys() == {"requests", "ok", "by_pod", "p50_ms", "p99_ms", "errors"}
    assert report["requests"] == report["ok"] == sum(report["by_pod"].values()) == 36
    assert set(report["by_pod"]) <= {"vllm-0", "vllm-1", "vllm-2"}
    assert 0 < report["p50_ms"] <= report["p99_ms"]
    assert report["errors"] == {}
    assert run.processes() == {}


def test_an_unanswered_request_fails_the_run_and_is_in_the_report(run: Run) -> None:
    process = run.start(
        *("--requests", "3000", "--json", "--time-scale", "50"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until(lambda: _picks(run) > 0, "requests flow")
    (extproc,) = [pid for pid, command in _servers(run).items() if "serve extproc" in command]
    os.kill(extproc, signal.SIGKILL)
    output, errors = process.communicate(timeout=LIMIT)

    report = json.loads(output)
    assert process.returncode == 1
    assert 0 < report["ok"] < report["requests"] == 3000
    assert sum(report["errors"].values()) == 3000 - report["ok"]
    assert "poolpilot: extproc ended by SIGKILL" in errors.decode()
    assert run.processes() == {}


@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_nothing_is_left_however_the_demo_ends(run: Run, end: str) -> None:
    process = run.start("--pods", "1", stdout=subprocess.DEVNULL)
    until(lambda: len(_servers(run)) == 4, "all parts run")

    process.send_signal(signal.Signals[end])
    status = process.wait(LIMIT)

    assert status == (-signal.SIGKILL if end == "SIGKILL" else 0)
    until(lambda: run.processes() == {}, "nothing is left")


def test_nothing_is_left_when_the_terminal_is_closed(run: Run) -> None:
    pid, terminal = pty.fork()
    if pid == 0:  # A session of its own, with this terminal in control of it.
        os.execve(DEMO[0], [*DEMO, "--pods", "1"], {**os.environ, MARK: run.mark})
    try:
        screen = _Screen(terminal)
        until(lambda: screen.shows_row(r"vllm-0 +127\.0\.0\.1:"), "the table is shown")
    finally:
        os.close(terminal)
    until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, "the demo ends")
    until(lambda: run.processes() == {}, "nothing is left")


def test_the_demo_ends_with_the_reason_when_a_part_dies(run: Run) -> None:
    process = run.start("--pods", "1", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    until(lambda: b"Ctrl-C" in process.stdout.readline(), "it is ready")
    (xds,) = [pid for pid, command in _servers(run).items() if "serve xds" in command]
    os.kill(xds, signal.SIGKILL)
    _, errors = process.communicate(timeout=LIMIT)

    assert process.returncode == 1
    assert errors.decode().startswith("poolpilot: xds ended by SIGKILL; the end of its log")
    assert run.processes() == {}


def test_a_person_sees_the_pods_and_can_send_the_request_that_is_printed(run: Run) -> None:
    ours, theirs = pty.openpty()
    process = run.start(stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    screen = _Screen(ours)

    until(lambda: screen.shows_row(r"KV cache +picked +adapters"), "the table is shown")
    command = re.search(r"curl (\S+) .*?-d '(.*?)'", screen.text.replace("\r\n", "\n"), re.DOTALL)
    assert command, screen.text
    answer = httpx.post(command[1], json=json.loads(command[2]), timeout=30, trust_env=False)
    assert answer.status_code == 200
    assert answer.json()["model"] == "tweet-summary"
    pod = answer.headers["x-sim-pod"]
    until(lambda: screen.shows_row(rf"{pod} .* 1 +"), "the table counts the request")

    process.send_signal(signal.SIGINT)
    until(lambda: screen.read() is not None and process.poll() is not None, "it ends")
    assert process.returncode == 0
    assert run.processes() == {}


def test_a_taken_port_is_explained(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        # The well-known ports may be in use here; what is tested is who holds one.
        port = server.getsockname()[1]
        script = (
            "from poolpilot.demo import ports; "
            f"ports._FIXED['listener'] = ('Envoy', {port}); "
            "from poolpilot.cli import main; main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, "demo", "--pods", "1"],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(r"^poolpilot: port \d+, for .*, is held by .*--ports auto`$", done.stderr)


def _servers(run: Run) -> dict[int, str]:
    """The processes that the demo started, once they have become what they are to be."""
    return {
        pid: command
        for pid, command in run.processes().items()
        if "launcher.py" not in command and " demo " not in f"{command} "
    }


def _picks(run: Run) -> int:
    """How many requests the endpoint picker has decided on."""
    for command in _servers(run).values():
        found = re.search(r"serve extproc .*--http-address=(\S+)", command)
        if found:
            try:
                page = httpx.get(f"http://{found[1]}/debug", timeout=5, trust_env=False).json()
            except httpx.TransportError:
                return 0
            return int(page["decisions"])
    return 0


class _Screen:
    """What a terminal was sent."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self.text = ""

    def read(self) -> str:
        try:
            while data := os.read(self._descriptor, 65536):
                self.text += data.decode(errors="replace")
        except OSError:
            pass
        return self.text

    def shows_row(self, pattern: str) -> bool:
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.read())
        return re.search(pattern, plain) is not None
