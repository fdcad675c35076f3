"""Kinds as values, and what is said when they are wrong."""

import dataclasses
import re
import textwrap
from pathlib import Path

import pytest
import yaml

from pools.assemble import assemble
from pools.manifests import Manifest, read_object, read_text
from pools.model import (
    AllowedRoutes,
    AppProtocol,
    BackendKind,
    BodyMode,
    CertificateRef,
    Criticality,
    FailureMode,
    Filters,
    Gateway,
    GatewayListener,
    HeaderChanges,
    HTTPRoute,
    InferenceModel,
    InferenceModelRewrite,
    InferenceObjective,
    InferencePool,
    ListenerProblem,
    ListenerProtocol,
    NamespacesFrom,
    ObjectName,
    PathChange,
    PathChangeType,
    PathMatchType,
    PickerRef,
    PoolEndpoints,
    Redirect,
    ReferenceGrant,
    Retry,
    RouteRule,
    TargetModel,
    UrlRewrite,
    ValueMatchType,
)

EXAMPLES = Path(__file__).parents[2] / "examples"


def manifest(version: str, kind: str, spec: str, *, metadata: str = "name: x") -> Manifest:
    text = f"apiVersion: {version}\nkind: {kind}\nmetadata:\n"
    text += textwrap.indent(textwrap.dedent(metadata), "  ")
    text += "\nspec:\n" + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n"
    [read] = read_text(text, "f.yaml").manifests
    return read


def good(read: Manifest) -> object:
    assert [str(problem) for problem in read.problems] == []
    return read.object


def complaints(read: Manifest) -> list[str]:
    """``line field: message`` of each problem."""
    return [f"{p.line} {p.field}: {p.message}" for p in read.problems]


POOL = """
selector: {matchLabels: {app: llama}}
targetPorts:
- number: 8000
"""


def pool(spec: str = POOL, metadata: str = "name: x") -> Manifest:
    return manifest("inference.networking.k8s.io/v1", "InferencePool", spec, metadata=metadata)


def test_a_v1_pool_has_the_defaults_of_the_api() -> None:
    value = good(pool())
    assert isinstance(value, InferencePool)
    assert value.name == ObjectName("default", "x")
    assert value.target_ports == (8000,)
    assert value.selector == {"app": "llama"}
    assert value.picker is None
    assert value.failure_mode is FailureMode.FAIL_CLOSE
    assert value.app_protocol is AppProtocol.HTTP
    assert value.body_mode is BodyMode.FULL_DUPLEX_STREAMED
    assert value.origin is not None
    assert (value.origin.source, value.origin.line) == ("f.yaml", 1)


def test_a_v1_pool_with_everything() -> None:
    value = good(
        pool(
            """
            selector: {matchLabels: {app: llama}}
            targetPorts: [{number: 8000}, {number: 8001}]
            appProtocol: kubernetes.io/h2c
            endpointPickerRef: {name: epp, port: {number: 9002}, failureMode: FailOpen}
            """,
            "{name: x, namespace: prod}",
        )
    )
    assert isinstance(value, InferencePool)
    assert value.name == ObjectName("prod", "x")
    assert value.target_ports == (8000, 8001)
    assert value.app_protocol is AppProtocol.H2C
    assert value.picker == PickerRef("epp", 9002)
    assert value.failure_mode is FailureMode.FAIL_OPEN


def test_bodies_are_buffered_where_the_pool_fails_open_unless_the_annotation_says_otherwise() -> (
    None
):
    spec = POOL + "endpointPickerRef: {name: e, port: {number: 1}, failureMode: FailOpen}\n"
    opened = good(pool(spec))
    assert isinstance(opened, InferencePool)
    assert opened.body_mode is BodyMode.BUFFERED
    annotated = good(pool(spec, "{name: x, annotations: {poolpilot.dev/request-body-mode: None}}"))
    assert isinstance(annotated, InferencePool)
    assert annotated.body_mode is BodyMode.NONE


@pytest.mark.parametrize(
    ("version", "port_field"), [("v1alpha2", "portNumber"), ("v1alpha1", "targetPortNumber")]
)
def test_old_pools_become_the_same_value(version: str, port_field: str) -> None:
    def read(extension: str) -> InferencePool:
        spec = f"selector: {{app: llama}}\ntargetPortNumber: 8000\nextensionRef: {extension}"
        value = good(manifest(f"inference.networking.x-k8s.io/{version}", "InferencePool", spec))
        assert isinstance(value, InferencePool)
        return value

    assert read("{name: epp}").picker == PickerRef("epp", 9002)
    assert read(f"{{name: epp, {port_field}: 7}}").picker == PickerRef("epp", 7)
    assert read("{name: epp}").selector == {"app": "llama"}
    assert read("{name: epp, failureMode: FailOpen}").failure_mode is FailureMode.FAIL_OPEN


