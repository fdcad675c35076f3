"""What must never be shown: private keys, passwords, and tokens in headers and metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping

REDACTED = "[redacted]"

_SECRET_KEY = re.compile(
    r"(^|[^a-z])(authorization|cookie|password|passwd|secret|token|api[-_.]?key|apikey|"
    r"private[-_.]?key|credentials?|session[-_.]?ticket[-_.]?keys|inline[-_.]?bytes)($|[^a-z])",
    re.IGNORECASE,
)
_NAMES = ("key", "name", "header_name", "header")
_STRUCTURE = frozenset(
    {*_NAMES, "type", "kind", "append_action", "invert_match", "present_match", "ignore_case"}
)
"""Keys beside a header's name whose values say nothing of the header's value."""


def is_secret(name: str) -> bool:
    """Whether a header or key of this name holds something that nobody should read."""
    return _SECRET_KEY.search(name) is not None


def redacted(value: object) -> object:
    """A copy of a JSON value without secrets.

    Left out is the text below a key with a telling name (``password``), and the values beside one
    (``{"key": "authorization", "value": ...}``, however Envoy nests its matchers, and
    ``["authorization", ...]`` of a route's filters).
    """
    if isinstance(value, Mapping):
        beside = any(isinstance(value.get(n), str) and is_secret(value[n]) for n in _NAMES)
        return {
            key: _blank(item)
            if is_secret(str(key)) or (beside and key not in _STRUCTURE)
            else redacted(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        if len(value) == 2 and isinstance(value[0], str) and is_secret(value[0]):
            return [value[0], _blank(value[1])]
        return [redacted(item) for item in value]
    return value


def _blank(value: object) -> object:
    """The same shape, so that a tool finds what it looks for, with nothing to read in it."""
    if isinstance(value, Mapping):
        return {
            key: item if key == "@type" or isinstance(item, bool) else _blank(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_blank(item) for item in value]
    return REDACTED if value not in ("", None) and not isinstance(value, bool) else value
