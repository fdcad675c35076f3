"""What the objects of an API server mean, taken together."""

import json

from pools.kubernetes.cache import Cache
from pools.kubernetes.kinds import (
    ALL_KINDS,
    ENDPOINT_SLICE,
    NAMESPACE,
    POD,
    POOLS,
    ROUTES,
    SECRET,
    SERVICE,
    Item,
    Kind,
    read_item,
)
from pools.model import ObjectName
from tests.pools.kubernetes.api import Object, pod, pool
from tests.pools.pairs import Pair, good_pair

NEW_POOL, OLD_POOL = POOLS
HTTP_ROUTE, GATEWAY, GATEWAY_CLASS = ROUTES
LLAMA = ObjectName("default", "llama")


def item(kind: Kind, raw: Object, uid: str = "1") -> Item:
    read = kind.read(kind.api_version(kind.versions[0]), kind.name)
    raw = {**raw, "metadata": {**raw["metadata"], "uid": uid}}
    return read_item(json.dumps(raw).encode(), read)[0]


def cache(*items: tuple[Kind, Object]) -> Cache:
    made = Cache(ALL_KINDS, "poolpilot.dev/ours")
    for kind, raw in items:
        made.put((kind, None), item(kind, raw))
    return made


def test_a_broken_version_of_a_pool_leaves_the_last_good_one_in_effect() -> None:
    held = cache((NEW_POOL, pool("llama")))
    held.put((NEW_POOL, None), item(NEW_POOL, pool("llama", [0])))
    world = held.world()
    assert world.pools[LLAMA].target_ports == (8000,)
    assert [str(problem) for problem in world.problems] == [
        "kubernetes: InferencePool default/llama spec.targetPorts[0].number: must be a port number"
        " from 1 to 65535, not 0 (the last good version stays in effect)"
    ]
    held.put((NEW_POOL, None), item(NEW_POOL, pool("llama", [9000])))
    assert (held.world().pools[LLAMA].target_ports, held.world().problems) == ((9000,), ())


def test_the_last_good_version_survives_a_new_list_but_not_a_new_object() -> None:
    held = cache((NEW_POOL, pool("llama")))
    broken = pool("llama", [0])
    held.replace((NEW_POOL, None), [item(NEW_POOL, broken)])
    assert LLAMA in held.world().pools
    held.replace((NEW_POOL, None), [item(NEW_POOL, broken, uid="2")])
    assert LLAMA not in held.world().pools


def test_a_pool_in_both_groups_counts_once_and_is_told() -> None:
    old = {
        "metadata": {"name": "llama", "namespace": "default"},
        "spec": {"selector": {"app": "llama"}, "targetPortNumber": 9000},
    }
    both = cache((OLD_POOL, old), (NEW_POOL, pool("llama"))).world()
    assert both.pools[LLAMA].target_ports == (8000,)
    assert [problem.message.partition(";")[0] for problem in both.problems] == [
        "exists in two API groups"
    ]
    assert cache((OLD_POOL, old)).world().pools[LLAMA].target_ports == (9000,)


def gateway_class(name: str, controller: str) -> Object:
    return {"metadata": {"name": name}, "spec": {"controllerName": controller}}


def gateway(name: str, of: str, **spec: object) -> Object:
    listeners = [{"name": "http", "port": 80, "protocol": "HTTP"}]
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"gatewayClassName": of, "listeners": listeners, **spec},
    }


def route(name: str, *parents: str, rule: Object | None = None, **spec: object) -> Object:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "parentRefs": [{"name": parent} for parent in parents],
            "rules": [rule or {"backendRefs": [{"name": "web", "port": 80}]}],
            **spec,
        },
    }


CLASSES = (
    (GATEWAY_CLASS, gateway_class("ours", "poolpilot.dev/ours")),
    (GATEWAY_CLASS, gateway_class("theirs", "example.com/theirs")),
)
A, B, C = gateway("a", "ours"), gateway("b", "theirs"), gateway("c", "of-nobody")


def test_gateways_of_other_controllers_are_not_ours() -> None:
    world = cache(*CLASSES, (GATEWAY, A), (GATEWAY, B), (GATEWAY, C)).world()
    assert [one.name.name for one in world.gateways] == ["a"]
    assert [str(one.name) for one in world.gateway_classes] == ["ours"]


LACKING: Object = {
    "filters": [{"type": "CORS", "cors": {}}],
    "backendRefs": [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "x"}],
}
BROKEN: Object = {"matches": [{"path": {"type": "RegularExpression", "value": "(?=a)"}}]}


def test_routes_of_other_controllers_stay_and_nothing_is_said_of_them() -> None:
    others = (GATEWAY, A), (GATEWAY, B), (GATEWAY, C)
    for rule in (LACKING, BROKEN):
        silent = cache(*CLASSES, *others, (HTTP_ROUTE, route("r", "b", "c", rule=rule))).world()
        assert silent.problems == ()
        for parents in (("a", "b"), ("not-there",), ()):
            held = cache(*CLASSES, *others, (HTTP_ROUTE, route("r", *parents, rule=rule)))
            assert held.world().problems, parents
    world = cache(*CLASSES, *others, (HTTP_ROUTE, route("r", "b", rule=LACKING))).world()
    assert [one.name.name for one in world.routes] == ["r"]


