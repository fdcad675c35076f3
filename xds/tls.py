"""Server certificates that are read again when their files change, and what clients show."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import grpc
import structlog

from xds.config import Authorisation, TlsConfig

log = structlog.get_logger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]


class TlsError(ValueError):
    """A certificate or key cannot be used; names the file."""


class CertificateFiles:
    """Reads the PEM files, and again when one of them has changed."""

    def __init__(self, config: TlsConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._stamp = self._look()

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """Raises TlsError, naming the files, where they cannot be read or do not fit together."""
        key = _pem(self._config.key, b"PRIVATE KEY")
        chain = _pem(self._config.certificate, b"CERTIFICATE")
        ca = self._config.client_ca
        roots = _pem(ca, b"CERTIFICATE") if ca is not None else None
        _try(self._config)
        return grpc.ssl_server_certificate_configuration([(key, chain)], roots)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The new configuration if the files changed. Called by gRPC for each new connection, on
        its threads. Files that cannot be used leave the old certificate in force."""
        with self._lock:
            try:
                stamp = self._look()
                if stamp == self._stamp:
                    return None
                # Whatever comes of it, it is not tried again before it changes.
                self._stamp = stamp
                configuration = self.configuration()
            except TlsError as error:
                log.error("certificate not reloaded, the old one stays", error=str(error))
                return None
            log.info("certificate reloaded", certificate=str(self._config.certificate))
            return configuration

    def credentials(self) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(
            self.configuration(),
            self.changed,  # type: ignore[arg-type]  # None means unchanged; the stub forgot it.
            require_client_authentication=self._config.client_ca is not None,
        )

    def _look(self) -> _Stamp:
        paths = [self._config.certificate, self._config.key]
        if self._config.client_ca is not None:
            paths.append(self._config.client_ca)
        stamps = []
        for path in paths:
            try:
                status = os.stat(path)
            except OSError as error:
                raise TlsError(f"TLS file {path}: {error.strerror}") from error
            stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(stamps)


def _pem(path: Path, marker: bytes) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TlsError(f"TLS file {path}: {error.strerror}") from error
    if b"-----BEGIN " not in data or marker not in data:
        raise TlsError(f"TLS file {path}: not PEM with a {marker.decode().lower()}")
    return data


def _try(config: TlsConfig) -> None:
    """gRPC says neither to us what it cannot use, nor that it went on with the old."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = f"{config.certificate} and {config.key}"
    try:
        # Asked for a passphrase, OpenSSL would ask the terminal.
        context.load_cert_chain(config.certificate, config.key, password=lambda: "")
        if config.client_ca is not None:
            files = str(config.client_ca)
            context.load_verify_locations(config.client_ca)
    except OSError as error:
        raise TlsError(f"TLS files {files} cannot be used: {error}") from error


def identities(auth_context: Mapping[str, Iterable[bytes]]) -> tuple[str, ...]:
    """The names in a client's certificate: subject alternative names, then the common name."""
    found: list[str] = []
    for key in ("x509_subject_alternative_name", "x509_common_name"):
        found.extend(value.decode("utf-8", "replace") for value in auth_context.get(key, ()))
    return tuple(dict.fromkeys(found))


def may_be(node_id: str, names: Iterable[str], rules: Iterable[Authorisation]) -> bool:
    """Whether a client with these names in its certificate may be this node."""
    names = tuple(names)
    return any(
        any(fnmatchcase(name, rule.identity) for name in names)
        and any(fnmatchcase(node_id, pattern) for pattern in rule.nodes)
        for rule in rules
    )
