"""Certificates and keys for one API server, for as long as a test runs."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files in one directory: an authority, the server's and an administrator's certificates,
    and the key that signs the tokens of service accounts."""

    directory: Path

    @property
    def authority(self) -> Path:
        return self.directory / "ca.crt"

    def certificate(self, name: str) -> Path:
        return self.directory / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    @classmethod
    def make(cls, directory: Path) -> Certificates:
        """``server`` for 127.0.0.1 and ``admin`` of the group system:masters, who may do all."""
        made = cls(directory)
        authority_key = ec.generate_private_key(ec.SECP256R1())
        authority_name = _name("poolpilot-e2e-ca")
        authority = (
            _builder(authority_name, authority_name, authority_key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(authority_key, hashes.SHA256())
        )
        made.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))

        def issue(name: str, subject: x509.Name, usage: x509.ObjectIdentifier) -> None:
            key = ec.generate_private_key(ec.SECP256R1())
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            certificate = (
                _builder(subject, authority_name, key)
                .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
                .add_extension(x509.SubjectAlternativeName(names), critical=False)
                .sign(authority_key, hashes.SHA256())
            )
            made.certificate(name).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
            _write_key(made.key(name), key)

        issue("server", _name("kube-apiserver"), ExtendedKeyUsageOID.SERVER_AUTH)
        issue("admin", _name("admin", "system:masters"), ExtendedKeyUsageOID.CLIENT_AUTH)
        _write_key(made.key("service-accounts"), rsa.generate_private_key(65537, key_size=2048))
        return made


def _name(common: str, organization: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if organization is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
    )


def _write_key(path: Path, key: _PrivateKey) -> None:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
