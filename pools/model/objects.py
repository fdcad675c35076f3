"""What every object has, and how what is wrong with one is told."""

from __future__ import annotations

import enum
from dataclasses import dataclass

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True, order=True)
class ObjectName:
    """A namespaced name, written ``namespace/name``. Of kinds without namespaces, just a name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @classmethod
    def parse(cls, text: str) -> ObjectName:
        """Read ``namespace/name``, or ``name`` in the default namespace."""
        namespace, slash, name = text.partition("/")
        if not slash:
            namespace, name = DEFAULT_NAMESPACE, text
        if not namespace or not name or "/" in name:
            raise ValueError(f"{text!r} is not of the form namespace/name")
        return cls(namespace, name)


def seniority(created: str, name: ObjectName) -> tuple[bool, str, ObjectName]:
    """Sorts objects that want the same thing: the oldest wins, then the first by name.

    ``created``: RFC 3339 in UTC, so that text order is time order; what has no time comes last.
    """
    return not created, created, name


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an object was read from, so that whatever goes wrong with it can say so."""

    kind: str
    name: ObjectName
    source: str = ""
    """A file's path relative to the watched directory, or ``kubernetes``."""
    line: int | None = None
    """1-based line of the object in its file."""
    api_version: str = ""
    uid: str = ""
    """Of an object of an API server, for its events."""
    generation: int = 0
    """Counts the changes of an object's spec; 0 outside an API server. What is reported of the
    object is reported of this generation."""

    def __str__(self) -> str:
        place = f" ({self.source}{f':{self.line}' if self.line is not None else ''})"
        return f"{self.kind} {self.name}{place if self.source else ''}"


class Severity(enum.StrEnum):
    ERROR = "error"
    """Something the user asked for is not in effect."""
    WARNING = "warning"
    """In effect, but probably not what the user wanted."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something a user must mend. ``str()`` is the one-line form shown everywhere."""

    severity: Severity
    message: str
    """What is wrong and what to do about it, in one sentence each."""
    origin: Origin | None = None
    source: str = ""
    """The file, when no object could be read from it."""
    line: int | None = None
    """1-based line of the field at fault, where known."""
    field: str = ""
    """Path of the field at fault, such as ``spec.targetPorts[0].number``."""

    def parts(self) -> dict[str, object]:
        """For JSON: the problem as one line, and what that is made of."""
        source, line, what = self._place()
        return {
            "severity": self.severity.value,
            "text": str(self),
            "message": self.message,
            "object": what,
            "source": source,
            "line": line,
            "field": self.field,
        }

    def _place(self) -> tuple[str, int | None, str]:
        """Source, line and object."""
        origin = self.origin
        if origin is None:
            return self.source, self.line, ""
        line = self.line if self.line is not None else origin.line
        return self.source or origin.source, line, f"{origin.kind} {origin.name}"

    def __str__(self) -> str:
        source, line, what = self._place()
        where = f"{source}:{line}" if source and line is not None else source
        head = " ".join(part for part in (where and f"{where}:", what, self.field) if part)
        return f"{head.removesuffix(':')}: {self.message}" if head else self.message
