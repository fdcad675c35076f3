"""A profiles file, in our own form or as llm-d's EndpointPickerConfig."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from extproc.picking.profiles.admission import read_admission
from extproc.picking.profiles.plugins import INSTEAD, PLUGINS, RENAMED, Disaggregation, Plugin
from extproc.picking.profiles.profile_set import ProfileSet
from extproc.picking.profiles.reading import KnownFields, mapping_of, number, strict
from extproc.picking.scheduling import pickers
from extproc.picking.scheduling.load import LoadSettings
from extproc.picking.scheduling.profile import Filter, Picker, PrefillStage, Profile, Scorer
from extproc.picking.scheduling.profiles import PROFILES
from pools.manifests.fields import Place, Report, did_you_mean, integer, list_of, text
from pools.manifests.node import Node
from pools.manifests.text import json_documents, yaml_documents
from pools.model import ObjectName, Origin, Problem, Severity

OWN = ("poolpilot.dev/v1alpha1", "SchedulingProfiles")
LLM_D_KIND = "EndpointPickerConfig"
LLM_D_VERSIONS = ("llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1")

_name = text("a name", high=253)
_weight = number(0, 1e6)


def read_profiles(content: str, source: str) -> tuple[ProfileSet | None, tuple[Problem, ...]]:
    """The profiles, or None where there are errors; and all problems. ``source`` is the file's
    path: it says where a problem is, and ``.json`` which format."""
    documents = (json_documents if source.endswith(".json") else yaml_documents)(content)
    if len(documents) != 1:
        what = "is empty" if not documents else f"has {len(documents)} documents"
        return None, (Problem(Severity.ERROR, f"{what}; it must have one", source=source),)
    [document] = documents
    if document.error is not None:
        line = document.error.line or document.line
        return None, (Problem(Severity.ERROR, document.error.message, source=source, line=line),)
    node = document.node
    assert node is not None
    kind, version = _text_of(node, "kind"), _text_of(node, "apiVersion")
    report = Report(Origin(kind or "profiles", ObjectName("", ""), source, node.line))
    place = Place(node, report)
    read: ProfileSet | None = None
    if (version, kind) == OWN:
        read = strict(_own_form)(place)
    elif kind == LLM_D_KIND and version in LLM_D_VERSIONS:
        read = strict(_endpoint_picker_config)(place)
    elif kind == LLM_D_KIND:
        place.error(f"apiVersion must be {' or '.join(LLM_D_VERSIONS)}, not {version!r}")
    else:
        place.error(
            f"must be apiVersion {OWN[0]} and kind {OWN[1]}, or llm-d's {LLM_D_VERSIONS[0]} and "
            f"{LLM_D_KIND}"
        )
    problems = tuple(
        dataclasses.replace(problem, origin=None, source=source)
        for problem in sorted(report.problems, key=lambda problem: problem.line or 0)
    )
    return (None if report.failed else read), problems


def _text_of(node: Node, key: str) -> str:
    found = node.value.get(key) if isinstance(node.value, dict) else None
    return found.value if found is not None and isinstance(found.value, str) else ""


@dataclass(slots=True)
class _Steps:
    """The steps of one profile, as they are found."""

    filters: list[Callable[[], Filter]] = field(default_factory=list)
    scorers: list[tuple[float, Callable[[float], Scorer]]] = field(default_factory=list)
    picker: Callable[[], Picker] = pickers.max_score

    def add(self, plugin: Plugin, weight: float) -> None:
        if plugin.filter is not None:
            self.filters.append(plugin.filter)
        if plugin.scorer is not None:
            self.scorers.append((weight, plugin.scorer))
        if plugin.picker is not None:
            self.picker = plugin.picker

    def profile(self, name: str) -> Callable[[], Profile]:
        return lambda: Profile(
            name,
            tuple(make() for make in self.filters),
            self.picker(),
            tuple(make(weight) for weight, make in self.scorers),
        )


def _with_prefill(
    decode: Callable[[], Profile], prefill: Callable[[], Profile], tokens: int
) -> Callable[[], Profile]:
    return lambda: dataclasses.replace(decode(), prefill=PrefillStage(prefill(), tokens))


def _build(place: Place, kind: str, parameters: Place | None) -> Plugin:
    """A plugin by its type. What is wrong is reported at ``place`` (the type) or in the
    parameters."""
    kind = RENAMED.get(kind, kind)
    build = PLUGINS.get(kind)
    if build is None:
        if (instead := INSTEAD.get(kind)) is not None:
            place.error(f"{kind!r} is not supported: {instead}")
        else:
            hint = did_you_mean(kind, (*PLUGINS, *RENAMED))
            place.error(f"there is no plugin {kind!r}{hint}")
        return Plugin()
    if parameters is None:
        parameters = Place(Node({}, place.line), place.report, place, "parameters")
    return strict(build)(parameters)


# Our own form.


@dataclass(frozen=True, slots=True)
class _Own:
    steps: _Steps
    settings: Mapping[str, float]
    prefill: tuple[str, int] | None
    prefill_at: Place | None


def _own_form(root: KnownFields) -> ProfileSet:
    root.known("apiVersion", "kind", "metadata")
    read = root.optional("profiles", mapping_of(strict(_own_profile)), {})
    profiles: dict[str, Callable[[], Profile]] = dict(PROFILES)
    for name, one in read.items():
        profiles[name] = one.steps.profile(name)
    for name, one in read.items():
        if one.prefill is not None and one.prefill_at is not None:
            by, tokens = one.prefill
            if _exists(one.prefill_at, by, profiles):
                profiles[name] = _with_prefill(one.steps.profile(name), profiles[by], tokens)
    default_at = root.get("default")
    default = _name(default_at) if default_at is not None else "default"
    if default_at is not None:
        _exists(default_at, default, profiles)
    pools: dict[ObjectName, str] = {}
    pools_at = root.get("pools")
    if pools_at is not None:
        for pool, profile in mapping_of(_name)(pools_at).items():
            place = pools_at.child(_child(pools_at, pool), pool)
            try:
                pools[ObjectName.parse(pool)] = profile
            except ValueError as error:
                place.error(str(error))
            _exists(place, profile, profiles)
    settings = _settings(one.settings for one in read.values())
    shared = root.optional("prefixCache", strict(PLUGINS["approx-prefix-cache-producer"]), None)
    if shared is not None:
        settings.update(shared.settings)
    rate = root.optional("peakPrefillThroughput", number(1, 1e9), None)
    if rate is not None:
        settings["prefill_rate"] = rate
    admission = root.optional("admission", strict(read_admission), None)
    return ProfileSet(profiles, default, pools, _load_settings(settings), admission)


def _child(place: Place, name: str) -> Node:
    value = place.node.value
    return value[name] if isinstance(value, dict) else place.node


def _exists(place: Place, name: str, profiles: Iterable[str]) -> bool:
    known = list(profiles)
    if name in known:
        return True
    hint = did_you_mean(name, known) or f"; there are {', '.join(sorted(known))}"
    place.error(f"there is no profile {name!r}{hint}")
    return False


def _own_profile(fields: KnownFields) -> _Own:
    steps = _Steps()
    settings: list[Mapping[str, float]] = []
    for key in ("filters", "scorers"):
        for plugin, weight in fields.optional(key, list_of(_own_step(key)), ()):
            steps.add(plugin, weight)
            settings.append(plugin.settings)
    picker = fields.optional("picker", _own_step("picker"), None)
    if picker is not None:
        steps.add(picker[0], 1.0)
    prefill_at = fields.get("prefill")
    prefill = fields.optional("prefill", strict(_own_prefill), None)
    return _Own(steps, _settings(settings), prefill, prefill_at)


def _own_prefill(fields: KnownFields) -> tuple[str, int]:
    return (
        fields.required("profile", _name),
        fields.optional("minUncachedTokens", integer(1, 1 << 31), 1),
    )


_PARTS = {"filters": "filter", "scorers": "scorer", "picker": "picker"}


def _own_step(key: str) -> Callable[[Place], tuple[Plugin, float]]:
    """``name``, or ``name: {parameters}``; a scorer's parameters may have a weight."""
    part = _PARTS[key]

    def read(place: Place) -> tuple[Plugin, float]:
        value = place.node.value
        weight, parameters = 1.0, None
        if isinstance(value, str):
            kind = value
        elif isinstance(value, dict) and len(value) == 1:
            [(kind, node)] = value.items()
            place = place.child(node, kind)
            if isinstance(node.value, dict):
                given = dict(node.value)
                if part == "scorer" and "weight" in given:
                    weight = _weight(place.child(given.pop("weight"), "weight"))
                parameters = Place(Node(given, node.line), place.report, place.parent, kind)
            elif node.value is not None:
                place.must_be("a mapping of parameters")
        else:
            place.must_be(f"the name of a {part}, or a mapping from it to its parameters")
            return Plugin(), weight
        plugin = _build(place, kind, parameters)
        if place.report is not None and not place.report.failed and getattr(plugin, part) is None:
            place.error(f"{kind!r} is not a {part}")
        # The list says which part of a plugin is meant, where it has two.
        if part == "filter":
            plugin = dataclasses.replace(plugin, scorer=None)
        elif part == "scorer":
            plugin = dataclasses.replace(plugin, filter=None)
        return plugin, weight

    return read


