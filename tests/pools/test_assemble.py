"""Objects joined into a World, and what is said where they do not fit."""

from collections.abc import Callable, Iterable

import pytest

from pools.assemble import assemble
from pools.manifests import Object, read_text
from pools.manifests.fields import did_you_mean
from pools.model import Endpoint, InferencePool, ObjectName, Pod, Severity, World
from pools.pods import selects
from pools.resolution import Lookup

POOL = """
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: llama}
spec:
  selector: {matchLabels: {app: llama}}
  targetPorts: [{number: 8000}]
"""


def objects(text: str, source: str = "f.yaml") -> list[Object]:
    found = []
    for manifest in read_text(text, source).manifests:
        assert manifest.object is not None, manifest.problems
        found.append(manifest.object)
    return found


def endpoints(*hosts: str, pool: str = "llama", name: str = "e") -> str:
    head = (
        f"---\napiVersion: poolpilot.dev/v1alpha1\nkind: PoolEndpoints\nmetadata: {{name: {name}}}"
    )
    spec = f"\nspec:\n  poolRef: {{name: {pool}}}\n  endpoints:\n"
    return head + spec + "".join(f"  - {host}\n" for host in hosts)


def model(name: str, model_name: str, created: str = "", pool: str = "llama") -> str:
    return f"""---
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModel
metadata: {{name: {name}{f", creationTimestamp: {created}" if created else ""}}}
spec: {{modelName: {model_name}, poolRef: {{name: {pool}}}}}
"""


LLAMA = ObjectName("default", "llama")


def keys(world: World) -> list[str]:
    return [endpoint.key for endpoint in world.endpoints_of(LLAMA)]


def said(world: World) -> list[str]:
    return [str(problem) for problem in world.problems]


def test_endpoints_take_the_ports_of_their_pool_and_come_sorted() -> None:
    world = assemble(
        objects(
            POOL
            + endpoints(
                "{address: 10.0.0.2, ports: [9000], name: b}",
                "{address: 10.0.0.1}",
                "{address: '::1'}",
            )
        )
    )
    assert keys(world) == ["10.0.0.1:8000", "10.0.0.2:9000", "[::1]:8000"]
    assert world.endpoint_origins["10.0.0.2:9000"].line == 15
    assert said(world) == []


def test_each_port_of_a_data_parallel_server_is_an_endpoint_with_its_rank() -> None:
    world = assemble(
        objects(
            POOL.replace("{number: 8000}", "{number: 8000}, {number: 8001}")
            + endpoints("{address: 10.0.0.1, name: pod, labels: {a: b}, metricsPort: 9}")
        )
    )
    assert world.endpoints_of(LLAMA) == (
        Endpoint("10.0.0.1", 8000, "pod-rank-0", {"a": "b"}, 9),
        Endpoint("10.0.0.1", 8001, "pod-rank-1", {"a": "b"}, 9),
    )


def test_every_address_of_a_name_is_an_endpoint() -> None:
    text = POOL + endpoints("{address: vllm}", "{address: gpu.lan, name: gpu}")
    lookups = {"vllm": Lookup(("10.0.0.1", "10.0.0.2")), "gpu.lan": Lookup(("10.0.0.3",))}
    world = assemble(objects(text), lookups)
    names = [endpoint.name for endpoint in world.endpoints_of(LLAMA)]
    assert names == ["vllm-10.0.0.1", "vllm-10.0.0.2", "gpu-10.0.0.3"]


def test_a_name_that_never_resolved_is_a_problem_and_no_endpoint() -> None:
    text = POOL + endpoints("{address: vllm}")
    for lookups in ({}, {"vllm": Lookup(error="it was not resolved yet")}):
        world = assemble(objects(text), lookups)
        assert keys(world) == []
        assert said(world) == [
            "f.yaml:15: PoolEndpoints default/e spec.endpoints[0].address:"
            " 'vllm' could not be resolved (it was not resolved yet): no endpoint"
        ]
        assert world.problems[0].severity is Severity.ERROR


def test_a_look_up_that_fails_keeps_the_last_addresses_and_is_a_warning() -> None:
    text = POOL + endpoints("{address: vllm}")
    world = assemble(objects(text), {"vllm": Lookup(("10.0.0.1",), "no answer")})
    assert keys(world) == ["10.0.0.1:8000"]
    [problem] = world.problems
    assert problem.severity is Severity.WARNING
    assert problem.message == (
        "'vllm' could not be resolved (no answer): its last address stays in use"
    )


def test_the_first_of_two_objects_with_one_name_counts() -> None:
    first = objects(POOL, "a.yaml")
    second = objects(POOL.replace("8000", "9000"), "b.yaml")
    world = assemble(first + second)
    assert world.pools[LLAMA].target_ports == (8000,)
    assert said(world) == [
        "b.yaml:2: InferencePool default/llama metadata.name:"
        " was already described in a.yaml:2, which counts; remove one of the two"
    ]


def test_an_endpoint_given_twice_counts_once() -> None:
    hosts = ("{address: 10.0.0.1, name: a}", "{address: 10.0.0.1, name: b}")
    world = assemble(objects(POOL + endpoints(*hosts)))
    assert [endpoint.name for endpoint in world.endpoints_of(LLAMA)] == ["a"]
    assert [(p.severity, p.line, p.field) for p in world.problems] == [
        (Severity.WARNING, 16, "spec.endpoints[1].address")
    ]


