"""Token counts, read from responses by Envoy itself and kept as dynamic metadata.

They end up in the access log. No response byte passes through the picker for it, and no response
fails for it: Envoy has to hold a JSON body to read it, and answers 500 where it is larger than its
buffers (embeddings easily are). So only bodies that are known to be small are looked at; streamed
events are read as they pass.
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.extensions.common.matching.v3 import ExtensionWithMatcher
from envoy_data_plane.envoy.extensions.content_parsers.json import v3 as json_parser
from envoy_data_plane.envoy.extensions.filters.common.matcher.action.v3 import SkipFilter
from envoy_data_plane.envoy.extensions.filters.http.json_to_metadata import v3 as json_usage
from envoy_data_plane.envoy.extensions.filters.http.sse_to_metadata import v3 as sse_usage
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import HttpResponseHeaderMatchInput, RegexMatcher
from envoy_data_plane.xds.core import v3 as cncf
from envoy_data_plane.xds.type.matcher import v3 as matcher

from pools.contract import (
    CACHE_CREATION_TOKENS,
    CACHE_READ_TOKENS,
    CACHED_TOKENS,
    COMPLETION_TOKENS,
    PROMPT_TOKENS,
    USAGE_NAMESPACE,
)
from xds.translate.features import Features
from xds.translate.pack import any_of
from xds.translate.settings import TranslateSettings

_Paths = tuple[tuple[str, tuple[str, ...]], ...]
"""Metadata keys, each with the path to a value in a document. A value that is there overwrites what
an earlier path or event said, one that is missing or null does not."""

# Every path is tried on every document (about 0.2 us), so there is none that no API has.
_EITHER: _Paths = (
    # Anthropic's messages, and vLLM's at the end of a stream as well: all but what was cached.
    (PROMPT_TOKENS, ("usage", "input_tokens")),
    (COMPLETION_TOKENS, ("usage", "output_tokens")),
    (CACHE_READ_TOKENS, ("usage", "cache_read_input_tokens")),
    (CACHE_CREATION_TOKENS, ("usage", "cache_creation_input_tokens")),
    # OpenAI's completions and chat completions.
    (PROMPT_TOKENS, ("usage", "prompt_tokens")),
    (COMPLETION_TOKENS, ("usage", "completion_tokens")),
    (CACHED_TOKENS, ("usage", "prompt_tokens_details", "cached_tokens")),
)
_PLAIN: _Paths = (
    *_EITHER,
    # OpenAI's responses; the other two counts are called as Anthropic's.
    (CACHED_TOKENS, ("usage", "input_tokens_details", "cached_tokens")),
)
_STREAMED: _Paths = (
    # Anthropic's first event (message_start), before the last one (message_delta).
    (PROMPT_TOKENS, ("message", "usage", "input_tokens")),
    (CACHE_READ_TOKENS, ("message", "usage", "cache_read_input_tokens")),
    (CACHE_CREATION_TOKENS, ("message", "usage", "cache_creation_input_tokens")),
    *_EITHER,
    # OpenAI's response.completed, or response.incomplete.
    (PROMPT_TOKENS, ("response", "usage", "input_tokens")),
    (COMPLETION_TOKENS, ("response", "usage", "output_tokens")),
    (CACHED_TOKENS, ("response", "usage", "input_tokens_details", "cached_tokens")),
)


def usage_filters(features: Features, settings: TranslateSettings) -> list[HttpFilter]:
    filters = []
    if settings.token_usage and features.json_usage:
        filters.append(
            HttpFilter(name="envoy.filters.http.match_delegate", typed_config=any_of(_small_json()))
        )
    if settings.token_usage and features.sse_usage:
        filters.append(
            HttpFilter(name="envoy.filters.http.sse_to_metadata", typed_config=any_of(_sse()))
        )
    return filters


_MAX_EVENT = 512 * 1024
"""Bytes of an event; larger ones are not read. OpenAI's response.completed repeats the whole answer
and the tools of its request. Envoy looks through an event again for each piece of it that arrives,
so the time for an event grows with the square of this."""
_LESS_THAN_A_MEGABYTE = "[0-9]{1,6}"


def _small_json() -> ExtensionWithMatcher:
    """Reads JSON bodies, but skips those with more than six digits of content-length, or none."""
    known_to_be_small = matcher.MatcherMatcherListPredicate(
        single_predicate=matcher.MatcherMatcherListPredicateSinglePredicate(
            input=cncf.TypedExtensionConfig(
                name="envoy.matching.inputs.response_headers",
                typed_config=any_of(HttpResponseHeaderMatchInput(header_name="content-length")),
            ),
            value_match=matcher.StringMatcher(
                safe_regex=matcher.RegexMatcher(
                    google_re2=matcher.RegexMatcherGoogleRe2(), regex=_LESS_THAN_A_MEGABYTE
                )
            ),
        )
    )
    skip = matcher.MatcherOnMatch(
        action=cncf.TypedExtensionConfig(name="skip", typed_config=any_of(SkipFilter()))
    )
    unless_small = matcher.MatcherMatcherListFieldMatcher(
        predicate=matcher.MatcherMatcherListPredicate(not_matcher=known_to_be_small), on_match=skip
    )
    return ExtensionWithMatcher(
        extension_config=TypedExtensionConfig(
            name="envoy.filters.http.json_to_metadata", typed_config=any_of(_json())
        ),
        xds_matcher=matcher.Matcher(
            matcher_list=matcher.MatcherMatcherList(matchers=[unless_small])
        ),
    )


def _rules(paths: _Paths) -> list[json_usage.JsonToMetadataRule]:
    return [
        json_usage.JsonToMetadataRule(
            selectors=[json_usage.JsonToMetadataSelector(key=key) for key in path],
            on_present=json_usage.JsonToMetadataKeyValuePair(
                metadata_namespace=USAGE_NAMESPACE,
                key=name,
                type=json_usage.JsonToMetadataValueType.NUMBER,
            ),
        )
        for name, path in paths
    ]


def _json() -> json_usage.JsonToMetadata:
    return json_usage.JsonToMetadata(
        response_rules=json_usage.JsonToMetadataMatchRules(
            rules=_rules(_PLAIN),
            # The default matches "application/json" alone, not with a charset behind it.
            allow_content_types_regex=RegexMatcher(regex=r"application/json(\s*;.*)?"),
        )
    )


def _sse() -> sse_usage.SseToMetadata:
    rules = [json_parser.JsonContentParserRuleConfig(rule=rule) for rule in _rules(_STREAMED)]
    return sse_usage.SseToMetadata(
        response_rules=sse_usage.SseToMetadataProcessingRules(
            max_event_size=_MAX_EVENT,
            content_parser=TypedExtensionConfig(
                name="envoy.content_parsers.json",
                typed_config=any_of(json_parser.JsonContentParser(rules=rules)),
            ),
        )
    )
