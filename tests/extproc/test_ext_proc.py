"""The ext-proc service: streams, the picker and the clock."""

from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from collections.abc import Callable

import looptime
import pytest

from extproc.exchange import ExchangeSettings
from extproc.reasons import Reason
from extproc.request import Completed, InferenceRequest, Outcome, Refused
from extproc.service.deadlines import Deadlines
from extproc.service.ext_proc import METHOD, ExternalProcessor
from extproc.transport.api import GrpcStatus, Handler
from pools.model import ObjectName
from tests.extproc.envoy_messages import (
    FDS,
    ROUTED,
    body,
    decoded,
    headers,
    kinds,
    response_headers,
)
from tests.extproc.streams import RecordedStream

pytestmark = pytest.mark.looptime
assert looptime

COMPLETION = b'{"model": "m", "prompt": "Say hi"}'


class Picker:
    """Answers now, or when the test says so."""

    def __init__(self, outcome: Outcome | None = None) -> None:
        self.outcome = outcome
        self.asked: list[InferenceRequest] = []
        self.waiting: list[Callable[[Outcome], None]] = []
        self.withdrawn = 0
        self.completed: list[Completed] = []

    def pick(
        self, request: InferenceRequest, answer: Callable[[Outcome], None]
    ) -> Callable[[], None]:
        self.asked.append(request)
        if self.outcome is not None:
            answer(self.outcome)
        else:
            self.waiting.append(answer)
        return self._withdraw

    def _withdraw(self) -> None:
        self.withdrawn += 1

    def settle(self, completed: Completed) -> None:
        self.completed.append(completed)


def opened(
    processor: ExternalProcessor, metadata: dict[str, str] | None = None
) -> tuple[RecordedStream, Handler]:
    stream = RecordedStream(metadata)
    return stream, processor.services()[METHOD](stream)


async def test_a_request_is_picked_for_and_its_stream_ends_with_envoys_half() -> None:
    processor = ExternalProcessor(Picker(ROUTED))
    stream, handler = opened(processor, {"x-inference-pool": "default/llm"})
    handler.on_message(headers())
    handler.on_message(body(COMPLETION, end=True))
    assert kinds(stream.sent) == ["request_headers", "request_body"]
    assert processor.open == 1
    handler.on_half_close()
    assert stream.finished == (GrpcStatus.OK, "")
    handler.on_closed()
    assert processor.open == 0


async def test_an_answer_is_on_its_way_before_the_picker_goes_on() -> None:
    stream = RecordedStream()

    class Slow(Picker):
        def pick(
            self, request: InferenceRequest, answer: Callable[[Outcome], None]
        ) -> Callable[[], None]:
            answer(ROUTED)
            assert stream.flushed == len(stream.sent) == 2
            self.asked.append(request)
            return self._withdraw

    picker = Slow()
    handler = ExternalProcessor(picker).services()[METHOD](stream)
    handler.on_message(headers())
    handler.on_message(body(COMPLETION, end=True))
    assert picker.asked


async def test_answers_that_come_later_are_written_together() -> None:
    """A pool that has room again lets many in at once, and charged them before."""
    stream = RecordedStream()
    picker = Picker()
    handler = ExternalProcessor(picker).services()[METHOD](stream)
    handler.on_message(headers())
    handler.on_message(body(COMPLETION, end=True))
    picker.waiting[0](ROUTED)
    assert len(stream.sent) == 2
    assert stream.flushed == 0


async def test_a_pick_for_a_request_that_envoy_has_given_up_is_settled_at_once() -> None:
    """The question waited in the socket of a picker that was frozen."""
    picker = Picker(ROUTED)
    processor = ExternalProcessor(picker)
    for given_up in (True, False):
        if given_up:
            processor.sent_picks.given_up("r1", processor.time())
        _, handler = opened(processor)
        handler.on_message(headers(**{"x-request-id": "r1"}))
        handler.on_message(body(COMPLETION, end=True))
        assert picker.completed == [Completed(ROUTED.pick_id)], "the second one is waited for"


