"""Envoy, xDS server and endpoint picker as Kubernetes objects, for given names."""

from __future__ import annotations

import hashlib
import textwrap
from dataclasses import dataclass
from importlib.resources import files

from poolpilot.manifests import envoy_gateway
from poolpilot.manifests.template import check_image, check_label, check_port, render
from pools.well_known import OWN_PICKER, PICKER_PORT
from xds.bootstrap import BootstrapSettings, bootstrap_yaml
from xds.translate.settings import SocketAddress

FOLDER = "plain_envoy"
ENVOY_IMAGE = "envoyproxy/envoy:v1.40.0"
FILES = ("namespace", "rbac", "xds", "extproc", "envoy", "network", "gateway")
XDS = "poolpilot-xds"


@dataclass(frozen=True, slots=True)
class Settings:
    """Whose manifests. Raises ValueError for what Kubernetes would refuse."""

    namespace: str = "poolpilot"
    gateway: str = "inference-gateway"
    gateway_class: str = "poolpilot"
    port: int = 8081
    route: str = "llm-route"
    pool: str = "vllm-llama2-7b-pool"
    app: str = ""
    """Value of the label ``app`` of the pool's pods; empty: the pool's name."""
    target_port: int = 8000
    picker_replicas: int = 2
    image: str = envoy_gateway.DEFAULT_IMAGE
    envoy_image: str = ENVOY_IMAGE

    def __post_init__(self) -> None:
        for what in ("namespace", "gateway", "route", "pool"):
            check_label(what, getattr(self, what))
        check_label("gateway class", self.gateway_class)
        check_label("label", self.label)
        check_port("port", self.port)
        check_port("target port", self.target_port)
        check_image(self.image)
        check_image(self.envoy_image)
        if self.port < 1024:
            raise ValueError(f"port {self.port}: Envoy runs without rights; use 1024 or higher")
        if self.picker_replicas < 1:
            raise ValueError("there must be at least one picker")

    @property
    def label(self) -> str:
        return self.app or self.pool

    @property
    def picker_targets(self) -> tuple[str, ...]:
        """Each replica by the name that the StatefulSet gives it, in the order of preference."""
        return tuple(
            f"{OWN_PICKER}-{number}.{OWN_PICKER}.{self.namespace}.svc:{PICKER_PORT}"
            for number in range(self.picker_replicas)
        )

    @property
    def bootstrap(self) -> BootstrapSettings:
        """What ``poolpilot bootstrap --xds poolpilot-xds.NAMESPACE.svc:18000 --gateway ...`` takes.
        The node's id is the pod's name, by a flag of Envoy."""
        return BootstrapSettings(
            xds=(SocketAddress(f"{XDS}.{self.namespace}.svc", 18000),),
            gateway=f"{self.namespace}/{self.gateway}",
        )


def documents(settings: Settings) -> dict[str, str]:
    """The files, in the order in which they are applied, by name."""
    values = _values(settings)
    return {f"{name}.yaml": render(FOLDER, name, values) for name in FILES}


def sample(settings: Settings) -> str:
    """A pool, an objective and a route to it."""
    return render(FOLDER, "sample", _values(settings))


def simulated_servers(settings: Settings) -> str:
    """Model servers for the sample that need no GPU."""
    return envoy_gateway.model_servers(
        envoy_gateway.Settings(
            envoy_gateway.Version(1, 9),
            namespace=settings.namespace,
            pool=settings.pool,
            app=settings.app,
            target_port=settings.target_port,
            image=settings.image,
        ),
        simulated=True,
    )


def _values(settings: Settings) -> dict[str, object]:
    bootstrap = bootstrap_yaml(settings.bootstrap)
    script = files("poolpilot.manifests") / "templates" / FOLDER / "drain.sh"
    drain = script.read_text(encoding="utf-8")
    return {
        "namespace": settings.namespace,
        "gateway": settings.gateway,
        "gateway_class": settings.gateway_class,
        "port": settings.port,
        "route": settings.route,
        "pool": settings.pool,
        "app": settings.label,
        "target_port": settings.target_port,
        "picker_replicas": settings.picker_replicas,
        "picker_targets": "\n            ".join(settings.picker_targets),
        "image": settings.image,
        "envoy_image": settings.envoy_image,
        "bootstrap": _indented(bootstrap),
        "bootstrap_hash": hashlib.sha256((bootstrap + drain).encode()).hexdigest()[:16],
        "drain": _indented(drain),
    }


def _indented(text: str) -> str:
    return textwrap.indent(text.rstrip("\n"), "    ")
