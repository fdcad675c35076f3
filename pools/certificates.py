"""Whether a certificate chain and its private key are fit for Envoy. Nothing here is ever printed.

Envoy refuses a whole listener over a certificate that it cannot use, so each is tried here first.
"""

from __future__ import annotations

from dataclasses import dataclass

MIN_RSA_BITS = 2048
CURVES = ("secp256r1", "secp384r1", "secp521r1")


@dataclass(frozen=True, slots=True)
class Finding:
    problem: str = ""
    """Why the pair cannot be used; begins with the name of the part at fault."""
    expires: float | None = None
    """When the first certificate does, in seconds since 1970."""


def examine(chain: bytes, key: bytes) -> Finding:
    """Both in PEM: the certificate of the key first, then those that signed it."""
    # As slow to import as all of the rest together, and only needed where there is TLS.
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    def public(one: object) -> bytes:
        return one.public_bytes(  # type: ignore[attr-defined, no-any-return]  # any public key
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    try:
        certificates = x509.load_pem_x509_certificates(chain)
        public_keys = [public(one.public_key()) for one in certificates]
        expires = certificates[0].not_valid_after_utc.timestamp()
    # Whatever strangers' bytes make a library raise: it has errors of its own for some of them.
    except Exception:
        return Finding("tls.crt is no chain of certificates in PEM")
    try:
        # The checks of an RSA key's arithmetic take longer than all of the rest.
        private = serialization.load_pem_private_key(key, None, unsafe_skip_rsa_key_validation=True)
        own = public(private.public_key())
    except TypeError:
        return Finding("tls.key is encrypted: store it without a passphrase")
    except Exception:
        return Finding("tls.key is no private key in PEM")
    if own not in public_keys:
        return Finding("tls.key does not belong to the certificate in tls.crt")
    if own != public_keys[0]:
        return Finding("tls.crt must begin with the certificate that tls.key belongs to")
    if isinstance(private, rsa.RSAPrivateKey):
        if private.key_size < MIN_RSA_BITS:
            return Finding(f"tls.key is an RSA key of less than {MIN_RSA_BITS} bits")
    elif isinstance(private, ec.EllipticCurvePrivateKey):
        if private.curve.name not in CURVES:
            return Finding("tls.key is on another curve than P-256, P-384 and P-521")
    elif not isinstance(private, ed25519.Ed25519PrivateKey):
        return Finding("tls.key is neither an RSA key nor one of ECDSA or Ed25519")
    return Finding(expires=expires)
