"""The response half of an exchange, for gateways that send it to us.

Our own Envoy configuration does not (the access log tells the end more cheaply), but a gateway that
follows the endpoint picker protocol may. Everything passes unchanged, unless a rewritten model name
is to be put back. Token counts are read where bodies are shown.
"""

from __future__ import annotations

from typing import Final

from extproc.apis.restore import ModelRestorer
from extproc.apis.usage import Usage, UsageReader
from extproc.exchange.action import Action
from extproc.exchange.body import full_duplex
from extproc.exchange.settings import BodyMode
from extproc.request import Completed
from extproc.wire import encode
from extproc.wire import ext_proc_pb2 as pb
from pools.contract import LB_NAMESPACE, SERVED


def served_endpoint(metadata: pb.Metadata) -> str:
    """``ip:port``; empty where the gateway does not tell."""
    if LB_NAMESPACE not in metadata.filter_metadata:
        return ""
    lb = metadata.filter_metadata[LB_NAMESPACE].fields
    return lb[SERVED].string_value if SERVED in lb else ""


class ResponsePhase:
    """From the response's headers to its end."""

    __slots__ = (
        "_bytes",
        "_code",
        "_done",
        "_ended",
        "_first",
        "_mode",
        "_pick_id",
        "_restorer",
        "_served",
        "_started",
        "_usage",
    )

    def __init__(
        self,
        pick_id: str | None,
        mode: BodyMode,
        started: float,
        restore: tuple[str, str] | None,
    ) -> None:
        self._pick_id = pick_id
        self._mode = mode
        self._started = started
        self._restorer = ModelRestorer(*restore) if restore and mode in _WHOLE_BODY else None
        self._code = 0
        self._served = ""
        self._first: float | None = None
        self._bytes = 0
        self._usage = UsageReader() if pick_id is not None and mode in _WHOLE_BODY else None
        self._ended = False
        self._done = False

    def receive(self, kind: str, message: pb.ProcessingRequest, now: float) -> list[Action]:
        """A message of the response; ``kind`` names the field of the oneof that is set."""
        if kind == "response_headers":
            return self._on_headers(message, now)
        if kind == "response_body":
            body = message.response_body
            return self._on_body(body.body, body.end_of_stream, now)
        return self._on_trailers(now)

    def close(self, now: float) -> list[Action]:
        """The stream is gone: whatever was seen is all there will be."""
        return self._complete(now)

    def _on_headers(self, message: pb.ProcessingRequest, now: float) -> list[Action]:
        headers = message.response_headers
        self._first = now - self._started
        for header in headers.headers.headers:
            if header.key == ":status":
                status = _value(header)
                self._code = int(status) if status.isdecimal() and len(status) == 3 else 0
            elif header.key == "content-encoding" and _value(header) != "identity":
                self._usage = None
        if message.HasField("metadata_context"):
            self._served = served_endpoint(message.metadata_context)
        self._ended = headers.end_of_stream
        if self._ended or self._mode is BodyMode.NONE:
            # Without a body phase this is the last that we hear of the request.
            return [encode.RESPONSE_HEADERS_CONTINUE, *self._complete(now)]
        if self._restorer is not None and self._mode is not BodyMode.BUFFERED:
            return [_WITHOUT_LENGTH]
        return [encode.RESPONSE_HEADERS_CONTINUE]

    def _on_body(self, chunk: bytes, end_of_stream: bool, now: float) -> list[Action]:
        if self._ended:
            return []
        self._ended = end_of_stream
        self._bytes += len(chunk)
        if self._usage is not None:
            self._usage.feed(chunk)
        duplex = self._mode is BodyMode.FULL_DUPLEX_STREAMED
        answers: list[Action]
        if self._restorer is not None:
            restored = self._restorer.feed(chunk, end=self._ended or not self._streams())
            if duplex:
                answers = list(
                    full_duplex([restored] if restored else [], ended=self._ended, response=True)
                )
            elif restored == chunk:
                answers = [encode.RESPONSE_BODY_CONTINUE]
            else:
                length = len(restored) if self._mode is BodyMode.BUFFERED else None
                answers = [encode.replaced_response_body(restored, length)]
        elif duplex:
            answers = list(full_duplex([chunk] if chunk else [], ended=self._ended, response=True))
        else:
            answers = [encode.RESPONSE_BODY_CONTINUE]
        return answers + self._complete(now) if self._ended else answers

    def _streams(self) -> bool:
        return self._mode is not BodyMode.BUFFERED

    def _on_trailers(self, now: float) -> list[Action]:
        answers: list[Action] = []
        if self._restorer is not None and self._mode is BodyMode.FULL_DUPLEX_STREAMED:
            rest = self._restorer.feed(b"", end=True)
            answers += full_duplex([rest] if rest else [], ended=False, response=True)
        self._ended = True
        return [*answers, encode.RESPONSE_TRAILERS_CONTINUE, *self._complete(now)]

    def _complete(self, now: float) -> list[Action]:
        if self._done or self._pick_id is None:
            return []
        self._done = True
        usage = self._usage.usage() if self._usage is not None else _UNTOLD
        self._usage = None
        return [
            Completed(
                pick_id=self._pick_id,
                code=self._code,
                duration=now - self._started,
                time_to_first_byte=self._first,
                served=self._served,
                prompt_tokens=usage.prompt_tokens,
                cached_tokens=usage.cached_tokens,
                completion_tokens=usage.completion_tokens,
                response_bytes=self._bytes,
            )
        ]


def _value(header: pb.HeaderValue) -> str:
    return header.raw_value.decode("latin-1") or header.value


_UNTOLD: Final = Usage()
_WHOLE_BODY: Final = frozenset(
    (BodyMode.BUFFERED, BodyMode.STREAMED, BodyMode.FULL_DUPLEX_STREAMED)
)
_WITHOUT_LENGTH: Final = pb.ProcessingResponse(
    response_headers=pb.HeadersResponse(
        response=pb.CommonResponse(
            header_mutation=pb.HeaderMutation(remove_headers=["content-length"])
        )
    )
).SerializeToString()
