"""The kinds of the Gateway API inference extension, and of llm-d, which took two of them over."""

from __future__ import annotations

import functools

from pools.manifests.fields import (
    Fields,
    Place,
    Read,
    choice,
    group_name,
    integer,
    kind_name,
    labels,
    list_of,
    object_name,
    port_number,
    struct,
    text,
    unique,
    word,
)
from pools.manifests.meta import Meta, pool_ref
from pools.model import (
    AppProtocol,
    BodyMode,
    Criticality,
    FailureMode,
    InferenceModel,
    InferenceModelRewrite,
    InferenceObjective,
    InferencePool,
    PickerRef,
    RewriteRule,
    TargetModel,
)
from pools.well_known import PICKER_PORT

BODY_MODE_ANNOTATION = "poolpilot.dev/request-body-mode"
MAX_TARGET_PORTS = 8
MAX_WEIGHT = 1_000_000

model_name = text("a model name", high=256)
_target_name = text("a model name", high=253)


def pool_v1(meta: Meta, spec: Fields) -> InferencePool:
    ports_at = spec.get("targetPorts")
    ports = spec.required(
        "targetPorts",
        list_of(struct(lambda port: port.required("number", port_number)), 1, MAX_TARGET_PORTS),
    )
    unique(ports_at, ports, "port numbers")
    picker, failure_mode = spec.optional(
        "endpointPickerRef",
        struct(functools.partial(_picker, "port")),
        (None, FailureMode.FAIL_CLOSE),
    )
    return InferencePool(
        meta.name,
        ports,
        spec.required(
            "selector", struct(lambda selector: selector.required("matchLabels", labels(1, 64)))
        ),
        picker,
        failure_mode,
        spec.optional("appProtocol", choice(AppProtocol), AppProtocol.HTTP),
        _body_mode(meta, failure_mode),
        meta.origin,
    )


def pool_alpha(port_field: str, meta: Meta, spec: Fields) -> InferencePool:
    """v1alpha1 and v1alpha2, which differ in the name of the picker's port."""
    picker, failure_mode = spec.optional(
        "extensionRef",
        struct(functools.partial(_picker, port_field)),
        (None, FailureMode.FAIL_CLOSE),
    )
    return InferencePool(
        meta.name,
        (spec.required("targetPortNumber", port_number),),
        spec.required("selector", labels(1)),
        picker,
        failure_mode,
        body_mode=_body_mode(meta, failure_mode),
        origin=meta.origin,
    )


def _picker(port_field: str, fields: Fields) -> tuple[PickerRef, FailureMode]:
    group = fields.optional("group", group_name, "")
    kind = fields.optional("kind", kind_name, "Service")
    name = fields.required("name", object_name)
    port: int | None
    if port_field == "port":
        read_port = struct(lambda port: port.required("number", port_number))
        if kind == "Service":
            port = fields.required("port", read_port)
        else:
            port = fields.optional("port", read_port, None)
    else:
        port = fields.optional(port_field, port_number, PICKER_PORT)
    mode = fields.optional("failureMode", choice(FailureMode), FailureMode.FAIL_CLOSE)
    return PickerRef(name, port, group, kind), mode


def _body_mode(meta: Meta, failure_mode: FailureMode) -> BodyMode:
    given = meta.annotation(BODY_MODE_ANNOTATION, choice(BodyMode))
    if given is not None:
        return given
    fails_open = failure_mode is FailureMode.FAIL_OPEN
    return BodyMode.BUFFERED if fails_open else BodyMode.FULL_DUPLEX_STREAMED


def model(lowest_weight: int, meta: Meta, spec: Fields) -> InferenceModel:
    return InferenceModel(
        meta.name,
        spec.required("poolRef", pool_ref(meta.name.namespace)),
        spec.required("modelName", model_name),
        spec.optional("criticality", choice(Criticality), Criticality.STANDARD),
        spec.optional("targetModels", _targets("name", lowest_weight, 0, 10), ()),
        meta.created,
        meta.origin,
    )


def _targets(name: str, lowest: int, low: int, high: int) -> Read[tuple[TargetModel, ...]]:
    """Weighted targets: either every one has a weight or none has."""
    weight = integer(lowest, MAX_WEIGHT, "a weight")

    def target(fields: Fields) -> tuple[str, int | None]:
        return fields.required(name, _target_name), fields.optional("weight", weight, None)

    read_all = list_of(struct(target), low, high)

    def read(place: Place) -> tuple[TargetModel, ...]:
        targets = read_all(place)
        given = [weight is not None for _, weight in targets]
        if any(given) and not all(given):
            place.error(
                "must give every target a weight, or none,"
                f" but {place.path}[{given.index(False)}] has none"
            )
        return tuple(TargetModel(name, 1 if weight is None else weight) for name, weight in targets)

    return read


def objective(meta: Meta, spec: Fields) -> InferenceObjective:
    return InferenceObjective(
        meta.name,
        spec.required("poolRef", pool_ref(meta.name.namespace)),
        spec.optional("priority", integer(-(2**31), 2**31 - 1), 0),
        meta.origin,
    )


def rewrite(meta: Meta, spec: Fields) -> InferenceModelRewrite:
    return InferenceModelRewrite(
        meta.name,
        spec.required("poolRef", pool_ref(meta.name.namespace)),
        spec.required("rules", list_of(struct(_rewrite_rule), 1)),
        meta.created,
        meta.origin,
    )


def _rewrite_rule(rule: Fields) -> RewriteRule:
    return RewriteRule(
        rule.optional("matches", list_of(struct(_rewrite_match)), ()),
        rule.required("targets", _targets("modelRewrite", 1, 1, 64)),
    )


def _rewrite_match(match: Fields) -> str:
    return match.required("model", struct(_rewrite_model))


def _rewrite_model(fields: Fields) -> str:
    fields.optional("type", word("Exact"), "")
    return fields.required("value", model_name)
