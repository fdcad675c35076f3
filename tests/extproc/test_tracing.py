"""Spans of picks, in an exporter that keeps them in memory."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from extproc.observability.tracing import TracedPicker, Traces
from extproc.reasons import Reason
from extproc.request import Api, Completed, InferenceRequest, Outcome, Refused, Routed
from pools.model import ObjectName

POOL = ObjectName("default", "llama")
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
ROUTED = Routed(("[2001:db8::1]:8000", "10.0.0.2:8000"), POOL, "pick-1", model="target")


class Policy:
    """Answers at once, or when the test says so."""

    def __init__(self, outcome: Outcome | None = None) -> None:
        self.outcome = outcome
        self.waiting: list[Callable[[Outcome], None]] = []
        self.withdrawn = 0
        self.settled: list[Completed] = []

    def pick(
        self, request: InferenceRequest, answer: Callable[[Outcome], None]
    ) -> Callable[[], None]:
        if self.outcome is not None:
            answer(self.outcome)
        else:
            self.waiting.append(answer)
        return self._withdraw

    def _withdraw(self) -> None:
        self.withdrawn += 1

    def settle(self, completed: Completed) -> None:
        self.settled.append(completed)


class Recorded:
    def __init__(self, share: float = 0.0) -> None:
        self._exporter = InMemorySpanExporter()
        self.traces = Traces("http://nowhere", share, self._exporter)

    def spans(self) -> list[ReadableSpan]:
        self.traces.flush()
        return list(self._exporter.get_finished_spans())

    def span(self) -> ReadableSpan:
        (one,) = self.spans()
        return one


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    made = Recorded()
    yield made
    made.traces.close(within=5)


def ask(**fields: Any) -> InferenceRequest:
    given: dict[str, Any] = {
        "id": "r-1",
        "pool": POOL,
        "path": "/v1/chat/completions",
        "method": "POST",
        "headers": {},
        "api": Api.CHAT_COMPLETIONS,
        "model": "asked",
        "max_tokens": 20,
        **fields,
    }
    return InferenceRequest(**given)


def test_a_pick_is_a_span_below_the_one_that_envoy_began(recorded: Recorded) -> None:
    told: list[Outcome] = []
    picker = TracedPicker(Policy(ROUTED), recorded.traces)
    client = f"00-{'9' * 32}-{'8' * 16}-01"
    picker.pick(ask(trace_parent=SAMPLED, headers={"traceparent": client}), told.append)
    assert told == [ROUTED]
    span = recorded.span()
    assert span.parent is not None
    assert (f"{span.parent.trace_id:x}", f"{span.parent.span_id:016x}") == (TRACE, SPAN)
    assert span.parent.is_remote
    assert span.kind is SpanKind.SERVER
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "asked",
        "gen_ai.request.max_tokens": 20,
        "poolpilot.request_id": "r-1",
        "poolpilot.prompt_bytes": 0,
        "poolpilot.streaming": False,
        "poolpilot.pool": "default/llama",
        "poolpilot.outcome": "routed",
        "poolpilot.pick": "pick-1",
        "poolpilot.endpoints": ("[2001:db8::1]:8000", "10.0.0.2:8000"),
        "poolpilot.target_model": "target",
        "server.address": "2001:db8::1",
        "server.port": 8000,
    }


def test_where_envoy_does_not_trace_the_clients_trace_goes_on(recorded: Recorded) -> None:
    picker = TracedPicker(Policy(ROUTED), recorded.traces)
    headers = {"traceparent": SAMPLED, "tracestate": "vendor=1"}
    picker.pick(ask(headers=headers), lambda _: None)
    span = recorded.span()
    assert f"{span.context.trace_id:x}" == TRACE
    assert span.context.trace_state.get("vendor") == "1"


@pytest.mark.parametrize("parent", [UNSAMPLED, "", "nonsense", SAMPLED[:-2] + "zz"])
def test_what_nobody_wants_to_see_is_no_span(recorded: Recorded, parent: str) -> None:
    told: list[Outcome] = []
    TracedPicker(Policy(ROUTED), recorded.traces).pick(ask(trace_parent=parent), told.append)
    assert told == [ROUTED]
    assert recorded.spans() == []


def test_a_share_of_requests_without_a_trace_begins_one() -> None:
    recorded = Recorded(share=0.5)
    picker = TracedPicker(Policy(ROUTED), recorded.traces)
    for _ in range(400):
        picker.pick(ask(), lambda _: None)
    assert 120 < len(recorded.spans()) < 280
    assert all(span.parent is None for span in recorded.spans())
    recorded.traces.close(within=5)


@pytest.mark.parametrize(
    ("status", "reason", "code"),
    [(429, Reason.SHED, StatusCode.UNSET), (503, Reason.NO_READY_ENDPOINTS, StatusCode.ERROR)],
)
def test_a_refusal_tells_its_reason(
    recorded: Recorded, status: int, reason: Reason, code: StatusCode
) -> None:
    refused = Refused(reason, "Why.")
    picker = TracedPicker(Policy(refused), recorded.traces)
    picker.pick(ask(trace_parent=SAMPLED), lambda _: None)
    span = recorded.span()
    attributes = dict(span.attributes or {})
    assert attributes["poolpilot.outcome"] == "refused"
    assert (attributes["error.type"], attributes["http.response.status_code"]) == (reason, status)
    assert span.status.status_code is code


def test_a_queued_pick_lasts_until_it_is_answered(recorded: Recorded) -> None:
    policy = Policy()
    withdraw = TracedPicker(policy, recorded.traces).pick(ask(trace_parent=SAMPLED), lambda _: None)
    assert recorded.spans() == []
    policy.waiting[0](ROUTED)
    assert (recorded.span().attributes or {})["poolpilot.outcome"] == "routed"
    withdraw()
    assert (recorded.span().attributes or {})["poolpilot.outcome"] == "routed"


def test_a_withdrawn_pick_says_so(recorded: Recorded) -> None:
    policy = Policy()
    TracedPicker(policy, recorded.traces).pick(ask(trace_parent=SAMPLED), lambda _: None)()
    assert (recorded.span().attributes or {})["poolpilot.outcome"] == "withdrawn"
    assert policy.withdrawn == 1


def test_a_span_keeps_the_beginning_of_what_a_client_names(recorded: Recorded) -> None:
    picker = TracedPicker(Policy(ROUTED), recorded.traces)
    picker.pick(ask(trace_parent=SAMPLED, model="m" * 1_000_000, id="i" * 60_000), lambda _: None)
    attributes = dict(recorded.span().attributes or {})
    assert attributes["gen_ai.request.model"] == "m" * 256
    assert attributes["poolpilot.request_id"] == "i" * 256


def test_a_collector_that_does_not_answer_does_not_hold_up_the_end() -> None:
    answered = threading.Event()

    class Stuck(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            answered.wait()
            return SpanExportResult.FAILURE

    traces = Traces("http://nowhere", 1.0, Stuck())
    TracedPicker(Policy(ROUTED), traces).pick(ask(), lambda _: None)
    began = time.monotonic()
    traces.close(within=0.05)
    assert time.monotonic() - began < 5
    answered.set()


def test_ends_are_passed_on(recorded: Recorded) -> None:
    policy = Policy()
    TracedPicker(policy, recorded.traces).settle(Completed("pick-1"))
    assert policy.settled == [Completed("pick-1")]


def test_a_picker_without_traces_imports_nothing_of_them() -> None:
    program = (
        "import sys, extproc.service.server; "
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
