"""The quickstart with Envoy Gateway: its files, by version and for given names.

What a version can do decides how the pick reaches Envoy's load balancing:

=========  ========================================================================================
1.2 - 1.4  ``original_destination_cluster``, by patch: one address, out of the header
1.5 - 1.7  endpoint override by BackendTrafficPolicy, no patch: the ordered list, out of the header
1.8, 1.9   the same, and by patch out of metadata, with the endpoint that served and the pool
=========  ========================================================================================

Patches find what they change by name. The names of Envoy Gateway's xDS resources have two schemes:
see :class:`Settings.xds_name_scheme_v2`. From 1.8 on the pool's pods may come from our own xDS
server instead of a Service: see :class:`Endpoints`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from poolpilot.manifests.template import check_image, check_label, check_port, render
from pools.model import ObjectName
from xds.translate.names import pool_cluster

FOLDER = "envoy_gateway"
DEFAULT_IMAGE = "poolpilot:latest"
EXTENSION_POLICY = "ext-proc-policy"


class Recipe(Enum):
    ORIGINAL_DST = "original_dst"
    HEADER = "header"
    METADATA = "metadata"


class Endpoints(Enum):
    """Who tells Envoy the pods of the pool."""

    SERVICE = "service"
    """Envoy Gateway, from a Service with the pool's selector."""
    EDS = "eds"
    """Our xDS server, from the InferencePool."""


@dataclass(frozen=True, slots=True, order=True)
class Version:
    major: int
    minor: int
    patch: int = 0

    @classmethod
    def parse(cls, text: str) -> Version:
        """From ``1.9``, ``v1.9`` or ``1.2.1``. Raises ValueError for what we know nothing of."""
        found = re.fullmatch(r"v?(\d+)\.(\d+)(?:\.(\d+))?", text)
        if found is None:
            raise ValueError(f"version {text!r}: must be of the form 1.9 or 1.2.1")
        version = cls(int(found[1]), int(found[2]), int(found[3] or 0))
        oldest_patch = version == cls(1, 2) and found[3] is not None
        if version < cls(1, 2) or version.major > 1 or oldest_patch:
            raise ValueError(
                f"version {text!r}: Envoy Gateway 1.2.1 is the oldest that can do it, and 1.9 the "
                "newest that was tried; later versions of 1.x are taken to be like 1.9"
            )
        return version

    @property
    def recipe(self) -> Recipe:
        if self < Version(1, 5):
            return Recipe.ORIGINAL_DST
        return Recipe.HEADER if self < Version(1, 8) else Recipe.METADATA

    def at_least(self, minor: int) -> bool:
        return self >= Version(1, minor)


@dataclass(frozen=True, slots=True)
class Settings:
    """Whose manifests. Raises ValueError for what Kubernetes or the version would refuse."""

    version: Version
    namespace: str = "default"
    gateway: str = "inference-gateway"
    gateway_class: str = "inference-gateway"
    listener: str = "llm-gw"
    port: int = 8081
    """Of the Gateway's listener."""
    route: str = "llm-route"
    pool: str = "vllm-llama2-7b-pool"
    app: str = ""
    """Value of the label ``app`` of the pool's pods; empty: the pool's name."""
    target_port: int = 8000
    picker: str = "inference-gateway-ext-proc"
    image: str = DEFAULT_IMAGE
    xds_name_scheme_v2: bool | None = None
    """How Envoy Gateway names its xDS resources: the runtime flag XDSNameSchemeV2, which 1.5
    brought and 1.10 turns on. None: as the version does by itself."""
    endpoints: Endpoints = Endpoints.SERVICE

    def __post_init__(self) -> None:
        for what in ("namespace", "gateway", "listener", "route", "pool", "picker"):
            check_label(what, getattr(self, what))
        check_label("gateway class", self.gateway_class)
        check_label("label", self.label)
        check_port("port", self.port)
        check_port("target port", self.target_port)
        check_image(self.image)
        if self.xds_name_scheme_v2 and not self.version.at_least(5):
            raise ValueError("XDSNameSchemeV2 is of Envoy Gateway 1.5 and later")
        if self.endpoints is Endpoints.EDS:
            check_label("xDS server", self.xds)
            if self.version.recipe is not Recipe.METADATA:
                raise ValueError("endpoints from our xDS server take Envoy Gateway 1.8 or later")

    @property
    def label(self) -> str:
        return self.app or self.pool

    @property
    def xds(self) -> str:
        """Our xDS server's Service, where there is one."""
        return f"{self.gateway}-xds"

    @property
    def new_names(self) -> bool:
        if self.xds_name_scheme_v2 is None:
            return self.version.at_least(10)
        return self.xds_name_scheme_v2

    @property
    def xds_listener(self) -> str:
        """The name of the listener among Envoy Gateway's xDS resources."""
        return f"tcp-{self.port}" if self.new_names else self._old_name

    @property
    def route_configuration(self) -> str:
        return f"http-{self.port}" if self.new_names else self._old_name

    @property
    def _old_name(self) -> str:
        return f"{self.namespace}/{self.gateway}/{self.listener}"


