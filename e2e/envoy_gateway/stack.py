"""Envoy Gateway with the parts around it, as a cluster would run them.

Real: kube-apiserver with RBAC, Envoy Gateway and the definitions of its kinds, the Envoy that it
wants (of our wheel, with the very arguments of the Deployment that Envoy Gateway writes), our
picker (with the arguments and the rights of its manifest), simulated model servers. Played by
:class:`Cluster`: scheduler, kubelet and the controllers that make Pods and EndpointSlices.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from e2e.envoy_gateway.binaries import EnvoyGatewayBuild
from e2e.kube.api_server import ApiServer, pod_object, pod_status
from e2e.kube.binaries import Binaries
from poolpilot.demo.processes import Children

SYSTEM = "envoy-gateway-system"
NAMESPACE = "default"
POOL_KINDS = ("inferencepools", "inferencemodels", "inferencepools-x", "inferenceobjectives")
LIMIT = 30.0
"""Seconds that anything may take to happen."""
PICKER_ADDRESS = "10.1.1.1"
XDS_ADDRESS, XDS_PORT = "10.1.1.2", 18500
"""Of our xDS server; Envoy Gateway's own has 18000 at every address of the network."""
POD_OPTIONS = ("--time-scale=200",)
PORT = 10080
"""Of the Gateway. Envoy Gateway itself has 8081, which in a cluster is another pod's."""
URL = f"http://127.0.0.1:{PORT}"


def wait_until(holds: Callable[[], object], what: str, limit: float = LIMIT) -> None:
    """Fails after ``limit`` seconds, with what was seen last."""
    deadline = time.monotonic() + limit
    while True:
        try:
            seen = holds()
        except (httpx.HTTPError, OSError) as error:
            seen = None
            last: object = error
        else:
            last = seen
        if seen:
            return
        assert time.monotonic() < deadline, f"did not happen within {limit:g} s: {what} ({last!r})"
        time.sleep(0.05)


