"""YAML and JSON text as trees of nodes that know their lines.

The tree is built from the parser's events instead of PyYAML's composer for three reasons: the
composer recurses in C and a deeply nested file crashes the process, it lets a repeated key win
silently, and its implicit types turn an address such as ``1:2:3:4:5:6:7:8`` into a number.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from pools.manifests.node import Node, Scalar, node_from

MAX_DEPTH = 64
"""Nesting beyond which a document is refused. Kubernetes objects stay below 20."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DOCUMENT_START = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_NOTHING = re.compile(r"(?:[ \t]*(?:#.*)?|%.*|---[ \t]*(?:#.*)?|\.\.\.[ \t]*)")
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_OCTAL = re.compile(r"0o?[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")
_MOST_DIGITS = 20
"""Python neither prints nor converts integers of any length, and no field takes longer ones."""
_HALF = re.compile(r"[\ud800-\udfff]")
# YAML 1.1, which Kubernetes follows: `yes` and `on` are booleans too.
_WORDS: dict[str, bool | None] = {
    spelling: value
    for value, words in (
        (None, ("", "~", "null")),
        (True, ("true", "yes", "on")),
        (False, ("false", "no", "off")),
    )
    for word in words
    for spelling in (word, word.capitalize(), word.upper())
}


class TextError(ValueError):
    """A document that cannot be understood."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        """1-based."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file: its tree, or what is wrong with it."""

    line: int | None
    node: Node | None = None
    error: TextError | None = None


def json_documents(text: str) -> list[Document]:
    """The one document of a JSON file. Its nodes have no lines; a syntax error has one."""
    if not text.strip():
        return []
    try:
        value = json.loads(text, parse_int=_whole, parse_constant=_no_number)
        if "\\u" in text and _HALF.search(json.dumps(value, ensure_ascii=False)):
            raise TextError("is not valid JSON: \\u.... is half a character", None)
        return [Document(1, node_from(value))]
    except json.JSONDecodeError as error:
        return [Document(1, error=TextError(f"is not valid JSON: {error.msg}", error.lineno))]
    except TextError as error:
        return [Document(1, error=error)]
    except RecursionError:
        return [Document(1, error=TextError(_TOO_DEEP, None))]


def _no_number(word: str) -> float:
    raise TextError(f"is not valid JSON: {word} is not a number", None)


def yaml_documents(text: str) -> list[Document]:
    """The documents of a YAML file, without the empty ones.

    The text is cut at its ``---`` lines first (YAML allows them nowhere else), so that a syntax
    error costs one document and not those after it.
    """
    starts = [0, *(match.start() for match in _DOCUMENT_START.finditer(text)), len(text)]
    documents: list[Document] = []
    line = 0
    for start, end in itertools.pairwise(starts):
        part = text[start:end]
        if any(not _NOTHING.fullmatch(row) for row in part.splitlines()):
            documents += _part(part, line)
        line += part.count("\n")
    return documents


def _part(text: str, offset: int) -> Iterator[Document]:
    try:
        for tree in _trees(text, offset):
            if tree.value is not None:
                yield Document(tree.line, tree)
    except TextError as error:
        yield Document(_first_line(text, offset), error=error)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 + offset if mark else None
        what = error.problem or error.context or "it cannot be parsed"
        yield Document(
            _first_line(text, offset), error=TextError(f"is not valid YAML: {what}", line)
        )
    except yaml.reader.ReaderError as error:
        # libyaml counts bytes.
        line = text.encode()[: error.position].count(b"\n") + 1 + offset
        code = error.character if isinstance(error.character, int) else ord(error.character)
        message = f"is not valid YAML: the character U+{code:04X} is not allowed"
        yield Document(_first_line(text, offset), error=TextError(message, line))
    except yaml.YAMLError as error:
        message = f"is not valid YAML: {error}".splitlines()[0]
        yield Document(_first_line(text, offset), error=TextError(message, None))


def _first_line(text: str, offset: int) -> int:
    for number, row in enumerate(text.splitlines(), offset + 1):
        if not _NOTHING.fullmatch(row):
            return number
    return offset + 1


_TOO_DEEP = f"is nested more than {MAX_DEPTH} levels deep"


@dataclass(slots=True)
class _Open:
    """A mapping or list whose end has not come yet."""

    value: dict[str, Node] | list[Node]
    line: int
    anchor: str | None
    key: str | None = None
    key_line: int = 0
    merges: list[Node] = field(default_factory=list)


def _trees(text: str, offset: int) -> Iterator[Node]:
    """Raises TextError, or what PyYAML raises."""
    anchors: dict[str, Node] = {}
    stack: list[_Open] = []
    for event in yaml.parse(text, Loader=_LOADER):
        mark = event.start_mark
        assert mark is not None
        line = mark.line + 1 + offset
        is_key = bool(stack) and isinstance(stack[-1].value, dict) and stack[-1].key is None
        if isinstance(event, yaml.ScalarEvent):
            if is_key:
                _open_key(stack[-1], event.value, line)
                continue
            plain = event.implicit[0] or event.tag not in (None, "!", "tag:yaml.org,2002:str")
            node = Node(scalar(event.value) if plain else event.value, line)
            if event.anchor:
                anchors[event.anchor] = node
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if is_key:
                raise TextError("a key must be a plain word, not a mapping or a list", line)
            if len(stack) == MAX_DEPTH:
                raise TextError(_TOO_DEEP, line)
            value: dict[str, Node] | list[Node] = (
                {} if isinstance(event, yaml.MappingStartEvent) else []
            )
            stack.append(_Open(value, line, event.anchor))
            continue
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            closed = stack.pop()
            _merge(closed)
            node = Node(closed.value, closed.line)
            if closed.anchor:
                anchors[closed.anchor] = node
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise TextError(f"there is no anchor &{event.anchor} before this line", line)
            if is_key:
                raise TextError("a key must be a plain word, not an alias", line)
            node = Node(anchors[event.anchor].value, line)
        elif isinstance(event, yaml.DocumentStartEvent):
            anchors = {}
            continue
        else:
            continue
        if not stack:
            yield node
        else:
            _add(stack[-1], node)


def _open_key(mapping: _Open, key: str, line: int) -> None:
    if key in mapping.value and key != "<<":
        raise TextError(f"the field {key!r} is given twice in one mapping", line)
    mapping.key, mapping.key_line = key, line


def _add(parent: _Open, node: Node) -> None:
    if isinstance(parent.value, list):
        parent.value.append(node)
        return
    key, parent.key = parent.key, None
    assert key is not None
    if key == "<<":
        parent.merges += node.value if isinstance(node.value, list) else [node]
    else:
        parent.value[key] = Node(node.value, parent.key_line)


def _merge(closed: _Open) -> None:
    """Add what ``<<`` names; what the mapping says itself wins."""
    for node in closed.merges:
        if not isinstance(node.value, dict) or not isinstance(closed.value, dict):
            raise TextError("<< must name a mapping or a list of mappings", node.line)
        for key, item in node.value.items():
            closed.value.setdefault(key, item)


def scalar(text: str) -> Scalar:
    """What an unquoted word means. Dates and base-60 numbers stay text."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "-+.0123456789":
        return text
    if _INTEGER.fullmatch(text):
        return _whole(text)
    if len(text) < _MOST_DIGITS and _OCTAL.fullmatch(text):
        return int(text.replace("o", ""), 8)
    if len(text) < _MOST_DIGITS and _HEXADECIMAL.fullmatch(text):
        return int(text, 16)
    return float(text) if _FLOAT.fullmatch(text) else text


def _whole(text: str) -> int | float:
    return int(text) if len(text) < _MOST_DIGITS else float(text)
