"""How much of one prompt each endpoint has cached."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.picking.scheduling.candidate import Candidate

_BIT_COST = 6
"""Finding one bit costs as much as looking at so many places one after another."""
_FEW = 64
"""Up to so many endpoints, asking each for its bit costs less than naming those of the bits."""

Level = tuple[int, int]
"""A number of tokens, and the bits of the endpoints that have exactly so many cached."""


class PrefixMatch:
    """The answer of an index. ``chain`` is the prompt's, to be recorded once it was picked."""

    __slots__ = ("_by_bit", "_held", "_levels", "chain", "longest")

    def __init__(
        self,
        chain: Sequence[int],
        levels: Sequence[Level],
        by_bit: Sequence[Candidate | None],
    ) -> None:
        """``levels`` come longest first; ``by_bit[n]`` is the endpoint of the bit ``1 << n``."""
        self.chain = chain
        self._levels = levels
        self._by_bit = by_bit
        self._held: dict[Candidate, int] | None = None
        self.longest = levels[0][0] if levels else 0
        """The most tokens that any endpoint has; 0: nobody has anything."""

    def corrected(self, exact: PrefixMatch, live: int) -> PrefixMatch:
        """For the endpoints whose bits are ``live``, what ``exact`` says; for the others, this."""
        levels = [(tokens, bits & ~live) for tokens, bits in self._levels if bits & ~live]
        levels += [(tokens, bits & live) for tokens, bits in exact._levels if bits & live]
        levels.sort(reverse=True)
        return PrefixMatch(self.chain, levels, self._by_bit)

    def tokens_of(self, candidate: Candidate) -> int:
        """Tokens of the prompt that this endpoint has, from its beginning on."""
        bit = candidate.bit
        for tokens, bits in self._levels:
            if bits & bit:
                return tokens
        return 0

    def held(self) -> dict[Candidate, int]:
        """Tokens by endpoint, for those that have any."""
        held = self._held
        if held is None:
            held = self._held = {}
            for tokens, bits in self._levels:
                held.update(dict.fromkeys(self._endpoints(bits), tokens))
        return held

    def tokens_of_each(self, candidates: Sequence[Candidate]) -> list[int]:
        """The tokens that each of ``candidates`` has, in their order."""
        levels = self._levels
        if len(levels) == 1 and len(candidates) <= _FEW:
            # A prefix that was sent often has the same length everywhere.
            [(tokens, bits)] = levels
            return [tokens if c.bit & bits else 0 for c in candidates]
        held = self.held().get
        return [held(c, 0) for c in candidates]

    def with_at_least(self, tokens: float, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Those of ``candidates`` that have so many tokens of it (more than none)."""
        bits = 0
        for level, endpoints in self._levels:
            if level < tokens:
                break
            bits |= endpoints
        if not bits:
            return ()
        if bits.bit_count() == 1:
            [only] = self._endpoints(bits)
            return [only] if only in candidates else ()
        return [c for c in candidates if c.bit & bits]

    def _endpoints(self, bits: int) -> list[Candidate]:
        by_bit = self._by_bit
        found: list[Candidate] = []
        if bits.bit_count() * _BIT_COST <= len(by_bit):
            while bits:
                lowest = bits & -bits
                bits ^= lowest
                if (candidate := by_bit[lowest.bit_length() - 1]) is not None:
                    found.append(candidate)
            return found
        digits = f"{bits:b}"
        return [
            candidate
            for candidate, digit in zip(by_bit, reversed(digits), strict=False)
            if digit == "1" and candidate is not None
        ]


NO_MATCH = PrefixMatch((), (), ())
"""Of a prompt that is not known."""
