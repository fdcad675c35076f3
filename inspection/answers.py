"""JSON over HTTP: the form of every answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import msgspec
import yaml
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

_FORMATS = ("json", "yaml")


class PageError(Exception):
    """A page that cannot be shown. The message says what to ask for instead."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def answer(request: Request, value: object, *, etag: str = "") -> Response:
    """``value`` in the format that is asked for (``?format=yaml``). With an ETag, clients that have
    this version get 304. Raises PageError for an unknown format."""
    wanted = request.query_params.get("format", "json")
    if wanted not in _FORMATS:
        raise PageError(400, f"format={wanted} is not known; there are: {', '.join(_FORMATS)}")
    headers = {"cache-control": "no-cache" if etag else "no-store"}
    if etag:
        headers["etag"] = f'"{etag}-{wanted}"' if wanted != "json" else f'"{etag}"'
        if headers["etag"] in _tags(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
    if wanted == "yaml":
        plain = msgspec.to_builtins(value, enc_hook=str)
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
        return PlainTextResponse(text, media_type="application/yaml", headers=headers)
    body = msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2) + b"\n"
    return Response(body, media_type="application/json", headers=headers)


def failure(status: int, message: str) -> Response:
    text = json.dumps({"error": message}) + "\n"
    headers = {"cache-control": "no-store"}
    return Response(text, status, headers, media_type="application/json")


def name_filter(query: Mapping[str, str]) -> re.Pattern[str]:
    """``?name_regex=``, as Envoy's admin understands it: the whole name must match.

    Raises PageError for one that is not a regular expression, or that could take for ever."""
    pattern = query.get("name_regex", ".*")
    if not _is_quick(pattern):
        raise PageError(
            400,
            f"name_regex={pattern[:200]}: at most {_MOST_REPEATS} repetitions, none of a group, "
            f"and {_MOST_CHOICES} alternatives, so that it takes no time",
        )
    try:
        return re.compile(pattern, re.DOTALL)
    except (re.error, OverflowError) as error:
        raise PageError(400, f"name_regex={pattern}: {error}") from error


_MOST_REPEATS = 4
_MOST_CHOICES = 8
_ATOM = re.compile(r"\\.|\[\^?\]?[^\]]*\]", re.DOTALL)
_REPEAT = re.compile(r"[*+{]|(?<![(*+}])\?")
_REPEATED_GROUP = re.compile(r"\)\s*[*+?{]|\(\?[a-zA-Z]*x")


def _is_quick(pattern: str) -> bool:
    """Python's engine tries all ways there are, and nothing else runs meanwhile. Without repeated
    groups there are few. (Free spacing could hide one.)"""
    bare = _ATOM.sub("x", pattern)
    return (
        len(pattern) <= 1000
        and len(_REPEAT.findall(bare)) <= _MOST_REPEATS
        and bare.count("|") <= _MOST_CHOICES
        and _REPEATED_GROUP.search(bare) is None
    )


def _tags(header: str) -> set[str]:
    return {tag.strip().removeprefix("W/") for tag in header.split(",")}
