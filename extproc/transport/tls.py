"""The server's TLS: h2 by ALPN, and certificates that are read again when their files change."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. With ``client_ca``, clients must show a certificate signed by it."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class TlsFilesError(ValueError):
    """A certificate, key or client CA cannot be used. The message names the file and what to do."""


class ServerTls:
    """A TLS context for listening whose certificates follow their files.

    New connections get the newest files that fit together; a certificate without its key, or half
    a file, leaves what works in place.

    :raises TlsFilesError: the files cannot be used at the start.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp = self._read_stamp()
        self._current = context_of(files)
        # Listeners keep the context that they were given, so this one hands on to the newest.
        newest = _Newest(ssl.PROTOCOL_TLS_SERVER)
        newest.get = lambda: self._current
        self.context: ssl.SSLContext = newest

    def refresh(self) -> bool:
        """Look at the files, and read them again if they changed. True if they are in use now."""
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._current = context_of(self._files)
        except TlsFilesError as error:
            log.warning(
                "TLS files changed but cannot be used; the certificate read before stays",
                certificate=str(self._files.certificate),
                key=str(self._files.key),
                error=str(error),
            )
            return False
        log.info("TLS certificate read again", certificate=str(self._files.certificate))
        return True

    def _read_stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Of each file: inode, size and time of change. Kubernetes swaps a symlink, others write in
        place; either shows."""
        files = self._files
        stamps: list[tuple[int, int, int] | None] = []
        for path in (files.certificate, files.key, files.client_ca):
            try:
                status = os.stat(path) if path is not None else None
            except OSError:
                status = None
            stamps.append(
                (status.st_ino, status.st_size, status.st_mtime_ns) if status is not None else None
            )
        return tuple(stamps)


class _Newest(ssl.SSLContext):
    """Begins each handshake in the newest context. One that were only changed in the middle of its
    handshake (by an SNI callback) would already have resumed what an old authority let in."""

    get: Callable[[], ssl.SSLContext]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return self.get().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def context_of(files: TlsFiles) -> ssl.SSLContext:
    """A context for listening. Raises TlsFilesError."""
    # OpenSSL's own errors name no file.
    _read_pem("certificate", files.certificate, b"CERTIFICATE")
    key = _read_pem("key", files.key, b"PRIVATE KEY")
    if b"ENCRYPTED" in key:
        raise TlsFilesError(
            f"TLS key {files.key} has a passphrase, which nobody could type when the server starts:"
            f" give a key without one, such as 'openssl pkey -in {files.key}' writes it"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # RFC 9113 9.2: TLS 1.2 at least, without compression and renegotiation.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # Who resumes a session is not asked for a certificate again. Gateways connect rarely: whole
    # handshakes cost nothing. (num_tickets is of TLS 1.3. What is left are sessions that TLS 1.2
    # finds by their ids, for five minutes and in the context that made them.)
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(["h2"])
    try:
        # Without a password of ours OpenSSL would ask the terminal for one.
        context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    except OSError as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            raise TlsFilesError(
                f"TLS key {files.key} is not the key of certificate {files.certificate}: give the"
                " two that were made together (the server's own certificate first in its file)"
            ) from error
        raise TlsFilesError(
            f"TLS certificate {files.certificate} and key {files.key} cannot be used: {error}."
            " Give a certificate chain and its private key, both PEM"
        ) from error
    if files.client_ca is not None:
        _read_pem("client CA", files.client_ca, b"CERTIFICATE")
        try:
            context.load_verify_locations(files.client_ca)
        except OSError as error:
            raise TlsFilesError(
                f"TLS client CA {files.client_ca} cannot be used: {error}. Give the certificates of"
                " the authorities that sign those of clients, PEM"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _read_pem(what: str, path: Path, kind: bytes) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TlsFilesError(f"TLS {what} {path} cannot be read: {error.strerror}") from error
    if b"-----BEGIN " not in data or kind not in data:
        raise TlsFilesError(
            f"TLS {what} {path} is no PEM file with a {kind.decode().lower()}: give one that has"
            f" a line '-----BEGIN {kind.decode()}-----'"
        )
    return data