class Cluster:
    """One API server with the kinds of one Envoy Gateway, and its processes."""

    def __init__(self, directory: Path, build: EnvoyGatewayBuild, binaries: Binaries) -> None:
        self.build = build
        self._directory = directory
        self.api = ApiServer(directory, binaries, authorization="RBAC")
        self.children = Children(directory)
        self._root = directory / "root"

    # Start and end.

    def start(self) -> None:
        self.api.start()
        self.api.kubectl("create", f"--filename={self.build.definitions}", "--save-config=false")
        self.api.install(*POOL_KINDS)
        self.api.kubectl("create", "namespace", SYSTEM)
        self._make_root()
        self._make_certificates()

    def stop(self) -> None:
        self.children.stop(grace=1)
        self.api.stop()

    def _make_root(self) -> None:
        """What Envoy Gateway sees as its root directory, since it has fixed paths."""
        for name in ("certs", "tmp", "var/lib"):
            (self._root / name).mkdir(parents=True)
        try:
            os.link(self.build.program, self._root / "envoy-gateway")
        except OSError:
            shutil.copy2(self.build.program, self._root / "envoy-gateway")
        flat = self.api.kubectl("config", "view", "--flatten", "--raw")
        (self._root / "kubeconfig").write_text(flat)

    @property
    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "KUBECONFIG": "/kubeconfig",
            "HOME": "/",
            "ENVOY_GATEWAY_NAMESPACE": SYSTEM,
        }

    def _make_certificates(self) -> None:
        """As the Helm chart's job does: into Secrets, which Envoy Gateway and Envoy mount."""
        command = ["chroot", str(self._root), "/envoy-gateway", "certgen"]
        usage = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
        if "--disable-topology-injector" in usage.stdout:
            command.append("--disable-topology-injector")
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self._mount("envoy-gateway", self._root / "certs")
        self._mount("envoy", self._directory / "envoy" / "certs")

    def _mount(self, secret: str, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        data = self.api.get("secret", secret, f"--namespace={SYSTEM}")["data"]
        for name, value in data.items():
            (directory / name).write_bytes(base64.b64decode(value))

    def start_envoy_gateway(self, config_map: str) -> None:
        """With the configuration of the ConfigMap, whose manifest this is; only that what it and
        Envoy would both listen on, in one network, is moved out of the way."""
        [manifest] = yaml.safe_load_all(config_map)
        config = yaml.safe_load(manifest["data"]["envoy-gateway.yaml"])
        config["admin"] = {"address": {"host": "127.0.0.1", "port": 19100}}
        config["telemetry"] = {"metrics": {"prometheus": {"disable": True}}}
        (self._root / "config.yaml").write_text(yaml.safe_dump(config))
        self.children.start(
            "envoy-gateway",
            [
                "chroot",
                str(self._root),
                "/envoy-gateway",
                "server",
                "--config-path",
                "/config.yaml",
            ],
            self._environment,
        )

    # What a cluster's controllers do.

    def run_pods(self, app: str, addresses: Mapping[str, str], port: int = 8000) -> None:
        """Pods of these names and addresses are there, ready, and serve."""
        for name, address in addresses.items():
            self.api.apply(yaml.safe_dump(pod_object(name, {"app": app})), namespace=NAMESPACE)
            self.api.patch_status("pod", name, pod_status(address), namespace=NAMESPACE)
            self.start_pod(name, address, port)

    def start_pod(self, name: str, address: str, port: int = 8000) -> None:
        """The process alone."""
        self.children.start(
            name,
            [sys.executable, "-m", "poolpilot", "fake-vllm", f"--address={address}:{port}",
             f"--name={name}", *POD_OPTIONS],
        )  # fmt: skip

    def endpoints(self, service: str, port_name: str, port: int, addresses: Any) -> None:
        """The EndpointSlice of a Service."""
        slice_ = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{service}-0",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4",
            "ports": [{"name": port_name, "port": port, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": [address], "conditions": {"ready": True}} for address in addresses
            ],
        }
        self.api.apply(json.dumps(slice_), namespace=NAMESPACE)

    def start_picker(self, name: str) -> None:
        """The Deployment of that name, with its own arguments, account and rights."""
        container = self._container(name, NAMESPACE)
        self.children.start(
            "extproc",
            [sys.executable, "-m", "poolpilot", *container["args"], "--kubeconfig", self._as(name)],
        )
        self.endpoints(name, "grpc", 9002, [PICKER_ADDRESS])

    def start_xds(self, name: str) -> None:
        """Our xDS server, as :meth:`start_picker` does."""
        container = self._container(name, NAMESPACE)
        arguments = [
            one.replace("=0.0.0.0:18000", f"={XDS_ADDRESS}:{XDS_PORT}") for one in container["args"]
        ]
        self.children.start(
            "xds",
            [sys.executable, "-m", "poolpilot", *arguments, "--kubeconfig", self._as(name)],
        )

    def _as(self, account: str) -> str:
        """A kubeconfig with which one is this service account."""
        path = self._directory / f"{account}.kubeconfig"
        token = self.api.kubectl("create", "token", account, f"--namespace={NAMESPACE}").strip()
        return str(self.api.write_kubeconfig(path, token=token))

    def _container(self, deployment: str, namespace: str) -> dict[str, Any]:
        found = self.api.get("deployment", deployment, f"--namespace={namespace}")
        container: dict[str, Any] = found["spec"]["template"]["spec"]["containers"][0]
        return container

    def start_envoy(self, gateway: str, envoy: str, *, asks_us: bool = False) -> None:
        """As the Deployment says that Envoy Gateway made for the Gateway. ``asks_us``: whether it
        is to have our xDS server in its bootstrap."""
        label = f"gateway.envoyproxy.io/owning-gateway-name={gateway}"
        listing = ["deployment,configmap", f"--namespace={SYSTEM}", f"--selector={label}"]

        def is_there() -> bool:
            items = self.api.get(*listing)["items"]
            return len(items) >= 2 and ("name: poolpilot-xds" in str(items)) == asks_us

        wait_until(is_there, "Envoy Gateway asks for such an Envoy")
        found = {one["kind"]: one for one in self.api.get(*listing)["items"]}
        home = self._directory / "envoy"
        for name, text in found["ConfigMap"]["data"].items():
            (home / "sds").mkdir(exist_ok=True)
            (home / "sds" / name).write_text(text.replace("/certs/", f"{home}/certs/"))
        [container] = [
            one
            for one in found["Deployment"]["spec"]["template"]["spec"]["containers"]
            if one["name"] == "envoy"
        ]
        arguments = [
            one.replace("$(ENVOY_POD_NAME)", "envoy-0")
            .replace("/certs/", f"{home}/certs/")
            .replace("/sds/", f"{home}/sds/")
            for one in container["args"]
        ]
        flag = "--config-yaml"
        [where] = [n for n, one in enumerate(arguments) if one.startswith(flag)]
        # Older versions give flag and value in one.
        if arguments[where] == flag:
            del arguments[where]
        bootstrap = arguments.pop(where).removeprefix(flag).lstrip()
        arguments += [flag, _with_servers_here(bootstrap)]
        self.children.start(
            "envoy", [envoy, *arguments, "--disable-hot-restart", "--concurrency", "1"]
        )
        available = {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1}
        name = found["Deployment"]["metadata"]["name"]
        self.api.patch_status("deployment", name, available, namespace=SYSTEM)
        address = {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}
        self.api.patch_status("service", name, address, namespace=SYSTEM)

    # What can be seen.

    def conditions(self, kind: str, name: str) -> dict[str, str]:
        """``type`` to ``status/reason``, of the object itself and of all its parents."""
        status = self.api.get(kind, name, f"--namespace={NAMESPACE}").get("status", {})
        rows = list(status.get("conditions", ()))
        for parent in (*status.get("ancestors", ()), *status.get("parents", ())):
            rows += parent.get("conditions", ())
        return {row["type"]: f"{row['status']}/{row['reason']}" for row in rows}


def _with_servers_here(bootstrap: str) -> str:
    """There is no DNS that would know the xDS servers' Services, and there are no nodes with zones,
    for which Envoy would wait 15 s."""
    here = {"xds_cluster": ("127.0.0.1", 18000), "poolpilot-xds": (XDS_ADDRESS, XDS_PORT)}
    document = yaml.safe_load(bootstrap)
    clusters = document["static_resources"]["clusters"]
    zones = document.pop("cluster_manager", {}).get("local_cluster_name")
    clusters[:] = [cluster for cluster in clusters if cluster["name"] != zones]
    for cluster in clusters:
        if cluster["name"] in here:
            [locality] = cluster["load_assignment"]["endpoints"]
            [member] = locality["lb_endpoints"]
            address, port = here[cluster["name"]]
            member["endpoint"]["address"]["socket_address"] = {
                "address": address, "port_value": port,
            }  # fmt: skip
    return yaml.safe_dump(document)
