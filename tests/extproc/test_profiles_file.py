"""Profiles from a file: our form, llm-d's form, mistakes, and edits while it is in use."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog.testing

from extproc.config.profiles_file import ProfilesError, ProfilesFile
from extproc.picking.profiles import ProfileSet, builtin, read_profiles
from extproc.picking.profiles.document import errors_of
from extproc.picking.profiles.plugins import INSTEAD, PLUGINS, RENAMED
from extproc.picking.scheduling import PROFILES, Candidate, SchedulingRequest, Signals, Verdict
from extproc.picking.scheduling.profile import Profile
from pools.model import Endpoint, InferencePool, ObjectName

OWN = "apiVersion: poolpilot.dev/v1alpha1\nkind: SchedulingProfiles\n"
LLM_D = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"


def pool(name: str) -> InferencePool:
    return InferencePool(ObjectName("default", name), (8000,))


def good(text: str) -> ProfileSet:
    profiles, problems = read_profiles(text, "profiles.yaml")
    assert profiles is not None, [str(problem) for problem in problems]
    return profiles


def profile(text: str, name: str = "x") -> Profile:
    return good(text).for_pool(pool(name))


def mistakes(text: str) -> list[str]:
    profiles, problems = read_profiles(text, "profiles.yaml")
    assert profiles is None
    return [str(problem) for problem in errors_of(problems)]


def steps(one: Profile) -> tuple[list[str], list[tuple[str, float]], str]:
    return (
        [f.name for f in one.filters],
        [(s.name, s.weight) for s in one.scorers],
        one.picker.name,
    )


# Our own form.


def test_a_profile_is_filters_scorers_and_a_picker_chosen_by_pool() -> None:
    profiles = good(
        OWN
        + """
default: chat
pools:
  default/batch: cheap
  embeddings: round-robin
prefixCache: {blockSizeTokens: 128, maxEntries: 5000, lruCapacityPerServer: 100}
peakPrefillThroughput: 20480
profiles:
  chat:
    filters:
      - prefix-cache-affinity-filter: {affinityThreshold: 0.7, maxTTFTPenaltyMs: 5000}
      - adapter-affinity-filter
    scorers:
      - queue-scorer: {weight: 2}
      - prefix-cache-scorer: {weight: 3, matchLengthWeight: 0.5}
      - error-rate-scorer
    picker: weighted-random-picker
  cheap:
    scorers: [active-request-scorer]
    picker: {power-of-two-picker: {choices: 3}}
"""
    )
    chat = profiles.for_pool(pool("anything"))
    assert chat.name == "chat"
    assert steps(chat) == (
        ["prefix-cache-affinity-filter", "adapter-affinity-filter"],
        [("queue-scorer", 2.0), ("prefix-cache-scorer", 3.0), ("error-rate-scorer", 1.0)],
        "weighted-random",
    )
    assert steps(profiles.for_pool(pool("batch")))[2] == "power-of-two"
    assert profiles.for_pool(pool("embeddings")).name == "round-robin"
    load = profiles.load
    assert (load.block_tokens, load.max_entries, load.cache_tokens) == (128, 5000, 12_800)
    assert load.prefill_rate == 20_480


WRITTEN_OUT = """
default: mine
profiles:
  mine:
    filters:
      - sheddable-capacity-filter
      - adapter-affinity-filter
      - prefix-cache-affinity-filter:
          {affinityThreshold: 0.3, multimodalAffinityThreshold: 0.3, recomputeFactor: 3}
      - cold-prompt-spread-filter:
          {slack: 0.5, decodeTokens: 16, answerTokens: 1024, memoryTokens: 2400}
    scorers:
      - least-work-scorer: {decodeTokens: 64, memoryTokens: 2400}
