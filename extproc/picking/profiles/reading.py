"""Readers for what profiles have and manifests do not: numbers, and fields that must be known.

A manifest's unknown field is only warned of. In a profile a misspelled threshold would silently be
the default, so here it is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pools.manifests.fields import Fields, Place, Read, did_you_mean
from pools.manifests.node import Node

T = TypeVar("T")


class KnownFields(Fields):
    """The fields of one mapping; those that nobody asked for are errors."""

    __slots__ = ()

    def unsupported(self, name: str, instead: str) -> None:
        """A field without which the step would mean something else."""
        place = self.get(name)
        if place is not None and place.node.value != []:
            place.error(f"is not supported: {instead}")

    def refuse_others(self) -> None:
        for name in sorted(self._values.keys() - self._asked):
            place = self.place.child(self._values[name], name)
            hint = did_you_mean(name, self._asked)
            if not hint and self._asked:
                hint = f"; known are {', '.join(sorted(self._asked))}"
            place.error(f"is not a known field{hint}")


def strict(build: Callable[[KnownFields], T]) -> Read[T]:
    """A mapping with known fields only."""

    def read(place: Place) -> T:
        if not isinstance(place.node.value, dict):
            place.must_be("a mapping")
            return build(KnownFields(place.silent(Node({}))))
        fields = KnownFields(place)
        value = build(fields)
        fields.refuse_others()
        return value

    return read


def number(low: float, high: float) -> Read[float]:
    def read(place: Place) -> float:
        value = place.node.value
        if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
            return float(value)
        place.must_be(f"a number from {low:g} to {high:g}")
        return low

    return read


def mapping_of(read_item: Read[T]) -> Read[dict[str, T]]:
    """A mapping from names to values of one kind."""

    def read(place: Place) -> dict[str, T]:
        value = place.node.value
        if not isinstance(value, dict):
            place.must_be("a mapping")
            return {}
        return {name: read_item(place.child(node, name)) for name, node in value.items()}

    return read
