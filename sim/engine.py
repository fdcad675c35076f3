"""A continuous-batching engine that schedules as vLLM does, without a clock of its own.

The caller says what time it is; the engine works off the steps that have ended by then. A step
serves every decoding sequence with one token and spends the rest of its token budget on prompts,
first those that are under way, then waiting ones in order of arrival. Decoding sequences cost
nothing one by one: a step is a few operations whatever the batch, and blocks and ends are found by
the step at which they fall due.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field

from sim.adapters import AdapterSlots
from sim.cost import CostModel
from sim.events import Decoded, Event, Finished, FirstToken, Preempted, Request
from sim.kv_cache import KVCache
from sim.sequence import Sequence


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """vLLM's names and, where it has them, defaults. ``kv_cache_tokens`` is what an H100 pair
    keeps beside a 32B model."""

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    block_size: int = 16
    kv_cache_tokens: int = 307_328
    enable_prefix_caching: bool = True
    max_loras: int = 4
    cost: CostModel = field(default_factory=CostModel)

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "block_size", "max_loras"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.max_num_batched_tokens <= self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be above max_num_seqs"
                f" ({self.max_num_seqs}), or a full batch would leave no room for prompts"
            )
        if self.kv_cache_tokens < self.block_size:
            raise ValueError(f"kv_cache_tokens must hold a block of {self.block_size} tokens")

    @property
    def num_blocks(self) -> int:
        return self.kv_cache_tokens // self.block_size


class Engine:
    """One model server's scheduler. Times are seconds and must not go back."""

    def __init__(self, config: EngineConfig | None = None) -> None:
        self.config = config or EngineConfig()
        self.kv = KVCache(self.config.num_blocks)
        self.adapters = AdapterSlots(self.config.max_loras)
        self.preemptions = 0
        self.prefix_queries = 0  # prompt tokens looked up
        self.prefix_hits = 0  # of those, found
        self._sequences: dict[str, Sequence] = {}
        self._waiting: OrderedDict[str, Sequence] = OrderedDict()
        self._running: dict[str, Sequence] = {}  # in the order of admission
        self._prefilling: dict[str, Sequence] = {}
        self._decoding = 0
        # Decoding sequences by the step, modulo the block size, at which they need a new block.
        self._turns: list[dict[str, Sequence]] = [{} for _ in range(self.config.block_size)]
        self._ends: list[tuple[int, int, Sequence]] = []  # heap of (last step, ticket, sequence)
        self._tickets = 0
        self._waiting_adapters: Counter[str] = Counter()
        self._now = -math.inf
        self._done = 0  # steps completed
        self._begun = 0  # steps begun: equal to the above, or one more
        self._step_seconds = 0.0
        self._step_end: float | None = None
        self._chunks: list[tuple[Sequence, int]] = []  # prompts in this step, computed up to
        self._blocked = False  # nobody who waits can start before something is given back
        self._events: list[Event] = []

    # What can be asked

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def waiting_adapters(self) -> Collection[str]:
        return self._waiting_adapters.keys()

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache that sequences hold, 0 to 1."""
        return self.kv.used / self.kv.capacity

    def generated(self, request_id: str) -> int:
        """Tokens that a request in the engine has so far."""
        sequence = self._sequences[request_id]
        if sequence.decode_from is None:
            return sequence.generated
        return sequence.generated + self._done - sequence.decode_from

    def next_step_time(self) -> float:
        """When the present step ends; infinity when idle."""
        return math.inf if self._step_end is None else self._step_end

    def next_event_time(self) -> float:
        """A time before which no request gets its first token, ends or is preempted."""
        if self._events:
            return self._now
        if self._step_end is None:
            return math.inf
        if self._chunks or not self._decoding or (self._waiting and not self._blocked):
            return self._step_end
        while self._ends[0][1] != self._ends[0][2].ticket:
            heapq.heappop(self._ends)
        steps = self._ends[0][0] - self._done - 1  # whole steps after this one
        growth = self._decoding * -(-steps // self.config.block_size)
        if growth > self.kv.available:
            return self._step_end
        return self._step_end + steps * self.config.cost.step_seconds(0, self._decoding)

    # What can be done

    def submit(self, request: Request, now: float) -> None:
        """Queue a request. ValueError if it can never be served or its id is in use."""
        if request.id in self._sequences:
            raise ValueError(f"request {request.id!r} is in the engine already")
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError(f"request {request.id!r} needs a prompt and at least 1 output token")
        if self._blocks_for(request.prompt_tokens + request.output_tokens) > self.kv.capacity:
            raise ValueError(
                f"request {request.id!r} needs {request.prompt_tokens + request.output_tokens}"
                f" tokens; the KV cache holds {self.config.kv_cache_tokens}"
            )
        self._run(now)
        sequence = Sequence(request, now)
        self._sequences[request.id] = sequence
        self._enqueue(sequence)
        if self._step_end is None:
            self._begin_step(now)

    def abort(self, request_id: str, now: float) -> bool:
        """Drop a request and free what it holds; False if it is not in the engine (any more)."""
        self._run(now)
        sequence = self._sequences.pop(request_id, None)
        if sequence is None:
            return False
        if self._waiting.pop(request_id, None) is not None:
            self._count_waiting_adapter(sequence, -1)
        else:
            self._leave(sequence)
        self._blocked = False
        return True

    def advance(self, now: float) -> list[Event]:
        """Work off the steps that end by ``now``; what happened since the last call, in order."""
        self._run(now)
        events, self._events = self._events, []
        return events

    # Steps

    def _run(self, now: float) -> None:
        if now < self._now:
            raise ValueError(f"time goes back from {self._now} to {now}")
        while self._step_end is not None and self._step_end <= now:
            end = self._step_end
            self._complete_step(end)
            self._begin_step(end)
        self._now = now

    def _begin_step(self, at: float) -> None:
        preemptions = self.preemptions
        self._reserve_decode_blocks(at)
        self._begun = self._done + 1
        budget = self.config.max_num_batched_tokens - self._decoding
        budget = self._continue_prompts(budget, at)
        loads = 0
        if self._waiting and not self._blocked and self.preemptions == preemptions:
            loads = self._admit(budget, at)
        if not self._running:
            self._begun = self._done
            self._step_end = None
            return
        prefill_tokens = sum(end - sequence.computed for sequence, end in self._chunks)
        self._step_seconds = self.config.cost.step_seconds(prefill_tokens, self._decoding, loads)
        self._step_end = at + self._step_seconds

    def _reserve_decode_blocks(self, at: float) -> None:
        turn = self._turns[(self._done + 1) % self.config.block_size]
        while turn and not self.kv.take(len(turn)):
            self._preempt_last(at)

    def _continue_prompts(self, budget: int, at: float) -> int:
        for sequence in list(self._prefilling.values()):
            if not budget:
                break
            if sequence.request.id not in self._prefilling:
                continue  # preempted for the sake of an older one
            end = min(sequence.target, sequence.computed + budget)
            while not self._grow(sequence, end):
                if self._preempt_last(at) is sequence:
                    return budget  # it was the last: nobody is left behind it
            self._chunks.append((sequence, end))
            budget -= end - sequence.computed
        return budget

    def _admit(self, budget: int, at: float) -> int:
        """Start waiting requests while there is room; how many adapters that loads."""
        loads = 0
        admitted: list[Sequence] = []
        self._blocked = True
        for sequence in self._waiting.values():
            if not budget:
                self._blocked = False  # the next step has a new budget
                break
            if len(self._running) >= self.config.max_num_seqs:
                break
            adapter = sequence.request.adapter
            if adapter is not None and not self.adapters.admits(adapter):
                continue  # later requests may pass, as in vLLM
            end = self._place(sequence, budget)
            if end is None:
                break
            if adapter is not None:
                loads += self.adapters.acquire(adapter)
            if sequence.admitted is None:
                sequence.admitted = at
            self._running[sequence.request.id] = self._prefilling[sequence.request.id] = sequence
            self._chunks.append((sequence, end))
            budget -= end - sequence.computed
            admitted.append(sequence)
        for sequence in admitted:
            del self._waiting[sequence.request.id]
            self._count_waiting_adapter(sequence, -1)
        return loads

    def _place(self, sequence: Sequence, budget: int) -> int | None:
        """Blocks for the first chunk of a waiting request, cached ones first: how far the chunk
        goes, or None where blocks are short."""
        size = self.config.block_size
        hits = 0
        if self.config.enable_prefix_caching:
            # The last token is always computed: its output is what is sampled from.
            hits = self.kv.match(sequence.request.blocks, (sequence.target - 1) // size)
        end = min(sequence.target, hits * size + budget)
        shared = list(sequence.request.blocks[:hits])
        # The whole prompt must fit, not only the chunk: or requests would be admitted and
        # preempted over and over (vLLM's scheduler_reserve_full_isl).
        room = self._blocks_for(sequence.target) - hits
        if not self.kv.admit(shared, self._blocks_for(end) - hits, room):
            return None
        if sequence.admitted is None:
            sequence.cached = hits * size
            self.prefix_queries += sequence.target
            self.prefix_hits += hits * size
        sequence.computed = hits * size
        sequence.shared = shared
        sequence.published = hits
        sequence.blocks = self._blocks_for(end)
        self._publish(sequence, end)
        return end

    def _complete_step(self, at: float) -> None:
        self._done = self._begun
        if self._decoding:
            self._record_decoded(at, self._step_seconds, self._decoding)
        while self._ends and self._ends[0][0] <= self._done:
            _, ticket, sequence = heapq.heappop(self._ends)
            if ticket == sequence.ticket:
                self._finish(sequence, at)
        chunks, self._chunks = self._chunks, []
        for sequence, end in chunks:
            if self._prefilling.get(sequence.request.id) is not sequence:
                continue  # aborted during the step
            sequence.computed = end
            if end == sequence.target:
                self._begin_decode(sequence, at)

    def _begin_decode(self, sequence: Sequence, at: float) -> None:
        """The prompt is computed, which gives one token."""
        if sequence.first_token is None:
            sequence.first_token = at
            self._events.append(FirstToken(sequence.request.id, at, sequence.cached))
        else:
            self._record_decoded(at, at - sequence.last_token, 1)
        sequence.generated += 1
        remaining = sequence.request.output_tokens - sequence.generated
        if not remaining:
            self._finish(sequence, at)
            return
        del self._prefilling[sequence.request.id]
        self._tickets += 1
        sequence.ticket = self._tickets
        sequence.decode_from = self._done
        # Step s writes the KV of token computed + s - decode_from; a new block begins at its first.
        sequence.turn = (self._done + 1 - sequence.computed) % self.config.block_size
        self._turns[sequence.turn][sequence.request.id] = sequence
        self._decoding += 1
        heapq.heappush(self._ends, (self._done + remaining, sequence.ticket, sequence))

    def _record_decoded(self, at: float, interval: float, tokens: int) -> None:
        if self._events:
            last = self._events[-1]
            if isinstance(last, Decoded) and last.interval == interval:
                tokens += last.tokens
                self._events.pop()
        self._events.append(Decoded(at, interval, tokens))

    # Coming and going

    def _enqueue(self, sequence: Sequence, *, first: bool = False) -> None:
        self._waiting[sequence.request.id] = sequence
        if first:
            self._waiting.move_to_end(sequence.request.id, last=False)
        self._count_waiting_adapter(sequence, 1)
        self._blocked = False

    def _finish(self, sequence: Sequence, at: float) -> None:
        assert sequence.admitted is not None
        assert sequence.first_token is not None
        self._leave(sequence)
        del self._sequences[sequence.request.id]
        self._events.append(
            Finished(
                sequence.request.id,
                at,
                sequence.arrived,
                sequence.admitted,
                sequence.first_token,
                sequence.cached,
            )
        )

    def _preempt_last(self, at: float) -> Sequence:
        """Take everything from the request that started last; it waits at the head of the queue."""
        sequence = next(reversed(self._running.values()))
        if sequence.decode_from is not None:
            sequence.last_token = at
            sequence.generated = self.generated(sequence.request.id)
        self._leave(sequence)
        sequence.reset()
        sequence.target = sequence.request.prompt_tokens + sequence.generated
        self._enqueue(sequence, first=True)
        self.preemptions += 1
        self._events.append(Preempted(sequence.request.id, at))
        return sequence

    def _leave(self, sequence: Sequence) -> None:
        """Out of the batch, with its blocks and its adapter."""
        if sequence.decode_from is None:
            del self._prefilling[sequence.request.id]
        else:
            del self._turns[sequence.turn][sequence.request.id]
            self._decoding -= 1
            computed = sequence.computed + self._done - sequence.decode_from
            begun = sequence.computed + self._begun - sequence.decode_from
            sequence.blocks = self._blocks_for(begun)
            self._publish(sequence, computed)
            sequence.ticket = 0  # its entry in the heap is void
        del self._running[sequence.request.id]
        self.kv.release(reversed(sequence.shared), sequence.blocks - len(sequence.shared))
        if sequence.request.adapter is not None:
            self.adapters.release(sequence.request.adapter)
        self._blocked = False

    def _count_waiting_adapter(self, sequence: Sequence, change: int) -> None:
        if (adapter := sequence.request.adapter) is not None:
            self._waiting_adapters[adapter] += change
            if not self._waiting_adapters[adapter]:
                del self._waiting_adapters[adapter]

    # Blocks

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.config.block_size)

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        needed = self._blocks_for(tokens)
        if not self.kv.take(needed - sequence.blocks):
            return False
        sequence.blocks = needed
        self._publish(sequence, tokens)
        return True

    def _publish(self, sequence: Sequence, tokens: int) -> None:
        """Offer full blocks to the cache; as in vLLM from the step on that computes them."""
        if not self.config.enable_prefix_caching:
            return
        full = min(tokens // self.config.block_size, len(sequence.request.blocks))
        for block in sequence.request.blocks[sequence.published : full]:
            if self.kv.publish(block):
                sequence.shared.append(block)
        sequence.published = max(sequence.published, full)
