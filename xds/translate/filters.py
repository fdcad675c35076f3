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

from pools.attachment.filters import HOST
from pools.model import (
    Filters,
    HeaderChanges,
    PathChange,
    PathChangeType,
    RouteMatch,
)

_STATUS = {
    301: route.RedirectActionRedirectResponseCode.MOVED_PERMANENTLY,
    302: route.RedirectActionRedirectResponseCode.FOUND,
    303: route.RedirectActionRedirectResponseCode.SEE_OTHER,
    307: route.RedirectActionRedirectResponseCode.TEMPORARY_REDIRECT,
    308: route.RedirectActionRedirectResponseCode.PERMANENT_REDIRECT,
}
_WELL_KNOWN = {"http": 80, "https": 443}


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
        if name.lower() not in HOST
    ]


def host_of(filters: Filters) -> str:
    """The host that the backend is asked for; empty: the client's. Envoy changes it by other means
    than other headers."""
    if filters.rewrite is not None and filters.rewrite.hostname:
        return filters.rewrite.hostname
    changes = filters.request_headers.set
    return next((value for name, value in changes if name.lower() in HOST), "")


def rewrite_path(
    action: route.RouteAction | route.RedirectAction, change: PathChange, match: RouteMatch
) -> None:
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
            rewrite_path(message, redirect.path, match)
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
