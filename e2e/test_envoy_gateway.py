"""The quickstart on real Envoy Gateways, old and new, with a real API server, Envoy and picker.

Needs root, for a network in which Envoy Gateway's fixed ports are free, and the programs of
``e2e.kube.binaries`` and ``e2e.envoy_gateway.binaries``; skipped where one of them is missing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from e2e.envoy_gateway import binaries
from e2e.envoy_gateway.quickstart import PODS, STRANGER, Quickstart, endpoints_from_xds, walked
from e2e.envoy_gateway.stack import NAMESPACE, PORT, SYSTEM, URL, wait_until
from e2e.kube.api_server import pod_status
from poolpilot.demo.load import POD_HEADER
from poolpilot.manifests import envoy_gateway
from poolpilot.manifests.envoy_gateway import Recipe, Version

DESTINATION = "x-gateway-destination-endpoint"
ADMIN = "http://127.0.0.1:19000"
SOON = 2.0
"""Seconds that a change of the pool may take to reach requests."""
LATECOMER, LATE_ADDRESS = "vllm-late", "10.1.0.50"
TRIES = 8

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module", params=binaries.wanted())
def quickstart(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Quickstart]:
    with walked(request.param, tmp_path_factory.mktemp(request.param)) as quickstart:
        yield quickstart


def test_every_step_is_accepted_by_the_api_server(quickstart: Quickstart) -> None:
    for name, said in quickstart.dry_runs.items():
        lines = said.splitlines()
        assert lines, name
        assert all(line.endswith("(server dry run)") for line in lines), said


def test_every_policy_is_accepted_and_programmed(quickstart: Quickstart) -> None:
    settings, seen = quickstart.settings, quickstart.cluster.conditions
    accepted = {"Accepted": "True/Accepted"}
    programmed = {**accepted, "Programmed": "True/Programmed"}
    resolved = {**accepted, "ResolvedRefs": "True/ResolvedRefs"}
    expected = {
        ("gateway", settings.gateway): programmed,
        ("httproute", settings.route): resolved,
        ("envoyextensionpolicy", "ext-proc-policy"): accepted,
        ("clienttrafficpolicy", settings.gateway): accepted,
    }
    if settings.version.recipe is not Recipe.ORIGINAL_DST:
        expected["backendtrafficpolicy", settings.route] = accepted
    if settings.version.recipe is not Recipe.HEADER:
        expected["envoypatchpolicy", "custom-response-patch-policy"] = programmed
    for (kind, name), conditions in expected.items():
        wait_until(
            lambda kind=kind, name=name, conditions=conditions: (  # type: ignore[misc]  # as values
                seen(kind, name).items() >= conditions.items()
            ),
            f"{kind} {name}: {conditions}, not {seen(kind, name)}",
        )


def test_each_request_goes_where_the_picker_said(quickstart: Quickstart) -> None:
    addresses = {}
    for number in range(20):
        response = quickstart.ask(f"{number} " * 400)
        assert response.status_code == 200, response.text
        pod = response.headers[POD_HEADER]
        decision = quickstart.decision(response)
        assert decision["endpoints"][0] == f"{PODS[pod]}:8000"
        assert decision["pool"] == f"default/{quickstart.settings.pool}"
        addresses[pod] = decision["endpoints"]
    assert len(addresses) > 1, "different prompts spread"
    few = quickstart.settings.version.recipe is Recipe.ORIGINAL_DST
    assert {len(one) for one in addresses.values()} == {1 if few else 3}


def test_a_model_name_is_rewritten_on_the_way(quickstart: Quickstart) -> None:
    response = quickstart.ask()
    assert response.status_code == 200
    decision = quickstart.decision(response)
    assert decision["target_model"] in ("tweet-summary-0", "tweet-summary-1")
    assert response.json()["model"] == decision["target_model"], "the pod was asked for it"


def test_a_long_prompt_is_no_problem(quickstart: Quickstart) -> None:
    response = quickstart.ask("word " * 100_000)
    # Too long for the model, which is the pod's to say, and not for the gateway.
    assert response.status_code in (200, 400), response.text[:500]
    assert POD_HEADER in response.headers


def test_a_destination_that_the_client_sends_is_harmless(quickstart: Quickstart) -> None:
    alone = httpx.get(f"http://{STRANGER}:8000/v1/models", trust_env=False)
    assert alone.headers[POD_HEADER] == "stranger", "it is there to be reached"
    sent = {DESTINATION: f"{STRANGER}:8000"}
    answers = [quickstart.ask(f"{number} " * 400, sent) for number in range(5)]
    answers.append(httpx.get(f"{URL}/v1/models", headers=sent, trust_env=False))
    for response in answers:
        assert response.status_code == 200, response.text
        assert response.headers[POD_HEADER] in PODS
    for response in answers[:-1]:
        pod = response.headers[POD_HEADER]
        assert quickstart.decision(response)["endpoints"][0] == f"{PODS[pod]}:8000"


def test_the_picker_hears_how_requests_ended(quickstart: Quickstart) -> None:
    response = quickstart.ask()
    wait_until(
        lambda: all(one["in_flight"] == 0 for one in quickstart.endpoints()),
        "nothing counts as under way",
    )
    if quickstart.settings.version.recipe is not Recipe.ORIGINAL_DST:
        wait_until(lambda: quickstart.decision(response)["completed"], "the decision knows its end")
        decision = quickstart.decision(response)
        assert decision["completed"]["code"] == 200
        assert decision["completed"]["served"] == decision["endpoints"][0]


def test_a_dead_first_pick_is_answered_by_the_second(quickstart: Quickstart) -> None:
    if quickstart.settings.version.recipe is Recipe.ORIGINAL_DST:
        pytest.skip("ORIGINAL_DST takes one address")
    for _ in range(TRIES):
        name, address = next(iter(PODS.items()))
        quickstart.cluster.children[name].kill()
        with ThreadPoolExecutor(12) as clients:
            prompts = [f"{time.monotonic()} {number} " * 300 for number in range(12)]
            answers = list(clients.map(quickstart.ask, prompts))
        quickstart.cluster.start_pod(name, address)
        assert [one.status_code for one in answers] == [200] * len(answers)
        second = 0
        for response in answers:
            picked = quickstart.decision(response)["endpoints"]
            if picked[0] == f"{address}:8000":
                assert f"{PODS[response.headers[POD_HEADER]]}:8000" == picked[1]
                second += 1
        if second:
            return
        _wait_for_pod(quickstart, address)
    pytest.fail(f"{name} was never the first pick")


def _wait_for_pod(quickstart: Quickstart, address: str) -> None:
    wait_until(
        lambda: any(
            one["fresh"] and one["standing"] == "in"
            for one in quickstart.endpoints()
            if one["endpoint"] == f"{address}:8000"
        ),
        f"{address} is back",
    )


def test_without_the_picker_requests_fail_and_reach_nobody_else(quickstart: Quickstart) -> None:
    settings = quickstart.settings
    quickstart.cluster.children["extproc"].kill()
    try:
        response = quickstart.ask(headers={DESTINATION: f"{STRANGER}:8000"})
        assert response.status_code == (503 if settings.version.recipe is Recipe.METADATA else 500)
        assert POD_HEADER not in response.headers
    finally:
        quickstart.cluster.start_picker(settings.picker)
        wait_until(lambda: quickstart.ask().status_code == 200, "it answers again")


def test_patches_for_the_wrong_names_are_told_in_the_status(quickstart: Quickstart) -> None:
    settings, cluster = quickstart.settings, quickstart.cluster
    if settings.version < Version(1, 7) or settings.version.recipe is Recipe.HEADER:
        pytest.skip("a failing patch stops all updates before 1.7")
    right = envoy_gateway.documents(settings)["patch_policy.yaml"]
    wrong = right.replace("name: default/inference-gateway/llm-gw", f"name: tcp-{PORT}")
    assert wrong != right

    def programmed() -> str:
        seen = cluster.conditions("envoypatchpolicy", "custom-response-patch-policy")
        return seen.get("Programmed", "")

    cluster.api.apply(wrong)
    wait_until(lambda: programmed() == "False/ResourceNotFound", "the status tells it")
    assert quickstart.ask().status_code == 200, "the rest is in effect"
    cluster.api.apply(right)
    wait_until(lambda: programmed() == "True/Programmed", "it is mended")


def endpoints_of_envoy() -> dict[str, str]:
    """Address to health of what Envoy has in the pool's cluster."""
    answer = httpx.get(f"{ADMIN}/clusters?format=json", trust_env=False).json()
    [found] = [
        one for one in answer["cluster_statuses"] if one["name"].startswith("httproute/default/")
    ]
    return {
        host["address"]["socket_address"]["address"]: host["health_status"]["eds_health_status"]
        for host in found.get("host_statuses", ())
    }


