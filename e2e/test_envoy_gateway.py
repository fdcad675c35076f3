"""The quickstart on real Envoy Gateways, old and new, with a real API server, Envoy and picker.

Needs root, for a network in which Envoy Gateway's fixed ports are free, and the programs of
``e2e.kube.binaries`` and ``e2e.envoy_gateway.binaries``; skipped where one of them is missing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from e2e.envoy_gateway import binaries
from e2e.envoy_gateway.network import NoNetworkError, private_network
from e2e.envoy_gateway.stack import PORT, URL, Cluster, wait_until
from e2e.kube.binaries import MissingError, build_missing
from e2e.kube.binaries import find as find_kube
from poolpilot.demo.load import POD_HEADER
from poolpilot.envoy_binary import find_envoy
from poolpilot.manifests import envoy_gateway
from poolpilot.manifests.envoy_gateway import Recipe, Settings, Version

PICKER_URL = "http://127.0.0.1:9090"
DESTINATION = "x-gateway-destination-endpoint"
STRANGER = "10.1.0.200"
PODS = {f"vllm-{number}": f"10.1.0.{number + 10}" for number in range(3)}
TRIES = 8

pytestmark = pytest.mark.timeout(180)


@dataclass
class Quickstart:
    """The quickstart after its last step."""

    cluster: Cluster
    settings: Settings
    dry_runs: dict[str, str]
    """What the API server said of each file before it was applied."""

    def ask(
        self, prompt: str = "San Francisco", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        body = {"model": "tweet-summary", "prompt": prompt, "max_tokens": 4}
        return httpx.post(
            f"{URL}/v1/completions", json=body, headers=headers, timeout=20, trust_env=False
        )

    def decision(self, response: httpx.Response) -> dict[str, Any]:
        """What the picker decided on the request that got this answer."""
        request_id = response.json()["id"].removeprefix("cmpl-")
        answer = httpx.get(f"{PICKER_URL}/debug/decisions?limit=200", trust_env=False)
        [found] = [one for one in answer.json()["decisions"] if one["request_id"] == request_id]
        return dict(found)

    def endpoints(self) -> list[dict[str, Any]]:
        answer = httpx.get(f"{PICKER_URL}/debug/endpoints", trust_env=False)
        return list(answer.json()["endpoints"])


@pytest.fixture(scope="module", params=binaries.wanted())
def quickstart(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Quickstart]:
    version: str = request.param
    try:
        build_missing()
        build, kube = binaries.find(version), find_kube()
    except MissingError as error:
        pytest.skip(str(error))
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(private_network())
        except NoNetworkError as error:
            pytest.skip(str(error))
        cluster = Cluster(tmp_path_factory.mktemp(version), build, kube)
        stack.callback(cluster.stop)
        cluster.start()
        settings = Settings(Version.parse(version), port=PORT)
        yield _walk_through(cluster, settings)


def _walk_through(cluster: Cluster, settings: Settings) -> Quickstart:
    """Every step in its order."""
    first = envoy_gateway.enable_patch_policy()
    steps = {
        "enable_patch_policy.yaml": first,
        "vllm-simulated-deployment.yaml": envoy_gateway.model_servers(settings, simulated=True),
        **envoy_gateway.documents(settings),
    }
    said = {}
    for name, text in steps.items():
        said[name] = cluster.api.kubectl(
            "apply", "--server-side", "--dry-run=server", "--filename=-", stdin=text
        )
        cluster.api.apply(text)
        if text is first:
            cluster.start_envoy_gateway(text)
    cluster.run_pods(settings.pool, PODS, settings.target_port)
    cluster.start_picker(settings.picker)
    cluster.start_envoy(settings.gateway, find_envoy())
    cluster.start_pod("stranger", STRANGER)
    quickstart = Quickstart(cluster, settings, said)
    wait_until(lambda: quickstart.ask().status_code == 200, "a request is answered")
    wait_until(
        lambda: [one["fresh"] for one in quickstart.endpoints()] == [True] * len(PODS),
        "the picker has seen every pod",
    )
    return quickstart


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
