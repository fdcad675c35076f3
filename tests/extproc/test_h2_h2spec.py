"""h2spec, the conformance suite of HTTP/2, against our server.

h2spec is a Go program. It is taken from the path, or built once with `go install` into the user's
cache; where there is neither, this is skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "poolpilot" / "bin"

SERVER = """
import asyncio
from extproc.transport.native import serve_native

class Echo:
    def __init__(self, stream): self.stream = stream
    def on_message(self, message): self.stream.send(message)
    def on_half_close(self): self.stream.finish()
    def on_closed(self): pass

async def main():
    server = await serve_native({"/s/Echo": Echo}, "127.0.0.1:0")
    print(server.address, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(scope="session")
def h2spec() -> str:
    found = shutil.which("h2spec") or shutil.which("h2spec", path=str(CACHE))
    if found:
        return found
    go = shutil.which("go")
    if go is None:
        pytest.skip("neither h2spec nor go is on the path")
    build = subprocess.run(
        [go, "install", MODULE],
        env={**os.environ, "GOBIN": str(CACHE), "GOFLAGS": "-buildvcs=false"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if build.returncode:
        pytest.skip(f"h2spec cannot be built: {build.stderr[-300:]}")
    return str(CACHE / "h2spec")


@pytest.mark.parametrize("section", ["generic", "http2", "hpack"])
def test_nothing_fails_and_nothing_is_left_out(h2spec: str, section: str) -> None:
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        host, _, port = server.stdout.readline().strip().rpartition(":")
        run = subprocess.run(
            [h2spec, section, "-h", host, "-p", port, "-o", "5"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        server.terminate()
        server.wait()
    counted = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", run.stdout)
    assert counted, run.stdout + run.stderr
    tests, passed, skipped, failed = map(int, counted.groups())
    assert (skipped, failed) == (0, 0), run.stdout
    assert passed == tests > 0
