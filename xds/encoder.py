"""Responses to bytes: once for all streams that are told the same."""

from __future__ import annotations

from collections import OrderedDict

from xds.protocol.message import Response
from xds.wire.codec import encode_delta, encode_sotw, with_nonce

_Key = tuple[bool, str, str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]


class Encoder:
    """A least-recently-used cache of response bodies, bounded in bytes."""

    def __init__(self, identifier: str, capacity: int = 32 * 1024 * 1024) -> None:
        self._identifier = identifier
        self._capacity = capacity
        self._size = 0
        self._bodies: OrderedDict[_Key, bytes] = OrderedDict()

    def encode(self, response: Response, *, delta: bool) -> bytes:
        # The version of the set does not say it all: something may stand in for what was rejected.
        names = tuple([resource.name for resource in response.resources])
        versions = tuple([resource.version for resource in response.resources])
        key = (delta, response.type_url, response.version, names, versions, response.removed)
        body = self._bodies.get(key)
        if body is None:
            encode = encode_delta if delta else encode_sotw
            body = encode(response, self._identifier)
            self._keep(key, body)
        else:
            self._bodies.move_to_end(key)
        return with_nonce(body, response.nonce)

    def _keep(self, key: _Key, body: bytes) -> None:
        self._bodies[key] = body
        self._size += len(body)
        while self._size > self._capacity:
            _key, dropped = self._bodies.popitem(last=False)
            self._size -= len(dropped)
