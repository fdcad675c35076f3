"""A real kube-apiserver with its etcd, for tests to use and to break.

There is no scheduler, no controller and no kubelet: a test that wants a Pod to be Ready says so in
the Pod's status (:func:`pod_status`, :meth:`ApiServer.patch_status`).
"""

from __future__ import annotations

import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Literal

import yaml

from e2e.kube.binaries import Binaries
from e2e.kube.certificates import Certificates
from poolpilot.demo.ports import LOOPBACK, reserve
from poolpilot.demo.processes import Children

CRDS = Path(__file__).parent / "crds"
READY_LIMIT = 60.0
"""Seconds that a start may take."""
KUBECTL_LIMIT = 30.0

Authorization = Literal["AlwaysAllow", "RBAC"]


class KubectlError(Exception):
    """kubectl failed. The message is what it wrote."""


class ApiServer:
    """One API server on loopback, with an administrator's :attr:`kubeconfig`.

    Start, kill and launch it from the main thread: the kernel ties its processes to the thread that
    started them.
    """

    def __init__(
        self, directory: Path, binaries: Binaries, *, authorization: Authorization = "AlwaysAllow"
    ) -> None:
        self._directory = directory
        self._binaries = binaries
        self._authorization = authorization
        self._children = Children(directory)
        self._certificates = Certificates.make(directory)
        self._etcd_client = reserve()
        self._etcd_peer = reserve()
        self._secure = reserve()
        self.kubeconfig = directory / "kubeconfig"
        """An administrator's."""
        self.write_kubeconfig(self.kubeconfig)

    @property
    def port(self) -> int:
        return self._secure.port

    @property
    def url(self) -> str:
        return f"https://{LOOPBACK}:{self.port}"

    # Processes.

    def start(self) -> None:
        """Start etcd and the API server and wait until it is ready."""
        self._start_etcd()
        self.launch()
        self.wait_ready()

    def stop(self) -> None:
        """End both and give their ports back."""
        self._children.stop(grace=0.5)
        for reservation in (self._etcd_client, self._etcd_peer, self._secure):
            reservation.close()

    def kill(self) -> None:
        """SIGKILL the API server; etcd, which has all objects, goes on."""
        self._children["kube-apiserver"].kill()

    def restart(self) -> None:
        """Kill the API server, start it anew and wait until it is ready."""
        if self.running():
            self.kill()
        self.launch()
        self.wait_ready()

    def running(self) -> bool:
        return self._children["kube-apiserver"].running()

    def wait_ready(self, limit: float = READY_LIMIT) -> None:
        """Wait until the API server says that it is ready, its custom kinds included."""
        deadline = time.monotonic() + limit
        while True:
            self._children.check()
            try:
                self._get("/readyz")
            except (urllib.error.URLError, OSError) as error:
                if time.monotonic() > deadline:
                    tail = self._children["kube-apiserver"].tail(40)
                    raise TimeoutError(f"not ready after {limit:g} s ({error}):\n{tail}") from error
                time.sleep(0.05)
            else:
                return

    def _start_etcd(self) -> None:
        client = f"http://{LOOPBACK}:{self._etcd_client.port}"
        peer = f"http://{LOOPBACK}:{self._etcd_peer.port}"
        self._children.start(
            "etcd",
            [
                str(self._binaries.etcd),
                f"--data-dir={self._directory / 'etcd'}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
        )

    def launch(self) -> None:
        """Start the API server without waiting for it."""
        certificates = self._certificates
        accounts = certificates.key("service-accounts")
        self._children.start(
            "kube-apiserver",
            [
                str(self._binaries.api_server),
                f"--etcd-servers=http://{LOOPBACK}:{self._etcd_client.port}",
                f"--bind-address={LOOPBACK}",
                # Nobody is told of it; without it, a network with a default route would be needed.
                "--advertise-address=192.0.2.1",
                f"--secure-port={self.port}",
                f"--tls-cert-file={certificates.certificate('server')}",
                f"--tls-private-key-file={certificates.key('server')}",
                f"--client-ca-file={certificates.authority}",
                f"--authorization-mode={self._authorization}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={accounts}",
                f"--service-account-signing-key-file={accounts}",
                "--service-cluster-ip-range=10.0.0.0/24",
                # No controller makes the service accounts that this one asks for.
                "--disable-admission-plugins=ServiceAccount",
                "--enable-priority-and-fairness=false",
                # Objects of a dead server must not block its next life.
                "--endpoint-reconciler-type=none",
            ],
        )

    def client_tls(self) -> ssl.SSLContext:
        """What makes a client the administrator."""
        context = ssl.create_default_context(cafile=str(self._certificates.authority))
        context.load_cert_chain(
            self._certificates.certificate("admin"), self._certificates.key("admin")
        )
        return context

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(
            self.url + path, context=self.client_tls(), timeout=5
        ) as answer:
            body: bytes = answer.read()
        return body

    # Objects.

    def write_kubeconfig(
        self, path: Path, *, token: str | None = None, port: int | None = None
    ) -> Path:
        """Write a kubeconfig: the administrator's, or for a bearer token. ``port``: of something in
        between."""
        certificates = self._certificates
        user: dict[str, str] = (
            {"token": token}
            if token is not None
            else {
                "client-certificate": str(certificates.certificate("admin")),
                "client-key": str(certificates.key("admin")),
            }
        )
        cluster = {
            "server": f"https://{LOOPBACK}:{port or self.port}",
            "certificate-authority": str(certificates.authority),
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "e2e", "cluster": cluster}],
            "users": [{"name": "e2e", "user": user}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e"}}],
            "current-context": "e2e",
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as the administrator. Returns what it prints; raises KubectlError."""
        done = subprocess.run(
            [self._binaries.kubectl, f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=KUBECTL_LIMIT,
            check=False,
        )
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, manifests: str, *, namespace: str | None = None) -> None:
        """Create or change objects, with server-side apply."""
        self.kubectl(
            "apply",
            "--server-side",
            "--force-conflicts",
            *([f"--namespace={namespace}"] if namespace else []),
            "--filename=-",
            stdin=manifests,
        )

    def install(self, *names: str) -> None:
        """Install custom kinds by their plural names (files of ``crds/``), and wait until they are
        served; without names, all."""
        paths = [CRDS / f"{name}.yaml" for name in names] or sorted(CRDS.glob("*.yaml"))
        self.kubectl("apply", *(f"--filename={path}" for path in paths))
        self.kubectl(
            "wait",
            "--for=condition=Established",
            "--timeout=20s",
            *(f"--filename={path}" for path in paths),
        )

    def uninstall(self, *names: str) -> None:
        """Remove custom kinds, and with them all their objects."""
        paths = [CRDS / f"{name}.yaml" for name in names] or sorted(CRDS.glob("*.yaml"))
        self.kubectl("delete", "--ignore-not-found", *(f"--filename={path}" for path in paths))

    def get(self, *arguments: str) -> Any:
        """``kubectl get ... --output=json``, decoded."""
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def patch_status(self, resource: str, name: str, status: object, *, namespace: str) -> None:
        """Merge into an object's status, as its controller (for a Pod, the kubelet) would."""
        self.kubectl(
            "patch",
            resource,
            name,
            f"--namespace={namespace}",
            "--subresource=status",
            "--type=merge",
            f"--patch={json.dumps({'status': status})}",
        )


def pod(name: str, labels: dict[str, str], annotations: dict[str, str] | None = None) -> str:
    """A Pod's manifest, as YAML that can be joined with others."""
    return "---\n" + yaml.safe_dump(pod_object(name, labels, annotations))


def pod_object(
    name: str, labels: dict[str, str], annotations: dict[str, str] | None = None
) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "annotations": annotations or {}},
        "spec": {"containers": [{"name": "vllm", "image": "vllm"}]},
    }


def pod_status(address: str, *, ready: bool = True, message: str = "") -> dict[str, object]:
    """What a kubelet says of a Pod that runs at ``address``."""
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "lastTransitionTime": "2026-01-01T12:03:00Z",
        "message": message,
    }
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [condition],
    }