def enable_patch_policy() -> str:
    """For the namespace of Envoy Gateway itself: once in a cluster."""
    return render(FOLDER, "enable_patch_policy", {})


def model_servers(settings: Settings, *, simulated: bool) -> str:
    name = "vllm-simulated-deployment" if simulated else "vllm-lora-deployment"
    return render(FOLDER, name, _values(settings))


def documents(settings: Settings) -> dict[str, str]:
    """The files of the quickstart, in the order in which they are applied, by name."""
    recipe = settings.version.recipe
    values = _values(settings)
    kind = "original_dst" if recipe is Recipe.ORIGINAL_DST else "override"
    made = {
        "inferencepool-with-model.yaml": render(FOLDER, "inferencepool-with-model", values),
        "gateway.yaml": render(FOLDER, "gateway", values),
        "ext_proc.yaml": render(FOLDER, "ext_proc", values),
        "extension_policy.yaml": render(FOLDER, f"extension_policy-{kind}", values),
    }
    if settings.endpoints is Endpoints.EDS:
        made["xds.yaml"] = render(FOLDER, "xds", values)
    if recipe is not Recipe.HEADER:
        made["patch_policy.yaml"] = render(FOLDER, f"patch_policy-{kind}", values)
    return made


def _values(settings: Settings) -> dict[str, object]:
    version = settings.version
    name = f"envoy.filters.http.ext_proc/envoyextensionpolicy/{settings.namespace}/"
    values: dict[str, object] = {
        "namespace": settings.namespace,
        "gateway": settings.gateway,
        "gateway_class": settings.gateway_class,
        "listener": settings.listener,
        "port": settings.port,
        "route": settings.route,
        "pool": settings.pool,
        "app": settings.label,
        "target_port": settings.target_port,
        "pool_endpoints": pool_cluster(ObjectName(settings.namespace, settings.pool)),
        "picker": settings.picker,
        "xds": settings.xds,
        "image": settings.image,
        "extension_policy": EXTENSION_POLICY,
        "endpoints_per_pick": 1 if version.recipe is Recipe.ORIGINAL_DST else 3,
        "xds_listener": settings.xds_listener,
        "route_configuration": settings.route_configuration,
        # 1.2.1 names what follows otherwise than 1.2.2 and later.
        "ext_proc_config": (
            f"..http_filters[?(@.name =~ '^{name}{EXTENSION_POLICY}/')].typed_config"
        ),
        "error_status": 503 if version.recipe is Recipe.METADATA else 500,
        "status_on_error": "    statusOnError: 503\n" if version.at_least(9) else "",
        "stream_idle_timeout": (
            "    http:\n      streamIdleTimeout: 10m\n" if version.at_least(8) else ""
        ),
    }
    source = settings.endpoints
    ours = source is Endpoints.EDS
    values["backend"] = render(FOLDER, f"backend-{source.value}", values)
    values["backend_ref"] = render(FOLDER, f"backend_ref-{source.value}", values)
    values["bootstrap"] = render(FOLDER, "bootstrap-eds", values) if ours else ""
    values["endpoints_patch"] = render(FOLDER, "patch-eds", values) if ours else ""
    values["pool_metadata"] = render(FOLDER, "patch-pool", values)
    values["error_patch"] = (
        "" if version.at_least(9) else render(FOLDER, "patch-status_on_error", values)
    )
    return values
