from __future__ import annotations

from typing import Annotated

import typer


def bootstrap(
    xds: Annotated[
        list[str],
        typer.Option(
            metavar="HOST:PORT",
            envvar="POOLPILOT_XDS",
            help="The xDS server: host:port or unix:/path. Repeat for further replicas.",
        ),
    ] = ["127.0.0.1:18000"],  # noqa: B006  # typer reads it, nobody changes it
    admin: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where Envoy's admin interface listens.")
    ] = "127.0.0.1:19000",
    node: Annotated[
        str,
        typer.Option(help="Who this Envoy is; `envoy --service-node` overrides it."),
    ] = "envoy",
    gateway: Annotated[
        str | None,
        typer.Option(
            metavar="NAMESPACE/NAME", help="The Gateway whose listeners this Envoy serves."
        ),
    ] = None,
    delta: Annotated[
        bool, typer.Option("--delta/--sotw", help="Incremental xDS, or State-of-the-World.")
    ] = True,
    tls_ca: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="On Envoy's machine: the authority that signed the xDS server's certificate.",
            rich_help_panel="TLS",
        ),
    ] = None,
    tls_certificate: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Certificate that Envoy shows.", rich_help_panel="TLS"),
    ] = None,
    tls_key: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Its private key.", rich_help_panel="TLS"),
    ] = None,
    tls_server_name: Annotated[
        str | None,
        typer.Option(
            help="Name in the server's certificate, if not its address.", rich_help_panel="TLS"
        ),
    ] = None,
) -> None:
    """Print the bootstrap configuration that makes an Envoy ask the xDS server for the rest.

    [bold]Example[/bold]

      poolpilot bootstrap --xds xds:18000 > envoy.yaml && envoy -c envoy.yaml
    """
    from poolpilot.addresses import socket_address, target_address
    from pools.model import ObjectName
    from xds.bootstrap import BootstrapSettings, TlsFiles, bootstrap_yaml

    if gateway is not None:
        try:
            gateway = str(ObjectName.parse(gateway))
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--gateway") from error
    tls = None
    if tls_ca is not None:
        try:
            tls = TlsFiles(tls_ca, tls_certificate, tls_key, tls_server_name)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--tls-certificate") from error
    elif tls_certificate or tls_key or tls_server_name:
        raise typer.BadParameter("TLS needs --tls-ca too", param_hint="--tls-ca")
    settings = BootstrapSettings(
        node_id=node,
        gateway=gateway,
        xds=tuple(target_address(one, "--xds") for one in xds),
        delta=delta,
        tls=tls,
        admin=socket_address(admin, "--admin"),
    )
    typer.echo(bootstrap_yaml(settings), nl=False)