def test_everything_that_is_wrong_with_an_object_is_said_at_once() -> None:
    read = pool(
        """
        selector: {matchLabels: {app: 1}}
        targetPorts:
        - number: 0
        - numbr: 8001
        appProtocol: h2c
        endpointPickerRef:
          name: Epp
          failureMode: FailOpn
        """
    )
    assert read.object is None
    assert read.key == ("InferencePool", ObjectName("default", "x"))
    label = "(letters, digits, '-', '_' and '.', at most 63 characters)"
    name = "(lower-case letters, digits, '-' and '.')"
    assert complaints(read) == [
        f"6 spec.selector.matchLabels.app: must be a label value {label}, not 1: put it in quotes",
        "8 spec.targetPorts[0].number: must be a port number from 1 to 65535, not 0",
        "9 spec.targetPorts[1].number: is required",
        "9 spec.targetPorts[1].numbr: is not a known field and was ignored"
        " (did you mean 'number'?)",
        "10 spec.appProtocol: must be 'http' or 'kubernetes.io/h2c', not 'h2c'",
        "11 spec.endpointPickerRef.port: is required",
        f"12 spec.endpointPickerRef.name: must be a Kubernetes name {name} of at most 253"
        " characters, not 'Epp'",
        "13 spec.endpointPickerRef.failureMode: must be 'FailOpen' or 'FailClose', not 'FailOpn'"
        " (did you mean 'FailOpen'?)",
    ]


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        ("[]", "must have at least 1 item, not 0"),
        (str([{"number": n} for n in range(1, 10)]), "must have at most 8 items, not 9"),
        (
            "[{number: 8000}, {number: 8000}]",
            "port numbers must be unique, but 8000 is given twice",
        ),
        ("8000", "must be a list, not 8000"),
        ("", "is required, but is empty"),
    ],
)
def test_target_ports_are_one_to_eight_different_ports(ports: str, said: str) -> None:
    read = pool(f"selector: {{matchLabels: {{a: b}}}}\ntargetPorts: {ports}")
    assert complaints(read) == [f"7 spec.targetPorts: {said}"]


def test_an_unknown_field_is_a_warning_and_the_object_counts() -> None:
    read = pool(POOL + "targetPort: 8000\n", "{name: x, namspace: y}")
    assert isinstance(read.object, InferencePool)
    assert complaints(read) == [
        "4 metadata.namspace: is not a known field and was ignored (did you mean 'namespace'?)",
        "9 spec.targetPort: is not a known field and was ignored (did you mean 'targetPorts'?)",
    ]


OLD = "inference.networking.x-k8s.io"


def test_an_inference_model_has_criticality_and_weighted_targets() -> None:
    spec = """
        modelName: tweet-summary
        criticality: Critical
        poolRef: {name: llama}
        targetModels: [{name: tweet-summary-0, weight: 30}, {name: tweet-summary-1, weight: 70}]
        """
    metadata = "{name: x, namespace: prod, creationTimestamp: 2025-01-01T02:00:00+02:00}"
    value = good(manifest(f"{OLD}/v1alpha2", "InferenceModel", spec, metadata=metadata))
    assert isinstance(value, InferenceModel)
    assert value.pool == ObjectName("prod", "llama")
    assert value.criticality is Criticality.CRITICAL
    assert value.targets == (TargetModel("tweet-summary-0", 30), TargetModel("tweet-summary-1", 70))
    assert value.created == "2025-01-01T00:00:00+00:00"


def test_a_model_without_criticality_is_standard_and_serves_itself() -> None:
    value = good(manifest(f"{OLD}/v1alpha2", "InferenceModel", "modelName: m\npoolRef: {name: p}"))
    assert isinstance(value, InferenceModel)
    assert (value.criticality, value.targets) == (Criticality.STANDARD, ())


def test_weights_are_given_to_all_targets_or_to_none() -> None:
    def targets(text: str, version: str = "v1alpha2") -> Manifest:
        spec = f"modelName: m\npoolRef: {{name: p}}\ntargetModels: {text}"
        return manifest(f"{OLD}/{version}", "InferenceModel", spec)

    equal = good(targets("[{name: a}, {name: b}]"))
    assert isinstance(equal, InferenceModel)
    assert [target.weight for target in equal.targets] == [1, 1]
    assert complaints(targets("[{name: a, weight: 1}, {name: b}]")) == [
        "8 spec.targetModels: must give every target a weight, or none,"
        " but spec.targetModels[1] has none"
    ]
    assert complaints(targets("[{name: a, weight: 0}]")) == [
        "8 spec.targetModels[0].weight: must be a weight from 1 to 1000000, not 0"
    ]
    reserved = good(targets("[{name: a, weight: 0}]", "v1alpha1"))
    assert isinstance(reserved, InferenceModel)
    assert reserved.targets == (TargetModel("a", 0),)


