"""Regular expressions as Envoy takes them: by RE2, which is asked here first.

Envoy rejects a whole route table over one expression that it cannot take. What it does take is
refused where finding that out would stop the event loop for seconds.
"""

from __future__ import annotations

import functools
import re

import re2  # type: ignore[import-untyped]

MOST_INSTRUCTIONS = 1000
"""Of a compiled expression. Our bootstrap tells Envoy the same; its own default is 100."""
MOST_CHARACTERS = 4096
"""Of an expression, as in the Gateway API."""

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
# Envoy has RE2 read the bytes of UTF-8 one by one.
_OPTIONS.encoding = re2.Options.Encoding.LATIN1
# Enough for several times as many instructions. With RE2's default of 8 MiB, x{0,1000} written 40
# times takes seconds.
_OPTIONS.max_mem = 128 * 1024

_IGNORES_CASE = re.compile(r"\(\?[msU]*i")
_PROPERTY = re.compile(r"\\[pP]")
_FIXES = {
    "bad repetition operator": "put what is repeated into (?:...)",
    "invalid UTF-8": r"\x{ is not closed",
    "invalid character class range": "the lower end comes first, names are as in [[:alpha:]]",
    "invalid escape sequence": "it has no back-references, and Envoy no characters"
    r" above \xff; for a backslash write \\",
    "invalid named capture group": "names are of ASCII letters, digits and _",
    "invalid perl operator": "it has no look-ahead, look-behind or comments;"
    " for a group without a name write (?:...)",
    "invalid repetition size": "the lower number comes first, and 1000 is the most,"
    " also by repetitions of repetitions",
    "missing )": r"close the group, or write \( for the character",
    "missing ]": r"close the class, or write \[ for the character",
    "no argument for repetition operator": "put what is repeated before it, or a backslash for"
    " the character",
    "trailing \\": r"write \\ for the character",
    "unexpected )": r"open the group, or write \) for the character",
}
"""By what RE2 says."""


def problem_of_expression(pattern: str) -> str:
    """Why it is refused; empty if it is not."""
    if not pattern:
        return "is empty"
    if len(pattern) > MOST_CHARACTERS:
        return f"has more than {MOST_CHARACTERS:,} characters"
    return _refusal(pattern)


# A route's are asked about when it is read, and again for each table that they get into.
@functools.lru_cache(maxsize=2048)
def _refusal(pattern: str) -> str:
    if _IGNORES_CASE.search(pattern) and _PROPERTY.search(pattern):
        # Ten milliseconds for each \p.
        return r"has both (?i) and \p, which take RE2 too long together: leave out one of them"
    try:
        size = re2.compile(pattern.encode(), _OPTIONS).programsize
    except UnicodeEncodeError:
        return "has half of a surrogate pair, which is not a character"
    except re2.error as refused:
        return _in_words(refused.args[0])
    return _too_large(f"{size:,}") if size > MOST_INSTRUCTIONS else ""


def _in_words(said: bytes) -> str:
    # RE2 took each byte for a character and says it in UTF-8.
    reason = said.decode(errors="replace").encode("latin-1", "replace").decode(errors="replace")
    if reason.startswith("pattern too large"):
        return _too_large("far more")
    kind, separator, part = reason.partition(": ")
    if len(part) > 20:
        part = part[:20] + "..."
    told = f"is not a regular expression that Envoy (RE2) takes: {kind}{separator}{part}"
    return f"{told}; {_FIXES[kind]}" if kind in _FIXES else told


def _too_large(size: str) -> str:
    return (
        f"is too large for Envoy, which takes {MOST_INSTRUCTIONS:,} instructions of RE2:"
        f" it has {size}; repeat less"
    )
