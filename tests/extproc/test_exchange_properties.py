"""Whatever the order, the chunking and the timing: no byte is lost, doubled or moved."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from extproc.exchange import BodyMode, ExchangeSettings, Waiting, Withdraw
from extproc.reasons import Reason
from extproc.request import Completed, InferenceRequest, Outcome, Refused
from extproc.wire import ext_proc_pb2 as pb
from tests.extproc.envoy_messages import (
    FDS,
    ROUTED,
    Conversation,
    body,
    decoded,
    headers,
    response_body,
    response_headers,
    response_trailers,
    streamed,
    trailers,
)

PATHS = st.sampled_from(["/v1/completions", "/v1/files"])


@st.composite
def chunked(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@st.composite
def uploads(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A completion and the messages in which its body comes, ended by a chunk, an empty chunk or
    trailers."""
    prompt = draw(st.text(max_size=40)) * draw(st.sampled_from([1, 1, 5000]))
    whole = json.dumps({"prompt": prompt, "model": "asked"}).encode()
    chunks = draw(chunked(whole))
    ending = draw(st.sampled_from(["chunk", "empty", "trailers"]))
    messages = [
        body(chunk, end=ending == "chunk" and index == len(chunks) - 1)
        for index, chunk in enumerate(chunks)
    ]
    if ending == "empty":
        messages.append(body(b"", end=True))
    if ending == "trailers":
        messages.append(trailers())
    return whole, messages


@given(uploads(), PATHS, st.booleans(), st.data())
def test_in_full_duplex_every_byte_comes_back_in_order_and_ends_once(
    upload: tuple[bytes, list[bytes]], path: str, rewrite: bool, data: st.DataObject
) -> None:
    whole, messages = upload
    outcome = msgspec.structs.replace(ROUTED, model="target" if rewrite else None)
    envoy = Conversation(outcome=None)
    answer_at = data.draw(st.integers(0, len(messages)))
    actions = envoy.hears(headers(path=path))
    answered = False
    for index, message in enumerate(messages):
        if index == answer_at and envoy.asked:
            actions += envoy.answer(outcome)
            answered = True
        actions += envoy.hears(message)
    if not answered:
        actions += envoy.answer(outcome)
    answers = decoded(actions)
    echoed = streamed(answers)
    wanted = whole.replace(b'"asked"', b'"target"') if rewrite and envoy.asked[0].model else whole
    assert echoed.data == wanted
    kinds = [answer.WhichOneof("response") for answer in answers]
    assert kinds[0] == "request_headers"
    if messages[-1] == trailers():
        assert kinds[-1] == "request_trailers"
        assert not any(echoed.ends)
    else:
        assert echoed.ends == [False] * (len(echoed.ends) - 1) + [True]
    assert all(
        len(answer.request_body.response.body_mutation.streamed_response.body) <= 65_536
        for answer in answers
    )


def effective(messages: list[bytes], answers: list[pb.ProcessingResponse]) -> bytes:
    """The body that Envoy sends on, where each message of it gets one answer."""
    sent = [pb.ProcessingRequest.FromString(message) for message in messages]
    bodies = [message.request_body.body for message in sent if message.HasField("request_body")]
    replies = [answer for answer in answers if answer.WhichOneof("response") == "request_body"]
    assert len(replies) == len(bodies), "one answer for each message"
    result = b""
    for original, reply in zip(bodies, replies, strict=True):
        mutation = reply.request_body.response.body_mutation
        match mutation.WhichOneof("mutation"):
            case "body":
                result += mutation.body
            case "clear_body":
                pass
            case _:
                result += original
    return result


@given(uploads(), PATHS, st.booleans(), st.booleans(), st.data())
def test_each_streamed_message_has_one_answer_and_no_byte_is_lost(
    upload: tuple[bytes, list[bytes]], path: str, rewrite: bool, early: bool, data: st.DataObject
) -> None:
    whole, messages = upload
    outcome = msgspec.structs.replace(ROUTED, model="target" if rewrite else None)
    told = {} if early else {"x_gateway_model_name": "asked"}
    envoy = Conversation(outcome=None)
    answer_at = data.draw(st.integers(0, len(messages))) if early else 0
    actions = envoy.hears(headers(path=path, mode=BodyMode.STREAMED, early=early, **told))
    answered = False
    for index, message in enumerate(messages):
        if index >= answer_at and envoy.asked and not answered:
            actions += envoy.answer(outcome)
            answered = True
        actions += envoy.hears(message)
    if not answered:
        actions += envoy.answer(outcome)
    if envoy.refusals:
        assert envoy.refusals[0].reason == "body-not-visible"
        assert messages[-1] == trailers()
        return
    wanted = whole.replace(b'"asked"', b'"target"') if rewrite and envoy.asked[0].model else whole
    assert effective(messages, decoded(actions)) == wanted