@pytest.mark.parametrize("version", [f"{OLD}/v1alpha2", "llm-d.ai/v1alpha2"])
def test_objectives_and_rewrites_are_read_from_both_groups(version: str) -> None:
    objective = good(
        manifest(version, "InferenceObjective", "priority: -5\npoolRef: {name: llama}")
    )
    assert isinstance(objective, InferenceObjective)
    assert (objective.priority, objective.pool) == (-5, ObjectName("default", "llama"))
    rewrite = good(
        manifest(
            version,
            "InferenceModelRewrite",
            """
            poolRef: {name: llama}
            rules:
            - matches: [{model: {type: Exact, value: gpt}}, {model: {value: gpt-4}}]
              targets: [{modelRewrite: llama-a, weight: 9}, {modelRewrite: llama-b, weight: 1}]
            - targets: [{modelRewrite: llama}]
            """,
        )
    )
    assert isinstance(rewrite, InferenceModelRewrite)
    first, rest = rewrite.rules
    assert first.models == ("gpt", "gpt-4")
    assert first.targets == (TargetModel("llama-a", 9), TargetModel("llama-b", 1))
    assert (rest.models, rest.targets) == ((), (TargetModel("llama", 1),))


def route(spec: str) -> Manifest:
    return manifest("gateway.networking.k8s.io/v1", "HTTPRoute", spec)


def test_a_route_with_everything_that_is_supported() -> None:
    value = good(
        route(
            """
            hostnames: [api.example.com, "*.example.org"]
            parentRefs: [{name: gw, namespace: infra, sectionName: http, port: 8081}]
            rules:
            - name: chat
              matches:
              - path: {type: Exact, value: /v1/chat/completions}
                method: POST
                headers:
                - {name: X-Team, value: a}
                - {name: x-v, type: RegularExpression, value: 'v[0-9]'}
                queryParams: [{name: q, value: "1"}]
              - path: {value: /v1}
              timeouts: {request: 1h30m, backendRequest: 500ms}
              backendRefs:
              - group: inference.networking.k8s.io
                kind: InferencePool
                name: a
                weight: 90
                port: 7
              - {name: svc, namespace: other, port: 80, weight: 10}
            """
        )
    )
    assert isinstance(value, HTTPRoute)
    assert value.hostnames == ("api.example.com", "*.example.org")
    [parent] = value.parents
    assert (parent.gateway, parent.section, parent.port) == (
        ObjectName("infra", "gw"),
        "http",
        8081,
    )
    [rule] = value.rules
    assert (rule.request_timeout, rule.backend_timeout, rule.line) == (5400.0, 0.5, 9)
    exact, prefix = rule.matches
    assert (exact.path.type, exact.path.value) == (PathMatchType.EXACT, "/v1/chat/completions")
    assert exact.method == "POST"
    assert [(h.name, h.type) for h in exact.headers] == [
        ("x-team", ValueMatchType.EXACT),
        ("x-v", ValueMatchType.REGEX),
    ]
    assert [(q.name, q.value) for q in exact.query] == [("q", "1")]
    assert (prefix.path.type, prefix.path.value) == (PathMatchType.PREFIX, "/v1")
    pool_backend, service = rule.backends
    assert (pool_backend.kind, pool_backend.weight) == (BackendKind.INFERENCE_POOL, 90)
    assert (service.kind, service.name) == (BackendKind.SERVICE, ObjectName("other", "svc"))
    assert (service.port, service.weight) == (80, 10)


def test_a_rule_without_matches_matches_every_path() -> None:
    value = good(route("rules: [{backendRefs: [{name: s, port: 80}]}]"))
    assert isinstance(value, HTTPRoute)
    [match] = value.rules[0].matches
    assert (match.path.type, match.path.value) == (PathMatchType.PREFIX, "/")


