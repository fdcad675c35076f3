"""From messages to bytes, each content once.

envoy-data-plane takes about a millisecond to serialise a message with a large schema, so what many
resources share is serialised once and appended: two serialised messages one after the other are the
serialisation of their merger, and a field of a message is a tag, a length and the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from datetime import timedelta
from typing import Generic, TypeVar

import betterproto2
from envoy_data_plane.google.protobuf import Any

from xds.resource import Resource

V = TypeVar("V")


def any_of(message: betterproto2.Message) -> Any:
    """The message in an Any."""
    return Any.pack(message)


def resource(
    type_url: str,
    name: str,
    body: bytes | betterproto2.Message,
    *,
    origin: str = "",
    needs: tuple[tuple[str, str], ...] = (),
) -> Resource:
    return Resource(
        type_url,
        name,
        body if isinstance(body, bytes) else bytes(body),
        origin=origin,
        needs=needs,
    )


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


def embedded(number: int, body: bytes) -> bytes:
    """Field ``number`` holding the serialised message ``body``."""
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Memo(Generic[V]):
    """Remembers what was last made under a key, and from which inputs.

    Inputs are compared by equality, which is quick while they are the same objects. What was not
    asked for between two calls of :meth:`turn` is forgotten.
    """

    def __init__(self) -> None:
        self._used: dict[Hashable, tuple[object, V]] = {}
        self._older: dict[Hashable, tuple[object, V]] = {}

    def get(self, key: Hashable, inputs: object, make: Callable[[], V]) -> V:
        """What was made from these inputs, made now if they are new."""
        found = self._used.get(key) or self._older.get(key)
        if found is None or found[0] != inputs:
            found = (inputs, make())
        self._used[key] = found
        return found[1]

    def evict_unused(self) -> None:
        self._older, self._used = self._used, {}
