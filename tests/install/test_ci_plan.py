"""CI's own clock: what runs beyond `make test`, in which order, and what is said of the rest."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plan", ROOT / ".ci" / "plan.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


plan = _load()
A = plan.Target("a", 10, ("a/",))
B = plan.Target("b", 20, ("b/", "both/"))
C = plan.Target("c", 5, ("c/", "both/"), needs="go")
ALL = (A, B, C)


def names(targets: tuple[object, ...]) -> str:
    return "".join(target.name for target in targets)


class Machine:
    """A clock of its own, and targets that take as long and end as a test says."""

    def __init__(self, minutes: dict[str, float], statuses: dict[str, int] | None = None) -> None:
        self.minutes = minutes
        self.statuses = statuses or {}
        self.time = 0.0
        self.ran: list[str] = []
        self.programs = {"go"}

    def run(self, target: str, seconds: float) -> int | None:
        self.ran.append(target)
        needed = self.minutes[target] * 60
        self.time += min(needed, seconds)
        return self.statuses.get(target, 0) if needed <= seconds else None

    def carry_out(self, minutes: float) -> list[str]:
        outcomes = plan.carry_out(
            ALL,
            minutes * 60,
            run=self.run,
            now=lambda: self.time,
            is_there=self.programs.__contains__,
        )
        return list(map(str, outcomes))


def test_what_the_change_touches_comes_first() -> None:
    assert names(plan.order(ALL, ["c/x.py", "README.md"], "0")) == "cab"
    assert names(plan.order(ALL, ["both/x.py"], "0")) == "bca"


def test_nothing_touched_leaves_the_order_to_the_commit() -> None:
    orders = [names(plan.order(ALL, [], commit)) for commit in ("0", "1", "2", "3")]
    assert orders == ["abc", "bca", "cab", "abc"]


def test_what_is_touched_takes_turns_too() -> None:
    assert names(plan.order(ALL, ["both/x.py"], "1")) == "cba"


def test_where_nobody_knows_what_changed_all_take_turns() -> None:
    assert names(plan.order(ALL, None, "1")) == "bca"


def test_a_path_that_only_begins_like_a_folder_does_not_touch_it() -> None:
    assert names(plan.order(ALL, ["constraints.txt"], "0")) == "abc"


def test_all_that_fit_are_run_and_said_to_have_passed() -> None:
    machine = Machine({"a": 9, "b": 18, "c": 4})
    assert machine.carry_out(60) == [
        "passed: make a (9.0 min)",
        "passed: make b (18.0 min)",
        "passed: make c (4.0 min)",
    ]


def test_what_does_not_fit_is_not_run_and_what_still_fits_is() -> None:
    machine = Machine({"a": 9, "c": 4})
    assert machine.carry_out(25) == [
        "passed: make a (9.0 min)",
        "not run: make b (takes 20 min, 16 were left)",
        "passed: make c (4.0 min)",
    ]
    assert machine.ran == ["a", "c"]


def test_one_that_takes_longer_than_it_may_is_stopped_and_not_said_to_have_passed() -> None:
    machine = Machine({"a": 70})
    assert machine.carry_out(30) == [
        "not run: make a (stopped after 30.0 min, when the time was over)",
        "not run: make b (takes 20 min, 0 were left)",
        "not run: make c (takes 5 min, 0 were left)",
    ]


def test_a_failure_is_said_and_keeps_nothing_else_from_running() -> None:
    machine = Machine({"a": 9, "b": 18, "c": 4}, {"a": 2})
    assert machine.carry_out(60)[0] == "failed: make a (status 2 after 9.0 min)"
    assert machine.ran == ["a", "b", "c"]


def test_without_the_program_that_it_takes_a_target_is_not_run() -> None:
    machine = Machine({"a": 9, "b": 18})
    machine.programs.clear()
    assert machine.carry_out(60)[2] == "not run: make c (there is no go)"


def test_only_targets_that_the_makefile_has_are_planned() -> None:
    there = plan.available("test-install: x  ## ...\n\techo\nnot-one-of-them:\n")
    assert [target.name for target in there] == ["test-install"]
    ours = {target.name for target in plan.available((ROOT / "Makefile").read_text())}
    assert {"test-compiled", "test-install", "test-kubernetes"} <= ours


Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """git in a repository of its own, which is also where the plan looks."""

    def run(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    run("init", "--quiet", "--initial-branch=main")
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    return run


def commit(git: Git, name: str) -> str:
    (plan.ROOT / name).write_text(name)
    git("add", name)
    git("commit", "--quiet", "--message", name)
    return git("rev-parse", "HEAD")


def changed(environment: dict[str, str] | None = None) -> object:
    return plan._changed(plan.base(environment or {}, plan._git))


def test_a_branch_changed_what_it_has_since_it_left_the_main_one(git: Git) -> None:
    git("update-ref", "refs/remotes/origin/main", commit(git, "first"))
    commit(git, "second")
    commit(git, "third")
    assert changed() == ("second", "third")


def test_a_merge_changed_what_it_brought(git: Git) -> None:
    commit(git, "first")
    git("switch", "--quiet", "--create", "branch")
    commit(git, "second")
    git("switch", "--quiet", "main")
    commit(git, "meanwhile")
    git("merge", "--quiet", "--no-ff", "branch")
    git("update-ref", "refs/remotes/origin/main", "HEAD")
    assert changed() == ("second",)


def test_the_commit_that_landed_before_can_be_named(git: Git) -> None:
    commit(git, "first")
    second = commit(git, "second")
    commit(git, "third")
    assert changed({plan.BASE_VARIABLE: second}) == ("third",)


def test_a_history_that_is_too_short_leaves_what_changed_unknown(git: Git) -> None:
    commit(git, "first")
    assert changed() is None


def test_a_target_that_is_stopped_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Makefile").write_text("slow:\n\t@sleep 1000 & echo $$! > pid; wait\n")
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    assert plan._make("slow", 0.5) is None
    status = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    # Gone, or dead and waiting to be collected by whoever is its parent now.
    assert not status.exists() or status.read_text().split()[2] == "Z"


def test_the_exit_status_of_a_target_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Makefile").write_text("good:\n\t@true\nbad:\n\t@false\n")
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    assert plan._make("good", 30) == 0
    assert plan._make("bad", 30) == 2
