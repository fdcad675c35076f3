"""The request half of an exchange, for every mode in which Envoy can show us a body.

Rules that differ by mode (Envoy 1.40, measured):

========================  ==============  ==========================  ===========================
mode                      body is seen    the pick is sent            a rewritten body needs
========================  ==============  ==========================  ===========================
NONE                      never           with the headers            (not possible)
STREAMED                  after headers   with the headers, only      no content-length
BUFFERED                  whole           with the body               its own content-length
BUFFERED_PARTIAL          its beginning   with the body               no content-length
FULL_DUPLEX_STREAMED      whole           with the headers, after     its own content-length
                                          the body was seen
========================  ==============  ==========================  ===========================

A request whose body tells us nothing (no body, an unknown API, an upgrade, gRPC) is picked for at
its headers in every mode; its body then flows past. That also keeps a WebSocket from hanging, whose
"body" begins only after our answer.
"""

from __future__ import annotations

import enum
from typing import Final

from extproc.apis import fields, model_name
from extproc.exchange import errors
from extproc.exchange.action import Action, Withdraw
from extproc.exchange.body import Body, full_duplex
from extproc.exchange.opening import (
    MODEL_HEADER,
    body_mode,
    describe,
    is_chatty,
    modes_of,
    opening_of,
    speaks_grpc,
)
from extproc.exchange.response import ResponsePhase
from extproc.exchange.settings import BodyMode, ExchangeSettings
from extproc.reasons import Reason
from extproc.request import Answer, Api, Completed, InferenceRequest, Refused, Routed, refused
from extproc.wire import decode, encode
from extproc.wire import ext_proc_pb2 as pb
from pools.model import ObjectName

_PEEK: Final = 65_536
"""Bytes of a streamed body to look for the model in, before picking without it."""
_DRAIN_FACTOR: Final = 2
"""Up to this many body limits are read and dropped, so that the client is ready to read its 413."""


class _State(enum.Enum):
    OPEN = enum.auto()
    """Nothing has arrived."""
    COLLECTING = enum.auto()
    """The body is arriving; the picker has not been asked."""
    ASKED = enum.auto()
    PICKED = enum.auto()
    """The pick is sent; what still comes of the body flows past."""
    REFUSED = enum.auto()
    """To be refused when the client has sent its body: before that, it may not listen."""
    DONE = enum.auto()


class Waiting(enum.Enum):
    """What an exchange waits for, where that is bounded in time."""

    NOTHING = enum.auto()
    UPLOAD = enum.auto()
    PICK = enum.auto()


# Every exchange compares them many times, and CPython 3.11 takes a detour to a member of an enum.
_OPEN: Final = _State.OPEN
_COLLECTING: Final = _State.COLLECTING
_ASKED: Final = _State.ASKED
_PICKED: Final = _State.PICKED
_REFUSED: Final = _State.REFUSED
_DONE: Final = _State.DONE
_FOR_NOTHING: Final = Waiting.NOTHING
_FOR_UPLOAD: Final = Waiting.UPLOAD
_FOR_PICK: Final = Waiting.PICK
_OTHER: Final = Api.OTHER
_NONE: Final = BodyMode.NONE
_STREAMED: Final = BodyMode.STREAMED
_BUFFERED: Final = BodyMode.BUFFERED
_PARTIAL: Final = BodyMode.BUFFERED_PARTIAL
_FDS: Final = BodyMode.FULL_DUPLEX_STREAMED
_BUFFERING: Final = frozenset((_BUFFERED, _PARTIAL))