def test_a_filter_that_we_have_not_leaves_the_route_readable_and_is_told() -> None:
    read = route(
        "rules:\n- filters:\n  - {type: RequestMirror, requestMirror: {backendRef: {name: s}}}\n"
        "  sessionPersistence: {type: Cookie}\n"
    )
    assert isinstance(read.object, HTTPRoute)
    assert read.object.rules[0].filters.unsupported == ("RequestMirror", "sessionPersistence")
    assert complaints(read) == [
        "8 spec.rules[0].filters[0].type: RequestMirror is not supported here: what the rule sends"
        " this way is answered with an error",
        "9 spec.rules[0].sessionPersistence: is not supported: the endpoint picker chooses the pod;"
        " the rule is answered with an error until it is removed",
    ]


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ("{matches: [{path: {value: v1}}]}", "matches[0].path.value"),
        ("{matches: [{path: {value: /a//b}}]}", "matches[0].path.value"),
        ("{matches: [{path: {value: /a/..}}]}", "matches[0].path.value"),
        ("{matches: [{path: {value: '/%2F'}}]}", "matches[0].path.value"),
        ("{matches: [{path: {type: Prefix}}]}", "matches[0].path.type"),
        ("{matches: [{path: {type: RegularExpression, value: '('}}]}", "matches[0].path.value"),
        ("{matches: [{path: {type: RegularExpression, value: '(?=a)'}}]}", "matches[0].path.value"),
        (
            "{matches: [{path: {type: RegularExpression, value: '(a)\\1'}}]}",
            "matches[0].path.value",
        ),
        ("{matches: [{method: post}]}", "matches[0].method"),
        ("{matches: [{headers: [{name: 'a b', value: x}]}]}", "matches[0].headers[0].name"),
        ("{timeouts: {request: 30}}", "timeouts.request"),
        ("{timeouts: {request: 1.5s}}", "timeouts.request"),
        ("{timeouts: {request: 1s, backendRequest: 2s}}", "timeouts"),
        ("{backendRefs: [{name: s}]}", "backendRefs[0].port"),
        ("{backendRefs: [{name: s, port: 1, weight: -1}]}", "backendRefs[0].weight"),
    ],
)
def test_a_wrong_rule_is_an_error_at_its_field(rule: str, field: str) -> None:
    read = route(f"rules:\n- {rule}\n")
    assert read.object is None
    assert [(p.line, p.field) for p in read.problems] == [(7, f"spec.rules[0].{field}")]


@pytest.mark.parametrize("pattern", [r"/v[0-9]+/.*", r"a\++", "[*+]+", r"\\\\1", "(?i)a|(?:b)+?"])
def test_a_regular_expression_that_envoy_has_too_is_fine(pattern: str) -> None:
    value = good(
        route(f"rules:\n- matches: [{{path: {{type: RegularExpression, value: '{pattern}'}}}}]")
    )
    assert isinstance(value, HTTPRoute)
    assert value.rules[0].matches[0].path.value == pattern


def gateway(spec: str) -> Manifest:
    text = "gatewayClassName: poolpilot\n" + textwrap.dedent(spec)
    return manifest("gateway.networking.k8s.io/v1", "Gateway", text)


def listener(fields: str) -> GatewayListener:
    """One HTTPS listener, with what must be told of it, if anything, in its problem."""
    read = gateway(f"listeners:\n- {{name: one, port: 443, protocol: HTTPS, {fields}}}")
    assert isinstance(read.object, Gateway)
    [one] = read.object.listeners
    return one


def test_a_gateway_keeps_the_listeners_that_it_cannot_serve_and_says_why() -> None:
    read = gateway(
        """
        listeners:
        - {name: http, port: 8081, protocol: HTTP, hostname: "*.example.com"}
        - {name: db, port: 5432, protocol: TCP}
        """
    )
    assert isinstance(read.object, Gateway)
    http, db = read.object.listeners
    assert (http.name, http.port, http.protocol, http.hostname, http.problem) == (
        "http",
        8081,
        ListenerProtocol.HTTP,
        "*.example.com",
        None,
    )
    assert db.problem == ListenerProblem(
        "UnsupportedProtocol", "spec.listeners[1].protocol: TCP is neither HTTP nor HTTPS"
    )
    assert complaints(read) == [
        "10 spec.listeners[1].protocol: TCP is neither HTTP nor HTTPS; the listener is not served"
    ]


