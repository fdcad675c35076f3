"""What was sent from here and is not over: counted at the pick, each part released at its own time.

No server tells how much prefill work waits in its queue, and its gauges are seconds old when it is
busy. So it is counted here. Of each request:

=====================  ==========================  ==============================================
part                   charged at the pick         released
=====================  ==========================  ==============================================
the request            1                           at its end
prompt tokens          all                         at its end
prefill tokens         those not cached there      when they were prefilled (below), or at its end
output tokens          as many as are expected     at its end
=====================  ==========================  ==============================================

Envoy tells of a request's end, not of its first token. So prompts are taken to be prefilled in the
order in which they were sent, at the server's rate, and one that should be done by that is done
unless the server reports a queue. Then the server's own count of first tokens decides: so many as
it gave between two scrapes, so many of the oldest prompts are done. What others send to the same
server shows in that count too, so it is taken by our share of the requests there.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from extproc.picking.scheduling.candidate import Candidate
from extproc.picking.scheduling.known import Known, KnownCache
from extproc.picking.scheduling.pace import Paces
from extproc.picking.scheduling.prefix import (
    BLOCK_TOKENS,
    BYTES_PER_TOKEN,
    NO_MATCH,
    PrefixIndex,
    chain_of,
    prompt_of,
)
from extproc.picking.scheduling.prefix.exact import ExactIndex
from extproc.picking.scheduling.prefix.index import DEFAULT_TOKENS, MAX_ENTRIES, Places
from extproc.picking.scheduling.profile import Decision, SchedulingRequest
from extproc.picking.scheduling.signals import Latency
from extproc.request import InferenceRequest

PREFILL_RATE = 15_928.0
"""Prompt tokens that a server prefills in a second (llm-d's value, a 32B model on two H100)."""
EXPECTED_OUTPUT = 200
"""Output tokens of a request, before anything was learned of its model."""
COLD_SHARE = 0.2
"""A prompt of which the endpoint has to prefill more than this is new to it."""
MAX_AUTO_BLOCK = 1024
_OUTPUT_WEIGHT = 0.05
_MODELS = 1000
"""Models whose output lengths are told apart."""


@dataclass(frozen=True, slots=True)
class LoadSettings:
    prefill_rate: float = PREFILL_RATE
    """Prompt tokens that a server prefills in a second."""
    block_tokens: int | None = None
    """Tokens of a block of the prefix index. None: the largest block of any server's cache, and
    at least 64."""
    cache_tokens: int = DEFAULT_TOKENS
    """The size of the cache of a server that does not tell its own."""
    max_entries: int = MAX_ENTRIES
    """Blocks that are remembered in all, over all endpoints."""


class Charge:
    """One request on one endpoint, until its end."""

    __slots__ = (
        "at",
        "candidate",
        "chain",
        "due",
        "ended",
        "epoch",
        "index",
        "model",
        "new_blocks",
        "output_tokens",
        "prefill_tokens",
        "prefilled",
        "prompt_tokens",
    )

    def __init__(
        self,
        candidate: Candidate,
        at: float,
        epoch: int,
        model: str,
        *,
        prompt_tokens: int,
        prefill_tokens: int,
        output_tokens: int,
        due: float,
        index: PrefixIndex,
        chain: Sequence[int],
        new_blocks: int,
    ) -> None:
        self.candidate = candidate
        self.at = at
        self.epoch = epoch
        self.model = model
        self.prompt_tokens = prompt_tokens
        self.prefill_tokens = prefill_tokens
        """Of those, the ones that were not cached there."""
        self.output_tokens = output_tokens
        self.due = due
        """When its prompt should have been prefilled."""
        self.index = index
        """Where the chain was recorded; in one with other blocks it would mean nothing."""
        self.chain = chain
        self.new_blocks = new_blocks
        """So many at the end of the chain were not known to be there."""
        self.prefilled = False
        self.ended = False


class Load:
    """The open requests of a fleet. ``now`` must not go backwards."""

    def __init__(self, settings: LoadSettings | None = None) -> None:
        self.settings = settings or LoadSettings()
        self.prefill_rate = self.settings.prefill_rate
        self._places = Places()
        self.index = self._new_index(self.settings.block_tokens or BLOCK_TOKENS)
        self.exact = ExactIndex(self._places, self.settings.max_entries)
        """What servers say themselves of their caches."""
        self._due: list[tuple[float, int, Charge]] = []
        self._order = itertools.count(1)
        self._prefills: dict[Candidate, deque[Charge]] = {}
        self._free_at: dict[Candidate, float] = {}
        self._ahead: dict[Candidate, int] = {}
        """First tokens that were taken for given before the server told of them."""
        self._paces = Paces()
        self._most_cold = 0
        """The most cold tokens of any endpoint."""
        self._output: dict[str, float] = {}
        self._expected = float(EXPECTED_OUTPUT)
        self._known: Known | None = None
        """From before our start, for endpoints that have not come yet."""

    def use(self, settings: LoadSettings) -> None:
        """Go by other settings from now on. To be followed by :meth:`follow`."""
        if settings.max_entries != self.settings.max_entries:
            self.index.follow({})
            self.index = self._new_index(self.index.block_tokens, settings)
        self.settings = settings
        self.prefill_rate = settings.prefill_rate

    def follow(self, candidates: Iterable[Candidate]) -> None:
        """These are the endpoints from now on, or their caches have changed."""
        caches = {candidate: candidate.signals.cache for candidate in candidates}
        self.exact.keep(caches)
        for candidate in caches:
            if not candidate.cold_order:
                candidate.cold_tokens = self._most_cold
        block = self.settings.block_tokens
        if block is None:
            sizes = [cache.block_size for cache in caches.values() if cache is not None]
            # Before any has told, what was told before our start.
            told = max(sizes, default=self._known.block_tokens if self._known else 0)
            block = min(MAX_AUTO_BLOCK, max(BLOCK_TOKENS, told))
        if block != self.index.block_tokens:
            # Blocks of another size have other hashes: nothing that was remembered is of use.
            self.index.follow({})
            self.index = self._new_index(block)
        new = [candidate for candidate in caches if not candidate.bit]
        self.index.follow(
            {
                candidate: cache.block_size * cache.blocks
                if cache and cache.blocks
                else self._untold_size(candidate)
                for candidate, cache in caches.items()
            }
        )
        if self._known is not None:
            self._restore(self._known, new)

    def _untold_size(self, candidate: Candidate) -> int:
        """Tokens of a cache that does not tell its own size, or not yet."""
        known = self._known.caches.get(candidate.key) if self._known is not None else None
        return known.tokens if known is not None else self.settings.cache_tokens

    def recall(self, known: Known) -> None:
        """Begin with what was known before a restart. Of an endpoint it counts from the moment on
        at which it is followed for the first time. To be called before anything is followed."""
        self._known = known
        self._output = dict(itertools.islice(known.outputs.items(), _MODELS))
        self._expected = known.expected_output

    def forget_recalled(self) -> None:
        """Endpoints that come from now on are others, even under an address that was known."""
        self._known = None

    def known(self) -> Iterator[Known]:
        """What is known, one endpoint at a time (a large cache takes milliseconds): between two
        steps, picks may be made and endpoints may go. What goes beside the caches is in each."""
        for candidate in list(self._by_place()):
            if not candidate.bit:
                continue
            index, latency = self.index, candidate.signals.latency
            contents = index.contents(candidate)
            cache = KnownCache(
                tuple(contents),
                tuple(contents.values()),
                index.capacity_of(candidate) * index.block_tokens,
                *((latency.count, latency.seconds) if latency is not None else ()),
            )
            yield Known(
                index.block_tokens, {candidate.key: cache}, dict(self._output), self._expected
            )

    def _by_place(self) -> Iterator[Candidate]:
        return (candidate for candidate in self._places.by_bit if candidate is not None)

    def _restore(self, known: Known, candidates: Iterable[Candidate]) -> None:
        index = self.index
        for candidate in candidates:
            cache = known.caches.get(candidate.key)
            if cache is None:
                continue
            if cache.first_tokens is not None:
                candidate.recall(Latency(cache.first_tokens, cache.first_token_seconds))
            if index.block_tokens == known.block_tokens:
                index.restore(candidate, zip(cache.blocks, cache.sizes, strict=True))
            # Once: should it leave and come back, it may be another one.
            known.caches[candidate.key] = replace(cache, blocks=(), sizes=())

    def _new_index(self, block_tokens: int, settings: LoadSettings | None = None) -> PrefixIndex:
        max_entries = (settings or self.settings).max_entries
        return PrefixIndex(block_tokens, max_entries, self._places)

    def forget(self, candidate: Candidate) -> None:
        """Its cache is empty: it was started again, or nobody listens there."""
        self.index.forget(candidate)
        candidate.cold_tokens = self._most_cold

    def ask(
        self,
        request: InferenceRequest,
        model: str,
        priority: int,
        rng: random.Random,
        now: float,
        *,
        prefix: bool = True,
    ) -> SchedulingRequest:
        """The request as a profile is asked. ``prefix``: look its prompt up in the index."""
        size, multimodal, match = request.prompt_bytes, False, NO_MATCH
        if prefix:
            data, seed, multimodal, exact = prompt_of(request, model)
            if data:
                size = len(data)
                index = self.index
                match = index.match(chain_of(data, seed, index.block_tokens))
                if exact and self.exact.live:
                    match = self.exact.corrected(match, data, model)
        return SchedulingRequest(
            model,
            priority,
            rng,
            request,
            now=now,
            prompt_tokens=size // BYTES_PER_TOKEN or 1,
            output_tokens=self.expected_output(model, request.max_tokens),
            prefix=match,
            multimodal=multimodal,
        )

    def expected_output(self, model: str, limit: int | None) -> int:
        expected = int(self._output.get(model, self._expected))
        return expected if limit is None or limit > expected else max(1, limit)

    def charge_all(
        self, asked: SchedulingRequest, decision: Decision, now: float
    ) -> tuple[Charge, ...]:
        """Charge whom the decision sends the request to: the pick first."""
        pick = decision.endpoints[0]
        if decision.prefill is None:
            return (self.charge(asked, pick, now),)
        return (
            self.charge(asked, pick, now, prefills=False),
            self.charge(asked, decision.prefill, now, decodes=False),
        )

    def charge(
        self,
        asked: SchedulingRequest,
        candidate: Candidate,
        now: float,
        *,
        prefills: bool = True,
        decodes: bool = True,
    ) -> Charge:
        """A request was sent there."""
        prefix = asked.prefix
        uncached = asked.uncached(candidate) if prefills else 0
        output = asked.output_tokens if decodes else 0
        due = max(now, self._free_at.get(candidate, 0.0)) + uncached / self.prefill_rate
        self._free_at[candidate] = due
        if prefills:
            self._paces.expect(candidate, due - now)
        order = next(self._order)
        index, chain = self.index, prefix.chain
        charge = Charge(
            candidate,
            now,
            candidate.charge(asked.prompt_tokens, asked.model),
            asked.model,
            prompt_tokens=asked.prompt_tokens,
            prefill_tokens=uncached,
            output_tokens=output,
            due=due,
            index=index,
            chain=chain,
            new_blocks=index.add(candidate, chain) if chain else 0,
        )
        candidate.prefill_tokens += uncached
        candidate.output_tokens += output
        if not prefix.longest:
            candidate.cold_turn = order
        if uncached > COLD_SHARE * asked.prompt_tokens:
            self._count_cold(candidate, uncached, order)
        heapq.heappush(self._due, (due, order, charge))
        waiting = self._prefills.get(candidate)
        if waiting is None:
            waiting = self._prefills[candidate] = deque()
        waiting.append(charge)
        return charge

    def _count_cold(self, candidate: Candidate, tokens: int, order: int) -> None:
        """Nobody is owed more new prompts than its cache holds, even if it was ill for an hour. One
        with an empty cache is owed none: it would get them all at once."""
        floor = self._most_cold - self.index.capacity_of(candidate) * self.index.block_tokens
        cold = candidate.cold_tokens
        candidate.cold_order = order
        candidate.cold_tokens = (cold if cold > floor else floor) + tokens
        if candidate.cold_tokens > self._most_cold:
            self._most_cold = candidate.cold_tokens

    def advance(self, now: float) -> None:
        """Release the prompts that should be prefilled by now. To be called before each pick."""
        due = self._due
        while due and due[0][0] <= now:
            charge = heapq.heappop(due)[2]
            if not charge.prefilled and not _reports_queue(charge.candidate):
                self._assume_prefilled(charge)

    def observed(self, candidate: Candidate, now: float) -> None:
        """The endpoint was scraped."""
        self._paces.observed(candidate, now)
        waiting = self._prefills.get(candidate)
        if not waiting:
            self._ahead.pop(candidate, None)
            return
        done = candidate.first_tokens
        if done:
            told = (candidate.signals.running or 0) + (candidate.signals.waiting or 0)
            if told > candidate.in_flight:
                done = round(done * candidate.in_flight / told)
            if ahead := self._ahead.pop(candidate, 0):
                if ahead > done:
                    self._ahead[candidate] = ahead - done
                done -= ahead
            while done > 0 and waiting:
                done -= 1
                self._prefilled(waiting[0])
        if not _reports_queue(candidate):
            while waiting and waiting[0].due <= now:
                self._assume_prefilled(waiting[0])

    def end(self, charge: Charge, *, answered: bool = True) -> None:
        """The request is over, however it ended. Repeated calls do nothing."""
        if charge.ended:
            return
        charge.ended = True
        candidate = charge.candidate
        if not charge.prefilled:
            free_at = self._free_at.get(candidate)
            if free_at is not None:
                self._free_at[candidate] = free_at - charge.prefill_tokens / self.prefill_rate
            if answered:
                self._assume_prefilled(charge)
            else:
                self._prefilled(charge)
        candidate.output_tokens -= charge.output_tokens
        candidate.release(charge.epoch, charge.prompt_tokens, charge.model)

    def learn(self, charge: Charge, output_tokens: int) -> None:
        """So many output tokens the request turned out to have."""
        known = self._output.get(charge.model)
        if known is None:
            if len(self._output) >= _MODELS:
                del self._output[next(iter(self._output))]
            self._output[charge.model] = float(output_tokens)
        else:
            self._output[charge.model] = known + _OUTPUT_WEIGHT * (output_tokens - known)
        self._expected += _OUTPUT_WEIGHT * (output_tokens - self._expected)

    def served(self, charge: Charge, by: Candidate | None) -> None:
        """Correct the index: the prompt did not get to the endpoint that was charged.

        ``by``: the one that got it; None where none did.
        """
        if by is charge.candidate or not charge.chain or charge.index is not self.index:
            return
        if charge.new_blocks:
            self.index.remove(charge.candidate, charge.chain[-charge.new_blocks :])
        if by is not None:
            self.index.add(by, charge.chain)

    def keep(self, candidates: Iterable[Candidate]) -> None:
        """Forget all other endpoints: they are gone, and nothing is under way there."""
        kept = set(candidates)
        for by_candidate in (self._prefills, self._free_at, self._ahead):
            for candidate in [c for c in by_candidate if c not in kept]:
                del by_candidate[candidate]
        self._paces.keep(kept)

    def _assume_prefilled(self, charge: Charge) -> None:
        candidate = charge.candidate
        self._ahead[candidate] = self._ahead.get(candidate, 0) + 1
        self._prefilled(charge)

    def _prefilled(self, charge: Charge) -> None:
        candidate = charge.candidate
        if not charge.prefilled:
            charge.prefilled = True
            candidate.prefill_tokens -= charge.prefill_tokens
        waiting = self._prefills.get(candidate)
        while waiting and waiting[0].prefilled:
            waiting.popleft()


def _reports_queue(candidate: Candidate) -> bool:
    """Whether it said lately that somebody waits, so that its rate cannot be counted on."""
    return candidate.fresh and bool(candidate.signals.waiting)