def test_references_to_a_pool_that_is_not_there_are_reported() -> None:
    route = """---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  rules:
  - backendRefs:
    - {group: inference.networking.k8s.io, kind: InferencePool, name: lama}
"""
    text = (
        POOL + endpoints("{address: 10.0.0.1}", pool="lama") + model("m", "m", pool="lama") + route
    )
    world = assemble(objects(text))
    missing = "there is no InferencePool default/lama (did you mean 'default/llama'?)"
    assert [(p.severity, p.origin.kind if p.origin else "", p.field) for p in world.problems] == [
        (Severity.WARNING, "InferenceModel", "spec.poolRef"),
        (Severity.WARNING, "HTTPRoute", "spec.rules[0].backendRefs[0]"),
        (Severity.ERROR, "PoolEndpoints", "spec.poolRef"),
    ]
    assert {problem.message for problem in world.problems} == {missing}
    assert world.endpoints == {}
    assert len(world.models) == 1


@pytest.mark.parametrize(
    ("missing", "hints"), [(lambda _: "lama", 300), (lambda i: f"l{i}ama", 10)]
)
def test_a_pool_that_many_refer_to_may_go_without_a_pause(
    monkeypatch: pytest.MonkeyPatch, missing: Callable[[int], str], hints: int
) -> None:
    """A name is compared with those of all pools: for 1,000 routes to one of 200 that took nine
    seconds, each time that a pod came or went."""
    asked: list[str] = []

    def counting(word: str, known: Iterable[str]) -> str:
        asked.append(word)
        return did_you_mean(word, known)

    monkeypatch.setattr("pools.assemble.did_you_mean", counting)
    models = "".join(model(f"m{i}", f"m{i}", pool=missing(i)) for i in range(300))
    world = assemble(objects(POOL + models))
    assert len(world.problems) == 300
    assert sum("did you mean" in problem.message for problem in world.problems) == hints
    assert len(asked) <= 10


def test_a_pod_is_not_compared_with_every_pool_of_its_namespace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """10,000 pods and 200 pools took two seconds, each time that a pod came or went."""
    compared: list[ObjectName] = []

    def counting(pool: InferencePool, pod: Pod) -> bool:
        compared.append(pool.name)
        return selects(pool, pod)

    monkeypatch.setattr("pools.assemble.selects", counting)
    asked = [{"app": "vllm", "model": f"m{i}"} for i in range(20)] + [
        {"app": "vllm"},
        {"no": "one"},
    ]
    pools = [
        InferencePool(ObjectName("default", f"p{i:02}"), (8000,), selector=selector)
        for i, selector in enumerate(asked)
    ]
    pods = [
        Pod(ObjectName("default", f"{i}"), f"10.0.0.{i}", {"app": "vllm", "model": f"m{i % 20}"})
        for i in range(40)
    ]
    strangers = [
        Pod(ObjectName("other", "0"), "10.0.1.0", pods[0].labels),
        Pod(ObjectName("default", "x"), "10.0.1.1", {"app": "redis", "model": "m0"}),
    ]
    world = assemble(pools, pods=[*pods, *strangers])
    served = {name.name: {one.name for one in of} for name, of in world.endpoints.items()}
    assert served == {
        **{f"p{i:02}": {str(i), str(i + 20)} for i in range(20)},
        "p20": {str(i) for i in range(40)},
    }
    assert len(compared) <= 2 * len(pods) + 1


def test_of_two_models_for_one_model_name_the_oldest_wins() -> None:
    text = (
        POOL
        + model("a-young", "m", "2025-02-01T00:00:00Z")
        + model("b-old", "m", "2025-01-01T00:00:00Z")
        + model("c-undated", "m")
        + model("other", "n")
    )
    world = assemble(objects(text))
    assert [item.name.name for item in world.models] == ["b-old", "other"]
    losers = [problem.origin.name.name for problem in world.problems if problem.origin]
    assert losers == ["a-young", "c-undated"]


def test_a_name_that_does_not_resolve_is_an_absent_endpoint_with_the_reason() -> None:
    text = POOL + endpoints("{address: vllm}", "{address: gpu.lan, name: gpu}")
    lookups = {"vllm": Lookup(error="no such name"), "gpu.lan": Lookup(("10.0.0.3",), "timed out")}
    [absent] = assemble(objects(text), lookups).absent
    assert (absent.name, absent.pool) == ("vllm", LLAMA)
    assert absent.reason == "'vllm' could not be resolved (no such name)"
    assert absent.origin is not None
    assert absent.origin.line == 15


LOCAL = [
    "127.0.0.1",
    "127.8.9.10",
    "::1",
    "169.254.169.254",
    "fe80::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
]


@pytest.mark.parametrize("address", LOCAL)
def test_an_address_that_means_another_host_to_envoy_is_refused_unless_it_is_allowed(
    address: str,
) -> None:
    text = POOL + endpoints(
        f"{{address: '{address}', name: envoy}}", "{address: 10.0.0.1}", "{address: vllm.internal}"
    )
    lookups = {"vllm.internal": Lookup((address, "10.0.0.2"))}
    world = assemble(objects(text), lookups, local_hosts=False)
    assert keys(world) == ["10.0.0.1:8000", "10.0.0.2:8000"]
    assert [one.field for one in world.problems] == [
        "spec.endpoints[0].address",
        "spec.endpoints[2].address",
    ]
    assert all(one.severity is Severity.ERROR for one in world.problems)
    assert {one.name.partition("-")[0] for one in world.absent} == {"envoy", "vllm.internal"}

    allowed = assemble(objects(text), lookups)
    assert len(keys(allowed)) >= 3
    assert allowed.absent == ()
