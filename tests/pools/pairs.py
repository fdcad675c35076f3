"""Certificates with their keys, and the Secrets that hold them."""

from __future__ import annotations

import base64
import datetime
import functools
from dataclasses import dataclass
from typing import Any

from tests.certificates import END, PrivateKey, self_signed

GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gateway}
spec:
  gatewayClassName: ours
  listeners:
  - {name: https, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: tls}]}}
"""
"""Which serves by the Secret ``tls``."""


@dataclass(frozen=True)
class Pair:
    chain: bytes
    key: bytes

    def secret(self, name: str = "tls", *, namespace: str = "default") -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "type": "kubernetes.io/tls",
            "data": {
                "tls.crt": base64.b64encode(self.chain).decode(),
                "tls.key": base64.b64encode(self.key).decode(),
            },
        }


def pair(
    private: PrivateKey | None = None, *, end: datetime.datetime = END, passphrase: bytes = b""
) -> Pair:
    """A certificate that its own key signed."""
    made = self_signed("llm.example.com", private=private, end=end, passphrase=passphrase)
    return Pair(made.chain, made.key)


@functools.cache
def good_pair() -> Pair:
    return pair()
