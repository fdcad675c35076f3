"""What a given Envoy can do, told by the version and the extensions in its node.

Since which version a field exists comes from the API's history. Envoy ignores unknown fields by
default but rejects unknown extensions, and a field that is silently ignored is worth knowing about:
what is left out ends up in ``Snapshot.notes``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from xds.snapshot import Node

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Features:
    """One flag per thing that not every Envoy has. The default is an Envoy that has it all."""

    override_host: bool = True
    """The load balancer that obeys the picker (1.35)."""
    full_duplex: bool = True
    """Full-duplex streamed request bodies (1.33)."""
    full_duplex_fail_open: bool = True
    """1.35.0 alone rejects full duplex together with failing open."""
    route_failure_mode: bool = True
    """``failure_mode_allow`` per route (1.35)."""
    status_on_error: bool = True
    """The status when the picker fails (1.36)."""
    pool_pickers: bool = True
    """A filter that only some routes turn on (1.28)."""
    request_body_limit: bool = True
    """A limit of request buffers per route (1.36)."""
    selected_host: bool = True
    """The load balancer tells which endpoint served (1.38)."""
    content_length: bool = True
    """Full-duplex bodies may keep their content-length (1.38)."""
    json_usage: bool = True
    """``json_to_metadata``, with content types by regular expression (1.30)."""
    sse_usage: bool = True
    """``sse_to_metadata`` (1.38)."""
    early_header_mutation: bool = True
    """Headers can be removed before any route or filter sees them (1.25)."""
    completion_log: bool = True
    """The gRPC access log extension."""
    stdout_log: bool = True
    """The standard output access log extension (1.20)."""
    log_expressions: bool = True
    """Access log filters in CEL (1.26). They tell the picker's failures from other errors, and
    requests to pools from others."""
    traces: bool = True
    """OpenTelemetry traces, sent over HTTP, with samplers (1.33)."""
    previous_hosts: bool = True
    """The retry predicate that never tries the same host twice."""


ALL = Features()

_SINCE: dict[str, Version] = {
    "override_host": (1, 35, 0),
    "full_duplex": (1, 33, 0),
    "route_failure_mode": (1, 35, 0),
    "status_on_error": (1, 36, 0),
    "pool_pickers": (1, 28, 0),
    "request_body_limit": (1, 36, 0),
    "selected_host": (1, 38, 0),
    "content_length": (1, 38, 0),
    "json_usage": (1, 30, 0),
    "sse_usage": (1, 38, 0),
    "early_header_mutation": (1, 25, 0),
    "stdout_log": (1, 20, 0),
    "log_expressions": (1, 26, 0),
    "traces": (1, 33, 0),
}

_EXTENSIONS: dict[str, tuple[str, ...]] = {
    "override_host": ("envoy.load_balancing_policies.override_host",),
    "json_usage": ("envoy.filters.http.json_to_metadata", "envoy.filters.http.match_delegate"),
    "sse_usage": ("envoy.filters.http.sse_to_metadata", "envoy.content_parsers.json"),
    "early_header_mutation": ("envoy.http.early_header_mutation.header_mutation",),
    "completion_log": ("envoy.access_loggers.http_grpc",),
    "stdout_log": ("envoy.access_loggers.stdout",),
    "log_expressions": ("envoy.access_loggers.extension_filters.cel",),
    "traces": (
        "envoy.tracers.opentelemetry",
        "envoy.tracers.opentelemetry.samplers.parent_based",
        "envoy.tracers.opentelemetry.samplers.trace_id_ratio_based",
    ),
    "previous_hosts": ("envoy.retry_host_predicates.previous_hosts",),
}

_CONSEQUENCE: dict[str, str] = {
    "override_host": "the picked endpoint is NOT obeyed: Envoy balances by itself",
    "full_duplex": "request bodies are buffered instead of streamed to the picker",
    "full_duplex_fail_open": "pools that fail open get buffered instead of full-duplex bodies",
    "route_failure_mode": "every pool fails closed",
    "status_on_error": "a picker that fails is answered with 500 instead of 503",
    "pool_pickers": "a pool's own picker may set no other headers than ours",
    "request_body_limit": "the body limit applies to whole connections",
    "selected_host": "the endpoint that served is not told to the picker by name",
    "content_length": "full-duplex requests reach the pods chunked, without content-length",
    "json_usage": "no token counts from plain JSON responses",
    "sse_usage": "no token counts from streamed responses",
    "early_header_mutation": "a client's pool header is not stripped, so several pools without "
    "HTTPRoutes need a path prefix, and routes by model are answered with 500: requests find no "
    "pool by their model",
    "completion_log": "the picker is not told how requests end",
    "stdout_log": "no access log on standard output",
    "log_expressions": "clients get an empty body when the picker fails; what went on without its "
    "pick is counted until it expires",
    "traces": "Envoy makes no traces",
    "previous_hosts": "a retry may go to the endpoint that just failed",
}


def features_of(node: Node) -> Features:
    """The features of one node. A client that tells neither version nor extensions has them all."""
    return Features(**{f.name: _has(f.name, node) for f in fields(Features)})


def _has(feature: str, node: Node) -> bool:
    if feature == "full_duplex_fail_open":
        return node.version != (1, 35, 0)
    if node.version is not None and node.version < _SINCE.get(feature, (0, 0, 0)):
        return False
    return not node.extensions or node.extensions.issuperset(_EXTENSIONS.get(feature, ()))


def missing(features: Features) -> tuple[str, ...]:
    """A sentence for each thing that these features lack."""
    return tuple(
        f"this Envoy lacks {f.name.replace('_', ' ')}{_since(f.name)}: {_CONSEQUENCE[f.name]}"
        for f in fields(Features)
        if not getattr(features, f.name)
    )


def _since(feature: str) -> str:
    version = _SINCE.get(feature)
    return f" (there since {version[0]}.{version[1]})" if version else ""
