"""Which API a request speaks, told by method and path."""

from __future__ import annotations

import functools
from typing import Final

from extproc.request import Api

# Each suffix begins with a slash, so it matches whole path elements only: whatever prefix a gateway
# puts before it stays out of the way, and /v1/mycompletions is not taken for /completions.
_SUFFIXES: Final[tuple[tuple[str, Api], ...]] = (
    ("/chat/completions", Api.CHAT_COMPLETIONS),
    ("/completions", Api.COMPLETIONS),
    ("/responses", Api.RESPONSES),
    ("/embeddings", Api.EMBEDDINGS),
    ("/v1/messages", Api.MESSAGES),
    ("/v1/messages/count_tokens", Api.MESSAGES),
    ("/inference/v1/generate", Api.GENERATE),
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
