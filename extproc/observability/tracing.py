"""OpenTelemetry traces: one span for each pick, below Envoy's own span of the request.

Imported only where traces are asked for; needs the extra ``otel``. Whether a request
is traced is decided by whoever began its trace; requests of untraced clients are by a share of
them. Spans are sent in the background, and lost rather than waited for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from extproc.request import Answer, Answered, Api, Completed, InferenceRequest, Picker, Refused
from pools.addresses import split_host_port

_OPERATIONS = {
    Api.CHAT_COMPLETIONS: "chat",
    Api.MESSAGES: "chat",
    Api.RESPONSES: "chat",
    Api.COMPLETIONS: "text_completion",
    Api.GENERATE: "text_completion",
    Api.EMBEDDINGS: "embeddings",
}
"""``gen_ai.operation.name`` of the semantic conventions."""
_SAMPLED_AT = 53
"""Where in ``00-<trace>-<span>-<flags>`` the flags begin."""
_MAX_TEXT: Final = 256
"""Characters kept of what clients name: spans wait in memory for a collector that is away."""


class Traces:
    """Where spans go. ``exporter`` stands in for the OTLP collector in tests."""

    def __init__(
        self, collector: str, share: float = 1.0, exporter: SpanExporter | None = None
    ) -> None:
        """``collector``: base URL of an OTLP/HTTP collector. ``share`` (0 to 1): of those requests
        that come without a trace of their own."""
        self.share = share
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource.create({"service.name": "poolpilot-extproc"}),
            span_limits=SpanLimits(max_attribute_length=_MAX_TEXT),
            shutdown_on_exit=False,
        )
        url = f"{collector.rstrip('/')}/v1/traces"
        sender = exporter or OTLPSpanExporter(endpoint=url, timeout=5)
        self._provider.add_span_processor(BatchSpanProcessor(sender, schedule_delay_millis=1000))
        self.tracer = self._provider.get_tracer("poolpilot")

    def flush(self) -> None:
        """Send what is there. Blocks."""
        self._provider.force_flush(5000)

    def close(self, within: float) -> None:
        """Send what is left, for so many seconds at most. Blocks."""
        # With a collector that does not answer it would go on for half a minute.
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(within)


class TracedPicker:
    """A picker whose picks are spans."""

    def __init__(self, inner: Picker, traces: Traces) -> None:
        self._inner = inner
        self._tracer = traces.tracer
        self._share = traces.share
        self._propagator = TraceContextTextMapPropagator()

    def settle(self, completed: Completed) -> None:
        self._inner.settle(completed)

    def pick(
        self, request: InferenceRequest, answer: Callable[[Answer], None]
    ) -> Callable[[], None]:
        parent = request.trace_parent or request.headers.get("traceparent", "")
        # What nobody wants to see must cost nothing.
        if not (_is_sampled(parent) if parent else self._share):
            return self._inner.pick(request, answer)
        span = self._tracer.start_span(
            "pick", self._context(parent, request), SpanKind.SERVER, _of_request(request)
        )

        def answered(outcome: Answer) -> None:
            _tell_outcome(span, outcome)
            span.end()
            answer(outcome)

        def withdrawn() -> None:
            if span.is_recording():
                span.set_attribute("poolpilot.outcome", "withdrawn")
                span.end()
            withdraw()

        withdraw = self._inner.pick(request, answered)
        return withdrawn

    def _context(self, parent: str, request: InferenceRequest) -> Context:
        carrier = {
            "traceparent": parent,
            "tracestate": request.headers.get("tracestate", ""),
        }
        return self._propagator.extract(carrier, Context())


def _is_sampled(parent: str) -> bool:
    try:
        return bool(int(parent[_SAMPLED_AT : _SAMPLED_AT + 2], 16) & 1)
    except ValueError:
        return False


def _of_request(request: InferenceRequest) -> dict[str, str | int | bool]:
    attributes: dict[str, str | int | bool] = {
        "poolpilot.request_id": request.id,
        "poolpilot.prompt_bytes": request.prompt_bytes,
        "poolpilot.streaming": request.stream,
    }
    if request.api in _OPERATIONS:
        attributes["gen_ai.operation.name"] = _OPERATIONS[request.api]
    if request.model:
        attributes["gen_ai.request.model"] = request.model
    if request.max_tokens is not None:
        attributes["gen_ai.request.max_tokens"] = request.max_tokens
    if request.pool is not None:
        attributes["poolpilot.pool"] = str(request.pool)
    if request.objective:
        attributes["poolpilot.objective"] = request.objective
    return attributes


def _tell_outcome(span: Span, outcome: Answer) -> None:
    if isinstance(outcome, Answered):
        span.set_attribute("poolpilot.outcome", "answered")
        return
    if isinstance(outcome, Refused):
        span.set_attribute("poolpilot.outcome", "refused")
        span.set_attribute("error.type", outcome.reason)
        span.set_attribute("http.response.status_code", outcome.status)
        if outcome.status >= 500:
            span.set_status(StatusCode.ERROR, outcome.message)
        return
    address, port = split_host_port(outcome.endpoints[0])
    span.set_attribute("poolpilot.outcome", "routed")
    span.set_attribute("poolpilot.pool", str(outcome.pool))
    span.set_attribute("poolpilot.pick", outcome.pick_id)
    span.set_attribute("poolpilot.endpoints", outcome.endpoints)
    span.set_attribute("server.address", address)
    span.set_attribute("server.port", port)
    if outcome.model is not None:
        span.set_attribute("poolpilot.target_model", outcome.model)
