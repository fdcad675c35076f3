"""``serve xds`` and ``serve all``, made of the same groups of options as ``serve extproc``."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, TypeVar

import typer

from extproc.transport.listen import TcpAddress, parse_address
from poolpilot import logs, parts
from poolpilot.grouping import option, takes_groups
from poolpilot.lifecycle import CLOSING, run_until_stopped
from poolpilot.options import SERVING, LogOptions
from poolpilot.picker_options import PickerOptions
from poolpilot.sources import Where
from poolpilot.statuses import GatewayOptions
from poolpilot.xds_options import XdsOptions
from pools.addresses import host_port

Options = TypeVar("Options", XdsOptions, PickerOptions)

app = typer.Typer(rich_markup_mode="rich")


@app.command("xds")
@takes_groups
def serve_xds(
    where: Where,
    gateway: GatewayOptions,
    xds: XdsOptions,
    log: LogOptions,
) -> None:
    """Serve Envoys their configuration over xDS: listeners, routes, clusters, endpoints.

    [bold]Example[/bold]

      poolpilot serve xds --manifests pools/

      poolpilot serve xds --kubernetes --namespace models

      poolpilot bootstrap > envoy.yaml && envoy -c envoy.yaml
    """
    logs.configure(log.log_level, log.log_format)
    source, statuses = gateway.source(where), gateway.status_writer(where)
    server, http, envoy = xds.server(), xds.http(), xds.envoy(gateway.own_picker)
    run_until_stopped(
        lambda: {"xDS server": parts.xds_server(source, envoy, server, http, xds.grace, statuses)},
        grace=xds.grace + CLOSING,
    )


@app.command("all")
@takes_groups
def serve_all(
    called: typer.Context,
    where: Where,
    gateway: GatewayOptions,
    xds: XdsOptions,
    picker: PickerOptions,
    log: LogOptions,
    host: Annotated[
        str,
        option(
            "POOLPILOT_HOST",
            SERVING,
            "Interface on which both servers listen, where no option says it of one of them; debug "
            "pages stay on loopback.",
        ),
    ] = "127.0.0.1",
) -> None:
    """Both servers in one process, on their well-known ports: the least there is to run.

    It has every option of both. Where they have one of the same name for different things, it
    begins with the name of the server.

    [bold]Example[/bold]

      poolpilot serve all --manifests pools/

      poolpilot bootstrap > envoy.yaml && envoy -c envoy.yaml
    """
    logs.configure(log.log_level, log.log_format)

    def given(name: str) -> bool:
        source = called.get_parameter_source(name)
        return source is not None and source.name != "DEFAULT"

    if not given("xds_address"):
        xds = _on(host, xds, "address")
    if not given("extproc_address"):
        picker = _on(host, picker, "address")
    if not given("health_address"):
        picker = _on(host, picker, "health_address")
    if not given("picker"):
        xds = dataclasses.replace(xds, picker=[_reachable(picker.address)])
        if picker.tls_certificate is not None and xds.picker_tls_ca is None:
            raise typer.BadParameter(
                "Envoy is to reach the picker over TLS: say who signed its certificate",
                param_hint="--picker-tls-ca",
            )
    pools, described = where.source(with_routes=False), gateway.source(where)
    statuses = gateway.status_writer(where)
    server, http, envoy = xds.server(), xds.http(), xds.envoy(gateway.own_picker)
    config = picker.config()
    run_until_stopped(
        lambda: {
            "xDS server": parts.xds_server(described, envoy, server, http, xds.grace, statuses),
            "endpoint picker": parts.endpoint_picker(pools, config, picker.grace),
        },
        grace=max(xds.grace, picker.grace) + CLOSING,
    )


def _on(host: str, options: Options, name: str) -> Options:
    """The options with this address on another interface, on the same port."""
    address = parse_address(getattr(options, name))
    assert isinstance(address, TcpAddress)
    changed: dict[str, Any] = {name: host_port(host, address.port)}
    return dataclasses.replace(options, **changed)


def _reachable(address: str) -> str:
    """Where an Envoy on this machine reaches what listens there."""
    where = parse_address(address)
    if not isinstance(where, TcpAddress):
        return f"unix:{where.path}"
    anywhere = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
    return host_port(anywhere.get(where.host, where.host), where.port)
