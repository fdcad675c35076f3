"""How much memory there is, as control groups of both versions and the machine tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.config.memory import memory_limit

MACHINE = memory_limit(Path("/nowhere"))


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_without_control_groups_it_is_what_the_machine_has() -> None:
    assert MACHINE > 64 << 20


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "2097152\n"}, 2 << 20),
        (
            {
                "proc/self/cgroup": "0::/kubepods/pod1/c1\n",
                "sys/fs/cgroup/kubepods/pod1/c1/memory.max": "max\n",
                "sys/fs/cgroup/kubepods/pod1/memory.max": "3145728\n",
                "sys/fs/cgroup/kubepods/memory.max": "9999999\n",
            },
            3 << 20,
        ),
        (
            # As a container sees it that has the host's path and only its own group.
            {"proc/self/cgroup": "0::/../c1\n", "sys/fs/cgroup/memory.max": "4194304"},
            4 << 20,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/docker/c1\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "5242880\n",
            },
            5 << 20,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, MACHINE),
        ({"proc/self/cgroup": "nonsense\n"}, MACHINE),
    ],
)
def test_the_least_limit_counts(tmp_path: Path, files: dict[str, str], limit: int) -> None:
    assert memory_limit(write(tmp_path, files)) == limit