def test_a_tls_listener_with_everything() -> None:
    one = listener(
        "tls: {mode: Terminate, certificateRefs: [{name: a}, {name: b, namespace: infra},"
        " {group: example.com, kind: Vault, name: c}]}, allowedRoutes: {namespaces: {from:"
        " Selector, selector: {matchLabels: {team: a}, matchExpressions: [{key: env, operator:"
        " NotIn, values: [test]}, {key: gpu, operator: Exists}]}},"
        " kinds: [{kind: HTTPRoute}, {kind: TLSRoute}]}"
    )
    assert one.protocol is ListenerProtocol.HTTPS
    assert one.problem is None
    assert one.certificates == (
        CertificateRef(ObjectName("default", "a")),
        CertificateRef(ObjectName("infra", "b")),
        CertificateRef(ObjectName("default", "c"), "example.com/Vault"),
    )
    allowed = one.allowed
    assert (allowed.namespaces, allowed.http_routes) == (NamespacesFrom.SELECTOR, True)
    assert allowed.unknown_kinds == ("gateway.networking.k8s.io/TLSRoute",)
    labels = {"team": "a", "gpu": ""}
    assert allowed.selector.selects(labels)
    assert not allowed.selector.selects({**labels, "env": "test"})
    assert not allowed.selector.selects({"team": "a"})


def test_a_listener_allows_routes_of_its_own_namespace_unless_it_says_otherwise() -> None:
    tls = "tls: {certificateRefs: [{name: a}]}"
    assert listener(tls).allowed == AllowedRoutes(NamespacesFrom.SAME)
    for source in NamespacesFrom:
        if source is not NamespacesFrom.SELECTOR:
            one = listener(f"{tls}, allowedRoutes: {{namespaces: {{from: {source}}}}}")
            assert one.allowed.namespaces is source
    assert not listener(
        f"{tls}, allowedRoutes: {{kinds: [{{kind: GRPCRoute}}]}}"
    ).allowed.http_routes


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ("hostname: a.example.com", "Invalid", "tls"),
        ("tls: {certificateRefs: []}", "Invalid", "tls"),
        (
            "tls: {mode: Passthrough, certificateRefs: [{name: a}]}",
            "UnsupportedValue",
            "tls.mode",
        ),
        (
            "tls: {certificateRefs: [{name: a}], frontendValidation: {caCertificateRefs: []}}",
            "UnsupportedValue",
            "tls.frontendValidation",
        ),
        (
            "tls: {certificateRefs: [{name: a}]}, allowedRoutes: {namespaces: {from: Selector}}",
            "Invalid",
            "allowedRoutes.namespaces.selector",
        ),
        *(
            (
                "tls: {certificateRefs: [{name: a}]}, allowedRoutes: {namespaces: {from: Selector,"
                f" selector: {{matchExpressions: [{{key: a, {expression}}}]}}}}}}",
                "Invalid",
                f"allowedRoutes.namespaces.selector.matchExpressions[0].{field}",
            )
            for expression, field in [
                ("operator: in", "operator"),
                ("operator: In", "values"),
                ("operator: Exists, values: [x]", "values"),
            ]
        ),
    ],
)
def test_a_listener_that_cannot_be_served_stays_and_names_the_field(
    fields: str, reason: str, field: str
) -> None:
    problem = listener(fields).problem
    assert problem is not None
    assert problem.reason == reason
    assert problem.message.startswith(f"spec.listeners[0].{field}: ")


def test_a_gateway_that_would_check_clients_certificates_serves_no_https() -> None:
    read = gateway(
        """
        tls: {frontend: {default: {validation: {caCertificateRefs: [{name: ca}]}}}}
        listeners:
        - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: a}]}}
        - {name: http, port: 80, protocol: HTTP}
        """
    )
    assert isinstance(read.object, Gateway)
    https, http = read.object.listeners
    assert https.problem is not None
    assert https.problem.reason == "UnsupportedValue"
    assert http.problem is None
    assert [(p.severity, p.field) for p in read.problems] == [("error", "spec.tls.frontend")]


def rule_of(fields: str) -> RouteRule:
    value = good(route(f"rules:\n- {fields}"))
    assert isinstance(value, HTTPRoute)
    return value.rules[0]


def test_filters_and_retries_of_a_rule() -> None:
    rule = rule_of(
        "{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value:"
        " '1'}, {name: x-a, value: '2'}], add: [{name: b, value: '3'}], remove: [X-C, x-c]}},"
        " {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [server]}},"
        " {type: URLRewrite, urlRewrite: {hostname: in.example.com, path: {type:"
        " ReplacePrefixMatch, replacePrefixMatch: ''}}}], matches: [{path: {value: /llm}}],"
        " retry: {attempts: 3, codes: [429, 503], backoff: 250ms}, backendRefs: [{name: s, port:"
        " 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Y,"
        " value: z}]}}]}]}"
    )
    assert rule.filters == Filters(
        HeaderChanges((("x-a", "1"),), (("b", "3"),), ("x-c",)),
        HeaderChanges(remove=("server",)),
        UrlRewrite("in.example.com", PathChange(PathChangeType.PREFIX, "/")),
    )
    assert rule.retry == Retry(3, (429, 503), 0.25)
    [backend] = rule.backends
    assert backend.filters == Filters(HeaderChanges((("y", "z"),)))


