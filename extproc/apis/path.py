"""Which API a request speaks, told by method and path."""

from __future__ import annotations

import functools
from typing import Final

from extproc.apis.table import ROWS
from extproc.request import Api

_SUFFIXES: Final[tuple[tuple[str, Api], ...]] = tuple(
    (suffix, api) for api, row in ROWS.items() for suffix in row.suffixes
)


@functools.lru_cache(maxsize=1024)
def api_of(method: str, path: str) -> Api:
    """``path`` may carry a query. Only POST carries an inference request."""
    if method != "POST":
        return Api.OTHER
    bare = path.partition("?")[0]
    for suffix, api in _SUFFIXES:
        if bare.endswith(suffix):
            return api
    return Api.OTHER
