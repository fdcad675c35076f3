"""Differences and reasons, for people on a terminal. Takes the JSON of the xDS server's pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from xds.debug.compare import BAD, Finding

Json = Mapping[str, Any]

_STYLES = {
    **dict.fromkeys((str(finding) for finding in Finding), "yellow"),
    **dict.fromkeys((str(finding) for finding in BAD), "bold red"),
    "same": "green",
    "ok": "green",
    "known": "green",
    "blocked": "bold red",
}
_LINES = 60
"""Of a diff that are shown."""


def is_bad(found: Sequence[Json]) -> bool:
    return any(one["finding"] in {str(finding) for finding in BAD} for one in found)


def difference(found: Sequence[Json], *, asked: bool) -> RenderableType:
    """Resources that are not the same everywhere, worst first. ``asked``: Envoy was asked too."""
    different = [one for one in found if one["finding"] != "same"]
    same = len(found) - len(different)
    parties = "wanted, acknowledged and in Envoy" if asked else "wanted and acknowledged"
    lines: list[RenderableType] = []
    for one in different:
        versions = f"wanted {one['wanted'] or '-'}, ACKed {one['acked'] or '-'}"
        lines.append(
            Text.assemble(
                (one["finding"].upper(), _STYLES[one["finding"]]),
                f"  {one['type']}/{one['name']}",
                (f"  {versions}", "dim"),
            )
        )
        if one["error"]:
            lines.append(Text(f"  {one['error']}"))
        if one["acked"] is not None:
            lines += _diff(one["acked_diff"])
        lines += _diff(one["envoy_diff"])
    resources = f"{same} resource{'' if same == 1 else 's'}"
    lines.append(Text(f"{resources} the same: {parties}", style="green" if not different else ""))
    return Group(*lines)


def _diff(text: str) -> Iterator[Text]:
    lines = text.splitlines()
    for line in lines[:_LINES]:
        style = {"+": "green", "-": "red", "@": "dim"}.get(line[:1], "")
        yield Text(f"  {line}", style=style)
    if len(lines) > _LINES:
        yield Text(f"  ... {len(lines) - _LINES} further lines; --json has them all", style="dim")


def explanation(found: Json) -> RenderableType:
    """An answer of ``/debug/xds/why``."""
    style = "green" if found["verdict"] == "served" else "bold red"
    lines = [Text.assemble((found["verdict"], style), f"  {found['summary']}")]
    for match in found["matches"]:
        lines += [Text(), Text(f"{match['endpoint']}  {match['name']}  {match['pool']}", "bold")]
        lines += [_line(step["state"], step["step"], step["text"]) for step in match["steps"]]
        lines += [_line(node["state"], node["id"], node["text"]) for node in match["nodes"]]
    lines += [Text(f"  {one['reason']}: {one['text']}") for one in found["absence"]]
    if found["similar"]:
        lines.append(Text(f"Did you mean {', '.join(found['similar'])}?"))
    return Group(*lines)


def _line(state: str, what: str, text: str) -> Text:
    return Text.assemble("  ", (f"{state:<8}", _STYLES.get(state, "yellow")), f" {what}: {text}")