def test_a_redirect() -> None:
    rule = rule_of(
        "filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: b.example,"
        " port: 8443, path: {type: ReplaceFullPath, replaceFullPath: /new}, statusCode: 301}}]"
    )
    assert rule.filters.redirect == Redirect(
        "https", "b.example", 8443, PathChange(PathChangeType.FULL, "/new"), 301
    )
    assert rule_of("filters: [{type: RequestRedirect, requestRedirect: {}}]").filters.redirect == (
        Redirect()
    )


REDIRECT = "{type: RequestRedirect, requestRedirect: {hostname: a.example}}"
REWRITE = (
    "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}"
)


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (f"{{filters: [{REDIRECT}, {REDIRECT}]}}", "filters"),
        (f"{{filters: [{REDIRECT}, {REWRITE}]}}", "filters"),
        (f"{{filters: [{REDIRECT}], backendRefs: [{{name: s, port: 1}}]}}", "filters"),
        (f"{{filters: [{REWRITE}], matches: [{{path: {{type: Exact, value: /a}}}}]}}", "filters"),
        ("{filters: [{type: URLRewrite}]}", "filters[0].urlRewrite"),
        (
            "{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 304}}]}",
            "filters[0].requestRedirect.statusCode",
        ),
        (
            "{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a,"
            ' value: "b\\nc"}]}}]}',
            "filters[0].requestHeaderModifier.set[0].value",
        ),
        (
            "{filters: [{type: URLRewrite, urlRewrite: {hostname: '*.example.com'}}]}",
            "filters[0].urlRewrite.hostname",
        ),
        ("{retry: {codes: [200]}}", "retry.codes[0]"),
    ],
)
def test_a_wrong_filter_is_an_error_at_its_field(rule: str, field: str) -> None:
    read = route(f"rules:\n- {rule}\n")
    assert read.object is None
    assert [p.field for p in read.problems] == [f"spec.rules[0].{field}"]


@pytest.mark.parametrize(
    ("given", "unsupported"),
    [
        ("{type: ExtensionRef, extensionRef: {group: a, kind: B, name: c}}", "ExtensionRef"),
        ("{type: CORS, cors: {allowOrigins: ['*']}}", "CORS"),
        (
            "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: a}]}}",
            "RequestHeaderModifier of 'host'",
        ),
        (
            "{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [':status']}}",
            "ResponseHeaderModifier of ':status'",
        ),
    ],
)
def test_a_filter_that_we_have_not_is_named_in_the_rule(given: str, unsupported: str) -> None:
    read = route(f"rules:\n- filters: [{given}]\n")
    assert isinstance(read.object, HTTPRoute)
    assert read.object.rules[0].filters.unsupported == (unsupported,)
    assert [p.severity for p in read.problems] == ["error"]


def test_a_single_backend_may_change_headers_and_nothing_else() -> None:
    read = route(f"rules:\n- backendRefs: [{{name: s, port: 1, filters: [{REDIRECT}]}}]\n")
    assert isinstance(read.object, HTTPRoute)
    [backend] = read.object.rules[0].backends
    assert backend.filters == Filters(unsupported=("RequestRedirect",))


@pytest.mark.parametrize(
    ("ref", "unknown", "field"),
    [
        ("{kind: InferencePool, name: a}", "InferencePool", "group"),
        ("{group: multicluster.x-k8s.io, kind: ServiceImport, name: a}",
         "multicluster.x-k8s.io/ServiceImport", "kind"),
        ("{group: example.com, kind: Service, name: a, port: 80}", "example.com/Service", "group"),
    ],
)  # fmt: skip
def test_a_backend_of_an_unknown_kind_leaves_the_route_readable(
    ref: str, unknown: str, field: str
) -> None:
    read = route(f"rules:\n- backendRefs: [{ref}, {{name: s, port: 80}}]\n")
    assert isinstance(read.object, HTTPRoute)
    first, second = read.object.rules[0].backends
    assert (first.unknown_kind, first.port, second.unknown_kind) == (unknown, None, "")
    assert [p.field for p in read.problems] == [f"spec.rules[0].backendRefs[0].{field}"]


RULES = "rules: [{backendRefs: [{name: s, port: 80}]}]"


