"""The one shape that every manifest is read from, whether it came as text or as Python values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Node:
    """A value and the line it was written on."""

    value: Scalar | dict[str, Node] | list[Node]
    line: int | None = None
    """1-based line of the value's key, or of the value itself in a list. None without a text."""


def node_from(value: object) -> Node:
    """A tree of nodes without lines, from what a JSON decoder or an API client returns."""
    if isinstance(value, Mapping):
        return Node({str(key): node_from(item) for key, item in value.items()})
    if isinstance(value, str | int | float | bool) or value is None:
        return Node(value)
    if isinstance(value, Sequence):
        return Node([node_from(item) for item in value])
    return Node(str(value))
