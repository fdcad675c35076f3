"""vllm-router (PyPI, 0.1.12) as a process. What takes its options will do, as sglang-router."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from poolpilot.demo.ports import LOOPBACK, reserve

BINARY = "vllm-router"
POLL = 0.05


class RouterError(Exception):
    """It did not come up. The message says what it wrote last."""


@dataclass(frozen=True, slots=True)
class Router:
    url: str
    process: subprocess.Popen[str]


@contextlib.contextmanager
def router(
    pods: Sequence[str], policy: str, binary: str = BINARY, *, limit: float = 60.0
) -> Iterator[Router]:
    """In front of the pods at these URLs, once it is ready.

    All pods must answer /health first. It asks them once when it starts; if none has answered by
    then it looks again after --worker-startup-check-interval, which is 30 s unless told otherwise,
    and meanwhile does not listen.
    """
    path = shutil.which(binary)
    if path is None:
        raise RouterError(f"{binary} is not found: pip install vllm-router==0.1.12, or give a path")
    deadline = time.monotonic() + limit
    for pod in pods:
        _wait(f"{pod}/health", deadline, None, None)
    with (
        contextlib.closing(reserve()) as listener,
        contextlib.closing(reserve()) as metrics,
        tempfile.NamedTemporaryFile() as log,
    ):
        # It binds without SO_REUSEPORT, so a reserved number has to be given up just before.
        listener.close()
        metrics.close()
        process = subprocess.Popen(
            [
                *(path, "--host", LOOPBACK, "--port", str(listener.port), "--policy", policy),
                *("--prometheus-port", str(metrics.port), "--log-level", "error"),
                *("--worker-startup-check-interval", "1", "--worker-urls", *pods),
            ],
            stdout=log,
            stderr=log,
            text=True,
        )
        url = f"http://{LOOPBACK}:{listener.port}"
        try:
            _wait(f"{url}/health", deadline, process, Path(log.name))
            yield Router(url, process)
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(
    url: str, deadline: float, process: subprocess.Popen[str] | None, log: Path | None
) -> None:
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError as error:
            wrote = log.read_text(errors="replace")[-2000:] if log else ""
            if process is not None and process.poll() is not None:
                raise RouterError(f"the router ended with {process.returncode}: {wrote}") from None
            if time.monotonic() > deadline:
                raise RouterError(f"{url} does not answer: {error} {wrote}") from None
            time.sleep(POLL)
        else:
            return
