"""JSON as lines that a person can compare."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping

_WIDTH = 96
_CONTEXT = 3


def compact(value: object) -> str:
    """JSON in which what fits on a line stands on one: one endpoint, one match, one header."""
    return "\n".join(_lines(value, "", 0))


def unified_diff(old: object, new: object, old_name: str, new_name: str) -> str:
    """A unified diff of two JSON values; None stands for nothing at all. Empty: they are equal."""
    return "\n".join(
        difflib.unified_diff(
            [] if old is None else _lines(old, "", 0),
            [] if new is None else _lines(new, "", 0),
            old_name,
            new_name,
            n=_CONTEXT,
            lineterm="",
        )
    )


def _lines(value: object, lead: str, depth: int) -> list[str]:
    """``lead`` is what stands before the value on its first line."""
    indent = "  " * depth
    flat = indent + lead + json.dumps(value, ensure_ascii=False, default=str)
    if len(flat) <= _WIDTH or not isinstance(value, Mapping | list) or not value:
        return [flat]
    if isinstance(value, Mapping):
        opening, closing = "{}"
        items = [(json.dumps(str(key)) + ": ", item) for key, item in value.items()]
    else:
        opening, closing = "[]"
        items = [("", item) for item in value]
    lines = [f"{indent}{lead}{opening}"]
    for i, (key, item) in enumerate(items):
        of_item = _lines(item, key, depth + 1)
        if i < len(items) - 1:
            of_item[-1] += ","
        lines += of_item
    return [*lines, indent + closing]
