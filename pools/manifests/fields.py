"""Reading typed fields from nodes: what is allowed is written down once, next to the field.

A reader is a function from a place in a manifest to a value. Where the manifest is wrong it reports
the line, the field and what is allowed, and returns an empty value of the right type, so that one
pass finds everything that is wrong with an object. An object with an error is then thrown away.
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pools.manifests.node import Node
from pools.model import Origin, Problem, Severity

T = TypeVar("T")
D = TypeVar("D")
E = TypeVar("E", bound=enum.StrEnum)
Read = Callable[["Place"], T]

_NULL = Node(None)
_NO_FIELDS = Node({})


@dataclass(slots=True)
class Report:
    """What was found wrong with one object."""

    origin: Origin
    problems: list[Problem] = field(default_factory=list)
    failed: bool = False
    """The object cannot be used as it is."""


class Place:
    """A node and the way to it from the root of its object."""

    __slots__ = ("node", "parent", "report", "step")

    def __init__(
        self,
        node: Node,
        report: Report | None,
        parent: Place | None = None,
        step: str | int = "",
    ) -> None:
        self.node = node
        self.report = report
        """None where nothing is reported, as in the reading of a field that is missing."""
        self.parent = parent
        self.step = step

    def child(self, node: Node, step: str | int) -> Place:
        return Place(node, self.report, self, step)

    def silent(self, node: Node) -> Place:
        return Place(node, None, self.parent, self.step)

    @property
    def path(self) -> str:
        """The field's path, such as ``spec.targetPorts[0].number``."""
        steps: list[str] = []
        place: Place | None = self
        while place is not None and place.parent is not None:
            steps.append(f"[{place.step}]" if isinstance(place.step, int) else f".{place.step}")
            place = place.parent
        return "".join(reversed(steps)).lstrip(".")

    @property
    def line(self) -> int | None:
        return self.node.line

    def error(self, message: str) -> None:
        """Report what makes the whole object useless."""
        self._say(Severity.ERROR, message)
        if self.report is not None:
            self.report.failed = True

    def refuse(self, message: str) -> None:
        """Report what is not in effect. The object counts, and its value says what it lacks."""
        self._say(Severity.ERROR, message)

    def warning(self, message: str) -> None:
        self._say(Severity.WARNING, message)

    def must_be(self, allowed: str) -> None:
        """Report that the value is of a wrong type or out of its bounds."""
        self.error(f"must be {allowed}, not {shown(self.node)}")

    def _say(self, severity: Severity, message: str) -> None:
        if self.report is not None:
            self.report.problems.append(
                Problem(severity, message, self.report.origin, line=self.node.line, field=self.path)
            )


class Fields:
    """The fields of one mapping. Those that nobody asked for are reported at the end."""

    __slots__ = ("_asked", "_values", "place")

    def __init__(self, place: Place) -> None:
        self.place = place
        value = place.node.value
        self._values: dict[str, Node] = value if isinstance(value, dict) else {}
        self._asked: set[str] = set()

    def get(self, name: str) -> Place | None:
        """The field, or None where it is missing or null."""
        self._asked.add(name)
        node = self._values.get(name)
        return None if node is None or node.value is None else self.place.child(node, name)

    def optional(self, name: str, read: Read[T], default: D) -> T | D:
        place = self.get(name)
        return default if place is None else read(place)

    def at(self, name: str) -> Place:
        """Where the field is, or would be."""
        return self.place.child(self._values.get(name) or Node(None, self.place.line), name)

    def required(self, name: str, read: Read[T]) -> T:
        place = self.get(name)
        if place is not None:
            return read(place)
        missing = self.at(name)
        missing.error("is required" if name not in self._values else "is required, but is empty")
        return read(missing.silent(_NULL))

    def known(self, *names: str) -> None:
        """Fields of the API that say nothing to us."""
        self._asked.update(names)

    def any_others(self) -> None:
        """Whatever else there is says nothing to us."""
        self._asked.update(self._values)

    def without_effect(self, name: str, because: str) -> None:
        """A field of the API whose absence from the result may surprise."""
        place = self.get(name)
        if place is not None:
            place.warning(f"has no effect: {because}")

    def warn_of_others(self) -> None:
        for name in self._values.keys() - self._asked:
            place = self.place.child(self._values[name], name)
            place.warning(f"is not a known field and was ignored{did_you_mean(name, self._asked)}")


def shown(node: Node) -> str:
    match node.value:
        case None:
            return "empty"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case bool():
            return "true" if node.value else "false"
        case str() if len(node.value) > 60:
            return repr(node.value[:57] + "...")
        case value:
            return repr(value)


