"""The steps of the quickstart, walked by a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from e2e.envoy_gateway import binaries
from e2e.envoy_gateway.network import NoNetworkError, private_network
from e2e.envoy_gateway.stack import NAMESPACE, PORT, URL, Cluster, wait_until
from e2e.kube.binaries import MissingError, build_missing
from e2e.kube.binaries import find as find_kube
from poolpilot.envoy_binary import find_envoy
from poolpilot.manifests import envoy_gateway
from poolpilot.manifests.envoy_gateway import Endpoints, Settings, Version

PICKER_URL = "http://127.0.0.1:9090"
STRANGER = "10.1.0.200"
"""Where a model server listens that is in no pool."""
PODS = {f"vllm-{number}": f"10.1.0.{number + 10}" for number in range(3)}


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


@contextmanager
def walked(version: str, directory: Path) -> Iterator[Quickstart]:
    """A cluster of its own, with all the steps behind it. Skips where a part is missing."""
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
        cluster = Cluster(directory, build, kube)
        stack.callback(cluster.stop)
        cluster.start()
        yield _walk_through(cluster, Settings(Version.parse(version), port=PORT))


@contextmanager
def endpoints_from_xds(quickstart: Quickstart) -> Iterator[Quickstart]:
    """The other directory applied over the first, and what is not needed any more deleted. In the
    end it is all as it was."""
    before = quickstart.settings
    after = replace(before, endpoints=Endpoints.EDS)
    try:
        yield _move(quickstart.cluster, before, after)
    finally:
        _move(quickstart.cluster, after, before)


def _move(cluster: Cluster, before: Settings, after: Settings) -> Quickstart:
    had, documents = envoy_gateway.documents(before), envoy_gateway.documents(after)
    said = {
        name: cluster.api.kubectl(
            "apply", "--server-side", "--dry-run=server", "--filename=-", stdin=text
        )
        for name, text in documents.items()
        if had.get(name) != text
    }
    for name in said:
        cluster.api.apply(documents[name])
    gone = _objects(had) - _objects(documents)
    for kind, name in gone:
        cluster.api.kubectl("delete", kind, name, f"--namespace={NAMESPACE}", "--now")
    if after.endpoints is Endpoints.EDS:
        cluster.api.kubectl("delete", "endpointslice", f"{after.pool}-0", f"-n={NAMESPACE}")
        cluster.start_xds(after.xds)
    else:
        cluster.endpoints(after.pool, "http", after.target_port, PODS.values())
        cluster.children["xds"].kill()
    cluster.children["envoy"].kill()
    cluster.start_envoy(after.gateway, find_envoy(), asks_us=after.endpoints is Endpoints.EDS)
    quickstart = Quickstart(cluster, after, said)
    wait_until(lambda: quickstart.ask().status_code == 200, "a request is answered")
    return quickstart


def _objects(documents: dict[str, str]) -> set[tuple[str, str]]:
    return {
        (one["kind"], one["metadata"]["name"])
        for text in documents.values()
        for one in yaml.safe_load_all(text)
    }


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
    cluster.endpoints(settings.pool, "http", settings.target_port, PODS.values())
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