def objects_of_envoy_gateway(quickstart: Quickstart) -> dict[str, Any]:
    """Everything that Envoy Gateway reads, with the generation of each."""
    api, kinds = quickstart.cluster.api, "gateway,httproute,backend,envoyproxy,envoypatchpolicy"
    listed = [
        *api.get(kinds, f"--namespace={NAMESPACE}")["items"],
        *api.get("service,endpointslice", f"--namespace={NAMESPACE}")["items"],
        *api.get("deployment", f"--namespace={SYSTEM}")["items"],
    ]
    return {
        f"{one['kind']}/{one['metadata']['name']}": one.get("spec", one.get("endpoints"))
        for one in listed
    }


def version_from_envoy_gateway() -> str:
    """Of the clusters that Envoy took from it."""
    answer = httpx.get(f"{ADMIN}/config_dump?resource=dynamic_active_clusters", trust_env=False)
    rows = answer.json()["configs"]
    assert rows
    return json.dumps([one["version_info"] for one in rows])


def soon(holds: Callable[[], object], what: str) -> None:
    wait_until(holds, what, limit=SOON)


def served_by(quickstart: Quickstart) -> str:
    response = quickstart.ask(f"{time.monotonic()} " * 300)
    assert response.status_code == 200, response.text
    pod: str = response.headers[POD_HEADER]
    return pod


