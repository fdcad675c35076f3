"""Where the API server is and how to convince it, from a kubeconfig or a pod's service account.

The official client's loader knows every way to log in (tokens, certificates, programs). It may run
programs and read files, so it runs in a thread.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pools.daemon import in_daemon_thread
from pools.extras import install_command
from pools.source import SourceError

IN_CLUSTER = "KUBERNETES_SERVICE_HOST"
"""Kubernetes sets this variable in every container."""


@dataclass(frozen=True, slots=True)
class Access:
    """All that a request needs."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | bool = True
    server_name: str | None = None
    proxy: str | None = None


_MALFORMED = (AttributeError, LookupError, TypeError, ValueError)
"""What the client's loader raises for a file that has not the shape that it expects."""


class CredentialsError(Exception):
    """The configuration cannot be read or used."""


class Credentials:
    """The credentials of one API server, read again whenever the server no longer likes them.

    Without ``kubeconfig`` and ``context``: the files of ``KUBECONFIG``, else the pod's service
    account, else ``~/.kube/config``.
    """

    def __init__(self, kubeconfig: Path | None = None, context: str | None = None) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._asking: asyncio.Task[Access] | None = None
        self._configuration: Any = None
        self._tls: ssl.SSLContext | None = None

    async def access(self, limit: float | None = None) -> Access:
        """Raises CredentialsError where they cannot be had now, or not within ``limit`` seconds,
        and SourceError where the client library is missing.

        A program that hangs is waited for anew by the next who asks, and not run once more.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(
                in_daemon_thread(self._access, "kubernetes credentials")
            )
            # Nobody may be left who waits for it.
            self._asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        try:
            async with asyncio.timeout(limit):
                return await asyncio.shield(self._asking)
        except TimeoutError as error:
            raise CredentialsError(
                f"{self._where()} cannot be used: no answer within {limit:g} s; a program that it"
                " runs to log in may hang, or ask somebody something"
            ) from error

    def forget(self) -> None:
        """The server refused them: read them anew for the next request."""
        self._configuration = None

    def _access(self) -> Access:
        load, failure = _loader()
        try:
            configuration = self._configuration
            if configuration is None:
                configuration = load(self._kubeconfig, self._context)
                self._tls = _tls(configuration)
                self._configuration = configuration
            # This is where tokens that expire are renewed.
            settings = configuration.auth_settings()
        except (failure, yaml.YAMLError, OSError, *_MALFORMED) as error:
            why = " ".join(str(error).split())
            raise CredentialsError(f"{self._where()} cannot be used: {why}") from error
        headers = {
            setting["key"]: str(setting["value"]).strip()
            for setting in settings.values()
            if setting.get("in") == "header" and setting.get("value")
        }
        return Access(
            configuration.host.rstrip("/"),
            headers,
            self._tls if self._tls is not None else True,
            configuration.tls_server_name or None,
            _proxy(configuration),
        )

    def _where(self) -> str:
        context = f", context {self._context!r}" if self._context else ""
        if self._kubeconfig is not None:
            return f"kubeconfig {self._kubeconfig}{context}"
        if _from_pod(self._kubeconfig, self._context):
            return "the pod's service account"
        return f"kubeconfig {os.environ.get('KUBECONFIG') or '~/.kube/config'}{context}"


def _from_pod(kubeconfig: Path | None, context: str | None) -> bool:
    return (
        kubeconfig is None
        and context is None
        and not os.environ.get("KUBECONFIG")
        and bool(os.environ.get(IN_CLUSTER))
    )


def _loader() -> tuple[Any, type[Exception]]:
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise SourceError(
            "watching Kubernetes needs the official client, which is not installed:"
            f" {install_command('kubernetes')}"
        ) from error

    def load(kubeconfig: Path | None, context: str | None) -> Any:
        configuration = client.Configuration()
        if _from_pod(kubeconfig, context):
            config.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
        else:
            config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=str(kubeconfig) if kubeconfig is not None else _default_kubeconfig(),
                context=context,
                client_configuration=configuration,
                # The file is the user's: renewed tokens are not written into it.
                persist_config=False,
            )
        return configuration

    return load, config.ConfigException


def _default_kubeconfig() -> str:
    return os.environ.get("KUBECONFIG") or "~/.kube/config"


def _tls(configuration: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    # Python 3.13 refuses, with this flag, the authorities of many clusters.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context


def _proxy(configuration: Any) -> str | None:
    if not configuration.proxy:
        return None
    from kubernetes.client.rest import should_bypass_proxies

    if should_bypass_proxies(configuration.host, configuration.no_proxy or ""):
        return None
    return str(configuration.proxy)
