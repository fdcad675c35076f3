"""The import graph by room: the rooms of each package on floors, and who imports whom.

A room is a module or folder right below a package. Each stands on the lowest floor that lies above
all it imports, so every arrow leads down, unless there is a circle, which is printed; then the exit
code is 1. ``make rooms`` prints it; tests/test_rooms.py holds it.

Which rooms may be above which is written down in pyproject.toml (the ``layers`` contracts) and held
by ``make contracts``.
"""

from __future__ import annotations

import signal
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent

Rooms = Mapping[str, Mapping[str, int]]
"""The imports between rooms: how many import lines lead from one to another."""


def packages() -> list[str]:
    """The packages that the import contracts are about."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return list(tomllib.load(file)["tool"]["importlinter"]["root_packages"])


def rooms_of(package: str, graph: grimp.ImportGraph) -> Rooms:
    """The rooms of a package, by their names within it."""
    rooms: dict[str, dict[str, int]] = {}
    for importer in sorted(graph.modules):
        here = _room(package, importer)
        if here is None:
            continue
        arrows = rooms.setdefault(here, {})
        for imported in graph.find_modules_directly_imported_by(importer):
            there = _room(package, imported)
            if there is not None and there != here:
                lines = graph.get_import_details(importer=importer, imported=imported)
                arrows[there] = arrows.get(there, 0) + len(lines)
    return rooms


def _room(package: str, module: str) -> str | None:
    name, _, rest = module.partition(".")
    return rest.partition(".")[0] if name == package and rest else None


def circle_in(rooms: Rooms) -> list[str]:
    """Rooms that import each other in a circle, the first again at the end; empty: there is none.

    >>> circle_in({"a": {"b": 1}, "b": {"c": 1}, "c": {"b": 2}})
    ['b', 'c', 'b']
    """
    done: set[str] = set()
    for start in rooms:
        path: list[str] = []
        trail = [iter([start])]
        while trail:
            room = next(trail[-1], None)
            if room is None:
                trail.pop()
                if path:
                    done.add(path.pop())
            elif room in path:
                return [*path[path.index(room) :], room]
            elif room not in done:
                path.append(room)
                trail.append(iter(rooms.get(room, {})))
    return []


def floors_of(rooms: Rooms) -> list[list[str]]:
    """The rooms from the top floor to the ground. They must have no circle.

    >>> floors_of({"server": {"core": 1}, "pages": {"core": 3}, "core": {}})
    [['pages', 'server'], ['core']]
    """
    heights: dict[str, int] = {}

    def height(room: str) -> int:
        if room not in heights:
            heights[room] = 1 + max((height(below) for below in rooms[room]), default=-1)
        return heights[room]

    top = max(map(height, rooms), default=-1)
    return [sorted(r for r in rooms if heights[r] == floor) for floor in range(top, -1, -1)]


def lines(package: str, rooms: Rooms) -> Iterable[str]:
    """The picture of one package."""
    circle = circle_in(rooms)
    arrows = sum(len(below) for below in rooms.values())
    if circle:
        yield f"{package}: {len(rooms)} rooms, {arrows} arrows, and a circle: {' > '.join(circle)}"
        return
    floors = floors_of(rooms)
    yield f"{package}: {len(rooms)} rooms on {len(floors)} floors, {arrows} arrows, none upwards"
    for number, floor in zip(range(len(floors) - 1, -1, -1), floors, strict=True):
        for room in floor:
            below = ", ".join(f"{to} ({count})" for to, count in sorted(rooms[room].items()))
            yield f"  {number}  {room}" + (f" > {below}" if below else "")


def main(arguments: list[str]) -> int:
    """Print the packages named, or all. Returns the exit code."""
    broken = False
    for package in arguments or packages():
        rooms = rooms_of(package, grimp.build_graph(package, cache_dir=None))
        broken |= bool(circle_in(rooms))
        sys.stdout.write("\n".join(lines(package, rooms)) + "\n\n")
    return int(broken)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # "| head" reads no further: end quietly
    raise SystemExit(main(sys.argv[1:]))
