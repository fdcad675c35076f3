"""What Envoy says about each request: to people, to the picker, and to the client on an error."""

from __future__ import annotations

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.extensions.access_loggers.grpc import v3 as grpc_log
from envoy_data_plane.envoy.extensions.access_loggers.stream.v3 import StdoutAccessLog
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.type.matcher import v3 as matcher
from envoy_data_plane.google.protobuf import Struct

from pools.contract import (
    DESTINATION,
    LB_NAMESPACE,
    OWN_NAMESPACE,
    PICK_KEY,
    REQUEST_ID,
    USAGE_NAMESPACE,
)
from xds.translate.extproc import log_clusters
from xds.translate.features import Features
from xds.translate.names import ACCESS_LOG, POOL_CLUSTERS
from xds.translate.pack import any_of, seconds
from xds.translate.settings import TranslateSettings

_LINE: dict[str, str] = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "host": "%REQ(:AUTHORITY)%",
    "code": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "route": "%ROUTE_NAME%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "picked": f"%DYNAMIC_METADATA({LB_NAMESPACE}:{DESTINATION})%",
    "served": "%UPSTREAM_HOST%",
    "pod": "%UPSTREAM_HOST_NAME%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "pick": f"%DYNAMIC_METADATA({OWN_NAMESPACE}:{PICK_KEY})%",
    "duration_ms": "%DURATION%",
    "first_byte_ms": "%RESPONSE_DURATION%",
    "request_bytes": "%BYTES_RECEIVED%",
    "response_bytes": "%BYTES_SENT%",
    "usage": f"%DYNAMIC_METADATA({USAGE_NAMESPACE})%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
}


def access_logs(features: Features, settings: TranslateSettings) -> list[accesslog.AccessLog]:
    logs = []
    if settings.access_log and features.stdout_log:
        logs.append(
            accesslog.AccessLog(
                name="envoy.access_loggers.stdout",
                typed_config=any_of(
                    StdoutAccessLog(
                        log_format=core.SubstitutionFormatString(
                            json_format=Struct.from_dict(_LINE)
                        )
                    )
                ),
            )
        )
    if settings.completion_log and features.completion_log:
        logs += [
            accesslog.AccessLog(
                name="envoy.access_loggers.http_grpc",
                filter=_may_have_been_picked_for(features),
                typed_config=any_of(_completions(settings, picker)),
            )
            for picker in log_clusters(settings.ext_proc)
        ]
    return logs


def _may_have_been_picked_for(features: Features) -> accesslog.AccessLogFilter:
    """Requests that the picker sent somewhere, and all others that it may have been asked about:
    what Envoy gave up, or sent on without waiting, may get a pick that Envoy never sees. The picker
    counts on an entry for each, those that it refused itself included."""
    filters = [
        _was_picked(),
        accesslog.AccessLogFilter(response_flag_filter=accesslog.ResponseFlagFilter()),
    ]
    if features.log_expressions:
        # No cluster yet: the picker was to find the pool by the model.
        to_a_pool = f"xds.cluster_name.startsWith('{POOL_CLUSTERS}')"
        filters.append(_expression(f"!has(xds.cluster_name) || {to_a_pool}"))
    return accesslog.AccessLogFilter(or_filter=accesslog.OrFilter(filters=filters))


def _expression(text: str) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(
        extension_filter=accesslog.ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel",
            typed_config=any_of(ExpressionFilter(expression=text)),
        )
    )


def _was_picked() -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(
        metadata_filter=accesslog.MetadataFilter(
            matcher=matcher.MetadataMatcher(
                filter=OWN_NAMESPACE,
                path=[matcher.MetadataMatcherPathSegment(key=PICK_KEY)],
                value=matcher.ValueMatcher(present_match=True),
            ),
            match_if_key_not_found=False,
        )
    )


def _completions(settings: TranslateSettings, picker: str) -> grpc_log.HttpGrpcAccessLogConfig:
    """How each picked request ended; entries carry all dynamic metadata by themselves."""
    return grpc_log.HttpGrpcAccessLogConfig(
        common_config=grpc_log.CommonGrpcAccessLogConfig(
            log_name=ACCESS_LOG,
            transport_api_version=core.ApiVersion.V3,
            grpc_service=core.GrpcService(
                envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=picker)
            ),
            buffer_flush_interval=seconds(settings.completion_interval),
            buffer_size_bytes=16384,
        ),
        additional_request_headers_to_log=[REQUEST_ID, DESTINATION],
    )


_ERRORS = {
    "UH": ("no_endpoint", "No endpoint of this pool is there. Is any pod ready?"),
    "UF": ("connection_failed", "The chosen pods did not accept the connection."),
    "UC": ("connection_lost", "The pod closed the connection before it answered."),
    "UR": ("reset_by_pod", "The pod reset the request."),
    "URX": ("retries_exhausted", "No pod answered, even after retries."),
    "UT": ("timeout", "The request took longer than its route allows."),
    "UO": ("overloaded", "Too many requests are waiting for this pool."),
    "NC": ("no_cluster", "The route leads to a pool that Envoy does not know yet."),
    "SI": ("idle_timeout", "Nothing was sent for longer than the idle time-out."),
}
"""By response flag of Envoy: code and message."""


def error_bodies(features: Features) -> hcm.LocalReplyConfig:
    """Envoy's own errors in the form that OpenAI clients understand. What the picker and routes
    answer has that form already, and none of these flags."""
    mappers = [
        _mapper(
            accesslog.AccessLogFilter(
                response_flag_filter=accesslog.ResponseFlagFilter(flags=[flag])
            ),
            code,
            message,
        )
        for flag, (code, message) in _ERRORS.items()
    ]
    if features.log_expressions:
        mappers.append(
            _mapper(
                _expression("response.code_details.startsWith('ext_proc_error')"),
                "picker_failed",
                "The endpoint picker did not answer, and this pool fails closed.",
            )
        )
    return hcm.LocalReplyConfig(mappers=mappers)


def _mapper(when: accesslog.AccessLogFilter, code: str, message: str) -> hcm.ResponseMapper:
    error = {"message": message, "type": "server_error", "param": None, "code": code}
    return hcm.ResponseMapper(
        filter=when,
        body_format_override=core.SubstitutionFormatString(
            json_format=Struct.from_dict({"error": error}), content_type="application/json"
        ),
    )
