"""Where pools are described: a directory of manifests, or a Kubernetes API server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from pools.well_known import CONTROLLER

if TYPE_CHECKING:
    from pools.source import Source

MakeSource = Callable[[], "Source"]
"""Called inside the event loop, once for each server that reads it."""

POOLS = "Where pools are described (a directory or Kubernetes)"

Manifests = Annotated[
    Path | None,
    typer.Option(
        "--manifests",
        "-m",
        envvar="POOLPILOT_MANIFESTS",
        help="Directory of YAML manifests: InferencePool, PoolEndpoints, HTTPRoute, ... "
        "It is watched; an edit takes effect at once.",
        file_okay=False,
        rich_help_panel=POOLS,
    ),
]
Kubernetes = Annotated[
    bool,
    typer.Option(
        "--kubernetes",
        envvar="POOLPILOT_KUBERNETES",
        help="Watch a Kubernetes API server: that of the pod's service account, or of a "
        "kubeconfig.",
        rich_help_panel=POOLS,
    ),
]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        "--kubeconfig",
        help="Default: the files of KUBECONFIG, else the pod's service account, else "
        "~/.kube/config.",
        dir_okay=False,
        rich_help_panel=POOLS,
    ),
]
Context = Annotated[
    str | None,
    typer.Option("--context", help="Of the kubeconfig.", rich_help_panel=POOLS),
]
Namespaces = Annotated[
    list[str],
    typer.Option(
        "--namespace",
        envvar="POOLPILOT_NAMESPACES",
        help="Watch only this namespace. Repeat for several; default: all.",
        rich_help_panel=POOLS,
    ),
]
LocalEndpoints = Annotated[
    bool,
    typer.Option(
        "--allow-local-endpoints",
        envvar="POOLPILOT_ALLOW_LOCAL_ENDPOINTS",
        help="PoolEndpoints in Kubernetes may name loopback and link-local addresses. Whoever may "
        "write them then reaches what only Envoy's own machine should.",
        rich_help_panel=POOLS,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Where:
    """The options above as a group (see :mod:`poolpilot.grouping`)."""

    SERVER: ClassVar = "pools"

    manifests: Manifests = None
    kubernetes: Kubernetes = False
    kubeconfig: Kubeconfig = None
    context: Context = None
    namespace: Namespaces = field(default_factory=list)
    allow_local_endpoints: LocalEndpoints = False

    def source(self, *, with_routes: bool = True, controller: str | None = None) -> MakeSource:
        """As :func:`source`."""
        return source(
            self.manifests,
            self.kubernetes,
            self.kubeconfig,
            self.context,
            self.namespace,
            local_endpoints=self.allow_local_endpoints,
            with_routes=with_routes,
            controller=controller,
        )


def source(
    manifests: Path | None,
    kubernetes: bool,
    kubeconfig: Path | None,
    context: str | None,
    namespaces: Sequence[str],
    *,
    local_endpoints: bool = False,
    with_routes: bool = True,
    controller: str | None = None,
) -> MakeSource:
    """The source that the options choose. ``with_routes``: whether routes and Gateways are needed,
    which costs permissions in Kubernetes. ``controller``: whose Gateways count; None: ours.

    Raises typer.BadParameter where the options choose none, or two.
    """
    if kubernetes:
        if manifests is not None:
            raise typer.BadParameter("give either --manifests or --kubernetes, not both")
        return _kubernetes(
            kubeconfig,
            context,
            namespaces,
            controller,
            local_endpoints=local_endpoints,
            with_routes=with_routes,
        )
    given = {
        "--kubeconfig": kubeconfig,
        "--context": context,
        "--namespace": namespaces,
        "--allow-local-endpoints": local_endpoints,
    }
    for option, value in given.items():
        if value:
            raise typer.BadParameter("only goes with --kubernetes", param_hint=option)
    if manifests is None:
        raise typer.BadParameter("give --manifests DIRECTORY, or --kubernetes")
    directory = manifests

    def files() -> Source:
        from pools.files import FilesSource

        return FilesSource(directory)

    return files


def _kubernetes(
    kubeconfig: Path | None,
    context: str | None,
    namespaces: Sequence[str],
    controller: str | None,
    *,
    local_endpoints: bool,
    with_routes: bool,
) -> MakeSource:
    from pools.kubernetes import (
        ALL_KINDS,
        PICKER_KINDS,
        KubernetesSettings,
        KubernetesSource,
    )

    try:
        settings = KubernetesSettings(
            kubeconfig=kubeconfig,
            context=context,
            namespaces=tuple(namespaces),
            kinds=ALL_KINDS if with_routes else PICKER_KINDS,
            controller=controller or CONTROLLER,
            local_hosts=local_endpoints,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--namespace") from error
    return lambda: KubernetesSource(settings)
