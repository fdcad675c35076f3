"""What RE2, Envoy's engine, takes as a regular expression.

Envoy rejects a whole route table over one expression that it cannot take, so each is read here
first, by the engine's own rules: its grammar, its limits of repetitions, and the size of its
program. Envoy has it read expressions as bytes. Refused beyond that is only ``\\p``, of whose names
we know none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_INSTRUCTIONS = 1000
"""Of a compiled expression. Our bootstrap tells Envoy the same; its own default is 100."""
MOST_REPEATS = 1000
"""Times that something may be repeated, also by several repetitions around it."""

_START = 4
"""Instructions that every program has."""
_REPEAT = re.compile(rb"\{(0|[1-9][0-9]{0,7})(?:(,)(0|[1-9][0-9]{0,7})?)?\}")
_GROUP_NAME = re.compile(rb"\(\?P?<([0-9A-Za-z_]+)>")
_FLAGS = re.compile(rb"\(\?([imsU]*)(?:-([imsU]+))?([:)])")
_FOLDS = re.compile(rb"\(\?[msU]*i")
_OCTAL = re.compile(rb"\\(?:0[0-7]{0,2}|[1-7][0-7]{1,2})")
_HEXADECIMAL = re.compile(rb"\\x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]+)\})")
_CONTROL = {b"a": 7, b"f": 12, b"n": 10, b"r": 13, b"t": 9, b"v": 11}

_ALL = frozenset(range(256))
_DIGITS = frozenset(b"0123456789")
_UPPER = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_LOWER = frozenset(b"abcdefghijklmnopqrstuvwxyz")
_WORD = _DIGITS | _UPPER | _LOWER | frozenset(b"_")
_SPACE = frozenset(b"\t\n\f\r ")
_GRAPHIC = frozenset(range(0x21, 0x7F))
_PERL = {b"d": _DIGITS, b"s": _SPACE, b"w": _WORD}
_POSIX = {
    b"alnum": _WORD - frozenset(b"_"),
    b"alpha": _UPPER | _LOWER,
    b"ascii": frozenset(range(128)),
    b"blank": frozenset(b"\t "),
    b"cntrl": frozenset((*range(32), 127)),
    b"digit": _DIGITS,
    b"graph": _GRAPHIC,
    b"lower": _LOWER,
    b"print": _GRAPHIC | frozenset(b" "),
    b"punct": _GRAPHIC - _WORD | frozenset(b"_"),
    b"space": _SPACE | frozenset(b"\v"),
    b"upper": _UPPER,
    b"word": _WORD,
    b"xdigit": _DIGITS | frozenset(b"ABCDEFabcdef"),
}


def problem_of_expression(pattern: str) -> str:
    """Why Envoy would reject it; empty if it would not."""
    if not pattern:
        return "is empty"
    try:
        size = _Reader(pattern.encode(errors="replace")).size()
    except _RefusedError as refused:
        return f"is not a regular expression that Envoy (RE2) takes: {refused}"
    if size > MOST_INSTRUCTIONS:
        return (
            f"is too large for Envoy, which takes {MOST_INSTRUCTIONS} instructions of RE2:"
            f" it may be {size}; repeat less"
        )
    return ""


class _RefusedError(Exception):
    """In the engine's words."""


@dataclass(slots=True)
class _Part:
    """Something that can be repeated."""

    size: int
    """Instructions, at most."""
    repeats: int = 1
    """The most that repetitions in it come to."""


@dataclass(slots=True)
class _Group:
    """An open bracket, or the whole."""

    capture: bool = False
    size: int = 0
    """Of all that is complete in it."""
    repeats: int = 1
    last: _Part | None = None
    """What a repetition would repeat."""

    def add(self, part: _Part) -> None:
        self.settle()
        self.last = part

    def settle(self) -> None:
        if self.last is not None:
            self.size += self.last.size
            self.repeats = max(self.repeats, self.last.repeats)
            self.last = None

    def close(self) -> _Part:
        self.settle()
        return _Part(max(self.size, 1) + (2 if self.capture else 0), self.repeats)