def test_nothing_is_said_of_broken_gateways_of_others_or_of_routes_in_a_mesh() -> None:
    listeners = [{"name": "x", "port": 0, "protocol": "TCP"}]
    broken = gateway("b", "theirs", listeners=listeners)
    assert cache(*CLASSES, (GATEWAY, broken)).world().problems == ()
    assert cache(*CLASSES, (GATEWAY, gateway("b", "ours", listeners=listeners))).world().problems
    of_theirs = (HTTP_ROUTE, route("r", "b", rule=BROKEN))
    assert cache(*CLASSES, (GATEWAY, broken), of_theirs).world().problems == ()
    mesh = route("m", rule=LACKING, parentRefs=[{"group": "", "kind": "Service", "name": "web"}])
    world = cache((HTTP_ROUTE, mesh)).world()
    assert (world.routes, world.problems) == ((), ())


def service(name: str) -> Object:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    }


def slice_of(service: str, *addresses: str) -> Object:
    return {
        "metadata": {
            "name": f"{service}-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "endpoints": [{"addresses": [address]} for address in addresses],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def test_of_a_clusters_services_only_those_that_are_named_make_worlds() -> None:
    held = cache(
        *CLASSES,
        (GATEWAY, A),
        (HTTP_ROUTE, route("r", "a")),
        (SERVICE, service("web")),
        (SERVICE, service("other")),
        (ENDPOINT_SLICE, slice_of("web", "10.0.0.1")),
        (ENDPOINT_SLICE, slice_of("other", "10.0.0.9")),
    )
    web = ObjectName("default", "web")
    world = held.world()
    assert list(world.services) == [web]
    assert world.services[web].ports[0].addresses == (("10.0.0.1", 8080),)
    slices = (ENDPOINT_SLICE, None)
    assert not held.put(slices, item(ENDPOINT_SLICE, slice_of("other", "10.0.0.8")))
    assert held.put(slices, item(ENDPOINT_SLICE, slice_of("web", "10.0.0.2")))
    assert held.world().services[web].ports[0].addresses == (("10.0.0.2", 8080),)
    assert not held.remove((SERVICE, None), ObjectName("default", "other"))
    other = {"backendRefs": [{"name": "other", "port": 80}]}
    held.put((SERVICE, None), item(SERVICE, service("other")))
    assert held.put((HTTP_ROUTE, None), item(HTTP_ROUTE, route("r", "a", rule=other)))
    [now_named] = held.world().services.values()
    assert now_named.ports[0].addresses == (("10.0.0.8", 8080),), "what changed meanwhile counts"


def test_the_service_of_a_pools_picker_is_in_the_world() -> None:
    with_picker = pool("llama")
    with_picker["spec"]["endpointPickerRef"] = {"name": "epp", "port": {"number": 9002}}
    world = cache((NEW_POOL, with_picker), (SERVICE, service("epp"))).world()
    assert list(world.services) == [ObjectName("default", "epp")]


def test_a_secret_that_is_rotated_badly_leaves_the_last_good_one_in_effect() -> None:
    tls = {"certificateRefs": [{"name": "tls"}]}
    secure = gateway(
        "a", "ours", listeners=[{"name": "x", "port": 443, "protocol": "HTTPS", "tls": tls}]
    )
    held = cache(*CLASSES, (GATEWAY, secure), (SECRET, good_pair().secret()))
    name = ObjectName("default", "tls")
    assert held.world().certificates[name].key == good_pair().key
    bad = Pair(good_pair().chain, b"nothing").secret()
    assert held.put((SECRET, None), item(SECRET, bad))
    world = held.world()
    assert world.certificates[name].key == good_pair().key
    assert [str(one) for one in world.problems] == [
        "kubernetes: Secret default/tls data.tls.key: is no private key in PEM (the last good"
        " version stays in effect)"
    ]
    assert held.put((SECRET, None), item(SECRET, bad, uid="2"))
    assert held.world().certificates[name].problem == "tls.key is no private key in PEM"


def test_labels_are_those_of_namespaces_with_routes() -> None:
    def namespace(name: str) -> Object:
        return {"metadata": {"name": name, "labels": {"team": name}}}

    world = cache(
        *CLASSES,
        (GATEWAY, A),
        (HTTP_ROUTE, route("r", "a")),
        (NAMESPACE, namespace("default")),
        (NAMESPACE, namespace("other")),
    ).world()
    assert world.namespaces == {
        "default": {"team": "default", "kubernetes.io/metadata.name": "default"}
    }


def test_only_pods_that_a_pool_of_their_namespace_selects_are_in_the_world() -> None:
    world = cache(
        (NEW_POOL, pool("llama")),
        (POD, pod("serves", "llama", "10.0.0.1")),
        (POD, pod("of-another-app", "sql", "10.0.0.2")),
        (POD, pod("elsewhere", "llama", "10.0.0.3", namespace="other")),
    ).world()
    assert [one.name for one in world.endpoints_of(LLAMA)] == ["serves"]
    assert world.absent == ()
    assert str(world.endpoint_origins["10.0.0.1:8000"]) == "Pod default/serves (kubernetes)"


def test_a_pod_of_two_pools_serves_both() -> None:
    world = cache(
        (NEW_POOL, pool("llama")),
        (NEW_POOL, pool("spare", [9000], app="llama")),
        (POD, pod("one", "llama", "10.0.0.1")),
    ).world()
    assert {str(name): [e.key for e in of] for name, of in world.endpoints.items()} == {
        "default/llama": ["10.0.0.1:8000"],
        "default/spare": ["10.0.0.1:9000"],
    }


def test_a_change_that_says_nothing_new_is_no_change() -> None:
    held = cache((POD, pod("one", "llama", "10.0.0.1")))
    noisy = pod("one", "llama", "10.0.0.1")
    noisy["status"]["hostIP"] = "192.168.0.1"
    assert not held.put((POD, None), item(POD, noisy))
    assert not held.replace((POD, None), [item(POD, noisy)])
    assert held.put((POD, None), item(POD, pod("one", "llama", "10.0.0.2")))
