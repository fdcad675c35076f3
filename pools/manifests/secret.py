"""Secrets of type ``kubernetes.io/tls``. No message has any part of their values."""

from __future__ import annotations

import base64
import binascii

from pools.certificates import examine
from pools.manifests.fields import Fields
from pools.manifests.meta import Meta
from pools.manifests.node import Node
from pools.model import TlsCertificate

TLS_TYPE = "kubernetes.io/tls"
CHAIN, KEY = "tls.crt", "tls.key"


def is_tls(node: Node) -> bool:
    """Whether a Secret is one of ours; all others are left unread."""
    kind = node.value.get("type") if isinstance(node.value, dict) else None
    return kind is not None and kind.value == TLS_TYPE


def secret(meta: Meta, fields: Fields) -> TlsCertificate:
    """A Secret that cannot be used says so in its value, so that listeners can tell."""
    chain, key = _Part(fields, CHAIN), _Part(fields, KEY)
    fields.any_others()
    for part in (chain, key):
        if part.fault:
            return _useless(meta, part, part.fault)
    finding = examine(chain.value, key.value)
    if finding.problem:
        part = key if finding.problem.startswith(KEY) else chain
        return _useless(meta, part, finding.problem.removeprefix(f"{part.name} "))
    return TlsCertificate(
        meta.name, chain.value, key.value, origin=meta.origin, expires=finding.expires
    )


def _useless(meta: Meta, part: _Part, fault: str) -> TlsCertificate:
    part.place.refuse(fault)
    return TlsCertificate(meta.name, b"", b"", f"{part.name} {fault}", meta.origin)


class _Part:
    """One of a Secret's values. ``stringData`` wins over ``data``, as in the API server."""

    def __init__(self, fields: Fields, name: str) -> None:
        self.name = name
        self.value = b""
        self.fault = "is required"
        """Why it has no value."""
        self.place = fields.at("data").child(Node(None, fields.at("data").line), name)
        for group in ("data", "stringData"):
            values = fields.get(group)
            if values is not None and isinstance(values.node.value, dict):
                node = values.node.value.get(name)
                if node is not None and node.value not in (None, ""):
                    self.place = values.child(node, name)
                    self._read(node, encoded=group == "data")

    def _read(self, node: Node, *, encoded: bool) -> None:
        self.value, self.fault = b"", ""
        if not isinstance(node.value, str):
            self.fault = "must be text"
        elif not encoded:
            self.value = node.value.encode()
        else:
            try:
                self.value = base64.b64decode("".join(node.value.split()), validate=True)
            except (binascii.Error, ValueError):
                self.fault = "is not base64"
