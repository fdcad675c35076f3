"""The request APIs, a row each: where they are served, and what their bodies call things."""

from __future__ import annotations

from typing import Final, NamedTuple

from extproc.request import Api


class Row(NamedTuple):
    """An API whose requests carry a JSON body with a model."""

    suffixes: tuple[str, ...]
    """Ends of its paths. Each begins with a slash, so it matches whole path elements only: whatever
    prefix a gateway puts before it stays out of the way, and /v1/mycompletions is not taken for
    /completions."""
    max_tokens: tuple[str, ...]
    """Keys that limit the output, the one that counts first."""
    prompt: tuple[str, ...]
    """Keys with text that the model reads."""
    template: tuple[str, ...]
    """Keys that begin the prompt, in the order in which chat templates write them. Empty: prompts
    are not compared, as nothing of them is cached."""


# The first row with a suffix that fits is taken: longer suffixes stand first.
ROWS: Final[dict[Api, Row]] = {
    Api.CHAT_COMPLETIONS: Row(
        suffixes=("/chat/completions",),
        max_tokens=("max_completion_tokens", "max_tokens"),
        prompt=("messages", "tools"),
        template=("tools", "messages"),
    ),
    Api.COMPLETIONS: Row(
        suffixes=("/completions",),
        max_tokens=("max_tokens",),
        prompt=("prompt", "suffix"),
        template=("prompt",),
    ),
    Api.RESPONSES: Row(
        suffixes=("/responses",),
        max_tokens=("max_output_tokens",),
        prompt=("instructions", "input", "tools"),
        template=("tools", "instructions", "input"),
    ),
    Api.EMBEDDINGS: Row(
        suffixes=("/embeddings",),
        max_tokens=(),
        prompt=("input", "messages"),
        template=(),
    ),
    Api.MESSAGES: Row(
        suffixes=("/v1/messages", "/v1/messages/count_tokens"),
        max_tokens=("max_tokens",),
        prompt=("system", "messages", "tools"),
        template=("tools", "system", "messages"),
    ),
    Api.GENERATE: Row(
        suffixes=("/inference/v1/generate",),
        max_tokens=("max_tokens",),
        prompt=("token_ids",),
        template=("token_ids",),
    ),
}
