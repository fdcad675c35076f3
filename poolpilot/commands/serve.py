from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from poolpilot.logs import LogFormat, LogLevel
from poolpilot.options import LOGS, SERVING, Format, Grace, Level, listen_address
from poolpilot.sources import (
    Context,
    Kubeconfig,
    Kubernetes,
    MakeSource,
    Manifests,
    Namespaces,
    source,
)
from poolpilot.statuses import (
    GATEWAY_API,
    ControllerName,
    GatewayAddresses,
    LeaseNamespace,
    OwnPickers,
    WriteStatus,
    checked_controller,
    status_writer,
)
from pools.well_known import CONTROLLER, OWN_PICKER

if TYPE_CHECKING:
    from xds.translate import PickerTls, TranslateSettings

T = TypeVar("T")

app = typer.Typer(
    help="Run the xDS server, the endpoint picker, or both.\n\n"
    "[bold]Example[/bold]\n\n  poolpilot serve all --manifests pools/",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

ENVOY = "What Envoy is told"
TLS = "TLS"

Routes = Annotated[
    bool,
    typer.Option(
        "--routes/--no-routes",
        envvar="POOLPILOT_ROUTES",
        help="Watch routes, Gateways and what they refer to. Without, only pools and their pods "
        "are read and no status is written: for Envoys that another control plane configures and "
        "that ask us for endpoints alone.",
        rich_help_panel=GATEWAY_API,
    ),
]
XdsAddress = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        envvar="POOLPILOT_XDS_ADDRESS",
        help="Where Envoys reach the xDS server (gRPC).",
        rich_help_panel=SERVING,
    ),
]
XdsHttpAddress = Annotated[
    str,
    typer.Option(
        "--http-address",
        metavar="HOST:PORT",
        envvar="POOLPILOT_XDS_HTTP_ADDRESS",
        help="Debug pages, metrics and health. They show everything to whoever reaches them.",
        rich_help_panel=SERVING,
    ),
]
HttpNames = Annotated[
    list[str],
    typer.Option(
        "--http-name",
        metavar="HOST",
        envvar="POOLPILOT_XDS_HTTP_NAMES",
        help="A name beside localhost and IP addresses under which browsers may ask for the debug "
        "pages. Repeat for more.",
        rich_help_panel=SERVING,
    ),
]
EnvoyAdmins = Annotated[
    list[str],
    typer.Option(
        "--envoy-admin",
        metavar="HOST:PORT",
        envvar="POOLPILOT_XDS_ENVOY_ADMINS",
        help="An Envoy admin interface beside those on loopback that the debug pages may ask what "
        "Envoy has. Repeat for more.",
        rich_help_panel=SERVING,
    ),
]
Listen = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        envvar="POOLPILOT_LISTEN",
        help="Where Envoy takes requests, if no Gateway says it.",
        rich_help_panel=ENVOY,
    ),
]
Picker = Annotated[
    list[str],
    typer.Option(
        metavar="HOST:PORT",
        envvar="POOLPILOT_PICKER",
        help="Where Envoy reaches the endpoint picker: host:port or unix:/path. Repeat for "
        "replicas: the first that is healthy makes all picks, the others stand by.",
        rich_help_panel=ENVOY,
    ),
]
ReusePort = Annotated[
    bool,
    typer.Option(
        "--reuse-port/--no-reuse-port",
        envvar="POOLPILOT_REUSE_PORT",
        help="Let each of Envoy's threads listen for itself (SO_REUSEPORT).",
        rich_help_panel=ENVOY,
    ),
]
Certificate = Annotated[
    Path | None,
    typer.Option(
        "--tls-certificate",
        envvar="POOLPILOT_XDS_TLS_CERTIFICATE",
        help="PEM file of the xDS server's certificate. It is read again when it changes.",
        rich_help_panel=TLS,
    ),
]
Key = Annotated[
    Path | None,
    typer.Option(
        "--tls-key",
        envvar="POOLPILOT_XDS_TLS_KEY",
        help="PEM file of its private key.",
        rich_help_panel=TLS,
    ),
]
ClientCa = Annotated[
    Path | None,
    typer.Option(
        "--tls-client-ca",
        envvar="POOLPILOT_XDS_TLS_CLIENT_CA",
        help="PEM file of the authority whose certificates Envoys must show.",
        rich_help_panel=TLS,
    ),
]
PICKER_TLS = "TLS from Envoy to the picker"
PickerTlsCa = Annotated[
    Path | None,
    typer.Option(
        "--picker-tls-ca",
        metavar="FILE",
        envvar="POOLPILOT_PICKER_TLS_CA",
        help="Have Envoy reach the picker over TLS. PEM file of the authority that signed the "
        "picker's certificate, which the picker serves with --tls-certificate. This server reads "
        "it, once at start, and sends it to Envoys.",
        rich_help_panel=PICKER_TLS,
    ),
]
PickerTlsCertificate = Annotated[
    Path | None,
    typer.Option(
        "--picker-tls-certificate",
        metavar="FILE",
        envvar="POOLPILOT_PICKER_TLS_CERTIFICATE",
        help="PEM file of the certificate that Envoys show to a picker with --tls-client-ca. Read "
        "once at start, and sent to Envoys.",
        rich_help_panel=PICKER_TLS,
    ),
]
PickerTlsKey = Annotated[
    Path | None,
    typer.Option(
        "--picker-tls-key",
        metavar="FILE",
        envvar="POOLPILOT_PICKER_TLS_KEY",
        help="PEM file of its private key. It is part of what this server answers to every Envoy: "
        "ask for their certificates (--tls-client-ca), or whoever reaches --address gets the key.",
        rich_help_panel=PICKER_TLS,
    ),
]
PickerTlsName = Annotated[
    str | None,
    typer.Option(
        "--picker-tls-name",
        metavar="NAME",
        envvar="POOLPILOT_PICKER_TLS_NAME",
        help="DNS name that the picker's certificate must have, also sent as SNI. Without it, the "
        "host name in --picker; where that is an IP address or a Unix socket, any certificate "
        "from the authority will do.",
        rich_help_panel=PICKER_TLS,
    ),
]


