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

NACKS_WITHOUT_BACKOFF = 16
"""Rejections in a row that are answered at once; from then on there is a growing pause."""
_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 30.0


def normalize_error(message: str) -> str:
    """An error without protobuf's random salt, so that equal errors are equal."""
    return _SPACES.sub(" ", _SALT.sub("", message)).strip()


def names_in_error(error: str, names: Collection[str]) -> frozenset[str]:
    """Those names that stand in an error as whole words."""
    return frozenset(
        name
        for name in names
        if name in error and re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w/-]|\.\w)", error)
    )


@dataclass(frozen=True, slots=True)
class Rejection:
    """Content that a client will not have."""

    version: str | None
    """None: it is the removal that was rejected."""
    message: str
    at: float
    rejected_fallbacks: frozenset[str] = frozenset()
    """Versions that were sent in place of the rejected one, and were rejected too."""


class Quarantine:
    """What of one type a client rejects, and what is still under suspicion."""

    __slots__ = (
        "_accused",
        "_accusing_error",
        "_misleading_error",
        "_suspects",
        "nacks_in_row",
        "rejected",
    )

    def __init__(self) -> None:
        self.rejected: dict[str, Rejection] = {}
        self.nacks_in_row = 0
        self._suspects: list[dict[str, str]] = []
        self._accused: dict[str, str] = {}
        self._accusing_error = ""
        self._misleading_error = ""

    @property
    def searching(self) -> bool:
        """Whether it is not yet known which of several contents is rejected."""
        return bool(self._suspects)

    def rejects(self, name: str, version: str | None) -> bool:
        """Whether this content was rejected. Forgets a rejection of other content."""
        rejection = self.rejected.get(name)
        if rejection is None:
            return False
        if rejection.version != version:
            del self.rejected[name]
            return False
        return True

    def rejects_fallback(self, name: str, version: str) -> bool:
        """Whether this content cannot stand in for the content that was rejected."""
        rejection = self.rejected.get(name)
        return rejection is not None and version in (
            rejection.version,
            *rejection.rejected_fallbacks,
        )

    def next_batch(self, outstanding: Mapping[str, str]) -> frozenset[str]:
        """Which of the outstanding contents may go out together next."""
        suspects = {
            name
            for group in self._suspects
            for name, version in group.items()
            if outstanding.get(name) == version
        }
        fresh = outstanding.keys() - suspects
        if fresh:
            return frozenset(fresh)
        while self._suspects:
            group = self._suspects.pop()
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

    def nacked(self, sent: Mapping[str, str | None], error: str, now: float) -> frozenset[str]:
        """Take in a rejection; returns the names that are now known to be rejected."""
        self.nacks_in_row += 1
        suspects = {name: version for name, version in sent.items() if version is not None}
        if not suspects:
            return self._reject(sent, error, now)
        # Who is suspected anew is no longer suspected together with those of before.
        regrouped = ({n: v for n, v in g.items() if n not in suspects} for g in self._suspects)
        self._suspects = [group for group in regrouped if group]
        if len(suspects) == 1:
            self._accused = {}
            return self._reject(suspects, error, now)
        if (
            self._accused
            and error == self._accusing_error
            and not self._accused.keys() & suspects.keys()
        ):
            # The same words although those whom they seemed to name were not there.
            self._misleading_error = error
            for name in self._accused:
                self.rejected.pop(name, None)
            self._suspects.append(self._accused)
            self._accused = {}
        named = (
            names_in_error(error, suspects.keys())
            if error != self._misleading_error
            else frozenset()
        )
        if not named or len(named) == len(suspects):
            names = sorted(suspects)
            half = len(names) // 2
            self._suspects.append({name: suspects[name] for name in names[half:]})
            self._suspects.append({name: suspects[name] for name in names[:half]})
            return frozenset()
        accused = {name: suspects[name] for name in named}
        rest = {name: version for name, version in suspects.items() if name not in named}
        if len(accused) == 1:
            self._accused, self._accusing_error = accused, error
            self._suspects.append(rest)
            return self._reject(accused, error, now)
        # An error may name a good neighbour too ("l2 has the same address as l1"): try each alone.
        self._suspects.extend({name: version} for name, version in accused.items())
        self._suspects.append(rest)
        return frozenset()

    def backoff(self) -> float:
        """Seconds to wait before anything is sent after a rejection."""
        beyond = self.nacks_in_row - NACKS_WITHOUT_BACKOFF
        if beyond <= 0:
            return 0.0
        return min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2.0 ** min(beyond, 20))

    def _reject(self, contents: Mapping[str, str | None], error: str, now: float) -> frozenset[str]:
        for name, version in contents.items():
            before = self.rejected.get(name)
            if before is None or version is None or before.version == version:
                self.rejected[name] = Rejection(version, error, now)
            else:  # Something else was asked of the client instead, in vain.
                self.rejected[name] = replace(
                    before, rejected_fallbacks=before.rejected_fallbacks | {version}
                )
        return frozenset(contents)
