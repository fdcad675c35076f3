"""When a pod serves, on which ports, and what is said when it does not."""

import json
from typing import Any

import pytest

from pools.kubernetes.pod import read_pod
from pools.model import AbsentEndpoint, InferencePool, ObjectName, Pod
from pools.pods import endpoints_of_pod, problems_of_pod, selects
from tests.pools.kubernetes import api

POOL = InferencePool(ObjectName("default", "llama"), (8000, 8001), {"app": "llama"})
ACTIVE = "inference.networking.k8s.io/active-ports"


def read(raw: dict[str, Any]) -> Pod:
    return read_pod(json.dumps(raw).encode(), "kubernetes")[0]


def pod(**arguments: Any) -> Pod:
    return read(api.pod("one", "llama", arguments.pop("address", "10.0.0.1"), **arguments))


def served(of: Pod, pool: InferencePool = POOL) -> list[str]:
    endpoints = endpoints_of_pod(of, pool)
    assert not isinstance(endpoints, AbsentEndpoint), endpoints.reason
    return [f"{one.name} {one.key}" for one in endpoints]


def reason(of: Pod) -> str:
    absent = endpoints_of_pod(of, POOL)
    assert isinstance(absent, AbsentEndpoint)
    assert (absent.name, absent.pool) == ("one", POOL.name)
    return absent.reason


def test_each_port_of_a_ready_pod_is_an_endpoint_with_its_rank() -> None:
    assert served(pod()) == ["one-rank-0 10.0.0.1:8000", "one-rank-1 10.0.0.1:8001"]
    single = InferencePool(POOL.name, (8000,), POOL.selector)
    assert served(pod(address="fd00::1"), single) == ["one [fd00::1]:8000"]


@pytest.mark.parametrize("key", [ACTIVE, "llm-d.ai/active-ports"])
def test_active_ports_keep_their_rank(key: str) -> None:
    assert served(pod(annotations={key: " 8001, 9999"})) == ["one-rank-1 10.0.0.1:8001"]


@pytest.mark.parametrize("ports", ["", "9000", "all"])
def test_a_pod_without_an_active_port_of_the_pool_is_absent(ports: str) -> None:
    assert reason(pod(annotations={ACTIVE: ports})) == (
        f"its annotation {ACTIVE} names none of the pool's ports 8000, 8001"
    )


def test_an_active_port_that_is_no_number_is_a_problem_of_the_pod() -> None:
    odd = pod(annotations={ACTIVE: "8000,eight"})
    assert served(odd) == ["one-rank-0 10.0.0.1:8000"]
    assert [str(problem) for problem in problems_of_pod(odd)] == [
        f"kubernetes: Pod default/one metadata.annotations[{ACTIVE}]: must be port numbers"
        " separated by commas; 'eight' is none and was ignored"
    ]
    assert list(problems_of_pod(pod(annotations={ACTIVE: "8000, 8001,"}))) == []


def test_a_pod_that_is_being_deleted_is_absent_however_ready_it_is() -> None:
    assert reason(pod(deleted=True)) == "is being deleted"


def test_a_pod_without_an_address_is_absent() -> None:
    ready = api.pod("one", "llama", "10.0.0.1")
    del ready["status"]["podIP"]
    assert reason(read(ready)) == "has no IP address yet"


def test_a_pod_that_is_not_ready_says_since_when_and_why() -> None:
    raw = api.pod("one", "llama", "10.0.0.1", ready=False)
    raw["status"]["conditions"][0] |= {
        "lastTransitionTime": "2026-01-01T12:03:00Z",
        "message": "containers with unready status: [vllm]",
        "reason": "ContainersNotReady",
    }
    raw["status"]["containerStatuses"] = [
        {
            "name": "vllm",
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
        }
    ]
    assert reason(read(raw)) == (
        "not Ready since 2026-01-01T12:03:00Z: containers with unready status: [vllm];"
        " vllm waits: CrashLoopBackOff (exit code 137, OOMKilled)"
    )


def test_a_pod_without_a_node_says_why() -> None:
    raw = api.pod("one", "llama", "")
    raw["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "message": "0/3 nodes: Insufficient gpu"}
    ]
    assert reason(read(raw)) == "not scheduled: 0/3 nodes: Insufficient gpu"
    raw["status"] = {}
    assert reason(read(raw)) == "not Ready: it has not started yet"


def test_a_pool_selects_by_all_labels_in_its_own_namespace() -> None:
    assert selects(POOL, pod())
    assert not selects(POOL, pod(namespace="other"))
    strict = InferencePool(POOL.name, (8000,), {"app": "llama", "zone": "a"})
    assert not selects(strict, pod())
    assert not selects(InferencePool(POOL.name, (8000,)), pod()), "no selector selects nothing"


def test_nothing_but_what_decides_is_kept_of_a_pod() -> None:
    huge = api.pod("one", "llama", "10.0.0.1", annotations={"notes": "x" * 100_000})
    assert len(repr(read(huge))) < 600