"""


def test_the_default_profile_can_be_written_out() -> None:
    assert steps(profile(OWN + WRITTEN_OUT)) == steps(profile(OWN))


def test_the_parameters_of_work_are_taken_from_the_file() -> None:
    busy, full = (
        Candidate(Endpoint("10.0.0.1", 8000, "")),
        Candidate(Endpoint("10.0.0.2", 8000, "")),
    )
    busy.in_flight, full.memory_queue = 1, 1.0
    asked = SchedulingRequest("m", 0, random.Random(1), prompt_tokens=10)
    for decode, memory, chosen in ((1, 20, busy), (20, 1, full)):
        own = profile(
            OWN
            + "default: mine\nprofiles:\n  mine:\n    filters:\n      - cold-prompt-spread-filter: "
            f"{{slack: 0.5, decodeTokens: {decode}, memoryTokens: {memory}}}\n"
        )
        assert own.filters[0].apply(asked, [busy, full]) == [chosen]
        own = profile(
            OWN + "default: mine\nprofiles:\n  mine:\n    scorers:\n      - least-work-scorer: "
            f"{{decodeTokens: {decode}, memoryTokens: {memory}}}\n"
        )
        assert own.decide(asked, [busy, full], 1).endpoints == (chosen,)


def test_without_more_than_its_head_everything_is_as_shipped() -> None:
    assert profile(OWN).name == "default"
    assert profile(OWN + "default: weighted\n").name == "weighted"


def test_each_pool_gets_a_profile_of_its_own_state() -> None:
    profiles = good(OWN + "default: round-robin")
    one, other = profiles.for_pool(pool("a")), profiles.for_pool(pool("b"))
    assert one.picker.apply is not other.picker.apply


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "defualt: chat",
            "profiles.yaml:3: defualt: is not a known field (did",
        ),
        ("default: chatt\nprofiles: {chat: {}}", "no profile 'chatt' (did you mean 'chat'?)"),
        (
            "pools:\n  a/b/c: default",
            "profiles.yaml:4: pools.a/b/c: 'a/b/c' is",
        ),
        ("pools: {a: nothing-like-it}", "there is no profile 'nothing-like-it'; there are default"),
        (
            "profiles:\n  chat:\n    scorers:\n      - queue-scorrer",
            "profiles.yaml:6: profiles.chat.scorers[0]: there is no plugin "
            "'queue-scorrer' (did you mean 'queue-scorer'?)",
        ),
        (
            "profiles:\n  chat:\n    filters:\n      - prefix-cache-affinity-filter:\n"
            "          affinityTreshold: 0.5",
            "profiles.yaml:7: profiles.chat.filters[0]"
            ".prefix-cache-affinity-filter.affinityTreshold: is not a known field (did you mean "
            "'affinityThreshold'?)",
        ),
        (
            "profiles: {chat: {filters: [{prefix-cache-affinity-filter: {affinityThreshold: 2}}]}}",
            "affinityThreshold: must be a number from 0 to 1, not 2",
        ),
        ("profiles: {chat: {scorers: [{queue-scorer: {weight: x}}]}}", "weight: must be a number"),
        ("profiles: {chat: {scorers: [max-score-picker]}}", "'max-score-picker' is not a scorer"),
        ("profiles: {chat: {picker: queue-scorer}}", "'queue-scorer' is not a picker"),
        ("profiles: {chat: {scorers: [3]}}", "must be the name of a scorer, or a mapping"),
        ("profiles: {chat: {scorers: [{queue-scorer: 3}]}}", "must be a mapping of parameters"),
        ("profiles: {pd: {prefill: {profile: nobody}}}", "there is no profile 'nobody'"),
        ("profiles: {pd: {prefill: {}}}", "prefill.profile: is required"),
        ("profiles: {chat: {filters: [latency-scorer]}}", "use observed-latency-scorer"),
        ("profiles: [a]", "profiles: must be a mapping, not a list"),
        ("default: [", "is not valid YAML"),
        ("---\nkind: x", "has 2 documents; it must have one"),
        (
            "profiles: {chat: {filters: [{utilization-filter: {}}]}}",
            "utilization-filter.conditions: is required",
        ),
        (
            "profiles: {chat: {filters: [{label-selector-filter: {}}]}}",
            "needs matchLabels or matchExpressions",
        ),
        (
            "profiles: {c: {filters: [{label-selector-filter: {matchExpressions: "
            "[{key: a, operator: In}]}}]}}",
            "In needs values",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_was_meant(text: str, said: str) -> None:
    found = mistakes(OWN + text)
    assert any(said in one for one in found), found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty; it must have one"),
        ("kind: Pod", "must be apiVersion poolpilot.dev/v1alpha1 and kind SchedulingProfiles"),
        ("- a", "must be apiVersion"),
        (
            "kind: EndpointPickerConfig\napiVersion: llm-d.ai/v9",
            "apiVersion must be llm-d.ai/v1alpha1 or",
        ),
    ],
)
def test_a_file_that_is_something_else_says_so(text: str, said: str) -> None:
    [found] = mistakes(text)
    assert said in found


# llm-d's form.


@pytest.mark.parametrize("version", ["llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1"])
def test_the_shipped_configuration_of_llm_d_is_taken_as_it_is(version: str) -> None:
    one = profile(
        f"""
apiVersion: {version}
kind: EndpointPickerConfig
plugins:
  - type: queue-scorer
  - type: kv-cache-utilization-scorer
  - type: prefix-cache-scorer
  - {{name: producer, type: approx-prefix-cache-producer, parameters: {{blockSizeTokens: 16}}}}
  - type: single-profile-handler
  - type: max-score-picker
