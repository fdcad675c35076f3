"""JSON as lines that a person can compare."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping

_WIDTH = 140
_CONTEXT = 3


def unified_diff(old: object, new: object, old_name: str, new_name: str) -> str:
    """A unified diff of two JSON values; None stands for nothing at all. Empty: they are equal.

    What fits on a line stands on one: one endpoint, one match, one header. Every item ends in a
    comma, so that one more at the end is one line more.
    """
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
    for key, item in items:
        lines += _lines(item, key, depth + 1)
        lines[-1] += ","
    return [*lines, indent + closing]
