"""What can be set about being a gateway in Kubernetes, and what is written back there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from poolpilot.grouping import option
from poolpilot.sources import MakeSource, Where
from pools.addresses import is_ip
from pools.well_known import CONTROLLER, OWN_PICKER

if TYPE_CHECKING:
    from pools.kubernetes.status import StatusWriter

MakeStatusWriter = Callable[[], "StatusWriter"]
"""Called inside the event loop."""

GATEWAY_API = "Being a gateway (with --kubernetes)"

_CONTROLLER = re.compile(r"[a-z0-9.-]+/[A-Za-z0-9/._~%!$&'()*+,;=:-]+")


def _domain_and_name(controller: str) -> None:
    """Raises ValueError for what no GatewayClass can name."""
    if not _CONTROLLER.fullmatch(controller):
        raise ValueError(
            f"{controller!r} is not of the form domain/name, such as example.com/gateways"
        )


@dataclass(frozen=True, kw_only=True)
class GatewayOptions:
    SERVER: ClassVar = "gateway"

    routes: Annotated[
        bool,
        option(
            "POOLPILOT_ROUTES",
            GATEWAY_API,
            "Watch routes, Gateways and what they refer to. Without, only pools and their pods "
            "are read and no status is written: for Envoys that another control plane configures "
            "and that ask us for endpoints alone.",
            flag="--routes/--no-routes",
        ),
    ] = True
    controller_name: Annotated[
        str,
        option(
            "POOLPILOT_CONTROLLER_NAME",
            GATEWAY_API,
            "Gateways are ours if their GatewayClass names this controller.",
            metavar="DOMAIN/NAME",
            check=_domain_and_name,
        ),
    ] = CONTROLLER
    status: Annotated[
        bool,
        option(
            "POOLPILOT_STATUS",
            GATEWAY_API,
            "Write statuses and Events of Gateways, routes and pools. Of several replicas one "
            "does, which holds a Lease.",
            flag="--status/--no-status",
        ),
    ] = True
    lease_namespace: Annotated[
        str,
        option(
            "POOLPILOT_LEASE_NAMESPACE",
            GATEWAY_API,
            "Where that Lease is. Default: the pod's own namespace.",
            metavar="NAME",
        ),
    ] = ""
    gateway_address: Annotated[
        list[str],
        option(
            "POOLPILOT_GATEWAY_ADDRESSES",
            GATEWAY_API,
            "IP address or host name under which clients reach the Envoys, for the Gateways' "
            "status. Repeat for more.",
            metavar="ADDRESS",
        ),
    ] = field(default_factory=list)
    own_picker: Annotated[
        list[str],
        option(
            "POOLPILOT_OWN_PICKERS",
            GATEWAY_API,
            "Service that pools name to mean our own endpoint picker (--picker). Repeat for more.",
            metavar="[NAMESPACE/]SERVICE",
        ),
    ] = field(default_factory=lambda: [OWN_PICKER])

    def source(self, where: Where) -> MakeSource:
        """The source that the options choose, with what the gateway's routes need.

        Raises typer.BadParameter as :meth:`Where.source` does.
        """
        if not self.routes and not where.kubernetes:
            raise typer.BadParameter("only goes with --kubernetes", param_hint="--no-routes")
        return where.source(with_routes=self.routes, controller=self.controller_name)

    def status_writer(self, where: Where) -> MakeStatusWriter | None:
        """What writes statuses and Events to the API server that the pools are from; None: they
        are not to be written, or there is no API server."""
        if not (where.kubernetes and self.status and self.routes):
            return None
        # Needed by few: who reads files starts without it.
        from pools.kubernetes.status import StatusSettings, StatusWriter

        settings = StatusSettings(
            kubeconfig=where.kubeconfig,
            context=where.context,
            namespaces=tuple(where.namespace),
            controller=self.controller_name,
            lease_namespace=self.lease_namespace,
            addresses=tuple(
                ("IPAddress" if is_ip(address) else "Hostname", address)
                for address in self.gateway_address
            ),
        )
        return lambda: StatusWriter(settings)
