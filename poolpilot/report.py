"""What servers know, for people on a terminal. Takes the JSON of their debug pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]

_WORST_FIRST = ("ERROR", "STALE", "NOT_SENT", "SYNCED")
_STYLES = {"ERROR": "bold red", "STALE": "yellow", "NOT_SENT": "dim", "SYNCED": "green"}


def has_errors(world: Json, nodes: Sequence[Json]) -> bool:
    """Whether something that the user asked for is not in effect."""
    return any(problem["severity"] == "error" for problem in world["problems"]) or any(
        node["state"] == "ERROR" for node in nodes
    )


def status(world: Json, nodes: Sequence[Json]) -> RenderableType:
    """The state of the xDS server, what needs attention first."""
    return Group(*_problems(world), _nodes(nodes), Text(), _pools(world), *_absent(world))


def _problems(world: Json) -> list[RenderableType]:
    if not world["problems"]:
        return []
    lines: list[RenderableType] = [
        Text.assemble(
            (f"{problem['severity']}: ", "red" if problem["severity"] == "error" else "yellow"),
            problem["text"],
        )
        for problem in sorted(world["problems"], key=lambda problem: str(problem["severity"]))
    ]
    return [*lines, Text()]


def _nodes(nodes: Sequence[Json]) -> RenderableType:
    if not nodes:
        return Text("No Envoy is connected.", style="yellow")
    grid = _grid("node", "state", "group", "Envoy", "protocol", *_TYPES.values())
    below: list[RenderableType] = []
    for node in sorted(nodes, key=lambda node: _WORST_FIRST.index(node["state"])):
        grid.add_row(
            node["id"],
            Text(node["state"], style=_STYLES[node["state"]]),
            node["group"],
            node["version"] or "?",
            ", ".join(sorted({stream["protocol"] for stream in node["streams"]})),
            *(_type_state(node, kind) for kind in _TYPES),
        )
        below += _words(node)
    return Group(grid, Text(), *below) if below else grid


_TYPES = {"clusters": "CDS", "endpoints": "EDS", "listeners": "LDS", "routes": "RDS"}


def _type_state(node: Json, kind: str) -> Text:
    for stream in node["streams"]:
        if kind in stream["types"]:
            state = stream["types"][kind]["state"]
            return Text(state, style=_STYLES[state])
    return Text("-", style="dim")


def _words(node: Json) -> Iterator[Text]:
    """What keeps a node from having what it should, in Envoy's words where they are Envoy's."""
    if node.get("problem"):
        yield Text.assemble((f"{node['id']}: ", "bold"), node["problem"])
    for stream in node["streams"]:
        for kind, one in stream["types"].items():
            for rejected in one["rejected"]:
                origin = f" ({rejected['origin']})" if rejected.get("origin") else ""
                yield Text.assemble(
                    (f"{node['id']} rejects {kind} {rejected['name']}", "bold"),
                    (origin, "dim"),
                    f": {rejected['message']}",
                )


def _pools(world: Json) -> RenderableType:
    if not world["pools"]:
        return Text("No InferencePool is described.", style="yellow")
    grid = _grid("pool", "endpoints", "fails", "from")
    for name, pool in world["pools"].items():
        origin = pool["origin"] or {}
        grid.add_row(
            name,
            ", ".join(endpoint["key"] for endpoint in pool["endpoints"]) or "none",
            {"FailOpen": "open", "FailClose": "closed"}[pool["failure_mode"]],
            f"{origin.get('source', '')}:{origin.get('line', '')}".strip(":"),
        )
    return grid


def _absent(world: Json) -> list[RenderableType]:
    """Servers that could be endpoints and are none."""
    # A server of an older version does not tell.
    absent = world.get("absent", [])
    if not absent:
        return []
    grid = _grid("not in use", "pool", "because")
    for one in absent:
        name = f"{one['name']} ({one['address']})" if one["address"] else one["name"]
        grid.add_row(name, one["pool"], Text(one["reason"], style="yellow"))
    return [Text(), grid]


def picks(decisions: Sequence[Json]) -> RenderableType:
    """Decisions, the newest first."""
    if not decisions:
        return Text("No request was picked for yet.")
    grid = _grid("at (UTC)", "pick", "model", "outcome", "endpoint", "answer", "narrowed by")
    for one in decisions:
        grid.add_row(
            one["at"].partition("T")[2],
            one["id"],
            one["model"] + _rewritten(one),
            one["outcome"],
            (one.get("endpoints") or ["-"])[0],
            _answer(one),
            _narrowed(one),
        )
    return grid


def _rewritten(decision: Json) -> str:
    target = decision["target_model"]
    return f" as {target}" if target and target != decision["model"] else ""


def _answer(decision: Json) -> str:
    if "status" in decision:
        return str(decision["status"])
    completed = decision["completed"]
    if completed is None:
        return "in progress"
    return f"{completed['code']} in {completed['duration_s'] * 1000:.0f} ms"


def _narrowed(decision: Json) -> str:
    """The steps that left candidates out, and how many each kept: ``3: adapter-active 1``."""
    left = decision["candidates"]
    steps = []
    for step in decision["steps"]:
        # A step that keeps nothing is passed over, unless nothing else follows.
        if 0 < step["kept"] < left:
            left = step["kept"]
            steps.append(f"{step['name']} {left}")
    return f"{decision['candidates']}: {', '.join(steps) or 'none'}"


def _grid(*headings: str) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        grid.add_column(heading, no_wrap=True)
    return grid
