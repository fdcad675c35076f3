"""What an exchange asks of the picker, and what it is told: the seam between the protocol and the
policy.

Each request makes several of these values. None is a dataclass: making one of this size takes five
times as long.

``Exchange`` (the protocol) turns ext-proc messages into one :class:`InferenceRequest`; the director
(the policy) turns that into one :data:`Outcome`. Neither knows of the other's insides.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from extproc.reasons import Reason
from pools.model import ObjectName


class Api(enum.StrEnum):
    """The API that a request speaks, told by its path."""

    COMPLETIONS = "completions"
    CHAT_COMPLETIONS = "chat-completions"
    RESPONSES = "responses"
    EMBEDDINGS = "embeddings"
    MESSAGES = "messages"
    GENERATE = "generate"
    OTHER = "other"
    """Passed through and routed by load alone."""


class InferenceRequest:
    """One HTTP request, as far as picking an endpoint needs it. Plain data, made once."""

    __slots__ = (
        "api",
        "body",
        "document",
        "fairness_id",
        "headers",
        "id",
        "max_tokens",
        "method",
        "model",
        "objective",
        "path",
        "pool",
        "prompt_bytes",
        "prompt_json",
        "stream",
        "subset",
        "trace_parent",
    )

    def __init__(
        self,
        id: str,
        pool: ObjectName | None,
        path: str,
        method: str,
        headers: Mapping[str, str],
        *,
        api: Api = Api.OTHER,
        model: str = "",
        stream: bool = False,
        objective: str = "",
        fairness_id: str = "",
        subset: tuple[str, ...] | None = None,
        body: bytes = b"",
        document: Mapping[str, object] | None = None,
        prompt_bytes: int = 0,
        max_tokens: int | None = None,
        trace_parent: str = "",
    ) -> None:
        self.id = id
        """The request's ``x-request-id``, for people to follow; not trusted to be unique."""
        self.pool = pool
        """The pool that Envoy's route chose; None: to be found by the model name."""
        self.path = path
        self.method = method
        self.headers = headers
        """Lower-case names; repeated headers are joined by a comma."""
        self.api = api
        self.model = model
        """The model name as the client wrote it; empty where the API has none."""
        self.stream = stream
        self.objective = objective
        """Name of an InferenceObjective (header ``x-gateway-inference-objective``)."""
        self.fairness_id = fairness_id
        """The flow (tenant) it belongs to (header ``x-gateway-inference-fairness-id``)."""
        self.subset = subset
        """``ip`` or ``ip:port``: pick only among these. None: no restriction. Empty: nothing is
        eligible (503)."""
        self.body = body
        """The whole body, where the body mode shows it to us."""
        self.document = document
        """The decoded JSON body."""
        self.prompt_json: tuple[bytes, ...] = ()
        """Of a body too large to be decoded (``document`` is None then): the JSON text of the cache
        salt and of each part of the prompt, empty where it has none."""
        self.prompt_bytes = prompt_bytes
        """Size of the prompt text, for estimates of its tokens."""
        self.max_tokens = max_tokens
        """The client's limit on output tokens."""
        self.trace_parent = trace_parent
        """Envoy's own span for this exchange, as W3C ``traceparent``; empty where it does not
        trace."""

    def __repr__(self) -> str:
        # Without what people wrote: this ends up in logs.
        return f"InferenceRequest({self.id!r}, {self.pool}, {self.method} {self.path})"


class Routed(msgspec.Struct, frozen=True):
    """Send the request to the first of ``endpoints`` that answers."""

    endpoints: tuple[str, ...]
    """``ip:port``, best first, never empty, all of one pool."""
    pool: ObjectName
    pick_id: str
    """Unique to this pick; comes back in Envoy's access log so that the end can be settled."""
    model: str | None = None
    """The model name to write into the body, where it differs from the client's."""
    headers: tuple[tuple[str, str], ...] = ()
    """Further request headers for the pod."""


class Refused(msgspec.Struct, frozen=True):
    """Answer the client at once."""

    reason: Reason
    """Sent in ``x-poolpilot-reason``, and listed in docs/errors.md."""
    message: str
    """For the person who sent the request: what is wrong, and what to do."""
    retry_after: float | None = None
    """Seconds after which trying again makes sense; None: waiting does not help."""

    @property
    def status(self) -> int:
        """400, 404, 408, 413, 429, 500 or 503."""
        return self.reason.status


def refused(reason: Reason, retry_after: float | None = None, **known: object) -> Refused:
    """A refusal in the words of its row. ``known``: what the sentence has places for; KeyError for
    one that is not given. ``retry_after``: in seconds, where it is known better than the row does.
    """
    return Refused(
        reason,
        reason.sentence.format(**known),
        reason.retry_after if retry_after is None else retry_after,
    )


Outcome = Routed | Refused


class Answered(msgspec.Struct, frozen=True):
    """What the client asked for is known here: no pod is asked."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


Answer = Outcome | Answered


class Completed(msgspec.Struct, frozen=True):
    """How a routed request ended, as Envoy's access log (or the response phases) told it."""

    pick_id: str
    code: int = 0
    """HTTP status sent to the client; 0: it hung up before there was one."""
    duration: float = 0.0
    """Seconds from the first byte of the request to the last of the response."""
    time_to_first_byte: float | None = None
    """Seconds until the first upstream byte (for vLLM: headers, not the first token)."""
    served: str = ""
    """``ip:port`` that answered; empty: none did, or the gateway does not tell."""
    tried: str = ""
    """``ip:port`` of the last try, whether it answered or not; empty: Envoy tried none."""
    attempts: int = 1
    """Tries that Envoy made, over all endpoints."""
    flags: frozenset[str] = frozenset()
    """Envoy's response flags in its short form: ``UF``, ``UC``, ``UH``, ``URX``, ``DC``, ..."""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    request_bytes: int = 0
    response_bytes: int = 0

    @property
    def answered(self) -> bool:
        """Whether an endpoint answered, even if nobody tells which."""
        return bool(self.served) or self.time_to_first_byte is not None


class Picker(Protocol):
    """The policy behind the protocol."""

    def pick(
        self, request: InferenceRequest, answer: Callable[[Answer], None]
    ) -> Callable[[], None]:
        """Decide where the request goes.

        ``answer`` is called exactly once: usually before this returns, later if the request had to
        queue, never after the returned function was called. That function withdraws the request
        (the client hung up, or its deadline passed); once answered it does nothing.
        """

    def settle(self, completed: Completed) -> object:
        """A routed request has ended. Unknown and repeated ``pick_id`` are ignored. What is
        returned is for those who know which picker it is."""
