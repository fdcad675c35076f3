"""Matches of HTTPRoutes: one form for each, which of two wins, and what Envoy would refuse."""

from __future__ import annotations

from dataclasses import replace

from pools.expressions import problem_of_expression
from pools.model import HTTP_TOKEN, PathMatchType, RouteMatch, ValueMatch, ValueMatchType

MatchRank = tuple[int, int, int, int, int]


def match_rank(match: RouteMatch) -> MatchRank:
    """Sorts matches, those that win first: an exact path, the longest prefix, a regular expression,
    the prefix ``/``; then a method, more headers, more query parameters.

    The Gateway API leaves the place of regular expressions open. Here they come before ``/``,
    because behind it they could never match.
    """
    path = match.path
    kind, length = {
        PathMatchType.EXACT: (0, 0),
        PathMatchType.PREFIX: (1, -len(path.value)) if path.value != "/" else (3, 0),
        PathMatchType.REGEX: (2, -len(path.value)),
    }[path.type]
    return kind, length, match.method is None, -len(match.headers), -len(match.query)


def normal(match: RouteMatch) -> RouteMatch:
    """One form for matches that mean the same: ``/v1/`` is the prefix ``/v1``; of several matches
    on one header or query parameter the first counts."""
    path = match.path
    if path.type is PathMatchType.PREFIX:
        path = replace(path, value=path.value.rstrip("/") or "/")
    headers: dict[str, ValueMatch] = {}
    for header in match.headers:
        headers.setdefault(header.name.lower(), replace(header, name=header.name.lower()))
    query: dict[str, ValueMatch] = {}
    for parameter in match.query:
        query.setdefault(parameter.name, parameter)
    return replace(match, path=path, headers=tuple(headers.values()), query=tuple(query.values()))


def problem_of_match(match: RouteMatch) -> str:
    """Why Envoy would reject the whole table for this match; empty if it would not."""
    path = match.path
    if path.type is not PathMatchType.REGEX and (
        not path.value.startswith("/") or "?" in path.value or "#" in path.value
    ):
        return f"the path {path.value!r} must begin with / and hold neither ? nor #"
    for name in (*(header.name for header in match.headers), match.method or "GET"):
        if not HTTP_TOKEN.fullmatch(name):
            return f"{name!r} is not a name that HTTP allows"
    patterns = [path.value] if path.type is PathMatchType.REGEX else []
    values = (*match.headers, *match.query)
    patterns += [v.value for v in values if v.type is ValueMatchType.REGEX]
    for pattern in patterns:
        if problem := problem_of_expression(pattern):
            return f"{pattern!r} {problem}"
    return ""
