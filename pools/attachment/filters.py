"""Filters that cannot be applied as they are meant."""

from __future__ import annotations

import re

from pools.model import (
    HTTP_TOKEN,
    REDIRECTS,
    Filters,
    HeaderChanges,
    PathChange,
    PathChangeType,
    PathMatchType,
    RouteMatch,
)

HOST = ("host", ":authority")

_NONE = Filters()
_NOT_IN_A_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_NOT_IN_A_PATH = re.compile(r"[^!-~]|[?#]")


def problem_of_filters(filters: Filters, match: RouteMatch | None = None) -> str:
    """Why a rule with these filters cannot be served as it is meant, or
    Envoy would reject the whole table; empty if neither. ``match``: to which they apply."""
    if filters == _NONE:
        return ""
    if filters.unsupported:
        return f"{filters.unsupported[0]} is not supported; remove it"
    for changes in (filters.request_headers, filters.response_headers):
        if problem := _problem_of_changes(changes):
            return problem
    if are_incompatible(filters):
        return "URLRewrite and RequestRedirect do not go together; remove one of them"
    if filters.redirect is not None and filters.redirect.status not in REDIRECTS:
        known = ", ".join(map(str, REDIRECTS))
        return f"a redirect cannot have the status {filters.redirect.status}; use one of {known}"
    for change in (
        filters.rewrite.path if filters.rewrite else None,
        filters.redirect.path if filters.redirect else None,
    ):
        if change is not None and (problem := _problem_of_path(change, match)):
            return problem
    return ""


def problem_of_backend_filters(filters: Filters) -> str:
    """The same for those of a single backend."""
    problem = problem_of_filters(filters)
    if not problem and (filters.rewrite is not None or filters.redirect is not None):
        return "for one backend only headers can be changed; move the filter to the rule"
    return problem


def are_incompatible(filters: Filters) -> bool:
    """Whether they exclude each other."""
    return filters.redirect is not None and filters.rewrite is not None


def _problem_of_changes(changes: HeaderChanges) -> str:
    for name in (*(name for name, _ in changes.add), *changes.remove):
        if name.lower() in HOST:
            return f"the header {name} can only be set, not added to or removed"
    for name in (*(name for name, _ in (*changes.set, *changes.add)), *changes.remove):
        if not HTTP_TOKEN.fullmatch(name) and name.lower() not in HOST:
            return f"{name!r} is not a header name that HTTP allows"
    for name, value in (*changes.set, *changes.add):
        if _NOT_IN_A_VALUE.search(value):
            return f"the value of the header {name} holds characters that HTTP does not allow"
    return ""


def _problem_of_path(change: PathChange, match: RouteMatch | None) -> str:
    if _NOT_IN_A_PATH.search(change.value):
        return f"{change.value!r} is not a path"
    if change.type is PathChangeType.FULL and not change.value.startswith("/"):
        return f"the path {change.value!r} must begin with /"
    is_prefix = match is None or match.path.type is PathMatchType.PREFIX
    if change.type is PathChangeType.PREFIX and not is_prefix:
        return "ReplacePrefixMatch needs a match of type PathPrefix; use ReplaceFullPath instead"
    return ""