# llm-d's form.


@dataclass(frozen=True, slots=True)
class _Listed:
    name: str
    plugin: Plugin


def _endpoint_picker_config(root: KnownFields) -> ProfileSet:
    root.known("apiVersion", "kind", "metadata")
    root.without_effect("featureGates", "what they open is configured by options here")
    for name in ("flowControl", "saturationDetector"):
        root.without_effect(name, "admission is configured in kind SchedulingProfiles")
    for name in ("dataLayer", "requestHandler", "parser"):
        root.without_effect(name, "metrics and APIs are found out without it")
    plugins_at = root.get("plugins")
    listed = root.optional("plugins", list_of(strict(_plugin)), ())
    plugins = {one.name: one.plugin for one in listed}
    if plugins_at is not None and len(plugins) != len(listed):
        names = [one.name for one in listed]
        twice = next(name for name in names if names.count(name) > 1)
        plugins_at.error(f"the name {twice!r} is given to two plugins")
    profiles_at = root.get("schedulingProfiles")
    named = root.optional("schedulingProfiles", list_of(strict(_profile(plugins))), ())
    if not named:
        steps = _Steps()
        for plugin in plugins.values():
            steps.add(plugin, 1.0)
        named = (("default", steps),)
    profiles = {name: steps.profile(name) for name, steps in named}
    at = profiles_at or root.place
    if len(profiles) != len(named):
        at.error("profile names must be unique")
    handler = next((p.disaggregates for p in plugins.values() if p.disaggregates), None)
    if handler is not None:
        default = _disaggregate(at, handler, plugins, profiles)
    elif len(profiles) > 1:
        at.error(
            f"there are {len(profiles)} profiles and nothing that chooses between them: keep one, "
            "add a disagg-profile-handler for prefill and decode, or use kind SchedulingProfiles, "
            "which chooses by pool"
        )
        default = named[0][0]
    else:
        [default] = profiles
    settings = _settings(plugin.settings for plugin in plugins.values())
    return ProfileSet({**PROFILES, **profiles}, default, {}, _load_settings(settings))