@pytest.mark.parametrize("first", [Refused(Reason.NO_READY_ENDPOINTS, "None."), None])
async def test_a_request_that_got_no_pick_and_is_sent_again_is_under_way(
    first: Refused | None,
) -> None:
    """Whoever retries keeps the request's id; the entry of the first try comes when it likes."""
    for entry_is_late in (True, False):
        picker = Picker(first)
        processor = ExternalProcessor(picker)
        _, handler = opened(processor)
        handler.on_message(headers(**{"x-request-id": "r1"}))
        handler.on_message(body(COMPLETION, end=True))
        handler.on_closed()
        if not entry_is_late:
            assert processor.sent_picks.given_up("r1", processor.time()) == ""
        picker.outcome = ROUTED
        _, handler = opened(processor)
        handler.on_message(headers(**{"x-request-id": "r1"}))
        handler.on_message(body(COMPLETION, end=True))
        handler.on_closed()
        if entry_is_late:
            assert processor.sent_picks.given_up("r1", processor.time()) == ""
        assert not picker.completed
        assert processor.sent_picks.given_up("r1", processor.time()) == ROUTED.pick_id


async def test_the_route_tells_the_pool() -> None:
    picker = Picker(ROUTED)
    processor = ExternalProcessor(picker)
    for metadata in ({"x-inference-pool": "ns/llm"}, {"x-inference-pool": "llm"}, {}):
        opened(processor, metadata)[1].on_message(headers(end=True, method="GET"))
    assert [asked.pool for asked in picker.asked] == [
        ObjectName("ns", "llm"),
        ObjectName("default", "llm"),
        None,
    ]


async def test_a_pool_that_is_no_name_ends_the_stream() -> None:
    picker = Picker(ROUTED)
    stream, handler = opened(ExternalProcessor(picker), {"x-inference-pool": "a/b/c"})
    assert stream.finished is not None
    status, message = stream.finished
    assert status is GrpcStatus.INVALID_ARGUMENT
    assert "a/b/c" in message
    handler.on_message(headers(end=True, method="GET"))
    handler.on_half_close()
    handler.on_closed()
    assert not picker.asked


async def test_an_answer_may_come_later() -> None:
    picker = Picker()
    stream, handler = opened(ExternalProcessor(picker))
    handler.on_message(headers())
    handler.on_message(body(COMPLETION, end=True))
    assert not stream.sent
    picker.waiting[0](ROUTED)
    assert kinds(stream.sent) == ["request_headers", "request_body"]
    handler.on_half_close()
    handler.on_closed()
    assert not picker.withdrawn


@pytest.mark.parametrize("ending", ["on_half_close", "on_closed"])
async def test_a_client_that_hangs_up_withdraws_its_request_once(ending: str) -> None:
    picker = Picker()
    _, handler = opened(ExternalProcessor(picker))
    handler.on_message(headers())
    handler.on_message(body(COMPLETION, end=True))
    getattr(handler, ending)()
    assert picker.withdrawn == 1
    if ending == "on_half_close":
        handler.on_closed()
    assert picker.withdrawn == 1


async def test_a_request_that_was_queued_is_let_go_while_its_response_lasts() -> None:
    held: list[weakref.ref[Callable[[], None]]] = []

    class Queue(Picker):
        def pick(
            self, request: InferenceRequest, answer: Callable[[Outcome], None]
        ) -> Callable[[], None]:
            self.waiting.append(answer)
            withdraw = functools.partial(len, request.body)
            held.append(weakref.ref(withdraw))
            return withdraw

    picker = Queue()
    _, handler = opened(ExternalProcessor(picker))
    handler.on_message(headers(response_mode=FDS))
    handler.on_message(body(COMPLETION, end=True))
    assert held[0]() is not None
    picker.waiting.pop()(ROUTED)
    handler.on_message(response_headers(200))
    gc.collect()
    assert held[0]() is None


async def test_a_pick_that_takes_too_long_is_refused_in_time() -> None:
    refused: list[Refused] = []
    picker = Picker()
    processor = ExternalProcessor(picker, ExchangeSettings(pick_timeout=30), refused.append)
    stream, handler = opened(processor)
    handler.on_message(headers())
    handler.on_message(body(COMPLETION, end=True))
    await asyncio.sleep(29.9)
    assert not stream.sent
    await asyncio.sleep(0.2)
    assert kinds(stream.sent) == ["immediate_response"]
    assert [each.reason for each in refused] == ["pick-timeout"]
    assert picker.withdrawn == 1
    picker.waiting[0](ROUTED)
    assert len(stream.sent) == 1


