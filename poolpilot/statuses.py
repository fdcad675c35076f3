"""Options for what is written back to a Kubernetes API server."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pools.kubernetes.status import StatusWriter

MakeStatusWriter = Callable[[], "StatusWriter"]
"""Called inside the event loop."""

GATEWAY_API = "Being a gateway (with --kubernetes)"

_CONTROLLER = re.compile(r"[a-z0-9.-]+/[A-Za-z0-9/._~%!$&'()*+,;=:-]+")

ControllerName = Annotated[
    str,
    typer.Option(
        metavar="DOMAIN/NAME",
        envvar="POOLPILOT_CONTROLLER_NAME",
        help="Gateways are ours if their GatewayClass names this controller.",
        rich_help_panel=GATEWAY_API,
    ),
]
WriteStatus = Annotated[
    bool,
    typer.Option(
        "--status/--no-status",
        envvar="POOLPILOT_STATUS",
        help="Write statuses and Events of Gateways, routes and pools. Of several replicas one "
        "does, which holds a Lease.",
        rich_help_panel=GATEWAY_API,
    ),
]
LeaseNamespace = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        envvar="POOLPILOT_LEASE_NAMESPACE",
        help="Where that Lease is. Default: the pod's own namespace.",
        rich_help_panel=GATEWAY_API,
    ),
]
GatewayAddresses = Annotated[
    list[str],
    typer.Option(
        "--gateway-address",
        metavar="ADDRESS",
        envvar="POOLPILOT_GATEWAY_ADDRESSES",
        help="IP address or host name under which clients reach the Envoys, for the Gateways' "
        "status. Repeat for more.",
        rich_help_panel=GATEWAY_API,
    ),
]
OwnPickers = Annotated[
    list[str],
    typer.Option(
        "--own-picker",
        metavar="[NAMESPACE/]SERVICE",
        envvar="POOLPILOT_OWN_PICKERS",
        help="Service that pools name to mean our own endpoint picker (--picker). Repeat for more.",
        rich_help_panel=GATEWAY_API,
    ),
]


def checked_controller(name: str) -> str:
    """Raises typer.BadParameter for what no GatewayClass can name."""
    if not _CONTROLLER.fullmatch(name):
        raise typer.BadParameter(
            f"{name!r} is not of the form domain/name, such as example.com/gateways",
            param_hint="--controller-name",
        )
    return name


def status_writer(
    kubeconfig: Path | None,
    context: str | None,
    namespaces: Sequence[str],
    controller: str,
    lease_namespace: str,
    addresses: Sequence[str],
) -> MakeStatusWriter:
    """What writes statuses and Events to the API server that the Worlds are from."""
    from pools.kubernetes.status import StatusSettings, StatusWriter
    from pools.model import is_ip

    settings = StatusSettings(
        kubeconfig=kubeconfig,
        context=context,
        namespaces=tuple(namespaces),
        controller=controller,
        lease_namespace=lease_namespace,
        addresses=tuple(
            ("IPAddress" if is_ip(address) else "Hostname", address) for address in addresses
        ),
    )
    return lambda: StatusWriter(settings)
