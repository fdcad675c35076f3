"""Certificates that tests sign themselves, and clients that look at what they are shown."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from collections.abc import Sequence

from cryptography import x509

from pools.model import ObjectName, TlsCertificate
from tests.certificates import self_signed


def certificate(name: str, *hosts: str) -> TlsCertificate:
    """A new one for these hosts."""
    made = self_signed(*hosts)
    return TlsCertificate(ObjectName.parse(name), made.chain, made.key)


def serial(found: TlsCertificate) -> int:
    return x509.load_pem_x509_certificate(found.chain).serial_number


def trusting_nobody(*protocols: str, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A client that takes any certificate: tests look at which one it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if version is not None:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            context.minimum_version = context.maximum_version = version
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


class Connection:
    """One TLS connection that asks for one request after the other in HTTP/1.1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(
        cls, port: int, sni: str | None, context: ssl.SSLContext | None = None
    ) -> Connection:
        """Raises OSError (which ssl.SSLError is) where there is none to be had."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            port,
            ssl=context or trusting_nobody("http/1.1"),
            # The standard library sends an empty name only where it is told not to check one.
            server_hostname=sni or "",
        )
        return cls(reader, writer)

    @property
    def shown(self) -> int:
        """Serial number of the server's certificate."""
        der = self._writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der).serial_number

    @property
    def alpn(self) -> str | None:
        chosen: str | None = self._writer.get_extra_info("ssl_object").selected_alpn_protocol()
        return chosen

    async def ask(self, host: str, path: str = "/") -> int:
        """The status of a GET. Raises OSError or asyncio.IncompleteReadError where it ends."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(
            int(line.partition(":")[2])
            for line in head.splitlines()
            if line.startswith("content-length:")
        )
        await self._reader.readexactly(length)
        assert "connection: close" not in head
        return int(head.split()[1])

    def close(self) -> None:
        self._writer.transport.abort()


def all_pem(certificates: Sequence[TlsCertificate]) -> list[str]:
    """Pieces of private keys that must not be seen anywhere."""
    return [line for one in certificates for line in one.key.decode().splitlines()[1:-1]]
