"""The manifests on a real API server, and what they start, with just the rights that they give."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from e2e.harness import LIMIT, eventually
from e2e.kube.api_server import ApiServer, KubectlError, pod_object, pod_status
from poolpilot.demo.load import POD_HEADER
from poolpilot.demo.ports import LOOPBACK, Reservation, reserve
from poolpilot.demo.processes import Children
from poolpilot.envoy_binary import find_envoy
from poolpilot.manifests import plain_envoy
from poolpilot.manifests.files import DIRECTORIES

ROOT = Path(__file__).parents[1] / "manifests"
ENVOY_GATEWAY_KINDS = Path(__file__).parent / "envoy_gateway" / "crds"
POD = "127.0.0.11"


@pytest.fixture(scope="module")
def envoy_gateway_kinds(api_server: ApiServer) -> Iterator[None]:
    where = f"--filename={ENVOY_GATEWAY_KINDS}"
    api_server.kubectl("apply", "--server-side", where)
    api_server.kubectl("wait", "--for=condition=Established", "--timeout=20s", where)
    api_server.kubectl("create", "namespace", "envoy-gateway-system")
    yield
    api_server.kubectl("delete", "namespace", "envoy-gateway-system", "--wait=false")
    api_server.kubectl("delete", where)


def dry_run(server: ApiServer, *what: str) -> list[str]:
    said = server.kubectl("apply", "--server-side", "--dry-run=server", *what)
    return said.splitlines()


@pytest.mark.usefixtures("envoy_gateway_kinds")
@pytest.mark.parametrize(
    "folder",
    [
        "vllm",
        *DIRECTORIES,
        *(f"overlays/{directory}-simulated" for directory in DIRECTORIES),
    ],
)
def test_every_directory_of_the_quickstart_is_accepted(api_server: ApiServer, folder: str) -> None:
    lines = dry_run(api_server, f"--kustomize={ROOT / 'envoy-gateway' / folder}")
    assert lines
    assert all(line.endswith("(server dry run)") for line in lines), lines


@pytest.mark.usefixtures("envoy_gateway_kinds")
def test_the_steps_of_the_quickstart_are_applied_in_order(api_server: ApiServer) -> None:
    folder = ROOT / "envoy-gateway"
    steps = [
        folder / "enable_patch_policy.yaml",
        folder / "vllm-simulated" / "vllm-simulated-deployment.yaml",
        *(
            folder / "v1.9" / name
            for name in yaml.safe_load((folder / "v1.9" / "kustomization.yaml").read_text())[
                "resources"
            ]
        ),
    ]
    try:
        for step in steps:
            assert dry_run(api_server, f"--filename={step}")
            api_server.kubectl("apply", "--server-side", f"--filename={step}")
    finally:
        for step in reversed(steps):
            api_server.kubectl("delete", "--ignore-not-found", "--now", f"--filename={step}")


class Plain:
    """``manifests/plain-envoy`` on loopback: its servers and its Envoy, as processes that run with
    the arguments, the variables and the rights of their manifests."""

    def __init__(self, api: ApiServer, directory: Path) -> None:
        self.api = api
        self.children = Children(directory)
        self._directory = directory
        self._ports: list[Reservation] = []
        self.port, self.admin, self.pod = (self._reserve() for _ in range(3))
        self.settings = plain_envoy.Settings(
            namespace="plain", port=self.port, target_port=self.pod, gateway_class="plain"
        )
        self.documents = plain_envoy.documents(self.settings)
        self.xds, self.xds_http = self._reserve(), self._reserve()
        self.picker, self.health, self.picker_http = (self._reserve() for _ in range(3))

    def _reserve(self) -> int:
        reservation = reserve()
        self._ports.append(reservation)
        return reservation.port

    def stop(self) -> None:
        self.children.stop(grace=2)
        for reservation in self._ports:
            reservation.close()
        self.api.kubectl("delete", "--now", "--wait=false", "--filename=-", stdin=self.everything)

    @property
    def everything(self) -> str:
        return "---\n".join([*self.documents.values(), plain_envoy.sample(self.settings)])

    def start(self) -> None:
        # The namespace first; a dry run knows only what is there.
        self.api.kubectl(
            "apply", "--server-side", "--filename=-", stdin=self.documents["namespace.yaml"]
        )
        self.api.kubectl(
            "apply", "--server-side", "--dry-run=server", "--filename=-", stdin=self.everything
        )
        self.api.apply(self.everything)
        self.api.apply(
            yaml.safe_dump(pod_object("vllm-0", {"app": self.settings.label})), namespace="plain"
        )
        self.api.patch_status("pod", "vllm-0", pod_status(POD), namespace="plain")
        self.children.start(
            "vllm-0",
            [sys.executable, "-m", "poolpilot", "fake-vllm", f"--address={POD}:{self.pod}",
             "--name=vllm-0"],
        )  # fmt: skip
        self._serve(
            "deployment", "poolpilot-xds", "--lease-namespace=plain",
            POOLPILOT_XDS_ADDRESS=f"{LOOPBACK}:{self.xds}",
            POOLPILOT_XDS_HTTP_ADDRESS=f"{LOOPBACK}:{self.xds_http}",
            POOLPILOT_PICKER=f"{LOOPBACK}:{self.picker}",
        )  # fmt: skip
        self._serve(
            "statefulset", "poolpilot-extproc",
            POOLPILOT_EXTPROC_ADDRESS=f"{LOOPBACK}:{self.picker}",
            POOLPILOT_EXTPROC_HEALTH_ADDRESS=f"{LOOPBACK}:{self.health}",
            POOLPILOT_EXTPROC_HTTP_ADDRESS=f"{LOOPBACK}:{self.picker_http}",
        )  # fmt: skip
        self._start_envoy()

    def container(self, kind: str, name: str) -> dict[str, Any]:
        found = self.api.get(kind, name, "--namespace=plain")
        [container] = found["spec"]["template"]["spec"]["containers"]
        return dict(container)

    def _serve(self, kind: str, name: str, *more: str, **changed: str) -> None:
        container = self.container(kind, name)
        variables = {env["name"]: env["value"] for env in container["env"]}
        assert changed.keys() <= variables.keys()
        token = self.api.kubectl("create", "token", name, "--namespace=plain").strip()
        kubeconfig = self.api.write_kubeconfig(self._directory / f"{name}.kubeconfig", token=token)
        self.children.start(
            name,
            [
                sys.executable,
                "-m",
                "poolpilot",
                *container["args"],
                f"--kubeconfig={kubeconfig}",
                *more,
            ],
            {**variables, **changed},
        )

    def _start_envoy(self) -> None:
        [config] = [self.api.get("configmap", "poolpilot-envoy", "--namespace=plain")]
        bootstrap = yaml.safe_load(config["data"]["envoy.yaml"])
        bootstrap["admin"]["address"]["socket_address"]["port_value"] = self.admin
        [cluster] = bootstrap["static_resources"]["clusters"]
        [member] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        member["endpoint"]["address"]["socket_address"] = {
            "address": LOOPBACK, "port_value": self.xds,
        }  # fmt: skip
        path = self._directory / "envoy.yaml"
        path.write_text(yaml.safe_dump(bootstrap))
        arguments = [
            one.replace("/etc/envoy/poolpilot/envoy.yaml", str(path)).replace(
                "$(POD_NAME)", "envoy-0"
            )
            for one in self.container("deployment", "poolpilot-envoy")["args"]
        ]
        self.children.start("envoy", [find_envoy(), *arguments])
        (self._directory / "drain.sh").write_text(config["data"]["drain.sh"])

    @property
    def drain_script(self) -> Path:
        return self._directory / "drain.sh"

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"http://{LOOPBACK}:{self.port}", timeout=30, trust_env=False
        )

    async def ready(self) -> None:
        async def all_ready() -> bool:
            self.children.check()
            with contextlib.suppress(httpx.HTTPError):
                async with self.client() as client:
                    for port in (self.xds_http, self.picker_http):
                        if (
                            await client.get(f"http://{LOOPBACK}:{port}/readyz")
                        ).status_code != 200:
                            return False
                    return (await client.get("/v1/models")).status_code == 200
            return False

        await eventually(all_ready, "the servers are ready and Envoy serves", LIMIT)


@pytest.fixture(scope="module")
def plain(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plain]:
    plain = Plain(api_server, tmp_path_factory.mktemp("plain"))
    try:
        plain.start()
        asyncio.run(plain.ready())
        yield plain
    finally:
        plain.stop()


async def test_with_just_its_rights_the_whole_of_plain_envoy_serves(plain: Plain) -> None:
    async with plain.client() as client:
        answer = await client.post(
            "/v1/completions", json={"model": "tweet-summary", "prompt": "a", "max_tokens": 1}
        )
    assert answer.status_code == 200
    assert answer.headers[POD_HEADER] == "vllm-0"


def test_nothing_is_refused_to_the_servers(plain: Plain) -> None:
    for name in ("poolpilot-xds", "poolpilot-extproc"):
        log = plain.children[name].log.read_text()
        assert "forbidden" not in log, log


def test_all_pods_keep_to_the_restricted_standard(plain: Plain) -> None:
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": "restricted",
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
    plain.api.apply(yaml.safe_dump(namespace))
    simulated = plain_envoy.simulated_servers(plain.settings)
    workloads = [
        one
        for one in yaml.safe_load_all(plain.everything + "---\n" + simulated)
        if one["kind"] in ("Deployment", "StatefulSet")
    ]
    assert len(workloads) == 4
    for workload in workloads:
        template = workload["spec"]["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"]["name"] = workload["metadata"]["name"]
        said = plain.api.kubectl(
            "apply", "--server-side", "--dry-run=server", "--namespace=restricted",
            "--filename=-", stdin=yaml.safe_dump(pod),
        )  # fmt: skip
        assert "server dry run" in said
    plain.api.kubectl("delete", "namespace", "restricted", "--wait=false")


async def test_the_conditions_say_that_all_is_well(plain: Plain) -> None:
    """Which takes the rights to write status, and the Lease."""
    waits = {
        "gatewayclass/plain": "Accepted",
        f"gateway/{plain.settings.gateway}": "Programmed",
        f"httproute/{plain.settings.route}": "",
        f"inferencepool.inference.networking.k8s.io/{plain.settings.pool}": "",
    }
    for what, condition in waits.items():
        wish = (
            f"condition={condition}"
            if condition
            else 'jsonpath={.status.parents[0].conditions[?(@.type=="ResolvedRefs")].status}=True'
        )
        await asyncio.to_thread(
            plain.api.kubectl, "wait", what, f"--for={wish}", "--namespace=plain", "--timeout=20s"
        )


@pytest.mark.parametrize(
    ("account", "may", "what"),
    [
        ("xds", True, "patch gateways.gateway.networking.k8s.io/status"),
        ("xds", True, "patch inferencepools.inference.networking.k8s.io/status"),
        ("xds", True, "create events.events.k8s.io"),
        ("xds", True, "create leases.coordination.k8s.io"),
        (
            "xds",
            True,
            "update leases.coordination.k8s.io/poolpilot-status-poolpilot.dev-gateway-controller",
        ),
        ("xds", False, "update leases.coordination.k8s.io/somebody-else"),
        ("xds", False, "update gateways.gateway.networking.k8s.io"),
        ("xds", False, "delete pods"),
        ("xds", False, "create secrets"),
        ("xds", False, "list configmaps"),
        ("extproc", True, "watch pods"),
        ("extproc", False, "get secrets"),
        ("extproc", False, "create events"),
        ("extproc", False, "patch inferencepools.inference.networking.k8s.io/status"),
        ("envoy", False, "get pods"),
    ],
)
def test_a_server_may_do_what_it_must_and_no_more(
    plain: Plain, account: str, may: bool, what: str
) -> None:
    verb, resource = what.split()
    resource, _, rest = resource.partition("/")
    flags = [f"--subresource={rest}"] if rest == "status" else []
    named = f"{resource}/{rest}" if rest and rest != "status" else resource
    try:
        plain.api.kubectl(
            "auth", "can-i", verb, named, *flags, "--namespace=plain",
            f"--as=system:serviceaccount:plain:poolpilot-{account}",
        )  # fmt: skip
        allowed = True
    except KubectlError:
        allowed = False
    assert allowed is may


async def test_an_envoy_that_is_to_go_waits_for_what_is_under_way(plain: Plain) -> None:
    done = threading.Event()

    def drain() -> int:
        status = subprocess.run(
            ["bash", str(plain.drain_script)],
            env={"PATH": "/usr/bin:/bin", "ADMIN_PORT": str(plain.admin), "DRAIN_PAUSE": "0"},
            timeout=LIMIT,
            check=False,
        ).returncode
        done.set()
        return status

    body = {"model": "tweet-summary", "prompt": "a", "max_tokens": 150, "stream": True}
    async with plain.client() as client:
        async with client.stream("POST", "/v1/completions", json=body) as response:
            assert response.status_code == 200
            chunks = response.aiter_bytes()
            await anext(chunks)
            draining = asyncio.create_task(asyncio.to_thread(drain))
            last = b""
            async for chunk in chunks:
                last = chunk or last
                assert not done.is_set(), "it did not wait"
            assert b"[DONE]" in last
        assert await draining == 0