PICKING = "Picking"
PickerAddress = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="ADDRESS",
        envvar="POOLPILOT_EXTPROC_ADDRESS",
        help="Where Envoy reaches the picker (gRPC): host:port or unix:/path.",
        rich_help_panel=SERVING,
    ),
]
HealthAddress = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        envvar="POOLPILOT_EXTPROC_HEALTH_ADDRESS",
        help="Where probes are answered (gRPC health); an empty text: only on --address.",
        rich_help_panel=SERVING,
    ),
]
PickerHttpAddress = Annotated[
    str,
    typer.Option(
        "--http-address",
        metavar="ADDRESS",
        envvar="POOLPILOT_EXTPROC_HTTP_ADDRESS",
        help="Debug pages, metrics and health. They show everything to whoever reaches them.",
        rich_help_panel=SERVING,
    ),
]
Transport = Annotated[
    Literal["grpcio", "native"],
    typer.Option(
        envvar="POOLPILOT_TRANSPORT",
        help="What carries the gRPC streams: our own HTTP/2 server, or grpcio, which costs several "
        "times as much.",
        rich_help_panel=SERVING,
    ),
]
DrainDelay = Annotated[
    float,
    typer.Option(
        envvar="POOLPILOT_DRAIN_DELAY",
        min=0,
        help="Seconds between saying 'not ready' and taking no more streams, when stopping: with "
        "replicas, two of Envoy's health check intervals.",
        rich_help_panel=SERVING,
    ),
]
ProfileName = Annotated[
    str,
    typer.Option(
        "--profile",
        envvar="POOLPILOT_PROFILE",
        help="How endpoints are chosen, where --profiles does not say it.",
        rich_help_panel=PICKING,
    ),
]
ProfilesPath = Annotated[
    Path | None,
    typer.Option(
        "--profiles",
        metavar="FILE",
        envvar="POOLPILOT_PROFILES",
        help="YAML file of scheduling profiles, or llm-d's EndpointPickerConfig. An edit takes "
        "effect at once; with a mistake in it, what was in force stays.",
        rich_help_panel=PICKING,
    ),
]
Candidates = Annotated[
    int,
    typer.Option(
        "--endpoints-per-pick",
        envvar="POOLPILOT_ENDPOINTS_PER_PICK",
        min=1,
        help="The pick and its fallbacks, which Envoy's retries walk down.",
        rich_help_panel=PICKING,
    ),
]
ExplainHeader = Annotated[
    bool,
    typer.Option(
        "--explain-header",
        envvar="POOLPILOT_EXPLAIN_HEADER",
        help="Answer requests that say 'x-poolpilot-explain: true' with x-poolpilot-explanation: "
        "why they went where they went. It shows pods' addresses to clients.",
        rich_help_panel=PICKING,
    ),
]
KVEventsPort = Annotated[
    int | None,
    typer.Option(
        envvar="POOLPILOT_KV_EVENTS_PORT",
        min=1,
        max=65535,
        help="Port on which each pod publishes its KV cache events (vLLM over ZeroMQ): exact "
        "prefix matches for prompts that are token ids.",
        rich_help_panel=PICKING,
    ),
]
ScrapeInterval = Annotated[
    float,
    typer.Option(
        envvar="POOLPILOT_SCRAPE_INTERVAL",
        min=0.01,
        help="Seconds between two looks at the metrics of one pod.",
        rich_help_panel=PICKING,
    ),
]
CheckInterval = Annotated[
    float,
    typer.Option(
        "--health-check-interval",
        envvar="POOLPILOT_HEALTH_CHECK_INTERVAL",
        min=0,
        help="Seconds between two health checks of one pod; 0: none, scrapes and requests tell.",
        rich_help_panel=PICKING,
    ),
]
CheckPath = Annotated[
    str,
    typer.Option(
        "--health-check-path",
        metavar="PATH",
        envvar="POOLPILOT_HEALTH_CHECK_PATH",
        help="What a pod that is well answers with 200.",
        rich_help_panel=PICKING,
    ),
]
TRACES = "Traces"
TraceCollector = Annotated[
    str,
    typer.Option(
        metavar="URL",
        envvar="POOLPILOT_TRACE_COLLECTOR",
        help="Send OpenTelemetry spans to this OTLP/HTTP collector, such as http://127.0.0.1:4318.",
        rich_help_panel=TRACES,
    ),
]
TraceShare = Annotated[
    float,
    typer.Option(
        envvar="POOLPILOT_TRACE_SHARE",
        min=0,
        max=1,
        help="The share that is traced of those requests whose trace nobody has begun.",
        rich_help_panel=TRACES,
    ),
]
BodyLimit = Annotated[
    int,
    typer.Option(
        envvar="POOLPILOT_BODY_LIMIT",
        min=1,
        help="Bytes of a request body that are held for the pick; more is answered with 413.",
        rich_help_panel=PICKING,
    ),
]
PickTimeout = Annotated[
    float,
    typer.Option(
        envvar="POOLPILOT_PICK_TIMEOUT",
        min=0.001,
        help="Seconds that a request may wait for its endpoint; then it is answered with 503. "
        "Where requests queue, as long as the longest queue allows.",
        rich_help_panel=PICKING,
    ),
]
UploadTimeout = Annotated[
    float,
    typer.Option(
        envvar="POOLPILOT_UPLOAD_TIMEOUT",
        min=0.001,
        help="Seconds that a client may take to send its body; then it is answered with 408.",
        rich_help_panel=PICKING,
    ),
]
InFlightExpiry = Annotated[
    float,
    typer.Option(
        envvar="POOLPILOT_IN_FLIGHT_EXPIRY",
        min=1,
        help="Seconds after which a request whose end nobody reported counts as over: longer than "
        "the longest answer takes.",
        rich_help_panel=PICKING,
    ),
]
RestoreModel = Annotated[
    bool,
    typer.Option(
        "--restore-model",
        envvar="POOLPILOT_RESTORE_MODEL",
        help="Where a request's model was rewritten, put the name that the client asked for back "
        "into the response. Only where the gateway shows responses to the picker (our own xDS "
        "server does not have Envoy do so).",
        rich_help_panel=PICKING,
    ),
]
TransportLimit = Annotated[
    list[str],
    typer.Option(
        "--transport-limit",
        metavar="NAME=VALUE",
        envvar="POOLPILOT_TRANSPORT_LIMITS",
        help="A limit of the native transport, such as max_streams=5000, keepalive_interval=10 or "
        "resets=500/5000 (per second and at once); docs/transport.md has all of them. Repeat for "
        "more.",
        rich_help_panel=SERVING,
    ),
]
PickerHttpNames = Annotated[
    list[str],
    typer.Option(
        "--http-name",
        metavar="HOST",
        envvar="POOLPILOT_EXTPROC_HTTP_NAMES",
        help="A name beside localhost and IP addresses under which browsers may ask for the debug "
        "pages. Repeat for more.",
        rich_help_panel=SERVING,
    ),
]
LogShare = Annotated[
    float,
    typer.Option(
        "--log-requests",
        envvar="POOLPILOT_LOG_REQUESTS",
        min=0,
        max=1,
        help="The share of requests that get a log line when they end.",
        rich_help_panel=LOGS,
    ),
]


