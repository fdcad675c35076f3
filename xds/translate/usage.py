"""Token counts, read from responses by Envoy itself and kept as dynamic metadata.

They end up in the access log. No response byte passes through the picker for it.
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.extensions.content_parsers.json import v3 as json_parser
from envoy_data_plane.envoy.extensions.filters.http.json_to_metadata import v3 as json_usage
from envoy_data_plane.envoy.extensions.filters.http.sse_to_metadata import v3 as sse_usage
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher

from xds.translate.features import Features
from xds.translate.names import USAGE_NAMESPACE
from xds.translate.pack import any_of
from xds.translate.settings import TranslateSettings

_PATHS = {
    "prompt_tokens": ("usage", "prompt_tokens"),
    "completion_tokens": ("usage", "completion_tokens"),
    "cached_tokens": ("usage", "prompt_tokens_details", "cached_tokens"),
}


def usage_filters(features: Features, settings: TranslateSettings) -> list[HttpFilter]:
    filters = []
    if settings.token_usage and features.json_usage:
        filters.append(
            HttpFilter(name="envoy.filters.http.json_to_metadata", typed_config=any_of(_json()))
        )
    if settings.token_usage and features.sse_usage:
        filters.append(
            HttpFilter(name="envoy.filters.http.sse_to_metadata", typed_config=any_of(_sse()))
        )
    return filters


def _rules() -> list[json_usage.JsonToMetadataRule]:
    return [
        json_usage.JsonToMetadataRule(
            selectors=[json_usage.JsonToMetadataSelector(key=key) for key in path],
            on_present=json_usage.JsonToMetadataKeyValuePair(
                metadata_namespace=USAGE_NAMESPACE,
                key=name,
                type=json_usage.JsonToMetadataValueType.NUMBER,
            ),
        )
        for name, path in _PATHS.items()
    ]


def _json() -> json_usage.JsonToMetadata:
    return json_usage.JsonToMetadata(
        response_rules=json_usage.JsonToMetadataMatchRules(
            rules=_rules(),
            # The default matches "application/json" alone, not with a charset behind it.
            allow_content_types_regex=RegexMatcher(regex=r"application/json(\s*;.*)?"),
        )
    )


def _sse() -> sse_usage.SseToMetadata:
    rules = [json_parser.JsonContentParserRuleConfig(rule=rule) for rule in _rules()]
    return sse_usage.SseToMetadata(
        response_rules=sse_usage.SseToMetadataProcessingRules(
            max_event_size=65536,
            content_parser=TypedExtensionConfig(
                name="envoy.content_parsers.json",
                typed_config=any_of(json_parser.JsonContentParser(rules=rules)),
            ),
        )
    )