def did_you_mean(word: str, known: Iterable[str], *, alike: float = 0.7) -> str:
    """`` (did you mean 'x'?)`` or nothing."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=alike)
    return f" (did you mean {by_lower[close[0]]!r}?)" if close else ""


def struct(build: Callable[[Fields], T]) -> Read[T]:
    """A mapping with known fields."""

    def read(place: Place) -> T:
        if not isinstance(place.node.value, dict):
            place.must_be("a mapping")
            return build(Fields(place.silent(_NO_FIELDS)))
        fields = Fields(place)
        value = build(fields)
        fields.warn_of_others()
        return value

    return read


def list_of(read_item: Read[T], low: int = 0, high: int | None = None) -> Read[tuple[T, ...]]:
    def read(place: Place) -> tuple[T, ...]:
        items = place.node.value
        if not isinstance(items, list):
            place.must_be("a list")
            return ()
        if len(items) < low:
            place.error(f"must have at least {low} item{'s'[: low != 1]}, not {len(items)}")
        elif high is not None and len(items) > high:
            place.error(f"must have at most {high} items, not {len(items)}")
        return tuple([read_item(place.child(item, i)) for i, item in enumerate(items)])

    return read


def text(allowed: str, pattern: re.Pattern[str] | None = None, *, high: int = 0) -> Read[str]:
    """Text that is not empty, matches ``pattern`` and has at most ``high`` characters."""
    limit = f" of at most {high} characters" if high else ""

    def read(place: Place) -> str:
        value = place.node.value
        if not isinstance(value, str):
            if isinstance(value, bool | int | float):
                place.error(f"must be {allowed}, not {shown(place.node)}: put it in quotes")
            else:
                place.must_be(allowed)
            return ""
        if not value or (high and len(value) > high) or (pattern and not pattern.fullmatch(value)):
            place.must_be(allowed + limit)
        return value

    return read


def integer(low: int, high: int, allowed: str = "a whole number") -> Read[int]:
    def read(place: Place) -> int:
        value = place.node.value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is int and low <= value <= high:
            return value
        place.must_be(f"{allowed} from {low} to {high}")
        return low

    return read


def boolean(place: Place) -> bool:
    if isinstance(place.node.value, bool):
        return place.node.value
    place.must_be("true or false")
    return False


def choice(values: type[E]) -> Read[E]:
    first, *_ = values

    def read(place: Place) -> E:
        value = place.node.value
        if isinstance(value, str):
            for known in values:
                if known.value == value:
                    return known
        hint = did_you_mean(value, [v.value for v in values]) if isinstance(value, str) else ""
        place.error(f"must be {_one_of(values)}, not {shown(place.node)}{hint}")
        return first

    return read


def word(*allowed: str) -> Read[str]:
    """One of a few fixed words."""

    def read(place: Place) -> str:
        value = place.node.value
        if isinstance(value, str) and value in allowed:
            return value
        place.must_be(_one_of(allowed))
        return allowed[0]

    return read


def _one_of(values: Iterable[str]) -> str:
    *others, last = [repr(str(value)) for value in values]
    return f"{', '.join(others)} or {last}" if others else last


def unique(place: Place | None, values: Collection[Any], what: str) -> None:
    """Report values that are given twice in a list."""
    if place is None or place.report is None or place.report.failed:
        return
    if len(set(values)) != len(values):
        twice = next(value for value in values if list(values).count(value) > 1)
        place.error(f"{what} must be unique, but {twice} is given twice")


_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_LABEL_PART = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_LABEL_VALUE = re.compile(rf"({_LABEL_PART})?")
_LABEL_KEY = re.compile(rf"({_SUBDOMAIN}/)?{_LABEL_PART}")

object_name = text(
    "a Kubernetes name (lower-case letters, digits, '-' and '.')",
    re.compile(_SUBDOMAIN),
    high=253,
)
namespace_name = text(
    "a namespace (lower-case letters, digits and '-')",
    re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"),
    high=63,
)
port_number = integer(1, 65535, "a port number")
kind_name = text("a kind", re.compile(r"[A-Za-z]([-A-Za-z0-9]*[A-Za-z0-9])?"), high=63)
_group = text("an API group", re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"), high=253)


def group_name(place: Place) -> str:
    """An API group. That of the core kinds is empty."""
    return "" if place.node.value == "" else _group(place)


_DURATION = re.compile(r"([0-9]{1,5}(h|m|s|ms)){1,4}")
_DURATION_PART = re.compile(r"([0-9]+)(h|ms|m|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def duration(place: Place) -> float:
    """A Gateway API duration in seconds: ``1h30m``, ``10s``, ``500ms``."""
    value = place.node.value
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return sum(int(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(value))
    place.must_be("a duration such as '30s', '1h30m' or '500ms'")
    return 0.0


def labels(low: int = 0, high: int | None = None) -> Read[Mapping[str, str]]:
    """Kubernetes labels: text to text, with the API's limits on both."""

    def read(place: Place) -> Mapping[str, str]:
        items = place.node.value
        if not isinstance(items, dict):
            place.must_be("a mapping of labels")
            return {}
        if len(items) < low or (high is not None and len(items) > high):
            place.error(f"must have from {low} to {high} labels, not {len(items)}")
        return {key: _label(place.child(node, key), key) for key, node in items.items()}

    return read


def _label(place: Place, key: str) -> str:
    value = place.node.value
    if not _LABEL_KEY.fullmatch(key) or len(key.rpartition("/")[2]) > 63:
        place.error(
            f"{key!r} is not a label key: letters, digits, '-', '_' and '.', at most 63 characters,"
            " after an optional 'domain/'"
        )
    if isinstance(value, str) and len(value) <= 63 and _LABEL_VALUE.fullmatch(value):
        return value
    quotes = ": put it in quotes" if isinstance(value, bool | int | float) else ""
    place.error(
        "must be a label value (letters, digits, '-', '_' and '.', at most 63 characters),"
        f" not {shown(place.node)}{quotes}"
    )
    return ""


def string_map(place: Place) -> Mapping[str, str]:
    """Annotations: text to any text. What is no text is left out."""
    items = place.node.value
    if not isinstance(items, dict):
        place.must_be("a mapping of text")
        return {}
    return {key: node.value for key, node in items.items() if isinstance(node.value, str)}
