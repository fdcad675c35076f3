"""What must never be shown: private keys, passwords, and tokens in headers, metadata and URLs.

A secret is known by the name of what holds it, or by what it looks like, whatever holds it: nobody
can list all names that people give to headers.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

REDACTED = "[redacted]"

_SECRET_KEY = re.compile(
    r"(^|[^a-z])(auth|authorization|authentication|jwt|bearer|signature|cookie|password|passwd|secret|token|api[-_.]?key|apikey|"
    r"private[-_.]?key|credentials?|session[-_.]?ticket[-_.]?keys|inline[-_.]?bytes)($|[^a-z])",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\s*(basic|bearer|digest|negotiate|token|apikey|aws4-hmac-\w+)\s+\S", re.I)
"""How the value of ``authorization`` begins, also under another name (RFC 9110 11.4)."""
_TOKEN = re.compile(r"(?<![\w.-])[\w+/=~-]{16,}(\.[\w+/=~-]+)*")
_DIGESTS = re.compile(
    r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)
"""Versions of content, and UUIDs: no secrets, and needed to follow what happens."""
_USER = re.compile(r"(?<=://)[^/?#\s@]*@")
_QUERY = re.compile(r"(?<=[?&])([^=&#\s]+)=([^&#\s]+)")
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
    ``["authorization", ...]`` of a route's filters). Of any other text what looks like a token,
    the user of a URL, and what a URL is signed with.
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
    return text_redacted(value) if isinstance(value, str) else value


def text_redacted(text: str) -> str:
    """A text without what looks like a secret in it."""
    if _SCHEME.match(text):
        return REDACTED
    if "://" in text or "?" in text:
        text = _USER.sub(f"{REDACTED}@", text)
        text = _QUERY.sub(_without_secret, text)
    return _TOKEN.sub(lambda found: REDACTED if _is_random(found[0]) else found[0], text)


def _without_secret(found: re.Match[str]) -> str:
    name, value = found[1], found[2]
    secret = is_secret(name) or name.lower() in ("sig", "key", "code") or _is_random(value)
    return f"{name}={REDACTED}" if secret else found[0]


def _is_random(text: str) -> bool:
    """Whether nobody would write it by hand: long, in large and small letters and digits, which
    change from one to the other all the time."""
    if len(text) < 16 or _DIGESTS.fullmatch(text):
        return False
    kinds = [_kind(character) for character in text if character.isalnum()]
    changes = sum(a != b for a, b in itertools.pairwise(kinds))
    return len(set(kinds)) == 3 and changes * 4 >= len(kinds)


def _kind(character: str) -> str:
    return "0" if character.isdigit() else "A" if character.isupper() else "a"


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
