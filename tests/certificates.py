"""Certificates that sign themselves."""

from __future__ import annotations

import datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
BEGIN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
END = datetime.datetime(2090, 1, 1, tzinfo=datetime.UTC)


class SelfSigned(NamedTuple):
    """PEM."""

    chain: bytes
    key: bytes


def self_signed(
    *hosts: str,
    name: str = "",
    private: PrivateKey | None = None,
    serial: int | None = None,
    end: datetime.datetime = END,
    passphrase: bytes = b"",
    authority: bool = False,
) -> SelfSigned:
    """For these hosts. ``name`` is the subject's, by default the first host; ``authority``: it may
    sign others, which is what some clients ask of what they are to trust."""
    private = private or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name or hosts[0])])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(BEGIN)
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, hosts))), critical=False)
    )
    if authority:
        builder = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
    certificate = builder.sign(
        private, None if isinstance(private, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    )
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return SelfSigned(
        certificate.public_bytes(serialization.Encoding.PEM),
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        ),
    )