async def test_the_time_to_pick_begins_when_the_body_is_there() -> None:
    settings = ExchangeSettings(pick_timeout=30, upload_timeout=300)
    stream, handler = opened(ExternalProcessor(Picker(), settings))
    handler.on_message(headers())
    await asyncio.sleep(299)
    handler.on_message(body(COMPLETION, end=True))
    await asyncio.sleep(29)
    assert not stream.sent
    await asyncio.sleep(1.1)
    assert decoded(stream.sent)[0].immediate_response.status.code == 503


async def test_each_of_many_exchanges_has_its_own_deadline() -> None:
    processor = ExternalProcessor(Picker(), ExchangeSettings(pick_timeout=10))
    streams = []
    for _ in range(5):
        stream, handler = opened(processor)
        handler.on_message(headers(end=True, method="GET"))
        streams.append(stream)
        await asyncio.sleep(2)
    for late in range(5):
        await asyncio.sleep(0.1)
        assert [bool(stream.sent) for stream in streams] == [n <= late for n in range(5)]
        await asyncio.sleep(1.9)


async def test_a_response_phase_settles_with_the_clock_of_the_server() -> None:
    picker = Picker(ROUTED)
    _, handler = opened(ExternalProcessor(picker))
    handler.on_message(headers(end=True, method="GET"))
    await asyncio.sleep(1.5)
    handler.on_message(response_headers(200, end=True))
    (end,) = picker.completed
    assert (end.pick_id, end.code, end.duration) == ("pick-1", 200, pytest.approx(1.5))


async def test_refusals_are_counted_whoever_makes_them() -> None:
    refused: list[Refused] = []
    processor = ExternalProcessor(Picker(Refused(Reason.SHED, "Busy.")), on_refused=refused.append)
    for chunk in (COMPLETION, b"{"):
        _, handler = opened(processor)
        handler.on_message(headers())
        handler.on_message(body(chunk, end=True))
    assert [each.reason for each in refused] == ["shed", "invalid-json"]


def test_deadlines_pass_in_the_order_in_which_they_began() -> None:
    deadlines: Deadlines[str] = Deadlines(10)
    for at, key in enumerate("abcd"):
        deadlines.begin(key, at)
    deadlines.end("b")
    deadlines.begin("a", 5)
    assert deadlines.next_due() == 12
    assert deadlines.pop_late(13) == ["c", "d"]
    assert deadlines.pop_late(14) == []
    assert deadlines.pop_late(15) == ["a"]
    assert deadlines.next_due() is None


async def test_what_is_held_beyond_the_limit_costs_the_largest_its_body() -> None:
    refused: list[Refused] = []
    given_back = 0

    def give_back() -> None:
        nonlocal given_back
        given_back += 1

    picker = Picker()
    processor = ExternalProcessor(picker, None, refused.append, 100 << 20, give_back)
    chunk = b" " * (10 << 20)
    stalled = [opened(processor) for _ in range(5)]
    for _, handler in stalled:
        handler.on_message(headers())
        handler.on_message(body(chunk))
        handler.on_message(body(chunk))
    assert processor.held.total == 100 << 20
    assert not refused

    small, handler = opened(processor)
    handler.on_message(headers())
    handler.on_message(body(COMPLETION, end=True))
    picker.waiting.pop()(ROUTED)
    assert kinds(small.sent) == ["request_headers", "request_body"]
    assert [one.reason for one in refused] == []  # told when its client listens
    assert processor.held.total == 80 << 20
    assert not given_back

    for stream, handler in stalled:
        handler.on_message(body(COMPLETION, end=True))
        if stream.sent:
            [answer] = decoded(stream.sent)
            assert answer.immediate_response.status.code == 503
            assert "retry-after" in str(answer)
    assert [one.reason for one in refused] == [Reason.BODIES_FULL]
    assert len(picker.waiting) == 4
    assert processor.held.total > 80 << 20

    for _, handler in stalled:
        handler.on_closed()
    assert processor.held.total == 0
    assert picker.withdrawn == 4
    assert given_back == 1


async def test_one_that_waits_for_its_pick_is_shed_and_withdrawn() -> None:
    picker = Picker()
    processor = ExternalProcessor(picker, held_limit=1000)
    stream, handler = opened(processor)
    handler.on_message(headers())
    handler.on_message(body(COMPLETION + b" " * 900, end=True))
    assert processor.held.total > 900
    _, other = opened(processor)
    other.on_message(headers())
    other.on_message(body(b" " * 200))
    [answer] = decoded(stream.sent)
    assert answer.immediate_response.status.code == 503
    assert picker.withdrawn == 1
    assert processor.held.total == 200
