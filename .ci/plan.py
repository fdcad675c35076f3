"""The targets that take long, as far as the clock lasts.

``make test`` has run before. What the change touches comes first; the others follow in an order
that turns with the commit, so that each has its turn. What did not fit is named at the end as *not
run*: never as passed. One that fails makes the whole run fail.

    python .ci/plan.py --until UNIX_TIME
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASE_VARIABLE = "POOLPILOT_CI_BASE"
"""The commit that landed before; without it, see :func:`base`."""
COMMITS = 50
"""So many commits back is "before", where nothing says how many a change has."""
GRACE = 20.0
"""Seconds that a target which is stopped gets to clean up."""


@dataclass(frozen=True, slots=True)
class Target:
    """One of the Makefile. ``minutes`` is what it takes on two cores with nothing cached."""

    name: str
    minutes: float
    touched_by: tuple[str, ...]
    """Beginnings of paths."""
    needs: str = ""
    """A program without which it cannot run."""


TARGETS = (
    Target(
        "test-compiled",
        12,
        (
            "extproc/",
            "pools/",
            "tests/extproc/",
            "tests/fuzz/",
            "pyproject.toml",
            "constraints.txt",
        ),
        needs="gcc",
    ),
    Target(
        "test-install",
        10,
        (
            "LICENSE",
            "Makefile",
            "README.md",
            "constraints.txt",
            "poolpilot/",
            "pyproject.toml",
            "tests/install/",
            "tools/install.sh",
            "xds/__init__.py",
        ),
    ),
    Target(
        "test-engines",
        20,
        ("extproc/signals/", "sim/", "tests/engines/", "e2e/engines/"),
    ),
    Target(
        "test-kubernetes",
        25,
        (
            "e2e/envoy_gateway/",
            "e2e/kube/",
            "manifests/",
            "pools/kubernetes/",
            "poolpilot/manifests/",
        ),
        needs="go",
    ),
    Target(
        "conformance",
        25,
        ("conformance/", "e2e/conformance/", "pools/", "xds/"),
        needs="go",
    ),
)


class Verdict(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Outcome:
    target: str
    verdict: Verdict
    why: str

    def __str__(self) -> str:
        return f"{self.verdict}: make {self.target} ({self.why})"


def order(
    targets: Sequence[Target], changed: Iterable[str] | None, commit: str
) -> tuple[Target, ...]:
    """Those that ``changed`` paths touch before the others (None: nobody knows what changed), each
    part turned by ``commit`` (hex digits)."""
    paths = None if changed is None else tuple(changed)
    touched = tuple(
        target
        for target in targets
        if paths is None or any(path.startswith(target.touched_by) for path in paths)
    )
    others = tuple(target for target in targets if target not in touched)
    return _turned(touched, commit) + _turned(others, commit)


def _turned(targets: tuple[Target, ...], commit: str) -> tuple[Target, ...]:
    if not targets:
        return ()
    first = int(commit[:8], 16) % len(targets)
    return targets[first:] + targets[:first]


def carry_out(
    targets: Sequence[Target],
    until: float,
    *,
    run: Callable[[str, float], int | None],
    now: Callable[[], float],
    is_there: Callable[[str], bool],
) -> tuple[Outcome, ...]:
    """Run ``targets`` in their order until ``until``, in the seconds of ``now``.

    ``run`` takes a target and the seconds that it has at most. It returns the exit status, or None
    if it had to stop the target. One that would not fit is left out, and the next is tried.
    """
    outcomes = []
    for target in targets:
        began = now()
        left = until - began
        if target.needs and not is_there(target.needs):
            outcome = Outcome(target.name, Verdict.NOT_RUN, f"there is no {target.needs}")
        elif left < target.minutes * 60:
            why = f"takes {target.minutes:g} min, {max(0.0, left) / 60:.0f} were left"
            outcome = Outcome(target.name, Verdict.NOT_RUN, why)
        else:
            status = run(target.name, left)
            took = f"{(now() - began) / 60:.1f} min"
            if status is None:
                why = f"stopped after {took}, when the time was over"
                outcome = Outcome(target.name, Verdict.NOT_RUN, why)
            elif status:
                outcome = Outcome(target.name, Verdict.FAILED, f"status {status} after {took}")
            else:
                outcome = Outcome(target.name, Verdict.PASSED, took)
        outcomes.append(outcome)
    return tuple(outcomes)


def available(makefile: str) -> tuple[Target, ...]:
    """Those of :data:`TARGETS` that the Makefile has."""
    there = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    return tuple(target for target in TARGETS if target.name in there)


def base(environment: Mapping[str, str], git: Callable[..., str | None]) -> str | None:
    """The commit before the change: the one that is named, else where the branch left the main one,
    else the first parent of a merge, else so many commits back. None: unknown."""
    named = environment.get(BASE_VARIABLE)
    if named:
        return named
    head = git("rev-parse", "HEAD")
    left = git("merge-base", "HEAD", "origin/main")
    if left and left != head:
        return left
    if git("rev-parse", "--verify", "HEAD^2"):
        return git("rev-parse", "HEAD^1")
    return git("rev-parse", "--verify", f"HEAD~{COMMITS}")


def _git(*arguments: str) -> str | None:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return None if done.returncode else done.stdout.strip()


def _changed(before: str | None) -> tuple[str, ...] | None:
    said = before and _git("diff", "--name-only", before, "HEAD")
    return None if said is None else tuple(said.splitlines())


def _make(target: str, seconds: float) -> int | None:
    """Its exit status, or None: it was stopped after ``seconds``, with all that it started."""
    print(f"== make {target}", flush=True)
    process = subprocess.Popen(["make", target], cwd=ROOT, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        return None
    finally:
        # Whatever it left, and itself if it would not end.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> int:
    """0: none failed. 1: one did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--until", type=float, required=True, metavar="UNIX_TIME")
    arguments = parser.parse_args()
    changed = _changed(base(os.environ, _git))
    commit = _git("rev-parse", "HEAD") or "0"
    targets = order(available((ROOT / "Makefile").read_text()), changed, commit)
    outcomes = carry_out(
        targets,
        arguments.until,
        run=_make,
        now=time.time,
        is_there=lambda program: shutil.which(program) is not None,
    )
    print("\nmake test passed. Beyond it:")
    for outcome in outcomes:
        print(outcome)
    return int(any(outcome.verdict is Verdict.FAILED for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
