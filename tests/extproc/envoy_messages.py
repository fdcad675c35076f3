"""What Envoy says to an exchange, and what our answers mean to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from extproc.exchange import Action, BodyMode, Exchange, ExchangeSettings
from extproc.request import Completed, InferenceRequest, Outcome, Refused, Routed
from extproc.wire import ext_proc_pb2 as pb
from pools.model import ObjectName

POOL = ObjectName("default", "llm")
ROUTED = Routed(("10.0.0.1:8000", "10.0.0.2:8000"), pool=POOL, pick_id="pick-1")
FDS = BodyMode.FULL_DUPLEX_STREAMED


def headers(
    *,
    method: str = "POST",
    path: str = "/v1/completions",
    end: bool = False,
    mode: BodyMode | None = FDS,
    response_mode: BodyMode = BodyMode.NONE,
    early: bool = False,
    observe: bool = False,
    metadata: dict[str, Any] | None = None,
    **more: str,
) -> bytes:
    """Request headers. ``more``: further headers, with ``_`` for ``-``. ``mode`` None: an Envoy
    that does not tell how it is set up."""
    message = pb.ProcessingRequest(observability_mode=observe)
    message.request_headers.end_of_stream = end
    values = {":method": method, ":path": path, "x-request-id": "r1"}
    values |= {name.replace("_", "-"): value for name, value in more.items()}
    for name, value in values.items():
        message.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    if mode is not None:
        message.protocol_config.request_body_mode = mode.value
        message.protocol_config.response_body_mode = response_mode.value
        message.protocol_config.send_body_without_waiting_for_header_response = early
    for namespace, fields in (metadata or {}).items():
        message.metadata_context.filter_metadata[namespace].update(fields)
    return message.SerializeToString()


def body(chunk: bytes, *, end: bool = False) -> bytes:
    return pb.ProcessingRequest(
        request_body=pb.HttpBody(body=chunk, end_of_stream=end)
    ).SerializeToString()


def trailers() -> bytes:
    return pb.ProcessingRequest(request_trailers=pb.HttpTrailers()).SerializeToString()


def response_headers(
    status: int = 200, *, end: bool = False, served: str | None = None, **more: str
) -> bytes:
    message = pb.ProcessingRequest()
    message.response_headers.end_of_stream = end
    message.response_headers.headers.headers.add(key=":status", raw_value=b"%d" % status)
    for name, value in more.items():
        message.response_headers.headers.headers.add(
            key=name.replace("_", "-"), raw_value=value.encode()
        )
    if served is not None:
        lb = {"x-gateway-destination-endpoint-served": served}
        message.metadata_context.filter_metadata["envoy.lb"].update(lb)
    return message.SerializeToString()


def response_body(chunk: bytes, *, end: bool = False) -> bytes:
    return pb.ProcessingRequest(
        response_body=pb.HttpBody(body=chunk, end_of_stream=end)
    ).SerializeToString()


def response_trailers() -> bytes:
    return pb.ProcessingRequest(response_trailers=pb.HttpTrailers()).SerializeToString()


def decoded(actions: Iterable[Action]) -> list[pb.ProcessingResponse]:
    """The messages among the actions."""
    return [pb.ProcessingResponse.FromString(a) for a in actions if isinstance(a, bytes)]


def kinds(actions: Iterable[Action]) -> list[str]:
    """What each action is: the kind of a message, or the name of its class."""
    return [
        str(pb.ProcessingResponse.FromString(action).WhichOneof("response"))
        if isinstance(action, bytes)
        else type(action).__name__
        for action in actions
    ]


def set_headers(common: pb.CommonResponse) -> dict[str, str]:
    for option in common.header_mutation.set_headers:
        assert option.append_action == pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    return {
        option.header.key: option.header.raw_value.decode()
        for option in common.header_mutation.set_headers
    }


def picked(message: pb.ProcessingResponse, common: pb.CommonResponse) -> tuple[str, str]:
    """The endpoints, which header and metadata must agree on, and the pick's id."""
    fields = message.dynamic_metadata.fields
    lb = fields["envoy.lb"].struct_value.fields["x-gateway-destination-endpoint"].string_value
    assert set_headers(common)["x-gateway-destination-endpoint"] == lb
    return lb, fields["poolpilot"].struct_value.fields["pick"].string_value


@dataclass
class Streamed:
    """A full-duplex body that we sent back."""

    data: bytes
    ends: list[bool]


def streamed(messages: Iterable[pb.ProcessingResponse], half: str = "request_body") -> Streamed:
    parts = [
        getattr(message, half).response.body_mutation.streamed_response
        for message in messages
        if message.WhichOneof("response") == half
    ]
    return Streamed(b"".join(part.body for part in parts), [part.end_of_stream for part in parts])


class Conversation:
    """An exchange with a scripted picker, driven by Envoy's messages. ``outcome`` None: the picker
    takes its time, until :meth:`answer`."""

    def __init__(
        self,
        outcome: Outcome | Callable[[InferenceRequest], Outcome] | None = ROUTED,
        settings: ExchangeSettings | None = None,
        pool: ObjectName | None = POOL,
    ) -> None:
        self.exchange = Exchange(pool, settings or ExchangeSettings(), 100.0)
        self.outcome = outcome
        self.asked: list[InferenceRequest] = []
        self.actions: list[Action] = []

    def hears(self, *messages: bytes, now: float = 100.0) -> list[Action]:
        """The actions that these messages lead to, with the picker's answers carried out."""
        done = [a for message in messages for a in self._take(self.exchange.receive(message, now))]
        self.actions += done
        return done

    def answer(self, outcome: Outcome) -> list[Action]:
        done = self._take(self.exchange.answer(outcome))
        self.actions += done
        return done

    def _take(self, actions: list[Action]) -> list[Action]:
        taken: list[Action] = []
        for index, action in enumerate(actions):
            if isinstance(action, InferenceRequest):
                assert index == len(actions) - 1, "a question is the last action"
                self.asked.append(action)
                outcome = self.outcome(action) if callable(self.outcome) else self.outcome
                if outcome is not None:
                    taken += self._take(self.exchange.answer(outcome))
            else:
                taken.append(action)
        return taken

    @property
    def refusals(self) -> list[Refused]:
        return [action for action in self.actions if isinstance(action, Refused)]

    @property
    def completions(self) -> list[Completed]:
        return [action for action in self.actions if isinstance(action, Completed)]