def test_a_parent_that_is_no_gateway_is_left_out_and_without_any_gateway_the_route_is() -> None:
    mesh = "{group: '', kind: Service, name: s}"
    both = good(route(f"parentRefs: [{mesh}, {{name: gw}}]\n{RULES}"))
    assert isinstance(both, HTTPRoute)
    assert [str(parent.gateway) for parent in both.parents] == ["default/gw"]
    read = route(f"parentRefs: [{mesh}]\n{RULES}")
    assert isinstance(read.object, HTTPRoute)
    assert read.object.of_others
    assert [p.severity for p in read.problems] == ["warning"]
    assert assemble([read.object]).routes == ()


@pytest.mark.parametrize(("value", "by_model"), [("'true'", True), ("'false'", False)])
def test_a_route_may_go_by_the_model(value: str, by_model: bool) -> None:
    metadata = f"{{name: x, annotations: {{poolpilot.dev/route-by-model: {value}}}}}"
    read = manifest("gateway.networking.k8s.io/v1", "HTTPRoute", RULES, metadata=metadata)
    assert isinstance(read.object, HTTPRoute)
    assert read.object.by_model is by_model


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_grant(version: str) -> None:
    value = good(
        manifest(
            f"gateway.networking.k8s.io/{version}",
            "ReferenceGrant",
            """
            from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: apps}]
            to: [{group: "", kind: Service}, {group: "", kind: Secret, name: tls}]
            """,
        )
    )
    assert isinstance(value, ReferenceGrant)
    assert value.sources == (("gateway.networking.k8s.io", "HTTPRoute", "apps"),)
    assert value.targets == (("", "Service", None), ("", "Secret", "tls"))


def test_an_origin_says_which_object_of_which_generation_it_is() -> None:
    document = yaml.safe_load(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: c, uid:"
        " u-1, generation: 3}, spec: {controllerName: x}}"
    )
    read = read_object(document, "kubernetes")
    assert read is not None
    [problem] = read.problems  # a broken object is known as well
    assert problem.origin is not None
    assert (problem.origin.api_version, problem.origin.uid, problem.origin.generation) == (
        "gateway.networking.k8s.io/v1",
        "u-1",
        3,
    )


def endpoints(spec: str) -> Manifest:
    return manifest("poolpilot.dev/v1alpha1", "PoolEndpoints", spec)


def test_pool_endpoints_with_everything() -> None:
    value = good(
        endpoints(
            """
            poolRef: {name: llama, namespace: prod}
            labels: {zone: a, gpu: h100}
            refresh: 500ms
            endpoints:
            - address: 10.0.0.1
            - address: "2001:DB8:0::1"
              name: big
              ports: [8000, 8001]
              metricsPort: 9100
              labels: {zone: b}
              draining: true
            - address: VLLM.internal
            """
        )
    )
    assert isinstance(value, PoolEndpoints)
    assert (value.pool, value.refresh) == (ObjectName("prod", "llama"), 0.5)
    plain, big, dns = value.hosts
    assert (plain.address, plain.is_name, plain.ports) == ("10.0.0.1", False, ())
    assert plain.labels == {"zone": "a", "gpu": "h100"}
    assert (big.address, big.name, big.ports) == ("2001:db8::1", "big", (8000, 8001))
    assert (big.metrics_port, big.draining, big.line) == (9100, True, 11)
    assert big.labels == {"zone": "b", "gpu": "h100"}
    assert (dns.address, dns.is_name) == ("vllm.internal", True)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.",
        "10.0.0",
        "10.0.0.256",
        "0.0.0.0",
        "224.0.0.1",
        "fe80::1%eth0",
        "a..b",
        "-a",
        "a b",
    ],
)
def test_half_an_address_is_not_taken_for_a_name(address: str) -> None:
    read = endpoints(f"poolRef: {{name: p}}\nendpoints: [{{address: '{address}'}}]")
    assert [problem.field for problem in read.problems] == ["spec.endpoints[0].address"]


def test_an_address_with_a_port_is_told_where_ports_go() -> None:
    read = endpoints("poolRef: {name: p}\nendpoints: [{address: '10.0.0.1:8000'}]")
    assert complaints(read) == [
        "7 spec.endpoints[0].address: must be an address without a port, not '10.0.0.1:8000':"
        " put the port into 'ports'"
    ]


def test_a_file_cut_off_after_the_endpoints_key_is_an_error_and_not_an_empty_pool() -> None:
    assert complaints(endpoints("poolRef: {name: p}\nendpoints:\n")) == [
        "7 spec.endpoints: is required, but is empty"
    ]
    empty = good(endpoints("poolRef: {name: p}\nendpoints: []\n"))
    assert isinstance(empty, PoolEndpoints)
    assert empty.hosts == ()


HUGE = "1" * 400


