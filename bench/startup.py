"""How long the servers take from their start until they are ready: ``python -m bench.startup``.

Each is started on the quickstart's manifests as an operator would start it, and asked for
``/readyz`` until that says 200: then the first configuration is translated and can be served. CPU
time is what the process used until then; on an idle machine the wall time is hardly more.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from poolpilot.demo.ports import LOOPBACK, reserve
from poolpilot.demo.quickstart import manifests

LIMIT = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


def command(server: str, directory: Path, ports: Sequence[int]) -> list[str]:
    common = [sys.executable, "-m", "poolpilot", "serve", server, f"--manifests={directory}"]
    addresses = [
        f"--address={LOOPBACK}:{ports[1]}",
        f"--http-address={LOOPBACK}:{ports[0]}",
    ]
    if server == "extproc":
        addresses.append(f"--health-address={LOOPBACK}:{ports[2]}")
    return common + addresses


def until_ready(argv: Sequence[str], http_port: int) -> tuple[float, float]:
    """Seconds of wall time and of CPU time from the start to the first "ready"."""
    begun = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not _ready(http_port):
            if process.poll() is not None or time.perf_counter() - begun > LIMIT:
                raise SystemExit(f"{' '.join(argv)} did not become ready")
            time.sleep(0.005)
        wall = time.perf_counter() - begun
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return wall, (int(fields[11]) + int(fields[12])) / _TICKS
    finally:
        process.terminate()
        process.wait()


def _ready(http_port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{http_port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs: int = parser.parse_args().runs
    held = [reserve() for _ in range(3)]
    ports = [one.port for one in held]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for file, text in manifests([("pod-0", LOOPBACK, 8000)]).items():
            (directory / file).write_text(text)
        load = os.getloadavg()[0]
        print(f"{runs} runs each, load average {load:.1f} on {os.cpu_count()} cores")
        print("server    wall s: best  median   CPU s: best  median")
        for server in ("xds", "extproc"):
            found = [until_ready(command(server, directory, ports), ports[0]) for _ in range(runs)]
            wall, cpu = zip(*found, strict=True)
            print(
                f"{server:9} {min(wall):12.2f} {statistics.median(wall):7.2f}"
                f" {min(cpu):12.2f} {statistics.median(cpu):7.2f}"
            )
    for one in held:
        one.close()


if __name__ == "__main__":
    main()
