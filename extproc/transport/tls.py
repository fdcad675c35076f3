"""The server's TLS: h2 by ALPN, and certificates that are read again when their files change."""

from __future__ import annotations

import os
import ssl
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


class ServerTls:
    """A TLS context for listening whose certificates follow their files.

    New connections get the newest files that fit together; a certificate without its key, or half
    a file, leaves what works in place.

    :raises ValueError: the files cannot be used at the start.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp = self._read_stamp()
        try:
            self._current = _context(files)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(
                f"TLS: {files.certificate} and {files.key} cannot be used: {error}. Give a"
                " certificate chain and its private key, both PEM"
            ) from error
        # Listeners keep the context that they were given. This one hands every handshake on to
        # the newest.
        self.context = _context(files)
        self.context.sni_callback = self._choose

    def refresh(self) -> bool:
        """Look at the files, and read them again if they changed. True if they are in use now."""
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._current = _context(self._files)
        except (OSError, ssl.SSLError) as error:
            log.warning(
                "TLS files changed but cannot be used; the certificate read before stays",
                certificate=str(self._files.certificate),
                key=str(self._files.key),
                error=str(error),
            )
            return False
        log.info("TLS certificate read again", certificate=str(self._files.certificate))
        return True

    def _choose(
        self, handshake: ssl.SSLObject, _server_name: str | None, _context: ssl.SSLContext
    ) -> None:
        handshake.context = self._current

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


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # RFC 9113 9.2: TLS 1.2 at least, without compression and renegotiation.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(files.certificate, files.key)
    if files.client_ca is not None:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