@pytest.fixture(scope="class")
def eds(quickstart: Quickstart) -> Iterator[Quickstart]:
    if quickstart.settings.version.recipe is not Recipe.METADATA:
        pytest.skip("it takes override_host by patch")
    with endpoints_from_xds(quickstart) as moved:
        yield moved


class TestThePodsComeFromOurXdsServer:
    def test_envoy_gateway_takes_all_of_it(self, eds: Quickstart) -> None:
        for name, said in eds.dry_runs.items():
            assert all(line.endswith("(server dry run)") for line in said.splitlines()), name
        seen, settings = eds.cluster.conditions, eds.settings
        accepted = {"Accepted": "True/Accepted"}
        expected = {
            ("gateway", settings.gateway): {**accepted, "Programmed": "True/Programmed"},
            ("httproute", settings.route): {**accepted, "ResolvedRefs": "True/ResolvedRefs"},
            ("backend", settings.pool): accepted,
            ("envoyextensionpolicy", "ext-proc-policy"): accepted,
            ("backendtrafficpolicy", settings.route): accepted,
            ("envoypatchpolicy", "custom-response-patch-policy"): {
                **accepted,
                "Programmed": "True/Programmed",
            },
        }
        for (kind, name), conditions in expected.items():
            wait_until(
                lambda kind=kind, name=name, conditions=conditions: (  # type: ignore[misc]  # as values
                    seen(kind, name).items() >= conditions.items()
                ),
                f"{kind} {name}: {conditions}, not {seen(kind, name)}",
            )

    def test_there_is_no_service_for_the_pods_and_the_picks_are_followed(
        self, eds: Quickstart
    ) -> None:
        services = eds.cluster.api.get("service", f"--namespace={NAMESPACE}")["items"]
        assert eds.settings.pool not in {one["metadata"]["name"] for one in services}
        pods = set()
        for number in range(12):
            response = eds.ask(f"{number} " * 400, {"x-gateway-destination-endpoint": STRANGER})
            assert response.status_code == 200, response.text
            pod = response.headers[POD_HEADER]
            assert eds.decision(response)["endpoints"][0] == f"{PODS[pod]}:8000"
            pods.add(pod)
        assert len(pods) > 1, "different prompts spread"
        assert set(endpoints_of_envoy()) == set(PODS.values())

    def test_the_picker_hears_who_served(self, eds: Quickstart) -> None:
        response = eds.ask()
        wait_until(lambda: eds.decision(response)["completed"], "the decision knows its end")
        decision = eds.decision(response)
        assert decision["completed"]["served"] == decision["endpoints"][0]

    def test_pods_come_and_go_and_envoy_gateway_knows_nothing_of_it(self, eds: Quickstart) -> None:
        cluster, app = eds.cluster, eds.settings.pool
        before, version = objects_of_envoy_gateway(eds), version_from_envoy_gateway()
        cluster.run_pods(app, {LATECOMER: LATE_ADDRESS})
        try:
            soon(lambda: LATE_ADDRESS in endpoints_of_envoy(), "Envoy has the new pod")
            # Which of several idle pods a prompt goes to is chance: enough requests, not a time.
            wait_until(lambda: served_by(eds) == LATECOMER, "it serves")
        finally:
            cluster.api.kubectl("delete", "pod", LATECOMER, f"--namespace={NAMESPACE}", "--now")
        soon(lambda: LATE_ADDRESS not in endpoints_of_envoy(), "Envoy does not have it any more")
        # Its process still answers, so only the configuration keeps requests from it.
        assert httpx.get(f"http://{LATE_ADDRESS}:8000/v1/models", trust_env=False).is_success
        assert {served_by(eds) for _ in range(12)} <= PODS.keys()
        cluster.children[LATECOMER].kill()
        assert objects_of_envoy_gateway(eds) == before
        assert version_from_envoy_gateway() == version

    def test_without_the_xds_server_envoy_keeps_the_pods(self, eds: Quickstart) -> None:
        cluster = eds.cluster
        cluster.children["xds"].kill()
        try:
            assert {served_by(eds) for _ in range(8)} <= PODS.keys()
        finally:
            cluster.start_xds(eds.settings.xds)
        # What changed meanwhile is caught up with.
        name, address = next(iter(PODS.items()))
        not_ready = pod_status(address, ready=False)
        cluster.api.patch_status("pod", name, not_ready, namespace=NAMESPACE)
        try:
            wait_until(
                lambda: address not in endpoints_of_envoy(), "the pod that is not ready is out"
            )
        finally:
            cluster.api.patch_status("pod", name, pod_status(address), namespace=NAMESPACE)
        wait_until(lambda: set(endpoints_of_envoy()) == set(PODS.values()), "and in again")

    def test_the_server_is_refused_nothing(self, eds: Quickstart) -> None:
        assert "forbidden" not in eds.cluster.children["xds"].log.read_text()
