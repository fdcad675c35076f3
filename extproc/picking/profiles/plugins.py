"""Every step that a profile can have, by name, with its parameters.

Names and parameters are llm-d's where it has the step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from extproc.picking.profiles.reading import KnownFields, number, strict
from extproc.picking.scheduling import affinity, filters, labels, limits, pickers, scorers, session
from extproc.picking.scheduling.load import PREFILL_RATE
from extproc.picking.scheduling.profile import Filter, Picker, Scorer
from extproc.picking.scheduling.profiles import (
    ADAPTER_QUEUE_THRESHOLD,
    KV_USAGE_THRESHOLD,
    QUEUE_THRESHOLD,
    classic_filter_tree,
    shed_when_full,
)
from extproc.picking.scheduling.work import ANSWER_TOKENS, DECODE_TOKENS, MEMORY_TOKENS, STEP_TOKENS
from pools.manifests.fields import (
    boolean,
    choice,
    integer,
    list_of,
    text,
    word,
)
from pools.manifests.fields import (
    labels as label_map,
)
from pools.model import LabelOperator, LabelRequirement, LabelSelector

_MAX = 1 << 31


@dataclass(frozen=True, slots=True)
class Plugin:
    """What one entry of a file stands for, read once. A profile is made of several for each pool,
    so these are ways to make a step."""

    filter: Callable[[], Filter] | None = None
    scorer: Callable[[float], Scorer] | None = None
    """Given its weight."""
    picker: Callable[[], Picker] | None = None
    settings: Mapping[str, float] = field(default_factory=dict)
    """What it says about the prefix index and the counts: names of :class:`LoadSettings`."""
    decider: int | None = None
    """The least uncached tokens for which another endpoint prefills; 0: never."""
    disaggregates: Disaggregation | None = None


@dataclass(frozen=True, slots=True)
class Disaggregation:
    """Prefill and decode by two profiles."""

    decode: str = "decode"
    prefill: str = "prefill"
    decider: str = ""
    """The name of a decider; empty: the only one that there is."""


Build = Callable[[KnownFields], Plugin]


def _scorer(make: Callable[[float], Scorer]) -> Build:
    return lambda parameters: Plugin(scorer=make)


def _filter(make: Callable[[], Filter]) -> Build:
    return lambda parameters: Plugin(filter=make)


def _picker(make: Callable[[], Picker]) -> Build:
    def build(parameters: KnownFields) -> Plugin:
        parameters.without_effect(
            "maxNumOfEndpoints", "the option --endpoints-per-pick says how many"
        )
        return Plugin(picker=make)

    return build


def _no_step(*names: str) -> Build:
    """What llm-d has to name and here is always there."""

    def build(parameters: KnownFields) -> Plugin:
        parameters.known(*names)
        return Plugin()

    return build


_count = integer(0, _MAX)
_positive = integer(1, _MAX)
_share = number(0, 1)
_milliseconds = number(0, 86_400_000)
_rate = number(1, 1e9)
_factor = number(0, 1e6)
_tokens = number(0, 1e9)


def _prefix_affinity(p: KnownFields) -> Plugin:
    threshold = p.optional("affinityThreshold", _share, affinity.PREFIX_THRESHOLD)
    multimodal = p.optional(
        "multimodalAffinityThreshold", _share, min(threshold, affinity.MULTIMODAL_THRESHOLD)
    )
    penalty = p.optional("maxTTFTPenaltyMs", _milliseconds, affinity.MAX_PREFIX_PENALTY * 1000)
    rate = p.optional("peakPrefillThroughput", _rate, PREFILL_RATE)
    exploration = p.optional("explorationProbability", _share, 0.0)
    p.optional("ttftSource", word("prefillThroughput"), "")
    recompute = p.optional("recomputeFactor", _factor, 0.0)
    return Plugin(
        filter=lambda: affinity.prefix_affinity(
            threshold, multimodal, penalty / 1000, rate, exploration, recompute
        ),
        settings={"prefill_rate": rate},
    )


def _adapter_affinity(p: KnownFields) -> Plugin:
    tokens = p.optional("adapterTokens", _tokens, affinity.ADAPTER_TOKENS)
    for name in ("maxPenaltyMs", "maxRequestGap", "peakPrefillThroughput"):
        p.without_effect(name, "adapterTokens takes its place")
    return Plugin(filter=lambda: affinity.adapter_affinity(tokens))


def _filter_tree(p: KnownFields) -> Plugin:
    queue = p.optional("queueThreshold", _count, QUEUE_THRESHOLD)
    kv_usage = p.optional("kvUsageThreshold", _share, KV_USAGE_THRESHOLD)
    adapter_queue = p.optional("adapterQueueThreshold", _count, ADAPTER_QUEUE_THRESHOLD)
    return Plugin(filter=lambda: classic_filter_tree(queue, kv_usage, adapter_queue).filters[0])


def _sheddable_capacity(p: KnownFields) -> Plugin:
    queue = p.optional("queueThreshold", _count, QUEUE_THRESHOLD)
    kv_usage = p.optional("kvUsageThreshold", _share, KV_USAGE_THRESHOLD)
    return Plugin(filter=lambda: shed_when_full(queue, kv_usage))


def _label_selector(p: KnownFields) -> Plugin:
    wanted = p.optional("matchLabels", label_map(), {})
    expressions = p.optional("matchExpressions", list_of(strict(_requirement)), ())
    if not wanted and not expressions:
        p.place.error("needs matchLabels or matchExpressions")
    selector = LabelSelector.of(wanted, expressions)
    return Plugin(filter=lambda: labels.label_selector(selector))


def _requirement(p: KnownFields) -> LabelRequirement:
    operator = p.required("operator", choice(LabelOperator))
    values = p.optional("values", list_of(text("a label value", high=63)), ())
    if operator.needs_values != bool(values):
        p.place.error(f"{operator} {'needs' if operator.needs_values else 'takes no'} values")
    return LabelRequirement(p.required("key", text("a label key", high=317)), operator, values)


def _context_length(p: KnownFields) -> Plugin:
    label = p.optional("label", text("a label key", high=317), labels.CONTEXT_LENGTH_RANGE)
    filters_too = p.optional("enableFiltering", boolean, False)
    return Plugin(
        filter=(lambda: labels.context_length_filter(label)) if filters_too else None,
        scorer=lambda weight: labels.context_length(weight, label),
    )


def _utilization(p: KnownFields) -> Plugin:
    conditions = p.required("conditions", list_of(strict(_condition), 1))
    fallback = p.optional("fallbackOnEmpty", boolean, False)
    return Plugin(filter=lambda: limits.utilization(conditions, fallback))


def _condition(p: KnownFields) -> tuple[limits.Measure, float]:
    return (
        p.required("metric", choice(limits.Measure)),
        p.required("maxValue", number(0, _MAX)),
    )


def _utilization_detector(p: KnownFields) -> Plugin:
    queue = p.optional("queueDepthThreshold", number(0, _MAX), 5.0)
    kv_usage = p.optional("kvCacheUtilThreshold", _share, 0.8)
    headroom = p.optional("headroom", number(0, 100), 0.0)
    p.without_effect("metricsStalenessThreshold", "it follows from the scrape interval")
    return Plugin(filter=lambda: limits.utilization_detector(queue, kv_usage, headroom))


def _concurrency_detector(p: KnownFields) -> Plugin:
    requests = p.optional("maxConcurrency", _positive, 100)
    tokens = p.optional("maxTokenConcurrency", _positive, 1_000_000)
    mode = p.optional("mode", choice(limits.Concurrency), limits.Concurrency.REQUESTS)
    headroom = p.optional("headroom", number(0, 100), 0.0)
    return Plugin(filter=lambda: limits.concurrency_detector(requests, tokens, mode, headroom))


def _session_header(p: KnownFields) -> str:
    p.optional("strategy", word("session_id"), "")
    p.without_effect("evictionTtl", "sessions are hashed to endpoints, so none is remembered")
    name = p.optional("headerName", text("a header's name", high=256), session.SESSION_HEADER)
    return name.lower()


def _session_filter(p: KnownFields) -> Plugin:
    header = _session_header(p)
    return Plugin(filter=lambda: session.session_affinity_filter(header))


def _session_scorer(p: KnownFields) -> Plugin:
    header = _session_header(p)
    return Plugin(scorer=lambda weight: session.session_affinity(weight, header))


def _prefix_scorer(p: KnownFields) -> Plugin:
    length_weight = p.optional("matchLengthWeight", _share, 0.0)
    scale = p.optional("matchLengthScaleTokens", _positive, scorers.MATCH_SCALE_TOKENS)
    p.known("prefixMatchInfoProducerName")
    return Plugin(scorer=lambda weight: scorers.prefix_cache(weight, length_weight, scale))


def _load_aware(p: KnownFields) -> Plugin:
    threshold = p.optional("threshold", _positive, scorers.LOAD_THRESHOLD)
    return Plugin(scorer=lambda weight: scorers.load_aware(weight, threshold))


def _token_load(p: KnownFields) -> Plugin:
    limit = p.optional("queueThresholdTokens", _positive, scorers.TOKEN_LOAD_LIMIT)
    return Plugin(scorer=lambda weight: scorers.token_load(weight, limit))


def _active_requests(p: KnownFields) -> Plugin:
    idle = p.optional("idleThreshold", _count, 0)
    busy = p.optional("maxBusyScore", _share, 1.0)
    return Plugin(scorer=lambda weight: scorers.active_requests(weight, idle, busy))


def _no_hit_lru(p: KnownFields) -> Plugin:
    p.without_effect("lruSize", "every endpoint has a place of its own")
    p.known("prefixMatchInfoProducerName")
    return Plugin(scorer=scorers.no_hit_lru)


def _least_work(p: KnownFields) -> Plugin:
    decode = p.optional("decodeTokens", _tokens, DECODE_TOKENS)
    memory = p.optional("memoryTokens", _tokens, MEMORY_TOKENS)
    return Plugin(scorer=lambda weight: scorers.least_work(weight, decode, memory))


def _cold_prompt_spread(p: KnownFields) -> Plugin:
    slack = p.optional("slack", _factor, affinity.SPREAD_SLACK)
    decode = p.optional("decodeTokens", _tokens, STEP_TOKENS)
    answer = p.optional("answerTokens", _tokens, ANSWER_TOKENS)
    memory = p.optional("memoryTokens", _tokens, MEMORY_TOKENS)
    return Plugin(filter=lambda: affinity.cold_prompt_spread(slack, decode, answer, memory))


def _power_of_two(p: KnownFields) -> Plugin:
    choices = p.optional("choices", integer(2, 64), 2)
    return Plugin(picker=lambda: pickers.power_of_two(choices))


def _prefix_producer(p: KnownFields) -> Plugin:
    settings: dict[str, float] = {}
    p.optional("autoTune", boolean, True)
    if p.get("blockSizeTokens") is not None:
        # As there: a block of less than 64 tokens costs more than it finds.
        settings["block_tokens"] = max(64, p.optional("blockSizeTokens", integer(1, 4096), 64))
    if p.get("lruCapacityPerServer") is not None:
        per_server = p.optional("lruCapacityPerServer", _positive, 1)
        settings["cache_tokens"] = per_server * int(settings.get("block_tokens", 64))
    if p.get("maxEntries") is not None:
        settings["max_entries"] = p.optional("maxEntries", _positive, 1)
    p.known("maxPrefixTokensToMatch", "maxPrefixBlocksToMatch")
    return Plugin(settings=settings)


def _token_producer(p: KnownFields) -> Plugin:
    p.optional("backend", word("estimate"), "")
    p.known("estimate")
    return Plugin()


def _pd_decider(p: KnownFields) -> Plugin:
    tokens = p.optional("nonCachedTokens", _count, 0)
    p.without_effect("promptTokens", "only what is not cached decides")
    return Plugin(decider=tokens)


def _disaggregated(p: KnownFields) -> Plugin:
    name = text("a profile's name", high=253)
    decider = p.optional("deciderPluginName", name, "")
    deciders = p.optional("deciders", strict(_deciders), "")
    p.known("primaryPort", "prefillHeader")
    return Plugin(
        disaggregates=Disaggregation(
            p.optional("decodeProfile", name, "decode"),
            p.optional("prefillProfile", name, "prefill"),
            decider or deciders,
        )
    )


def _deciders(p: KnownFields) -> str:
    p.unsupported("encode", "there is no encode stage; remove it")
    return p.optional("prefill", text("a decider's name", high=253), "")


PLUGINS: Mapping[str, Build] = {
    # Filters.
    "adapter-affinity-filter": _adapter_affinity,
    "cold-prompt-spread-filter": _cold_prompt_spread,
    "concurrency-detector": _concurrency_detector,
    "context-length-aware": _context_length,
    "decode-filter": _filter(labels.decode_role),
    "encode-filter": _filter(labels.encode_role),
    "filter-tree": _filter_tree,
    "label-selector-filter": _label_selector,
    "least-kv-usage-filter": _filter(filters.least_kv_usage),
    "least-queue-filter": _filter(filters.least_queue),
    "sheddable-capacity-filter": _sheddable_capacity,
    "prefill-filter": _filter(labels.prefill_role),
    "prefix-cache-affinity-filter": _prefix_affinity,
    "session-affinity-filter": _session_filter,
    "utilization-detector": _utilization_detector,
    "utilization-filter": _utilization,
    # Scorers.
    "active-request-scorer": _active_requests,
    "error-rate-scorer": _scorer(scorers.error_rate),
    "kv-cache-utilization-scorer": _scorer(scorers.kv_cache),
    "least-work-scorer": _least_work,
    "load-aware-scorer": _load_aware,
    "lora-affinity-scorer": _scorer(scorers.lora_affinity),
    "no-hit-lru-scorer": _no_hit_lru,
    "observed-latency-scorer": _scorer(scorers.observed_latency),
    "prefix-cache-scorer": _prefix_scorer,
    "queue-scorer": _scorer(scorers.queue),
    "running-requests-size-scorer": _scorer(scorers.running),
    "session-affinity-scorer": _session_scorer,
    "token-load-scorer": _token_load,
    # Pickers.
    "max-score-picker": _picker(pickers.max_score),
    "power-of-two-picker": _power_of_two,
    "random-picker": _picker(pickers.uniform),
    "round-robin-picker": _picker(pickers.round_robin),
    "weighted-random-picker": _picker(pickers.weighted_random),
    # How profiles are joined.
    "always-disagg-pd-decider": lambda parameters: Plugin(decider=1),
    "disagg-profile-handler": _disaggregated,
    "pd-profile-handler": _disaggregated,
    "prefix-based-pd-decider": _pd_decider,
    "single-profile-handler": _no_step(),
    # Where the signals come from.
    "approx-prefix-cache-producer": _prefix_producer,
    "inflight-load-producer": _no_step(
        "addEstimatedOutputTokens",
        "outputRatio",
        "maxEstimatedOutputTokens",
        "prefixMatchInfoProducerName",
        "syncCrossReplicaState",
    ),
    "token-producer": _token_producer,
    "core-metrics-extractor": _no_step("defaultEngine", "engineConfigs", "engineLabelKey"),
    "metrics-data-source": _no_step("scheme", "path", "insecureSkipVerify", "port", "interval"),
    "models-data-source": _no_step("scheme", "path", "insecureSkipVerify"),
    "models-data-extractor": _no_step(),
    # Which APIs are understood.
    "anthropic-parser": _no_step(),
    "openai-parser": _no_step(),
    "passthrough-parser": _no_step(),
    "vllmhttp-parser": _no_step(),
}
"""By type, each with the reader of its parameters."""

RENAMED: Mapping[str, str] = {
    "by-label": "label-selector-filter",
    "by-label-selector": "label-selector-filter",
    "prefix-cache": "prefix-cache-scorer",
}

INSTEAD: Mapping[str, str] = {
    "burst-prefix-cache-producer": "prompts are remembered at the pick, so a burst finds them",
    "data-parallel-profile-handler": "remove it: every port of a pod is an endpoint of its own",
    "endpoint-attribute-filter": "use utilization-filter",
    "endpoint-attribute-scorer": "use queue-scorer, running-requests-size-scorer or "
    "kv-cache-utilization-scorer",
    "file-discovery": "remove it: pools and endpoints come from the manifests (--manifests)",
    "header-label-affinity-scorer": "use label-selector-filter, or session-affinity-scorer",
    "header-profile-handler": "choose profiles by pool: one pool for each, told apart by routes",
    "latency-scorer": "use observed-latency-scorer",
    "mm-embeddings-cache-scorer": "use prefix-cache-scorer: images and files count by content",
    "precise-prefix-cache-producer": "use approx-prefix-cache-producer, and the option "
    "--kv-events-port",
    "precise-prefix-cache-scorer": "use prefix-cache-scorer, and the option --kv-events-port",
    "predicted-latency-producer": "use observed-latency-scorer",
    "slo-headroom-tier-filter": "use observed-latency-scorer",
    "topology-affinity-filter": "use label-selector-filter",
    "topology-affinity-scorer": "use label-selector-filter",
}
"""Steps of llm-d that are not here, with what comes nearest."""