@app.command("xds")
def serve_xds(
    manifests: Manifests = None,
    kubernetes: Kubernetes = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespaces = [],  # noqa: B006  # typer reads it, nobody changes it
    routes: Routes = True,
    controller_name: ControllerName = CONTROLLER,
    status: WriteStatus = True,
    lease_namespace: LeaseNamespace = "",
    gateway_address: GatewayAddresses = [],  # noqa: B006  # typer reads it, nobody changes it
    own_picker: OwnPickers = [OWN_PICKER],  # noqa: B006  # typer reads it, nobody changes it
    address: XdsAddress = "127.0.0.1:18000",
    http_address: XdsHttpAddress = "127.0.0.1:18001",
    http_name: HttpNames = [],  # noqa: B006  # typer reads it, nobody changes it
    envoy_admin: EnvoyAdmins = [],  # noqa: B006  # typer reads it, nobody changes it
    listen: Listen = "0.0.0.0:8081",
    picker: Picker = ["127.0.0.1:9002"],  # noqa: B006  # typer reads it, nobody changes it
    reuse_port: ReusePort = True,
    trace_collector: TraceCollector = "",
    trace_share: TraceShare = 1,
    tls_certificate: Certificate = None,
    tls_key: Key = None,
    tls_client_ca: ClientCa = None,
    picker_tls_ca: PickerTlsCa = None,
    picker_tls_certificate: PickerTlsCertificate = None,
    picker_tls_key: PickerTlsKey = None,
    picker_tls_name: PickerTlsName = None,
    grace: Grace = 5,
    log_level: Level = LogLevel.INFO,
    log_format: Format = LogFormat.AUTO,
) -> None:
    """Serve Envoys their configuration over xDS: listeners, routes, clusters, endpoints.

    [bold]Example[/bold]

      poolpilot serve xds --manifests pools/

      poolpilot serve xds --kubernetes --namespace models

      poolpilot bootstrap > envoy.yaml && envoy -c envoy.yaml
    """
    from poolpilot import logs, parts
    from poolpilot.commands.picker_tls import read_picker_tls
    from poolpilot.lifecycle import run_until_stopped
    from xds.config import TlsConfig, XdsServerConfig
    from xds.http import HttpConfig

    logs.configure(log_level, log_format)
    pools = _gateway_source(
        manifests,
        kubernetes,
        kubeconfig,
        context,
        namespace,
        controller_name,
        with_routes=routes,
    )
    writer = None
    if kubernetes and status and routes:
        writer = status_writer(
            kubeconfig, context, namespace, controller_name, lease_namespace, gateway_address
        )
    host, port = listen_address(address, "--address")
    http_host, http_port = listen_address(http_address, "--http-address")
    http = HttpConfig(http_host, http_port, tuple(http_name), tuple(envoy_admin))
    settings = _translate_settings(
        listen,
        picker,
        reuse_port,
        own_picker,
        trace_collector,
        trace_share,
        read_picker_tls(picker_tls_ca, picker_tls_certificate, picker_tls_key, picker_tls_name),
    )
    server = XdsServerConfig(
        host=host, port=port, tls=_tls(TlsConfig, tls_certificate, tls_key, tls_client_ca)
    )
    run_until_stopped(
        lambda: {"xDS server": parts.xds_server(pools, settings, server, http, grace, writer)},
        grace=grace + CLOSING,
    )


