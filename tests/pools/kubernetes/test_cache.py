"""What the objects of an API server mean, taken together."""

import json

from pools.kubernetes.cache import Cache
from pools.kubernetes.kinds import ALL_KINDS, POD, POOLS, ROUTES, Item, Kind, read_item
from pools.model import ObjectName
from tests.pools.kubernetes.api import Object, pod, pool

NEW_POOL, OLD_POOL = POOLS
_, GATEWAY, GATEWAY_CLASS = ROUTES
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


def test_gateways_of_other_controllers_are_not_ours() -> None:
    def gateway(name: str, of: str) -> Object:
        listeners = [{"name": "http", "port": 80, "protocol": "HTTP"}]
        return {
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"gatewayClassName": of, "listeners": listeners},
        }

    def gateway_class(name: str, controller: str) -> Object:
        return {"metadata": {"name": name}, "spec": {"controllerName": controller}}

    world = cache(
        (GATEWAY_CLASS, gateway_class("ours", "poolpilot.dev/ours")),
        (GATEWAY_CLASS, gateway_class("theirs", "example.com/theirs")),
        (GATEWAY, gateway("a", "ours")),
        (GATEWAY, gateway("b", "theirs")),
        (GATEWAY, gateway("c", "of-nobody")),
    ).world()
    assert [one.name.name for one in world.gateways] == ["a"]
    assert [str(one.name) for one in world.gateway_classes] == ["ours"]


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
