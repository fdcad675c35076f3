"""What can be set about the endpoint picker."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from extproc.config.profiles_file import ProfilesFile
from extproc.config.settings import GRACE, PickerConfig, TransportKind
from extproc.exchange.settings import ExchangeSettings
from extproc.picking.scraping import ScrapeSettings
from extproc.signals.active_checks import CheckSettings
from extproc.transport.listen import parse_address
from extproc.transport.tls import TlsFiles
from poolpilot.grouping import option
from poolpilot.options import LOGS, SERVING, TLS, TRACES
from poolpilot.transport_limits import transport_limits

PICKING = "Picking"

_PICKER = PickerConfig()


@dataclass(frozen=True, kw_only=True)
class PickerOptions:
    SERVER: ClassVar = "extproc"

    address: Annotated[
        str,
        option(
            "POOLPILOT_EXTPROC_ADDRESS",
            SERVING,
            "Where Envoy reaches the picker (gRPC): host:port or unix:/path.",
            metavar="ADDRESS",
            check=parse_address,
        ),
    ] = _PICKER.address
    health_address: Annotated[
        str,
        option(
            "POOLPILOT_EXTPROC_HEALTH_ADDRESS",
            SERVING,
            "Where probes are answered (gRPC health); an empty text: only on --address.",
            metavar="ADDRESS",
        ),
    ] = _PICKER.health_address or ""
    http_address: Annotated[
        str,
        option(
            "POOLPILOT_EXTPROC_HTTP_ADDRESS",
            SERVING,
            "Debug pages, metrics and health. They show everything to whoever reaches them.",
            metavar="ADDRESS",
        ),
    ] = _PICKER.http_address or ""
    http_name: Annotated[
        list[str],
        option(
            "POOLPILOT_EXTPROC_HTTP_NAMES",
            SERVING,
            "A name beside localhost and IP addresses under which browsers may ask for the debug "
            "pages. Repeat for more.",
            metavar="HOST",
        ),
    ] = field(default_factory=list)
    transport: Annotated[
        TransportKind,
        option(
            "POOLPILOT_TRANSPORT",
            SERVING,
            "What carries the gRPC streams: our own HTTP/2 server, or grpcio, which costs several "
            "times as much.",
        ),
    ] = _PICKER.transport
    transport_limit: Annotated[
        list[str],
        option(
            "POOLPILOT_TRANSPORT_LIMITS",
            SERVING,
            "A limit of the native transport, such as max_streams=5000, keepalive_interval=10 or "
            "resets=500/5000 (per second and at once); docs/transport.md has all of them. Repeat "
            "for more.",
            metavar="NAME=VALUE",
        ),
    ] = field(default_factory=list)
    drain_delay: Annotated[
        float,
        option(
            "POOLPILOT_DRAIN_DELAY",
            SERVING,
            "Seconds between saying 'not ready' and taking no more streams, when stopping: with "
            "replicas, two of Envoy's health check intervals.",
            min=0,
        ),
    ] = _PICKER.drain_delay
    tls_certificate: Annotated[
        Path | None,
        option(
            "POOLPILOT_EXTPROC_TLS_CERTIFICATE",
            TLS,
            "PEM file of the picker's certificate. It is read again when it changes.",
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        option("POOLPILOT_EXTPROC_TLS_KEY", TLS, "PEM file of its private key."),
    ] = None
    tls_client_ca: Annotated[
        Path | None,
        option(
            "POOLPILOT_EXTPROC_TLS_CLIENT_CA",
            TLS,
            "PEM file of the authority whose certificates Envoys must show.",
        ),
    ] = None
    profile: Annotated[
        str,
        option(
            "POOLPILOT_PROFILE",
            PICKING,
            "How endpoints are chosen, where --profiles does not say it.",
        ),
    ] = _PICKER.profile
    profiles: Annotated[
        Path | None,
        option(
            "POOLPILOT_PROFILES",
            PICKING,
            "YAML file of scheduling profiles, or llm-d's EndpointPickerConfig. An edit takes "
            "effect at once; with a mistake in it, what was in force stays.",
            metavar="FILE",
        ),
    ] = _PICKER.profiles
    endpoints_per_pick: Annotated[
        int,
        option(
            "POOLPILOT_ENDPOINTS_PER_PICK",
            PICKING,
            "The pick and its fallbacks, which Envoy's retries walk down.",
            min=1,
        ),
    ] = _PICKER.endpoints_per_pick
    kv_events_port: Annotated[
        int | None,
        option(
            "POOLPILOT_KV_EVENTS_PORT",
            PICKING,
            "Port on which each pod publishes its KV cache events (vLLM over ZeroMQ): exact "
            "prefix matches for prompts that are token ids.",
            min=1,
            max=65535,
        ),
    ] = _PICKER.kv_events_port
    state: Annotated[
        Path | None,
        option(
            "POOLPILOT_STATE",
            PICKING,
            "File in which the picker keeps what it has learned (what servers have cached, how "
            "long answers are), so that after a restart it goes on as before. It is written every "
            "10 seconds and at the end.",
            metavar="FILE",
        ),
    ] = _PICKER.state
    explain_header: Annotated[
        bool,
        option(
            "POOLPILOT_EXPLAIN_HEADER",
            PICKING,
            "Answer requests that say 'x-poolpilot-explain: true' with x-poolpilot-explanation: "
            "why they went where they went. It shows pods' addresses to clients.",
            flag="--explain-header",
        ),
    ] = _PICKER.explain_header
    scrape_interval: Annotated[
        float,
        option(
            "POOLPILOT_SCRAPE_INTERVAL",
            PICKING,
            "Seconds between two looks at the metrics of one pod.",
            min=0.01,
        ),
    ] = _PICKER.scrape.interval
    health_check_interval: Annotated[
        float,
        option(
            "POOLPILOT_HEALTH_CHECK_INTERVAL",
            PICKING,
            "Seconds between two health checks of one pod; 0: none, scrapes and requests tell.",
            min=0,
        ),
    ] = _PICKER.checks.interval
    health_check_path: Annotated[
        str,
        option(
            "POOLPILOT_HEALTH_CHECK_PATH",
            PICKING,
            "What a pod that is well answers with 200.",
            metavar="PATH",
        ),
    ] = _PICKER.checks.path
    body_limit: Annotated[
        int,
        option(
            "POOLPILOT_BODY_LIMIT",
            PICKING,
            "Bytes of a request body that are held for the pick; more is answered with 413.",
            min=1,
        ),
    ] = _PICKER.exchange.body_limit
    held_limit: Annotated[
        int,
        option(
            "POOLPILOT_HELD_LIMIT",
            PICKING,
            "Bytes of all request bodies that are held at the same time; beyond it the largest is "
            "answered with 503. 0: a quarter of the memory limit of the process's control group, "
            "or of the machine's memory.",
            min=0,
        ),
    ] = _PICKER.held_limit
    pick_timeout: Annotated[
        float,
        option(
            "POOLPILOT_PICK_TIMEOUT",
            PICKING,
            "Seconds that a request may wait for its endpoint; then it is answered with 503. "
            "Where requests queue, as long as the longest queue allows.",
            min=0.001,
        ),
    ] = _PICKER.exchange.pick_timeout
    upload_timeout: Annotated[
        float,
        option(
            "POOLPILOT_UPLOAD_TIMEOUT",
            PICKING,
            "Seconds that a client may take to send its body; then it is answered with 408.",
            min=0.001,
        ),
    ] = _PICKER.exchange.upload_timeout
    in_flight_expiry: Annotated[
        float,
        option(
            "POOLPILOT_IN_FLIGHT_EXPIRY",
            PICKING,
            "Seconds after which a request whose end nobody reported counts as over: longer than "
            "the longest answer takes.",
            min=1,
        ),
    ] = _PICKER.in_flight_expiry
    restore_model: Annotated[
        bool,
        option(
            "POOLPILOT_RESTORE_MODEL",
            PICKING,
            "Where a request's model was rewritten, put the name that the client asked for back "
            "into the response. Only where the gateway shows responses to the picker (our own xDS "
            "server does not have Envoy do so).",
            flag="--restore-model",
        ),
    ] = _PICKER.exchange.restore_model
    trace_collector: Annotated[
        str,
        option(
            "POOLPILOT_TRACE_COLLECTOR",
            TRACES,
            "Send OpenTelemetry spans to this OTLP/HTTP collector, such as http://127.0.0.1:4318.",
            metavar="URL",
        ),
    ] = _PICKER.trace_collector or ""
    trace_share: Annotated[
        float,
        option(
            "POOLPILOT_TRACE_SHARE",
            TRACES,
            "The share that is traced of those requests whose trace nobody has begun.",
            min=0,
            max=1,
        ),
    ] = _PICKER.trace_share
    log_requests: Annotated[
        float,
        option(
            "POOLPILOT_LOG_REQUESTS",
            LOGS,
            "The share of requests that get a log line when they end.",
            min=0,
            max=1,
        ),
    ] = _PICKER.request_log_share
    grace: Annotated[
        float,
        option(
            "POOLPILOT_GRACE",
            SERVING,
            "Seconds that what is in progress gets to finish after SIGTERM or Ctrl-C.",
            min=0,
        ),
    ] = GRACE

    def config(self) -> PickerConfig:
        """Raises typer.BadParameter for what cannot be used."""
        limits, upkeep = transport_limits(self.transport_limit)
        try:
            if self.profiles is not None:
                ProfilesFile(self.profiles)  # every mistake in it, with its line
            return PickerConfig(
                address=self.address,
                health_address=self.health_address or None,
                http_address=self.http_address or None,
                http_names=tuple(self.http_name),
                transport=self.transport,
                limits=limits,
                upkeep=upkeep,
                tls=self._tls(),
                profile=self.profile,
                profiles=self.profiles,
                exchange=ExchangeSettings(
                    body_limit=self.body_limit,
                    pick_timeout=self.pick_timeout,
                    upload_timeout=self.upload_timeout,
                    restore_model=self.restore_model,
                ),
                held_limit=self.held_limit,
                in_flight_expiry=self.in_flight_expiry,
                kv_events_port=self.kv_events_port,
                state=self.state,
                explain_header=self.explain_header,
                scrape=ScrapeSettings(interval=self.scrape_interval),
                checks=CheckSettings(self.health_check_interval, path=self.health_check_path),
                endpoints_per_pick=self.endpoints_per_pick,
                trace_collector=self.trace_collector or None,
                trace_share=self.trace_share,
                request_log_share=self.log_requests,
                drain_delay=self.drain_delay,
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    def _tls(self) -> TlsFiles | None:
        if self.tls_certificate is None and self.tls_key is None and self.tls_client_ca is None:
            return None
        if self.tls_certificate is None or self.tls_key is None:
            raise typer.BadParameter("the picker's TLS needs both a certificate and its key")
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_client_ca)
