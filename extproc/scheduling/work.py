"""How busy an endpoint is, as one number of prompt tokens.

::

    work = prompts not prefilled yet
         + decode_tokens * requests there
         + memory_tokens * usage / (1 - usage) of the KV cache
           (where memory is short: * (1 + backlog))

*Requests there* are those in flight from here, or the queue that the server reports if that is
longer. The last term is the wait for memory, as of a queue: nothing while there is room, and at
99 % more than any prompt. Where all are full, what counts is who has to wait behind how many: not
who has the fewest requests, for those may be the ones that hold the most.
"""

from __future__ import annotations

from collections.abc import Sequence

from extproc.scheduling.candidate import Candidate

DECODE_TOKENS = 256.0
"""What one request in flight is worth in prompt tokens: it makes every step of the batch longer."""
MEMORY_TOKENS = 2400.0
"""What the KV cache being half in use is worth: 0.15 s of prefill."""
_SHORT = 4.0
"""Memory pressure from which on who waits, waits for memory: 80 % in use. With more room it is for
a step of the batch, which is soon over."""


def work_of(
    candidates: Sequence[Candidate],
    decode_tokens: float = DECODE_TOKENS,
    memory_tokens: float = MEMORY_TOKENS,
) -> list[float]:
    """The work of each."""
    return [
        c.prefill_tokens
        + decode_tokens * (c.in_flight if c.in_flight > c.queue else c.queue)
        + memory_tokens
        * (c.memory_pressure if c.memory_pressure < _SHORT else c.memory_pressure * (1 + c.backlog))
        for c in candidates
    ]