@pytest.mark.parametrize(
    "refresh", ["0", "0.01", "-1", "50ms", "100h", "soon", "true", HUGE, f"0x{HUGE}"]
)
def test_a_refresh_is_a_tenth_of_a_second_to_a_day(refresh: str) -> None:
    read = endpoints(f"poolRef: {{name: p}}\nrefresh: {refresh}\nendpoints: []")
    assert [problem.field for problem in read.problems] == ["spec.refresh"]


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"])
def test_a_time_at_the_end_of_time_is_none(time: str) -> None:
    read = pool(metadata=f"name: x\ncreationTimestamp: '{time}'")
    assert [problem.field for problem in read.problems] == ["metadata.creationTimestamp"]


def test_a_broken_object_leaves_its_neighbours_alone() -> None:
    text = (EXAMPLES / "quickstart" / "pool.yaml").read_text()
    broken = text.replace("criticality: Critical", "criticality: Crtical")
    pool_read, tweet, sql = read_text(broken, "pool.yaml").manifests
    assert isinstance(pool_read.object, InferencePool)
    assert tweet.object is None
    assert isinstance(sql.object, InferenceModel)


def test_kinds_of_others_are_ignored_and_slips_in_ours_are_not() -> None:
    def said(version: str, kind: str) -> list[str]:
        text = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n"
        return [p.message for m in read_text(text, "f.yaml").manifests for p in m.problems]

    for version, kind in [
        ("apps/v1", "Deployment"),
        ("v1", "ConfigMap"),
        ("v1", "Secret"),  # unless its type is kubernetes.io/tls
        ("networking.istio.io/v1", "Gateway"),
        ("gateway.networking.k8s.io/v1", "GRPCRoute"),
    ]:
        assert said(version, kind) == []
    assert said("inference.networking.k8s.io/v1", "InferencePol") == [
        "kind 'InferencePol' is not known (did you mean 'InferencePool'?)"
    ]
    assert said("inference.networking.k8s.io/v2", "InferencePool") == [
        "apiVersion 'inference.networking.k8s.io/v2' of InferencePool is not supported; use one of"
        " inference.networking.k8s.io/v1, inference.networking.x-k8s.io/v1alpha2,"
        " inference.networking.x-k8s.io/v1alpha1"
    ]
    assert said("poolpilot.io/v1alpha1", "PoolEndpoints") == [
        "apiVersion 'poolpilot.io/v1alpha1' of PoolEndpoints is not known"
        " (did you mean 'poolpilot.dev/v1alpha1'?)"
    ]


def test_the_items_of_a_list_are_objects_like_any_other() -> None:
    item = yaml.safe_load((EXAMPLES / "quickstart" / "endpoints.yaml").read_text())
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [item]})
    [read] = read_text(text, "f.yaml").manifests
    assert isinstance(read.object, PoolEndpoints)


def test_an_object_from_an_api_client_reads_as_its_manifest_does() -> None:
    for path in (EXAMPLES / "quickstart").glob("*.yaml"):
        text = path.read_text()
        written = read_text(text, "kubernetes").manifests
        for document, expected in zip(yaml.safe_load_all(text), written, strict=True):
            read = read_object(document, "kubernetes")
            assert read is not None
            assert read.problems == ()
            assert read.object is not None
            assert expected.object is not None
            if not isinstance(read.object, PoolEndpoints):
                assert dataclasses.replace(read.object, origin=expected.object.origin) == (
                    expected.object
                )
            assert read.key == expected.key


def test_json_problems_name_the_field() -> None:
    text = '{"apiVersion": "poolpilot.dev/v1alpha1", "kind": "PoolEndpoints",\n'
    text += '"metadata": {"name": "x"}, "spec": {"poolRef": {"name": "p"}, "endpoints": [{}]}}'
    [read] = read_text(text, "f.json").manifests
    assert [str(problem) for problem in read.problems] == [
        "f.json: PoolEndpoints default/x spec.endpoints[0].address: is required"
    ]
    [cut] = read_text(text[:-3], "f.json").manifests
    assert cut.obscure
    assert cut.problems[0].line == 2


def test_the_example_of_the_documentation_is_right() -> None:
    page = (EXAMPLES.parent / "docs" / "manifests.md").read_text()
    [example] = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    manifests = read_text(example, "llama.yaml").manifests
    assert [type(good(read)).__name__ for read in manifests] == [
        "InferencePool",
        "PoolEndpoints",
        "InferenceModel",
        "HTTPRoute",
    ]
    broken = example.replace("number: 8000", "number: 0")
    [problem] = [p for read in read_text(broken, "llama.yaml").manifests for p in read.problems]
    assert f"{problem} (the last good version stays in effect)" in page
