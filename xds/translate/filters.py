"""What routes change of requests and responses, in Envoy's words.

Envoy makes these changes as it sends a request on, after the picker was asked: the picker sees the
request as the client sent it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.route import v3 as route
from envoy_data_plane.envoy.type.matcher import v3 as matcher

from pools.model import (
    Filters,
    HeaderChanges,
    PathChange,
    PathChangeType,
    PathMatchType,
    RouteMatch,
)
from xds.translate.matches import is_token

_HOST = ("host", ":authority")
_STATUS = {
    301: route.RedirectActionRedirectResponseCode.MOVED_PERMANENTLY,
    302: route.RedirectActionRedirectResponseCode.FOUND,
    303: route.RedirectActionRedirectResponseCode.SEE_OTHER,
    307: route.RedirectActionRedirectResponseCode.TEMPORARY_REDIRECT,
    308: route.RedirectActionRedirectResponseCode.PERMANENT_REDIRECT,
}
_WELL_KNOWN = {"http": 80, "https": 443}
_NOT_IN_A_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_NOT_IN_A_PATH = re.compile(r"[^!-~]|[?#]")


def problem_of_filters(filters: Filters, match: RouteMatch | None = None) -> str:
    """Why a rule (or one of its backends) with these filters cannot be served as it is meant, or
    Envoy would reject the whole table; empty if neither. ``match``: to which they apply."""
    if filters.unsupported:
        return f"the filter {filters.unsupported[0]} is not supported; remove it"
    for changes in (filters.request_headers, filters.response_headers):
        if problem := _problem_of_changes(changes):
            return problem
    if filters.redirect is not None and filters.rewrite is not None:
        return "URLRewrite and RequestRedirect do not go together; remove one of them"
    if filters.redirect is not None and filters.redirect.status not in _STATUS:
        known = ", ".join(map(str, _STATUS))
        return f"a redirect cannot have the status {filters.redirect.status}; use one of {known}"
    for change in (
        filters.rewrite.path if filters.rewrite else None,
        filters.redirect.path if filters.redirect else None,
    ):
        if change is not None and (problem := _problem_of_path(change, match)):
            return problem
    return ""


def _problem_of_changes(changes: HeaderChanges) -> str:
    for name in (*(name for name, _ in changes.add), *changes.remove):
        if name.lower() in _HOST:
            return f"the header {name} can only be set, not added to or removed"
    for name in (*(name for name, _ in (*changes.set, *changes.add)), *changes.remove):
        if not is_token(name) and name.lower() not in _HOST:
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


def merged(first: HeaderChanges, then: HeaderChanges) -> HeaderChanges:
    """Both, one after the other."""
    if first == HeaderChanges():
        return then
    final = {name for name, _ in then.set} | set(then.remove)
    return HeaderChanges(
        (*((n, v) for n, v in first.set if n not in final), *then.set),
        (*((n, v) for n, v in first.add if n not in final), *then.add),
        (*(n for n in first.remove if n not in final), *then.remove),
    )


def headers_to_add(changes: HeaderChanges) -> list[core.HeaderValueOption]:
    how = core.HeaderValueOptionHeaderAppendAction
    return [
        *_options(changes.set, how.OVERWRITE_IF_EXISTS_OR_ADD),
        *_options(changes.add, how.APPEND_IF_EXISTS_OR_ADD),
    ]


def _options(
    values: Iterable[tuple[str, str]], action: core.HeaderValueOptionHeaderAppendAction
) -> list[core.HeaderValueOption]:
    return [
        core.HeaderValueOption(
            # A percent sign alone would begin one of Envoy's variables.
            header=core.HeaderValue(key=name, value=value.replace("%", "%%")),
            append_action=action,
            keep_empty_value=not value,
        )
        for name, value in values
        if name.lower() not in _HOST
    ]


def host_of(filters: Filters) -> str:
    """The host that the backend is asked for; empty: the client's. Envoy changes it by other means
    than other headers."""
    if filters.rewrite is not None and filters.rewrite.hostname:
        return filters.rewrite.hostname
    changes = filters.request_headers.set
    return next((value for name, value in changes if name.lower() in _HOST), "")


def rewrite_path(action: route.RouteAction, change: PathChange, match: RouteMatch) -> None:
    prefix, expression = _rewrite(change, match)
    if expression is not None:
        action.regex_rewrite = expression
    else:
        action.prefix_rewrite = prefix


def redirect_action(
    filters: Filters, match: RouteMatch, listens: tuple[str, int]
) -> route.RedirectAction:
    """``listens``: scheme and port of the listener.

    The port is the one given, else that of the new scheme, else the listener's, and not written
    where it is the scheme's own (RequestRedirect in the Gateway API).
    """
    redirect = filters.redirect
    assert redirect is not None
    scheme, port = listens
    message = route.RedirectAction(response_code=_STATUS[redirect.status])
    if redirect.scheme:
        message.scheme_redirect = redirect.scheme
    if redirect.hostname:
        message.host_redirect = redirect.hostname
    new_scheme = redirect.scheme or scheme
    new_port = redirect.port or (_WELL_KNOWN.get(redirect.scheme) if redirect.scheme else port)
    said_by_client = not redirect.hostname and port != _WELL_KNOWN[scheme]
    if new_port and (new_port != _WELL_KNOWN.get(new_scheme) or said_by_client):
        message.port_redirect = new_port
    if redirect.path is not None:
        if redirect.path.type is PathChangeType.FULL:
            message.path_redirect = redirect.path.value
        else:
            prefix, expression = _rewrite(redirect.path, match)
            if expression is not None:
                message.regex_rewrite = expression
            else:
                message.prefix_rewrite = prefix
    return message


def _rewrite(
    change: PathChange, match: RouteMatch
) -> tuple[str, matcher.RegexMatchAndSubstitute | None]:
    """A new prefix, or an expression where that does not do. The query stays."""
    if change.type is PathChangeType.FULL:
        return "", _substitute("^/.*", change.value)
    prefix, value = match.path.value.rstrip("/"), change.value.rstrip("/")
    if not value:
        # prefix_rewrite would leave "//v1" of "/pool/v1", and nothing of "/pool".
        return "", _substitute(f"^{re.escape(prefix)}/*", "/")
    return (value if prefix else f"{value}/"), None


def _substitute(pattern: str, substitution: str) -> matcher.RegexMatchAndSubstitute:
    return matcher.RegexMatchAndSubstitute(
        pattern=matcher.RegexMatcher(regex=pattern),
        substitution=substitution.replace("\\", "\\\\"),
    )