schedulingProfiles:
  - name: default
    plugins:
      - {{pluginRef: queue-scorer, weight: 2}}
      - {{pluginRef: kv-cache-utilization-scorer, weight: 2}}
      - {{pluginRef: prefix-cache-scorer, weight: 3}}
      - pluginRef: max-score-picker
"""
    )
    assert steps(one) == (
        [],
        [
            ("queue-scorer", 2.0),
            ("kv-cache-utilization-scorer", 2.0),
            ("prefix-cache-scorer", 3.0),
        ],
        "max-score",
    )


def test_without_profiles_all_plugins_make_one() -> None:
    one = profile(LLM_D + "plugins: [{type: by-label, parameters: {matchLabels: {a: b}}}]")
    assert steps(one) == (["label-selector-filter"], [], "max-score")


def test_what_is_configured_elsewhere_is_told_and_does_not_stop_it() -> None:
    text = LLM_D + (
        "featureGates: [flowControl]\nsaturationDetector: {queueDepthThreshold: 5}\n"
        "plugins:\n  - type: max-score-picker\n    parameters: {maxNumOfEndpoints: 2}\n"
    )
    profiles, problems = read_profiles(text, "f.yaml")
    assert profiles is not None
    told = [problem.field for problem in problems]
    assert told == [
        "featureGates",
        "saturationDetector",
        "plugins[0].parameters.maxNumOfEndpoints",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plugins: [{type: topology-affinity-scorer}]", "is not supported: use label-selector"),
        ("plugins: [{type: file-discovery}]", "pools and endpoints come from the manifests"),
        ("plugins: [{name: q}]", "plugins[0].type: is required"),
        (
            "plugins: [{name: q, type: queue-scorer}, {name: q, type: queue-scorer}]",
            "the name 'q' is given to two plugins",
        ),
        (
            "schedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer}]}]",
            "there is no plugin named 'queue-scorer': list it in plugins",
        ),
        (
            "plugins: [{type: queue-scorer}]\nschedulingProfiles:\n"
            "- {name: a, plugins: [{pluginRef: queue-scorer}]}\n- {name: b, plugins: []}",
            "there are 2 profiles and nothing that chooses between them",
        ),
        (
            "plugins: [{type: disagg-profile-handler}]\n"
            "schedulingProfiles: [{name: decode, plugins: []}]",
            "there is no profile 'prefill'",
        ),
        ("pluggins: []", "is not a known field (did you mean 'plugins'?)"),
        (
            "plugins: [{type: prefix-cache-affinity-filter, "
            "parameters: {ttftSource: latencyPredictor}}]",
            "ttftSource: must be 'prefillThroughput', not 'latencyPredictor'",
        ),
    ],
)
def test_a_mistake_in_their_form_is_named_too(text: str, said: str) -> None:
    found = mistakes(LLM_D + text)
    assert any(said in one for one in found), found


@pytest.mark.parametrize("kind", sorted([*PLUGINS, *RENAMED]))
def test_every_plugin_can_be_had_with_what_it_needs_and_nothing_else(kind: str) -> None:
    needed = {
        "label-selector-filter": "{matchLabels: {a: b}}",
        "utilization-filter": "{conditions: [{metric: waiting-queue, maxValue: 3}]}",
    }.get(RENAMED.get(kind, kind), "{}")
    text = f"plugins: [{{type: {kind}, parameters: {needed}}}]"
    if "profile-handler" in kind and kind != "single-profile-handler":
        text += "\nschedulingProfiles: [{name: decode, plugins: []}, {name: prefill, plugins: []}]"
    one = profile(LLM_D + text)
    pods = [Candidate(Endpoint(f"10.0.0.{n}", 8000, f"pod-{n}", {"a": "b"})) for n in range(3)]
    for pod in pods:
        pod.scrape_started()
        pod.observe(Signals(1, 1, 0.5), 0.0, 1.0)
    decision = one.decide(SchedulingRequest("m", 0, random.Random(1)), pods, 2)
    # Without a role, nobody prefills or encodes.
    nobody = kind in ("prefill-filter", "encode-filter")
    assert decision.verdict is (Verdict.NONE_ELIGIBLE if nobody else Verdict.PICKED)


def test_nothing_is_both_there_and_missing() -> None:
    assert not set(INSTEAD) & (set(PLUGINS) | set(RENAMED))
    assert set(RENAMED.values()) <= set(PLUGINS)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_built_in_profile_can_be_named(name: str) -> None:
    assert builtin(name).for_pool(pool("x")).name == name


# Prefill and decode apart.


PD = """
plugins:
  - type: prefill-filter
  - type: decode-filter
  - type: active-request-scorer
  - type: prefix-based-pd-decider
    parameters: {nonCachedTokens: 500}
  - type: disagg-profile-handler
    parameters: {deciders: {prefill: prefix-based-pd-decider}}