@app.command("extproc")
def serve_extproc(
    manifests: Manifests = None,
    kubernetes: Kubernetes = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespaces = [],  # noqa: B006  # typer reads it, nobody changes it
    address: PickerAddress = "127.0.0.1:9002",
    health_address: HealthAddress = "127.0.0.1:9003",
    http_address: PickerHttpAddress = "127.0.0.1:9090",
    http_name: PickerHttpNames = [],  # noqa: B006  # typer reads it, nobody changes it
    transport: Transport = "native",
    transport_limit: TransportLimit = [],  # noqa: B006  # typer reads it, nobody changes it
    drain_delay: DrainDelay = 0,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(
            envvar="POOLPILOT_EXTPROC_TLS_CERTIFICATE",
            help="PEM file of the picker's certificate. It is read again when it changes.",
            rich_help_panel=TLS,
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            envvar="POOLPILOT_EXTPROC_TLS_KEY",
            help="PEM file of its private key.",
            rich_help_panel=TLS,
        ),
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            envvar="POOLPILOT_EXTPROC_TLS_CLIENT_CA",
            help="PEM file of the authority whose certificates Envoys must show.",
            rich_help_panel=TLS,
        ),
    ] = None,
    profile: ProfileName = "default",
    profiles: ProfilesPath = None,
    endpoints_per_pick: Candidates = 3,
    kv_events_port: KVEventsPort = None,
    explain_header: ExplainHeader = False,
    scrape_interval: ScrapeInterval = 0.2,
    health_check_interval: CheckInterval = 0,
    health_check_path: CheckPath = "/health",
    body_limit: BodyLimit = 32 * 1024 * 1024,
    pick_timeout: PickTimeout = 30,
    upload_timeout: UploadTimeout = 300,
    in_flight_expiry: InFlightExpiry = 900,
    restore_model: RestoreModel = False,
    trace_collector: TraceCollector = "",
    trace_share: TraceShare = 0,
    log_requests: LogShare = 0,
    grace: Grace = 10,
    log_level: Level = LogLevel.INFO,
    log_format: Format = LogFormat.AUTO,
) -> None:
    """Pick an endpoint for each request that Envoy asks about (ext-proc).

    [bold]Example[/bold]

      poolpilot serve extproc --manifests pools/ --transport native

      curl http://127.0.0.1:9090/debug/decisions?limit=1
    """
    from extproc.config.settings import PickerConfig, TransportKind
    from extproc.exchange.settings import ExchangeSettings
    from extproc.signals.active_checks import CheckSettings
    from extproc.signals.scraper import ScrapeSettings
    from extproc.transport.tls import TlsFiles
    from poolpilot import logs, parts
    from poolpilot.commands.limits import transport_limits
    from poolpilot.lifecycle import run_until_stopped

    logs.configure(log_level, log_format)
    pools = source(manifests, kubernetes, kubeconfig, context, namespace, with_routes=False)
    limits, upkeep = transport_limits(transport_limit)
    try:
        config = PickerConfig(
            address=address,
            health_address=health_address or None,
            http_address=http_address or None,
            http_names=tuple(http_name),
            transport=TransportKind(transport),
            limits=limits,
            upkeep=upkeep,
            tls=_tls(TlsFiles, tls_certificate, tls_key, tls_client_ca),
            profile=profile,
            profiles=_checked(profiles),
            exchange=ExchangeSettings(
                body_limit=body_limit,
                pick_timeout=pick_timeout,
                upload_timeout=upload_timeout,
                restore_model=restore_model,
            ),
            in_flight_expiry=in_flight_expiry,
            kv_events_port=kv_events_port,
            explain_header=explain_header,
            scrape=ScrapeSettings(interval=scrape_interval),
            checks=CheckSettings(health_check_interval, path=health_check_path),
            endpoints_per_pick=endpoints_per_pick,
            trace_collector=trace_collector or None,
            trace_share=trace_share,
            request_log_share=log_requests,
            drain_delay=drain_delay,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    run_until_stopped(
        lambda: {"endpoint picker": parts.endpoint_picker(pools, config, grace)},
        grace=grace + CLOSING,
    )


@app.command("all")
def serve_all(
    manifests: Manifests = None,
    kubernetes: Kubernetes = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    namespace: Namespaces = [],  # noqa: B006  # typer reads it, nobody changes it
    controller_name: ControllerName = CONTROLLER,
    status: WriteStatus = True,
    lease_namespace: LeaseNamespace = "",
    gateway_address: GatewayAddresses = [],  # noqa: B006  # typer reads it, nobody changes it
    own_picker: OwnPickers = [OWN_PICKER],  # noqa: B006  # typer reads it, nobody changes it
    host: Annotated[
        str,
        typer.Option(
            envvar="POOLPILOT_HOST",
            help="Interface on which both servers listen; debug pages stay on loopback.",
            rich_help_panel=SERVING,
        ),
    ] = "127.0.0.1",
    listen: Listen = "0.0.0.0:8081",
    picker: Picker = ["127.0.0.1:9002"],  # noqa: B006  # typer reads it, nobody changes it
    reuse_port: ReusePort = True,
    transport: Transport = "native",
    transport_limit: TransportLimit = [],  # noqa: B006  # typer reads it, nobody changes it
    profile: ProfileName = "default",
    profiles: ProfilesPath = None,
    body_limit: BodyLimit = 32 * 1024 * 1024,
    pick_timeout: PickTimeout = 30,
    upload_timeout: UploadTimeout = 300,
    in_flight_expiry: InFlightExpiry = 900,
    restore_model: RestoreModel = False,
    grace: Grace = 10,
    log_level: Level = LogLevel.INFO,
    log_format: Format = LogFormat.AUTO,
) -> None:
    """Both servers in one process, on their well-known ports: the least there is to run.

    [bold]Example[/bold]

      poolpilot serve all --manifests pools/

      poolpilot bootstrap > envoy.yaml && envoy -c envoy.yaml
    """
    from extproc.config.settings import PickerConfig, TransportKind
    from extproc.exchange.settings import ExchangeSettings
    from poolpilot import logs, parts
    from poolpilot.commands.limits import transport_limits
    from poolpilot.lifecycle import run_until_stopped
    from pools.model import host_port
    from xds.config import XdsServerConfig
    from xds.http import HttpConfig

    logs.configure(log_level, log_format)
    pools = source(manifests, kubernetes, kubeconfig, context, namespace, with_routes=False)
    all_kinds = _gateway_source(
        manifests, kubernetes, kubeconfig, context, namespace, controller_name
    )
    writer = None
    if kubernetes and status:
        writer = status_writer(
            kubeconfig, context, namespace, controller_name, lease_namespace, gateway_address
        )
    settings = _translate_settings(listen, picker, reuse_port, own_picker)
    limits, upkeep = transport_limits(transport_limit)
    try:
        config = PickerConfig(
            address=host_port(host, 9002),
            health_address=host_port(host, 9003),
            transport=TransportKind(transport),
            limits=limits,
            upkeep=upkeep,
            profile=profile,
            profiles=_checked(profiles),
            exchange=ExchangeSettings(
                body_limit=body_limit,
                pick_timeout=pick_timeout,
                upload_timeout=upload_timeout,
                restore_model=restore_model,
            ),
            in_flight_expiry=in_flight_expiry,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    run_until_stopped(
        lambda: {
            "xDS server": parts.xds_server(
                all_kinds, settings, XdsServerConfig(host=host), HttpConfig(), grace, writer
            ),
            "endpoint picker": parts.endpoint_picker(pools, config, grace),
        },
        grace=grace + CLOSING,
    )


CLOSING = 2.0
"""Seconds that a server may take to close after the grace period it gives others."""


def _gateway_source(
    manifests: Path | None,
    kubernetes: bool,
    kubeconfig: Path | None,
    context: str | None,
    namespaces: list[str],
    controller: str,
    *,
    with_routes: bool = True,
) -> MakeSource:
    """The source that the options choose, with routes and Gateways."""
    if not with_routes and not kubernetes:
        raise typer.BadParameter("only goes with --kubernetes", param_hint="--no-routes")
    return source(
        manifests,
        kubernetes,
        kubeconfig,
        context,
        namespaces,
        with_routes=with_routes,
        controller=checked_controller(controller),
    )


def _translate_settings(
    listen: str,
    picker: list[str],
    reuse_port: bool,
    own_pickers: list[str],
    trace_collector: str = "",
    trace_share: float = 1.0,
    picker_tls: PickerTls | None = None,
) -> TranslateSettings:
    from poolpilot.commands.addresses import collector_address, socket_address, target_address
    from xds.translate import ExtProcSettings, TranslateSettings

    listener = socket_address(listen, "--listen")
    targets = tuple(target_address(one, "--picker") for one in picker)
    try:
        return TranslateSettings(
            listen_address=listener.host,
            listen_port=listener.port,
            reuse_port=reuse_port,
            ext_proc=ExtProcSettings(targets, tls=picker_tls),
            own_pickers=frozenset(own_pickers),
            trace_collector=collector_address(trace_collector, "--trace-collector"),
            trace_share=trace_share,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _checked(profiles: Path | None) -> Path | None:
    """Raises ValueError (every mistake with its line) if the file cannot be used."""
    from extproc.picking.profiles import ProfilesFile

    if profiles is not None:
        ProfilesFile(profiles)
    return profiles


def _tls(
    make: Callable[[Path, Path, Path | None], T],
    certificate: Path | None,
    key: Path | None,
    client_ca: Path | None,
) -> T | None:
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise typer.BadParameter("TLS needs both --tls-certificate and --tls-key")
    return make(certificate, key, client_ca)
