"""The node that a query describes: for asking what it would get."""

from __future__ import annotations

from collections.abc import Iterable

from xds.snapshot import Node

_METADATA = "metadata."


def node_of_query(items: Iterable[tuple[str, str]]) -> Node:
    """From ``id``, ``cluster``, ``gateway``, ``version``, ``metadata.<key>`` and ``extensions``
    (comma-separated; none: all). Raises ValueError for anything else."""
    fields = {"id": "", "cluster": "", "version": "", "extensions": ""}
    metadata: dict[str, object] = {}
    for key, value in items:
        key = key.removeprefix("node.")
        if key == "format":
            continue
        if key == "gateway":
            if value:
                metadata["gateway"] = value
        elif key.startswith(_METADATA) and key != _METADATA:
            metadata[key.removeprefix(_METADATA)] = value
        elif key in fields:
            fields[key] = value
        else:
            known = ", ".join([*fields, "gateway", "metadata.<key>"])
            raise ValueError(f"{key} is not known; there are: {known}")
    return Node(
        fields["id"],
        fields["cluster"],
        metadata,
        version=_version(fields["version"]),
        extensions=frozenset(filter(None, fields["extensions"].split(","))),
    )


def _version(text: str) -> tuple[int, int, int] | None:
    if not text:
        return None
    parts = text.split(".")
    if len(parts) not in (2, 3) or not all(p.isascii() and p.isdigit() for p in parts):
        raise ValueError("version must look like 1.38 or 1.38.1")
    major, minor, patch = (*map(int, parts), 0)[:3]
    return major, minor, patch