schedulingProfiles:
  - name: prefill
    plugins: [{pluginRef: prefill-filter}, {pluginRef: active-request-scorer}]
  - name: decode
    plugins: [{pluginRef: decode-filter}, {pluginRef: active-request-scorer}]
"""


def test_a_long_prompt_is_prefilled_elsewhere_and_a_short_one_where_it_is_decoded() -> None:
    one = profile(LLM_D + PD)
    pods = [
        Candidate(Endpoint(f"10.0.0.{n}", 8000, role, {"llm-d.ai/role": role}))
        for n, role in enumerate(["prefill", "decode", "decode"])
    ]
    asked = SchedulingRequest("m", 0, random.Random(1), prompt_tokens=1000)
    decision = one.decide(asked, pods, 2)
    assert decision.endpoints[0] in pods[1:]
    assert decision.prefill is pods[0]
    assert decision.headers == (("x-prefiller-host-port", "10.0.0.0:8000"),)
    assert ("prefill: prefill-filter", [pods[0]]) in decision.trace
    short = one.decide(SchedulingRequest("m", 0, random.Random(1), prompt_tokens=100), pods, 2)
    assert (short.prefill, short.headers) == (None, ())
    alone = one.decide(SchedulingRequest("m", 0, random.Random(1), prompt_tokens=1000), pods[1:], 2)
    assert (alone.verdict, alone.prefill) == (Verdict.PICKED, None)


def test_our_form_has_prefill_and_decode_too() -> None:
    one = profile(
        OWN
        + """
default: pd
profiles:
  pd: {filters: [decode-filter], prefill: {profile: first, minUncachedTokens: 7}}
  first: {filters: [prefill-filter]}
"""
    )
    assert one.prefill is not None
    assert (one.prefill.profile.name, one.prefill.min_uncached_tokens) == ("first", 7)


# The file.


class Edits:
    """A file, and the signals that it changed, sent by hand."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.changed = asyncio.Event()
        path.write_text(text)
        self.file = ProfilesFile(path, watch=self.watch, poll=60)

    async def watch(self, path: Path) -> AsyncIterator[object]:
        while True:
            await self.changed.wait()
            self.changed.clear()
            yield path

    async def seen(self, problem: str) -> None:
        """Wait until the file's problems have this in them."""
        async with asyncio.timeout(10):
            while problem not in str(self.file.problems):  # noqa: ASYNC110  # nothing tells it
                await asyncio.sleep(0)

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self.changed.set()


async def test_an_edit_takes_effect_and_a_mistake_keeps_what_was_there(tmp_path: Path) -> None:
    edits = Edits(tmp_path / "profiles.yaml", OWN)
    changes = edits.file.changes()
    coming = asyncio.ensure_future(anext(changes))
    edits.write(OWN + "default: nobody")
    await edits.seen("nobody")
    assert edits.file.current.default == "default"
    assert not coming.done()
    edits.path.unlink()
    edits.changed.set()
    await edits.seen("cannot be read")
    edits.write(OWN + "default: random")
    assert (await asyncio.wait_for(coming, 10)).default == "random"
    assert edits.file.current.default == "random"
    assert edits.file.problems == ()
    await changes.aclose()


@pytest.mark.looptime
async def test_without_signals_an_edit_is_found_all_the_same_and_that_is_said_once(
    tmp_path: Path,
) -> None:
    tries = 0

    async def no_watches_left(path: Path) -> AsyncIterator[object]:
        nonlocal tries
        tries += 1
        if tries == 5:
            edit()
        raise OSError("no inotify watches left")
        yield None

    path = tmp_path / "profiles.yaml"

    def edit() -> None:
        path.write_text(OWN + "default: random")

    path.write_text(OWN)
    changes = ProfilesFile(path, watch=no_watches_left).changes()
    with structlog.testing.capture_logs() as logs:
        assert (await anext(changes)).default == "random"
    await changes.aclose()
    assert [line["error"] for line in logs] == ["no inotify watches left"]


def test_a_server_does_not_start_with_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ProfilesError, match="cannot be read: No such file"):
        ProfilesFile(tmp_path / "nothing.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text(OWN + "default: x\nother: y")
    with pytest.raises(ProfilesError, match=r"(?s)broken.yaml:3: .*broken.yaml:4: "):
        ProfilesFile(broken)