@given(st.lists(st.binary(max_size=30), max_size=6), st.booleans(), st.booleans())
def test_a_full_duplex_response_comes_back_whole(
    chunks: list[bytes], with_trailers: bool, restore: bool
) -> None:
    settings = ExchangeSettings(restore_model=restore)
    envoy = Conversation(msgspec.structs.replace(ROUTED, model="target"), settings)
    envoy.hears(headers(response_mode=FDS), body(b'{"model": "asked"}', end=True))
    actions = envoy.hears(response_headers(200))
    for chunk in chunks:
        actions += envoy.hears(response_body(chunk))
    actions += envoy.hears(response_trailers() if with_trailers else response_body(b"", end=True))
    echoed = streamed(decoded(actions), "response_body")
    assert echoed.data == b"".join(chunks)
    assert echoed.ends.count(True) == (0 if with_trailers else 1)
    assert len(envoy.completions) == 1


MESSAGES: dict[str, bytes] = {
    "headers": headers(),
    "passing": headers(path="/v1/files"),
    "bodiless": headers(end=True, method="GET"),
    "body": body(b'{"model": "m"}'),
    "rest": body(b" "),
    "end": body(b"", end=True),
    "trailers": trailers(),
    "response": response_headers(200),
    "response_end": response_headers(404, end=True),
    "response_body": response_body(b"x"),
    "response_body_end": response_body(b"x", end=True),
    "response_trailers": response_trailers(),
}
OUTCOMES: list[Outcome] = [
    ROUTED,
    msgspec.structs.replace(ROUTED, model="target"),
    Refused(Reason.NO_READY_ENDPOINTS, "None."),
]


@given(st.lists(st.binary(max_size=80), max_size=4), st.data())
def test_bytes_that_are_no_message_do_no_harm(garbage: list[bytes], data: st.DataObject) -> None:
    """The transport ends a stream that sends them; nothing but a DecodeError may come of it."""
    envoy = Conversation()
    for piece in garbage:
        message = bytearray(data.draw(st.sampled_from(sorted(MESSAGES.values()))) + piece)
        for at in data.draw(st.lists(st.integers(0, len(message) - 1), max_size=3)):
            message[at] = data.draw(st.integers(0, 255))
        with contextlib.suppress(DecodeError):
            envoy.hears(bytes(message))


class AnyOrder(RuleBasedStateMachine):
    """Messages in any order at all, from an Envoy that may be wrong, old or hostile."""

    def __init__(self) -> None:
        super().__init__()
        self.conversation = Conversation(outcome=None, settings=ExchangeSettings(body_limit=64))
        self.asked: list[InferenceRequest] = []
        self.answered = 0
        self.withdrawn = 0
        self.refused = 0
        self.routed = False
        self.ends: list[Completed] = []
        self.closed = False

    def note(self, actions: list[Any]) -> None:
        for action in actions:
            assert not (self.closed and isinstance(action, bytes)), "nothing after the end"
            assert not (self.refused and isinstance(action, bytes)), "a refusal is the last word"
            if isinstance(action, Refused):
                self.refused += 1
            if action is Withdraw.WITHDRAW:
                self.withdrawn += 1
            if isinstance(action, Completed):
                self.ends.append(action)

    @precondition(lambda self: not self.closed)
    @rule(mode=st.sampled_from([None, *BodyMode]), kind=st.sampled_from(["headers", "passing"]))
    def begins(self, mode: BodyMode | None, kind: str) -> None:
        path = "/v1/files" if kind == "passing" else "/v1/completions"
        message = headers(mode=mode, path=path, response_mode=BodyMode.STREAMED)
        self.note(self.conversation.hears(message))

    @precondition(lambda self: not self.closed)
    @rule(kind=st.sampled_from(sorted(MESSAGES)))
    def hears(self, kind: str) -> None:
        before = self.refused
        actions = self.conversation.hears(MESSAGES[kind])
        if before and kind.startswith("response"):
            return  # a gateway may show us the response that our refusal became
        self.note(actions)

    @precondition(lambda self: self.conversation.exchange.waiting is Waiting.PICK)
    @rule(outcome=st.sampled_from(OUTCOMES))
    def answers(self, outcome: Outcome) -> None:
        self.answered += 1
        self.routed = self.routed or not isinstance(outcome, Refused)
        self.note(self.conversation.answer(outcome))

    @precondition(lambda self: self.conversation.exchange.waiting is not Waiting.NOTHING)
    @rule()
    def waits_too_long(self) -> None:
        self.note(self.conversation.exchange.expire())
        assert self.conversation.exchange.waiting is Waiting.NOTHING

    @rule()
    def closes(self) -> None:
        self.note(self.conversation.exchange.close(200.0))
        self.closed = True

    @invariant()
    def the_picker_is_asked_once_and_every_question_has_one_end(self) -> None:
        asked = len(self.conversation.asked)
        waiting = self.conversation.exchange.waiting is Waiting.PICK
        assert asked <= 1
        assert asked == self.answered + self.withdrawn + waiting

    @invariant()
    def a_pick_is_settled_once_at_most(self) -> None:
        assert len(self.ends) <= int(self.routed)
        assert self.refused <= 1


TestAnyOrder = AnyOrder.TestCase