class Exchange:
    """One HTTP request. Each call returns what is to be done, in order."""

    __slots__ = (
        "_api",
        "_body",
        "_bodyless",
        "_chatty",
        "_ended",
        "_grpc",
        "_has_length",
        "_in_body",
        "_looked_at",
        "_mode",
        "_model",
        "_refused",
        "_request",
        "_response",
        "_response_mode",
        "_rewrite_to",
        "_routed",
        "_seen_before_answer",
        "_settings",
        "_started",
        "_state",
        "_trailers",
        "pool",
        "request_id",
    )

    def __init__(self, pool: ObjectName | None, settings: ExchangeSettings, now: float) -> None:
        self.pool = pool
        self.request_id = ""
        """The request's ``x-request-id``, once its headers are there."""
        self._settings = settings
        self._started = now
        self._state = _OPEN
        self._mode = settings.assumed_body_mode
        self._response_mode = _NONE
        self._body = Body()
        self._request: InferenceRequest | None = None
        """Until it is decided; then its body is let go."""
        self._api = _OTHER
        self._model = ""
        self._routed: Routed | None = None
        self._refused: Refused | None = None
        self._response: ResponsePhase | None = None
        self._rewrite_to: str | None = None
        """The model to write into a streamed body that is being held back."""
        self._ended = False
        self._bodyless = False
        """The headers ended the request."""
        self._trailers = False
        self._in_body = False
        """The pick is the answer to the body, not to the headers."""
        self._seen_before_answer = False
        """Body is sent to us before the headers are answered."""
        self._looked_at = 0
        """So many bytes of it were looked at for the model."""
        self._has_length = False
        self._grpc = False
        self._chatty = False
        """Both sides talk at once: the end of the request's body is not to be waited for."""

    @property
    def waiting(self) -> Waiting:
        state = self._state
        if state is _ASKED:
            return _FOR_PICK
        if state is _COLLECTING or state is _REFUSED or self._rewrite_to is not None:
            return _FOR_UPLOAD
        return _FOR_NOTHING

    @property
    def held(self) -> int:
        """Bytes of the body that it keeps."""
        return self._body.size if self._body.chunks else 0

    # -- what happens to it ---------------------------------------------------------------------

    def receive(self, message: bytes, now: float) -> list[Action]:
        """A ``ProcessingRequest``. Raises ``google.protobuf.message.DecodeError`` if it is not
        one."""
        piece = decode.request_body(message)
        if piece is not None:
            return self._on_body(piece[0], piece[1])
        opening = decode.request_headers(message)
        if opening is not None:
            return self._on_headers(opening)
        request = pb.ProcessingRequest.FromString(message)
        kind = request.WhichOneof("request")
        if kind == "request_body":
            if self._state is _OPEN:
                self._take_modes(modes_of(request))
            return self._on_body(request.request_body.body, request.request_body.end_of_stream)
        if kind == "request_headers":
            return self._on_headers(opening_of(request))
        if kind == "request_trailers":
            return self._on_trailers()
        if kind is None:
            return []
        return self._on_response(kind, request, now)

    def answer(self, outcome: Answer) -> list[Action]:
        """The picker's answer to the request it was asked about."""
        if self._state is not _ASKED:
            return []
        if isinstance(outcome, Routed):
            return self._route(outcome)
        if isinstance(outcome, Refused):
            return self._refuse(outcome)
        self._let_go()
        return [encode.immediate_response(outcome.status, outcome.headers, outcome.body, "", None)]

    def expire(self) -> list[Action]:
        """It has waited for too long (see :attr:`waiting`)."""
        if self._state is _ASKED:
            problem = f"within {self._settings.pick_timeout:g} s"
            late = refused(Reason.PICK_TIMEOUT, problem=problem)
            return [Withdraw.WITHDRAW, *self._tell(late)]
        if self._state is _REFUSED and self._refused is not None:
            return self._tell(self._refused)
        if self._state is _COLLECTING or self._rewrite_to is not None:
            seconds = self._settings.upload_timeout
            return self._tell(refused(Reason.UPLOAD_TIMEOUT, seconds=seconds))
        return []

    def shed(self) -> list[Action]:
        """There is no memory for the body that it holds."""
        late = refused(Reason.BODIES_FULL)
        if self._state is _ASKED:
            return [Withdraw.WITHDRAW, *self._tell(late)]
        if self._state is _COLLECTING:
            return self._refuse(late)
        return self._tell(late) if self._rewrite_to is not None else []

    def close(self, now: float) -> list[Action]:
        """Envoy has ended the stream: it needs nothing more, or the client hung up."""
        actions: list[Action] = []
        if self._state is _ASKED:
            actions.append(Withdraw.WITHDRAW)
        elif self._response is not None:
            actions += self._response.close(now)
        elif self._routed is not None and self._response_mode is not _NONE:
            # Responses are shown to us, and this request got none: its client is gone.
            actions.append(Completed(self._routed.pick_id, duration=now - self._started))
            self._routed = None
        self._let_go()
        return actions

    # -- the request's messages -----------------------------------------------------------------

    def _on_headers(self, opening: decode.RequestHeaders) -> list[Action]:
        if self._state is not _OPEN:
            return []
        if opening.observed:
            # Envoy only lets us watch and takes no answers; a pick would never be obeyed.
            self._state = _DONE
            return []
        self._take_modes(opening.modes)
        request = describe(opening, self.pool)
        self._request = request
        self.request_id = request.id
        self._api = request.api
        self._has_length = "content-length" in request.headers
        # Whatever its path, what is chatty is of no API.
        self._chatty = request.api is _OTHER and is_chatty(request)
        self._grpc = self._chatty and speaks_grpc(request.headers)
        self._ended = self._bodyless = opening.end_of_stream
        if self._ended:
            if request.api is not _OTHER:
                self._state = _COLLECTING
                return self._refuse(_NO_BODY)
            return self._ask()
        if request.api is _OTHER:
            return self._ask()
        if self._mode is _NONE or (self._mode is _STREAMED and not self._seen_before_answer):
            request.model = request.headers.get(MODEL_HEADER, "")
            return self._ask()
        self._state = _COLLECTING
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:19]) > self._settings.body_limit:
            return self._refuse(self._too_large())
        if self._mode is _FDS or self._mode is _STREAMED:
            return []
        self._in_body = True
        return [encode.REQUEST_HEADERS_CONTINUE]

    def _take_modes(self, modes: tuple[int, int, bool] | None) -> None:
        if modes is not None:
            self._mode, self._response_mode = body_mode(modes[0]), body_mode(modes[1])
            self._seen_before_answer = modes[2]

    def _on_body(self, chunk: bytes, end_of_stream: bool) -> list[Action]:
        state = self._state
        if self._ended or state is _DONE:
            # Envoy 1.35 to 1.37 could send a second end of stream in full duplex.
            return []
        self._ended = end_of_stream
        if state is _OPEN:
            # Envoy is set to send no headers: nothing to pick by, so the body just passes.
            self._state = state = _PICKED
        if state is _PICKED:
            return self._pass_on(chunk)
        size = self._body.size + len(chunk)
        if state is _REFUSED:
            self._body.size = size
            enough = end_of_stream or size > self._settings.body_limit * _DRAIN_FACTOR
            return self._tell(self._refused) if self._refused and enough else []
        if size > self._settings.body_limit:
            self._body.size = size
            withdrawal: list[Action] = [Withdraw.WITHDRAW] if state is _ASKED else []
            return withdrawal + self._refuse(self._too_large())
        if self._mode is _STREAMED:
            self._body.chunks.append(chunk)  # an empty one takes an answer too
            self._body.size = size
        else:
            self._body.add(chunk)
        if state is _ASKED:
            return []
        if end_of_stream or self._in_body:
            return self._read()
        if self._mode is _STREAMED:
            return self._peek()
        return []

    def _on_trailers(self) -> list[Action]:
        state = self._state
        if self._ended or state is _DONE:
            return []
        self._ended = self._trailers = True
        if state is _COLLECTING:
            return self._read()
        if state is _REFUSED and self._refused is not None:
            return self._tell(self._refused)
        if state is _ASKED:
            return []
        if self._rewrite_to is not None:
            return self._tell(_HELD_BY_TRAILERS)
        return [encode.REQUEST_TRAILERS_CONTINUE]

    # -- asking -----------------------------------------------------------------------------------

    def _ask(self) -> list[Action]:
        assert self._request is not None
        self._state = _ASKED
        return [self._request]

    def _read(self) -> list[Action]:
        """Ask with all that the body tells."""
        request = self._request
        assert request is not None
        body = self._body.joined()
        if not body:
            return self._refuse(_NO_BODY)
        if self._mode is not _STREAMED:
            self._body.chunks = [body]  # and not all of it twice
        found = fields.read(request.api, body)
        if isinstance(found, Refused):
            if self._mode is _PARTIAL and not self._ended:
                return self._ask_with(fields.read_prefix(request.api, body), body)
            encoding = request.headers.get("content-encoding", "identity")
            if encoding != "identity":
                problem = f"body is compressed ({encoding}). Send it uncompressed"
                found = refused(Reason.INVALID_JSON, problem=problem)
            return self._refuse(found)
        return self._ask_with(found, body)

    def _peek(self) -> list[Action]:
        """Ask as soon as a streamed body has told its model, or is not going to soon."""
        assert self._request is not None
        if self._body.size < 2 * self._looked_at:
            return []  # to look at all of it for each byte would take for ever
        body = self._body.joined()
        self._looked_at = len(body)
        found = fields.read_prefix(self._request.api, body)
        if not found.model and len(body) < _PEEK:
            return []
        return self._ask_with(found, body)

    def _ask_with(self, found: fields.Fields, body: bytes) -> list[Action]:
        request = self._request
        assert request is not None
        request.model = found.model or request.headers.get(MODEL_HEADER, "")
        request.stream = found.stream
        request.max_tokens = found.max_tokens
        request.prompt_bytes = found.prompt_bytes
        request.document = found.document
        request.prompt_json = found.prompt_json
        request.body = body
        return self._ask()

    # -- answering --------------------------------------------------------------------------------

    def _route(self, routed: Routed) -> list[Action]:
        request = self._request
        assert request is not None
        rewrite = routed.model if routed.model != request.model and request.model else None
        self._state = _PICKED
        self._routed = routed
        self._request = None
        self._model = request.model
        if rewrite is not None and not self._can_rewrite(request.body):
            return self._tell(_NOT_VISIBLE)
        endpoints = ",".join(routed.endpoints)
        # The pool was found by the model, and the headers lead Envoy to its route.
        clear = bool(routed.headers) and routed.pool != request.pool
        length: int | None = None
        body: bytes | None = None
        if rewrite is not None:
            if self._mode is not _STREAMED:
                try:
                    body = model_name.replaced(request.body, rewrite)
                except model_name.IntricateError:
                    return self._tell(_INTRICATE)
            # Only where the client gave a length: beside chunked encoding it would be smuggling.
            if self._has_length:
                whole = body is not None and self._mode is not _PARTIAL
                length = len(body) if body is not None and whole else encode.REMOVED
        if self._in_body:
            actions: list[Action] = [
                encode.body_response(
                    endpoints,
                    routed.pick_id,
                    headers=routed.headers,
                    content_length=length,
                    clear_route_cache=clear,
                    body=body,
                )
            ]
            self._body.clear()
            if self._trailers:
                actions.append(encode.REQUEST_TRAILERS_CONTINUE)
            return actions
        answer = encode.headers_response(
            endpoints,
            routed.pick_id,
            headers=routed.headers,
            content_length=length,
            clear_route_cache=clear,
        )
        if self._chatty and self._mode in _BUFFERING:
            answer += encode.DO_NOT_BUFFER
        actions = [answer]
        if self._mode is _STREAMED:
            self._rewrite_to = rewrite
        actions += self._release([body] if body is not None else self._body.chunks)
        return actions

    def _can_rewrite(self, body: bytes) -> bool:
        if self._mode is _PARTIAL:
            return any(key == "model" for key, _, _ in model_name.members(body))
        return self._mode is _STREAMED or bool(body)

    def _release(self, chunks: list[bytes]) -> list[Action]:
        """Hand back what of the body was held while the picker was asked."""
        self._body = Body()
        answers: list[Action] = []
        if self._mode is _FDS:
            if not self._bodyless:
                answers += full_duplex(chunks, ended=self._ended, trailers=self._trailers)
        else:
            ended, last = self._ended, len(chunks) - 1
            for index, chunk in enumerate(chunks):
                self._ended = ended and index == last
                answers += self._pass_on(chunk)
            self._ended = ended
        if self._trailers:
            answers.append(encode.REQUEST_TRAILERS_CONTINUE)
        return answers

    def _pass_on(self, chunk: bytes) -> list[Action]:
        """The answer to a chunk of the body that comes after the pick."""
        if self._mode is _FDS:
            return list(full_duplex([chunk] if chunk else [], ended=self._ended))
        if self._rewrite_to is None:
            return [encode.REQUEST_BODY_CONTINUE]
        self._body.add(chunk)
        if self._body.size > self._settings.body_limit:
            return self._tell(self._too_large())
        if not self._ended:
            return [encode.replaced_body(b"")]
        body, name = self._body.joined(), self._rewrite_to
        self._body.clear()
        self._rewrite_to = None
        if not isinstance(fields.read(self._api, body), Refused):
            try:
                body = model_name.replaced(body, name)
            except model_name.IntricateError:
                return self._tell(_INTRICATE)
        return [encode.replaced_body(body)]

    def _refuse(self, refused: Refused) -> list[Action]:
        """Now if the client listens, else when it has sent its body.

        Simple HTTP/1.1 clients read nothing while they send: Envoy's early answer and close would
        look like a broken connection to them. Only full duplex lets us wait for the end.
        """
        if self._mode is _FDS and not self._ended and not self._chatty:
            self._state = _REFUSED
            self._refused = refused
            self._body.chunks = []
            return []
        return self._tell(refused)

    def _let_go(self) -> None:
        self._state = _DONE
        self._rewrite_to = None
        self._body.clear()
        self._request = None

    def _tell(self, refused: Refused) -> list[Action]:
        self._let_go()
        self._refused = refused
        actions: list[Action] = []
        if self._routed is not None:
            # It was picked for, and comes to nothing.
            actions.append(Completed(self._routed.pick_id, code=refused.status))
            self._routed = None
        return [*actions, errors.immediate_response(refused, self._api, grpc=self._grpc), refused]

    def _too_large(self) -> Refused:
        return refused(Reason.BODY_TOO_LARGE, limit=self._settings.body_limit)

    # -- the response -----------------------------------------------------------------------------

    def _on_response(self, kind: str, message: pb.ProcessingRequest, now: float) -> list[Action]:
        if message.observability_mode:
            return []
        if self._response is None:
            self._take_modes(modes_of(message))
            self._response = ResponsePhase(
                self._routed.pick_id if self._routed else None,
                self._response_mode,
                self._started,
                self._restoration(),
            )
        return self._response.receive(kind, message, now)

    def _restoration(self) -> tuple[str, str] | None:
        """The model name that the pod was told, and the one the client asked for."""
        told = self._routed.model if self._routed else None
        if not self._settings.restore_model or told is None or told == self._model:
            return None
        return (told, self._model) if self._model else None


_NO_BODY: Final = refused(Reason.INVALID_JSON, problem="has no body; it must be a JSON object")
_INTRICATE: Final = refused(
    Reason.INVALID_JSON,
    problem='body has "model" so often, or so much that is nested so deeply, that the model cannot '
    "be rewritten",
)
_NOT_VISIBLE: Final = refused(
    Reason.BODY_NOT_VISIBLE,
    problem="the gateway does not let the endpoint picker change the body",
)
_HELD_BY_TRAILERS: Final = refused(
    Reason.BODY_NOT_VISIBLE,
    problem="a streamed body that ends with trailers cannot be changed",
)
