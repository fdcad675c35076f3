"""Child processes that are watched while they run and that end with us.

``Children`` is synchronous on purpose: the kernel ties a child to the *thread* that forked it, so
children must be started from the main thread, and nothing here ever waits long.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from poolpilot.demo import launcher
from poolpilot.errors import PoolPilotError

TieTo = Literal["kernel", "pipe"]
"""How a child is tied to us (see ``launcher``)."""
DEFAULT_TIE: TieTo = "kernel" if sys.platform == "linux" else "pipe"


class ChildDiedError(PoolPilotError):
    """A child ended although nobody asked it to. The message shows the end of its log."""


@dataclass(eq=False)
class Child:
    """One running program, in a process group of its own (so Ctrl-C reaches only us)."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    wanted: bool = True
    """False once it was asked to end: then its end is no surprise."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def running(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child and what it started. Gone already: nothing happens."""
        if self.running():
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                return

    def terminate(self) -> None:
        self.wanted = False
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.wanted = False
        self.signal(signal.SIGKILL)
        self.process.wait()

    def tail(self, lines: int = 20) -> str:
        """The last lines it wrote."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def obituary(self) -> str:
        status = self.process.returncode
        how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
        tail = self.tail()
        return f"{self.name} ended {how}" + (
            f"; the end of its log ({self.log}):\n{tail}" if tail else " and wrote nothing"
        )


@dataclass
class Children:
    """All programs that were started, in order. ``log_dir`` gets one file for each name."""

    log_dir: Path
    tie: TieTo = DEFAULT_TIE
    _children: dict[str, Child] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Child]:
        return iter(tuple(self._children.values()))

    def __getitem__(self, name: str) -> Child:
        return self._children[name]

    def __contains__(self, name: object) -> bool:
        return name in self._children

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> Child:
        """Start ``argv``; its output is appended to ``<log_dir>/<name>.log``. A name can be used
        again once its child has ended. Call from the main thread."""
        if name in self._children and self._children[name].running():
            raise ValueError(f"{name} is running already")
        path = self.log_dir / f"{name}.log"
        command = [sys.executable, "-I", "-S", launcher.__file__, self.tie, str(os.getpid()), *argv]
        with path.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if self.tie == "pipe" else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        child = self._children[name] = Child(name, process, path)
        return child

    def check(self) -> None:
        """Raises ChildDiedError if a child that should be running is not."""
        for child in self:
            if child.wanted and not child.running():
                raise ChildDiedError(child.obituary())

    def stop(self, grace: float) -> None:
        """End them all: SIGTERM, and SIGKILL for what is still there after ``grace`` seconds."""
        for child in self:
            child.terminate()
        deadline = time.monotonic() + grace
        for child in self:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
        for child in self:
            if child.process.stdin:
                child.process.stdin.close()
