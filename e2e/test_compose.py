"""``docker compose up``, for real, where a Docker engine answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from poolpilot.demo.load import POD_HEADER
from poolpilot.demo.quickstart import BASE_MODEL

ROOT = Path(__file__).parent.parent
FREE_PORTS = {
    "POOLPILOT_PORT": "0",
    "POOLPILOT_ADMIN_PORT": "0",
    "POOLPILOT_XDS_HTTP_PORT": "0",
    "POOLPILOT_EXTPROC_HTTP_PORT": "0",
}
BUILD_LIMIT = 420.0
UP_LIMIT = 180.0
QUICKSTART = {
    "model": "tweet-summary",
    "prompt": "Write as if you were a critic: San Francisco",
    "max_tokens": 10,
    "temperature": 0,
}


def _answers(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def _compose_command() -> list[str] | str:
    """The command, or why there is none."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    if not _answers("docker", "info"):
        return "no Docker engine answers"
    for command in (["docker", "compose"], ["docker-compose"]):
        if _answers(*command, "version"):
            return command
    return "there is neither `docker compose` nor docker-compose"


@dataclass
class Composition:
    """The project of docker-compose.yaml, under a name and on ports of its own."""

    command: list[str]
    project: str

    def run(self, *arguments: str, limit: float = 60) -> str:
        done = subprocess.run(
            [*self.command, "--project-name", self.project, *arguments],
            cwd=ROOT,
            env={**os.environ, **FREE_PORTS},
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self, *arguments: str) -> None:
        self.run("up", "--detach", *arguments, limit=UP_LIMIT)

    def url(self, service: str, port: int) -> str:
        _, _, number = self.run("port", service, str(port)).strip().rpartition(":")
        return f"http://127.0.0.1:{number}"

    def addresses(self, service: str) -> set[str]:
        """IP addresses of the containers of a service."""
        containers = self.run("ps", "--quiet", service).split()
        shown = subprocess.run(
            ["docker", "inspect", *containers], capture_output=True, text=True, check=True
        ).stdout
        return {
            network["IPAddress"]
            for container in json.loads(shown)
            for network in container["NetworkSettings"]["Networks"].values()
        }

    def logs(self) -> str:
        return self.run("logs", "--no-color", "--tail", "40")


def eventually(condition: Callable[[], bool], what: str, limit: float = 60) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {limit:g} s: {what}"
        time.sleep(0.1)


@pytest.fixture
def composition() -> Iterator[Composition]:
    command = _compose_command()
    if isinstance(command, str):
        pytest.skip(f"docker compose was not tried: {command}")
    composition = Composition(command, f"poolpilot-{uuid.uuid4().hex[:8]}")
    try:
        composition.run("build", limit=BUILD_LIMIT)
        yield composition
    finally:
        composition.run("down", "--volumes", "--timeout", "5", limit=120)


@pytest.mark.timeout(BUILD_LIMIT + 2 * UP_LIMIT + 300)
def test_compose_brings_up_a_gateway_and_follows_its_scale(composition: Composition) -> None:
    try:
        _bring_up_and_scale(composition)
    except BaseException:
        print(composition.logs())  # noqa: T201
        raise


def _bring_up_and_scale(composition: Composition) -> None:
    composition.up()
    with httpx.Client(
        base_url=composition.url("envoy", 8081), timeout=30, trust_env=False
    ) as client:
        eventually(lambda: _answered(client), "the first request is answered")
        _nothing_was_restarted_or_runs_as_root(composition)
        _all_pods_answer(composition, client, count=3)

        composition.up("--no-recreate", "--scale", "vllm=5")
        _all_pods_answer(composition, client, count=5)

        composition.up("--no-recreate", "--scale", "vllm=2")
        _all_pods_answer(composition, client, count=2)


def _ask(client: httpx.Client) -> httpx.Response:
    return client.post("/v1/completions", json=QUICKSTART)


def _ask_anything(client: httpx.Client) -> httpx.Response:
    body = {"model": BASE_MODEL, "prompt": f"{uuid.uuid4()} is a name for", "max_tokens": 10}
    return client.post("/v1/completions", json=body)


def _answered(client: httpx.Client) -> bool:
    try:
        return _ask(client).status_code == 200
    except httpx.TransportError:
        return False


def _all_pods_answer(composition: Composition, client: httpx.Client, count: int) -> None:
    """Envoy knows the containers that there are, no others, and each of them gets requests."""
    eventually(
        lambda: _envoy_knows(composition) == composition.addresses("vllm"),
        "Envoy knows exactly the containers that there are",
    )
    assert len(composition.addresses("vllm")) == count
    answered_by: set[str] = set()

    def all_answered() -> bool:
        # Different prompts to the base model: nothing makes them stick to one pod.
        with ThreadPoolExecutor(20) as executor:
            responses = list(executor.map(lambda _: _ask_anything(client), range(40)))
        assert [response.status_code for response in responses] == [200] * 40
        answered_by.update(response.headers[POD_HEADER] for response in responses)
        return len(answered_by) == count

    eventually(all_answered, f"all {count} pods answer")


def _nothing_was_restarted_or_runs_as_root(composition: Composition) -> None:
    """The start order was right, and our containers have no more rights than they need."""
    containers = composition.run("ps", "--quiet").split()
    shown = subprocess.run(
        ["docker", "inspect", *containers], capture_output=True, text=True, check=True
    ).stdout
    for container in json.loads(shown):
        assert container["RestartCount"] == 0, container["Name"]
        assert container["HostConfig"]["ReadonlyRootfs"], container["Name"]
        if "envoy" not in container["Config"]["Image"]:
            assert container["Config"]["User"] == "10001:10001"


def _envoy_knows(composition: Composition) -> set[str]:
    """IP addresses of the pods in Envoy's cluster."""
    document = httpx.get(
        f"{composition.url('envoy', 19000)}/clusters?format=json", timeout=10, trust_env=False
    ).json()
    return {
        host["address"]["socket_address"]["address"]
        for cluster in document["cluster_statuses"]
        if cluster["name"].startswith("pool/")
        for host in cluster.get("host_statuses", ())
    }
