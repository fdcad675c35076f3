"""Children are watched, and none of them outlives us, whatever ends us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from poolpilot.demo.processes import Child, ChildDiedError, Children, TieTo

SLEEPER = [sys.executable, "-c", "import sys, time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    " print('up', flush=True); time.sleep(600)",
]


def until(condition: object, what: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def up(child: Child) -> bool:
    return "up" in child.tail()


def exists(pid: int) -> bool:
    """Whether a process runs (a zombie that nobody waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(params=["kernel", "pipe"])
def children(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Children]:
    tie: TieTo = request.param
    if tie == "kernel" and sys.platform != "linux":
        pytest.skip("only Linux ties a child to its parent in the kernel")
    children = Children(tmp_path, tie)
    yield children
    children.stop(0)


def test_all_children_end_when_asked(children: Children) -> None:
    one, two = children.start("one", SLEEPER), children.start("two", SLEEPER)
    until(lambda: up(one) and up(two), "both start")
    children.check()

    children.stop(grace=10)

    assert not one.running()
    assert not two.running()
    children.check()  # wanted, so no error


def test_a_child_that_ignores_the_request_is_killed(children: Children) -> None:
    stubborn = children.start("stubborn", STUBBORN)
    until(lambda: up(stubborn), "it starts")
    children.stop(grace=0.05)
    assert not stubborn.running()


def test_a_death_is_reported_with_the_end_of_its_log(children: Children) -> None:
    dies = children.start("dies", [sys.executable, "-c", "raise SystemExit('no GPU found')"])
    until(lambda: not dies.running(), "it ends")
    with pytest.raises(ChildDiedError, match=r"dies ended with status 1; .*\n.*no GPU found"):
        children.check()


def test_a_name_can_be_used_again_after_a_kill(children: Children) -> None:
    first = children.start("server", SLEEPER)
    until(lambda: up(first), "it starts")
    with pytest.raises(ValueError, match="server is running already"):
        children.start("server", SLEEPER)
    first.kill()
    second = children.start("server", SLEEPER)
    assert second.pid != first.pid
    children.check()


PARENT = """
import sys, time
from pathlib import Path
from poolpilot.demo.processes import Children
children = Children(Path(sys.argv[1]), sys.argv[2])
child = children.start("child", [sys.executable, "-c",
    "import os, time; print(f'pid {os.getpid()} is up', flush=True); time.sleep(600)"])
while "up" not in child.tail():
    time.sleep(0.005)
print("ready", child.pid, flush=True)
if sys.argv[3] == "exception":
    raise RuntimeError("on purpose")
time.sleep(600)
"""


@pytest.mark.parametrize("tie", ["kernel", "pipe"])
@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "SIGHUP", "exception"])
def test_no_child_outlives_its_parent(end: str, tie: str, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), tie, end],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert parent.stdout
        word, started = parent.stdout.readline().split()
        assert word == "ready"
        program = int((tmp_path / "child.log").read_text().split()[1])
        assert tie == "pipe" or program == int(started), "the program takes the launcher's place"
        if end != "exception":
            os.kill(parent.pid, signal.Signals[end])
        parent.wait(10)
        until(lambda: not exists(program) and not exists(int(started)), "the child is gone")
    finally:
        parent.kill()
        parent.wait()
