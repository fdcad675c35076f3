"""Finding the resource that a client rejects, so that its neighbours get through.

A client rejects a response as a whole: an error in one resource can keep all the others out. Where
the client's words name the culprit it is left out and the rest is sent again; where they do not,
the halves are sent one after the other, and the half that is rejected is halved again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

_SALT = re.compile(r"\b(?:https?://)?goo\.gle/debug(?:proto|str|only)\b")
_SPACES = re.compile(r"\s+")

PATIENCE = 16
"""Rejections in a row that are answered at once; from then on there is a growing pause."""
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 30.0


def plain_words(message: str) -> str:
    """An error without protobuf's random salt, so that equal errors are equal."""
    return _SPACES.sub(" ", _SALT.sub("", message)).strip()


def named_in(words: str, names: Collection[str]) -> frozenset[str]:
    """Those names that stand in an error as whole words."""
    return frozenset(
        name
        for name in names
        if name in words and re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w/-]|\.\w)", words)
    )


@dataclass(frozen=True, slots=True)
class Rejection:
    """Content that a client will not have."""

    version: str | None
    """None: it is the removal that was rejected."""
    message: str
    at: float
    unfit: frozenset[str] = frozenset()
    """Versions that were sent in place of the rejected one, and were rejected too."""


class Isolation:
    """What of one type a client rejects, and what is still under suspicion."""

    __slots__ = ("_accused", "_groups", "_misleading", "_words", "nacks_in_row", "rejected")

    def __init__(self) -> None:
        self.rejected: dict[str, Rejection] = {}
        self.nacks_in_row = 0
        self._groups: list[dict[str, str]] = []
        self._accused: dict[str, str] = {}
        self._words = ""
        self._misleading = ""

    @property
    def active(self) -> bool:
        return bool(self._groups)

    def refuses(self, name: str, version: str | None) -> bool:
        """Whether this content was rejected. Forgets a rejection of other content."""
        rejection = self.rejected.get(name)
        if rejection is None:
            return False
        if rejection.version != version:
            del self.rejected[name]
            return False
        return True

    def unfit(self, name: str, version: str) -> bool:
        """Whether this content cannot stand in for the content that was rejected."""
        rejection = self.rejected.get(name)
        return rejection is not None and version in (rejection.version, *rejection.unfit)

    def choose(self, outstanding: Mapping[str, str]) -> frozenset[str]:
        """Which of the outstanding contents may go out together next."""
        suspects = {
            name
            for group in self._groups
            for name, version in group.items()
            if outstanding.get(name) == version
        }
        fresh = outstanding.keys() - suspects
        if fresh:
            return frozenset(fresh)
        while self._groups:
            group = self._groups.pop()
            batch = frozenset(n for n, v in group.items() if outstanding.get(n) == v)
            if batch:
                return batch
        return frozenset()

    def acked(self, sent: Mapping[str, str | None]) -> None:
        self.nacks_in_row = 0
        for name, version in sent.items():
            rejection = self.rejected.get(name)
            if rejection is not None and rejection.version == version:
                del self.rejected[name]

    def nacked(self, sent: Mapping[str, str | None], words: str, now: float) -> frozenset[str]:
        """Take in a rejection; returns the names that are now known to be rejected."""
        self.nacks_in_row += 1
        suspects = {name: version for name, version in sent.items() if version is not None}
        if not suspects:
            return self._reject(sent, words, now)
        # Who is suspected anew is no longer suspected together with those of before.
        regrouped = ({n: v for n, v in g.items() if n not in suspects} for g in self._groups)
        self._groups = [group for group in regrouped if group]
        if len(suspects) == 1:
            self._accused = {}
            return self._reject(suspects, words, now)
        if self._accused and words == self._words and not self._accused.keys() & suspects.keys():
            # The same words although those whom they seemed to name were not there.
            self._misleading = words
            for name in self._accused:
                self.rejected.pop(name, None)
            self._groups.append(self._accused)
            self._accused = {}
        named = named_in(words, suspects.keys()) if words != self._misleading else frozenset()
        if not named or len(named) == len(suspects):
            names = sorted(suspects)
            half = len(names) // 2
            self._groups.append({name: suspects[name] for name in names[half:]})
            self._groups.append({name: suspects[name] for name in names[:half]})
            return frozenset()
        accused = {name: suspects[name] for name in named}
        rest = {name: version for name, version in suspects.items() if name not in named}
        if len(accused) == 1:
            self._accused, self._words = accused, words
            self._groups.append(rest)
            return self._reject(accused, words, now)
        # An error may name a good neighbour too ("l2 has the same address as l1"): try each alone.
        self._groups.extend({name: version} for name, version in accused.items())
        self._groups.append(rest)
        return frozenset()

    def pause(self) -> float:
        """Seconds to wait before anything is sent after a rejection."""
        beyond = self.nacks_in_row - PATIENCE
        if beyond <= 0:
            return 0.0
        return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(beyond, 20))

    def _reject(self, contents: Mapping[str, str | None], words: str, now: float) -> frozenset[str]:
        for name, version in contents.items():
            before = self.rejected.get(name)
            if before is None or version is None or before.version == version:
                self.rejected[name] = Rejection(version, words, now)
            else:  # Something else was asked of the client instead, in vain.
                self.rejected[name] = replace(before, unfit=before.unfit | {version})
        return frozenset(contents)
