"""What can be set about the xDS server, and about what Envoys are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from poolpilot.addresses import collector_address
from poolpilot.grouping import option
from poolpilot.options import SERVING, TLS, TRACES, listen_address
from poolpilot.picker_tls import read_picker_tls
from pools.addresses import host_port
from xds.config import GRACE, TlsConfig, XdsServerConfig
from xds.http import HttpConfig
from xds.translate import ExtProcSettings, SocketAddress, TranslateSettings, parse_target

ENVOY = "What Envoy is told"
PICKER_TLS = "TLS from Envoy to the picker"

_SERVER, _HTTP, _ENVOY = XdsServerConfig(), HttpConfig(), TranslateSettings()
_PICKERS = tuple(
    host_port(target.host, target.port)
    for target in _ENVOY.ext_proc.targets
    if isinstance(target, SocketAddress)
)


@dataclass(frozen=True, kw_only=True)
class XdsOptions:
    SERVER: ClassVar = "xds"

    address: Annotated[
        str,
        option(
            "POOLPILOT_XDS_ADDRESS",
            SERVING,
            "Where Envoys reach the xDS server (gRPC).",
            metavar="HOST:PORT",
            check=listen_address,
        ),
    ] = host_port(_SERVER.host, _SERVER.port)
    http_address: Annotated[
        str,
        option(
            "POOLPILOT_XDS_HTTP_ADDRESS",
            SERVING,
            "Debug pages, metrics and health. They show everything to whoever reaches them.",
            metavar="HOST:PORT",
            check=listen_address,
        ),
    ] = host_port(_HTTP.host, _HTTP.port)
    http_name: Annotated[
        list[str],
        option(
            "POOLPILOT_XDS_HTTP_NAMES",
            SERVING,
            "A name beside localhost and IP addresses under which browsers may ask for the debug "
            "pages. Repeat for more.",
            metavar="HOST",
        ),
    ] = field(default_factory=list)
    envoy_admin: Annotated[
        list[str],
        option(
            "POOLPILOT_XDS_ENVOY_ADMINS",
            SERVING,
            "An Envoy admin interface beside those on loopback that the debug pages may ask what "
            "Envoy has. Repeat for more.",
            metavar="HOST:PORT",
        ),
    ] = field(default_factory=list)
    tls_certificate: Annotated[
        Path | None,
        option(
            "POOLPILOT_XDS_TLS_CERTIFICATE",
            TLS,
            "PEM file of the xDS server's certificate. It is read again when it changes.",
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        option(
            "POOLPILOT_XDS_TLS_KEY",
            TLS,
            "PEM file of its private key.",
        ),
    ] = None
    tls_client_ca: Annotated[
        Path | None,
        option(
            "POOLPILOT_XDS_TLS_CLIENT_CA",
            TLS,
            "PEM file of the authority whose certificates Envoys must show.",
        ),
    ] = None
    listen: Annotated[
        str,
        option(
            "POOLPILOT_LISTEN",
            ENVOY,
            "Where Envoy takes requests, if no Gateway says it.",
            metavar="HOST:PORT",
            check=SocketAddress.parse,
        ),
    ] = host_port(_ENVOY.listen_address, _ENVOY.listen_port)
    picker: Annotated[
        list[str],
        option(
            "POOLPILOT_PICKER",
            ENVOY,
            "Where Envoy reaches the endpoint picker: host:port or unix:/path. Repeat for "
            "replicas: the first that is healthy makes all picks, the others stand by.",
            metavar="HOST:PORT",
            check=parse_target,
        ),
    ] = field(default_factory=lambda: list(_PICKERS))
    reuse_port: Annotated[
        bool,
        option(
            "POOLPILOT_REUSE_PORT",
            ENVOY,
            "Let each of Envoy's threads listen for itself (SO_REUSEPORT).",
            flag="--reuse-port/--no-reuse-port",
        ),
    ] = _ENVOY.reuse_port
    picker_tls_ca: Annotated[
        Path | None,
        option(
            "POOLPILOT_PICKER_TLS_CA",
            PICKER_TLS,
            "Have Envoy reach the picker over TLS. PEM file of the authority that signed the "
            "picker's certificate, which the picker serves with --tls-certificate. This server "
            "reads it, once at start, and sends it to Envoys.",
            metavar="FILE",
        ),
    ] = None
    picker_tls_certificate: Annotated[
        Path | None,
        option(
            "POOLPILOT_PICKER_TLS_CERTIFICATE",
            PICKER_TLS,
            "PEM file of the certificate that Envoys show to a picker with --tls-client-ca. Read "
            "once at start, and sent to Envoys.",
            metavar="FILE",
        ),
    ] = None
    picker_tls_key: Annotated[
        Path | None,
        option(
            "POOLPILOT_PICKER_TLS_KEY",
            PICKER_TLS,
            "PEM file of its private key. It is part of what this server answers to every Envoy: "
            "ask for their certificates (--tls-client-ca), or whoever reaches --address gets the "
            "key.",
            metavar="FILE",
        ),
    ] = None
    picker_tls_name: Annotated[
        str | None,
        option(
            "POOLPILOT_PICKER_TLS_NAME",
            PICKER_TLS,
            "DNS name that the picker's certificate must have, also sent as SNI. Without it, the "
            "host name in --picker; where that is an IP address or a Unix socket, any certificate "
            "from the authority will do.",
            metavar="NAME",
        ),
    ] = None
    trace_collector: Annotated[
        str,
        option(
            "POOLPILOT_TRACE_COLLECTOR",
            TRACES,
            "Send OpenTelemetry spans to this OTLP/HTTP collector, such as http://127.0.0.1:4318.",
            metavar="URL",
        ),
    ] = ""
    trace_share: Annotated[
        float,
        option(
            "POOLPILOT_TRACE_SHARE",
            TRACES,
            "The share that is traced of those requests whose trace nobody has begun.",
            min=0,
            max=1,
        ),
    ] = _ENVOY.trace_share
    grace: Annotated[
        float,
        option(
            "POOLPILOT_GRACE",
            SERVING,
            "Seconds that what is in progress gets to finish after SIGTERM or Ctrl-C.",
            min=0,
        ),
    ] = GRACE

    def server(self) -> XdsServerConfig:
        """Raises typer.BadParameter for options that do not go together, as all of these do."""
        host, port = listen_address(self.address)
        return XdsServerConfig(host=host, port=port, tls=self._tls())

    def http(self) -> HttpConfig:
        host, port = listen_address(self.http_address)
        return HttpConfig(host, port, tuple(self.http_name), tuple(self.envoy_admin))

    def envoy(self, own_pickers: list[str]) -> TranslateSettings:
        """``own_pickers``: Services by which pools mean our picker."""
        listener = SocketAddress.parse(self.listen)
        tls = read_picker_tls(
            self.picker_tls_ca,
            self.picker_tls_certificate,
            self.picker_tls_key,
            self.picker_tls_name,
        )
        try:
            return TranslateSettings(
                listen_address=listener.host,
                listen_port=listener.port,
                reuse_port=self.reuse_port,
                ext_proc=ExtProcSettings(tuple(map(parse_target, self.picker)), tls=tls),
                own_pickers=frozenset(own_pickers),
                trace_collector=collector_address(self.trace_collector, "--trace-collector"),
                trace_share=self.trace_share,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    def _tls(self) -> TlsConfig | None:
        if self.tls_certificate is None and self.tls_key is None and self.tls_client_ca is None:
            return None
        if self.tls_certificate is None or self.tls_key is None:
            raise typer.BadParameter("the xDS server's TLS needs both a certificate and its key")
        return TlsConfig(self.tls_certificate, self.tls_key, self.tls_client_ca)