def _plugin(fields: KnownFields) -> _Listed:
    kind_at = fields.get("type")
    kind = fields.required("type", text("a plugin's type", high=253))
    name = fields.optional("name", _name, kind)
    parameters = fields.get("parameters")
    if kind_at is None:
        return _Listed(name, Plugin())
    return _Listed(name, _build(kind_at, kind, parameters))


def _profile(plugins: Mapping[str, Plugin]) -> Callable[[KnownFields], tuple[str, _Steps]]:
    def reference(fields: KnownFields) -> tuple[Plugin, float]:
        place = fields.get("pluginRef")
        name = fields.required("pluginRef", _name)
        weight = fields.optional("weight", _weight, 1.0)
        plugin = plugins.get(name)
        if plugin is None:
            if place is not None:
                hint = did_you_mean(name, plugins) or ": list it in plugins"
                place.error(f"there is no plugin named {name!r}{hint}")
            return Plugin(), weight
        return plugin, weight

    def build(fields: KnownFields) -> tuple[str, _Steps]:
        steps = _Steps()
        name = fields.required("name", _name)
        for plugin, weight in fields.required("plugins", list_of(strict(reference))):
            steps.add(plugin, weight)
        return name, steps

    return build


def _disaggregate(
    place: Place,
    handler: Disaggregation,
    plugins: Mapping[str, Plugin],
    profiles: dict[str, Callable[[], Profile]],
) -> str:
    """Join the profiles of prefill and decode. Returns the name of the result."""
    if not all(_exists(place, name, profiles) for name in (handler.decode, handler.prefill)):
        return handler.decode
    deciders = {name: p.decider for name, p in plugins.items() if p.decider is not None}
    if handler.decider and handler.decider not in deciders:
        hint = did_you_mean(handler.decider, deciders)
        place.error(f"there is no decider named {handler.decider!r}{hint}")
        return handler.decode
    tokens = deciders.get(handler.decider) if handler.decider else max(deciders.values(), default=1)
    if tokens:
        decode = profiles[handler.decode]
        profiles[handler.decode] = _with_prefill(decode, profiles[handler.prefill], tokens)
    return handler.decode


def _settings(all_of: Iterable[Mapping[str, float]]) -> dict[str, float]:
    settings: dict[str, float] = {}
    for one in all_of:
        settings.update(one)
    return settings


def _load_settings(settings: Mapping[str, float]) -> LoadSettings:
    defaults = LoadSettings()
    block_tokens = settings.get("block_tokens")
    return LoadSettings(
        settings.get("prefill_rate", defaults.prefill_rate),
        None if block_tokens is None else int(block_tokens),
        int(settings.get("cache_tokens", defaults.cache_tokens)),
        int(settings.get("max_entries", defaults.max_entries)),
    )


def errors_of(problems: Sequence[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.severity is Severity.ERROR]