class _Reader:
    """Goes through an expression once, without recursion: brackets may be nested to any depth."""

    def __init__(self, pattern: bytes) -> None:
        self._pattern = pattern
        self._at = 0
        self._folds = _FOLDS.search(pattern) is not None
        self._groups = [_Group()]
        self._repeated = False
        """Whether what was read last was a repetition, which cannot be repeated."""

    def size(self) -> int:
        """Of the program, at most. Raises _RefusedError."""
        while self._at < len(self._pattern):
            self._next()
        if len(self._groups) > 1:
            raise _RefusedError("missing )")
        return _START + self._groups[0].close().size

    def _next(self) -> None:
        character = self._pattern[self._at : self._at + 1]
        if character in b"*+?":
            self._at += 1
            self._repeat(1 if character == b"+" else 0, None if character in b"*+" else 1)
            return
        counted = _REPEAT.match(self._pattern, self._at)
        if counted is not None:
            self._at = counted.end()
            low = int(counted[1])
            self._repeat(
                low, low if counted[2] is None else int(counted[3]) if counted[3] else None
            )
            return
        self._repeated = False
        match character:
            case b"(":
                self._open()
            case b")":
                self._close()
            case b"|":
                self._at += 1
                self._groups[-1].settle()
                self._groups[-1].size += 1
            case b"[":
                self._add(self._class())
            case b"\\":
                self._escape()
            case b".":
                self._at += 1
                self._add(2)
            case _:
                self._at += 1
                self._add(1)

    def _add(self, size: int) -> None:
        self._groups[-1].add(_Part(size))

    def _rest(self, start: int, length: int = 10) -> str:
        return self._pattern[start : start + length].decode(errors="replace")

    def _open(self) -> None:
        start = self._at
        if self._pattern[start + 1 : start + 2] != b"?":
            self._at += 1
            self._groups.append(_Group(capture=True))
            return
        if named := _GROUP_NAME.match(self._pattern, start):
            self._at = named.end()
            self._groups.append(_Group(capture=True))
            return
        flags = _FLAGS.match(self._pattern, start)
        if flags is None:
            raise _RefusedError(f"invalid operator {self._rest(start)}")
        self._at = flags.end()
        if flags[3] == b":":
            self._groups.append(_Group())

    def _close(self) -> None:
        if len(self._groups) == 1:
            raise _RefusedError("unexpected )")
        self._at += 1
        self._groups[-2].add(self._groups.pop().close())

    def _repeat(self, low: int, high: int | None) -> None:
        """``high`` None: without end."""
        if self._pattern[self._at : self._at + 1] == b"?":
            self._at += 1
        part = self._groups[-1].last
        if part is None:
            raise _RefusedError("nothing to repeat")
        if self._repeated:
            raise _RefusedError("a repetition is repeated; put it into brackets")
        self._repeated = True
        if high is not None and high < low:
            raise _RefusedError(f"invalid repetition {{{low},{high}}}")
        times = low if high is None else high
        part.repeats *= max(times, 1)
        if max(times, part.repeats) > MOST_REPEATS:
            raise _RefusedError(f"repeated more than {MOST_REPEATS} times")
        # Copies for as often as it must be there, for each further one a choice, or a loop.
        part.size = max(times, 1) * part.size + (1 + 4 if high is None else high - low)

    def _escape(self) -> None:
        start = self._at
        follows = self._pattern[start + 1 : start + 2]
        if follows == b"Q":
            end = self._pattern.find(b"\\E", start)
            text = self._pattern[start + 2 : end if end >= 0 else len(self._pattern)]
            self._at = start + 2 + len(text) + (2 if end >= 0 else 0)
            for _ in text:
                self._add(1)
        elif follows and follows in b"AbBzC":
            self._at += 2
            self._add(1)
        elif (perl := self._perl()) is not None:
            self._add(_runs(perl))
        else:
            self._character()
            self._add(1)

    def _perl(self) -> frozenset[int] | None:
        """One of ``\\d``, ``\\s``, ``\\w`` and what they leave out, if it is there."""
        if self._pattern[self._at : self._at + 1] != b"\\":
            return None
        letter = self._pattern[self._at + 1 : self._at + 2]
        found = _PERL.get(letter.lower())
        if found is None:
            return None
        self._at += 2
        return found if letter.islower() else _ALL - found

    def _character(self) -> int:
        """One byte, escaped or not."""
        start = self._at
        if self._pattern[start : start + 1] != b"\\":
            self._at += 1
            return self._pattern[start]
        follows = self._pattern[start + 1 : start + 2]
        if not follows:
            raise _RefusedError("trailing \\")
        if number := _HEXADECIMAL.match(self._pattern, start):
            code = int(number[1] or number[2], 16)
        elif number := _OCTAL.match(self._pattern, start):
            code = int(number[0][1:], 8)
        elif follows in _CONTROL:
            self._at += 2
            return _CONTROL[follows]
        elif follows[0] < 0x80 and not follows.isalnum():
            self._at += 2
            return follows[0]
        else:
            raise _RefusedError(f"invalid escape {self._rest(start, 2)}")
        if code > 0xFF:
            raise _RefusedError(f"invalid escape {number[0].decode()}")
        self._at = number.end()
        return code

    def _class(self) -> int:
        """Its size."""
        start = self._at
        self._at += 1
        negated = self._pattern[self._at : self._at + 1] == b"^"
        self._at += negated
        found: set[int] = set()
        first = True
        while first or self._pattern[self._at : self._at + 1] != b"]":
            first = False
            if self._at >= len(self._pattern):
                raise _RefusedError(f"missing ] after {self._rest(start)}")
            named = self._named() or self._perl()
            found |= named if named is not None else self._range()
        self._at += 1
        if self._folds:
            found |= {ord(chr(one).swapcase()) for one in found & (_UPPER | _LOWER)}
        return _runs(_ALL - found if negated else found)

    def _named(self) -> frozenset[int] | None:
        """``[:alpha:]``, if that is there."""
        end = self._pattern.find(b":]", self._at + 2)
        if self._pattern[self._at : self._at + 2] != b"[:" or end < 0:
            return None
        name = self._pattern[self._at + 2 : end]
        found = _POSIX.get(name.removeprefix(b"^"))
        if found is None:
            raise _RefusedError(f"invalid class {self._rest(self._at, end + 2 - self._at)}")
        self._at = end + 2
        return _ALL - found if name.startswith(b"^") else found

    def _range(self) -> set[int]:
        start = self._at
        low = high = self._character()
        if self._pattern[self._at : self._at + 1] == b"-" and self._pattern[
            self._at + 1 : self._at + 2
        ] not in (b"]", b""):
            self._at += 1
            high = self._character()
        if high < low:
            raise _RefusedError(f"invalid range {self._rest(start, self._at - start)}")
        return set(range(low, high + 1))


def _runs(members: frozenset[int] | set[int]) -> int:
    """How many ranges these are: each is an instruction."""
    return max(1, sum(one - 1 not in members for one in members))
