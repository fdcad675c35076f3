"""``make rooms``: the packages are built floor upon floor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from tools import rooms

PACKAGES = rooms.packages()


@pytest.fixture
def a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two rooms of which the lower one imports the upper one, for types only."""
    package = tmp_path / "house"
    (package / "cellar").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cellar" / "__init__.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import house.attic\n"
    )
    (package / "attic.py").write_text("import house.cellar\n")
    monkeypatch.syspath_prepend(tmp_path)
    return package.name


@pytest.mark.parametrize("package", PACKAGES)
def test_no_rooms_of_a_package_import_each_other_in_a_circle(package: str) -> None:
    found = rooms.rooms_of(package, grimp.build_graph(package, cache_dir=None))

    assert len(found) > 1
    assert rooms.circle_in(found) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_arrow_leads_to_a_lower_floor(package: str) -> None:
    found = rooms.rooms_of(package, grimp.build_graph(package, cache_dir=None))
    floors = rooms.floors_of(found)
    height = {room: -depth for depth, floor in enumerate(floors) for room in floor}

    assert height.keys() == found.keys()
    assert [
        (room, below) for room in found for below in found[room] if height[below] >= height[room]
    ] == []


def test_a_circle_is_named_and_is_an_error_even_if_only_types_make_it(
    a_package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rooms.main([a_package]) == 1
    assert "and a circle: attic > cellar > attic" in capsys.readouterr().out


def test_who_reads_only_the_first_lines_sees_no_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tools.rooms", "inspection"],
        cwd=rooms.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as printing:
        assert printing.stdout is not None
        assert printing.stderr is not None
        printing.stdout.close()
        assert printing.stderr.read() == b""
