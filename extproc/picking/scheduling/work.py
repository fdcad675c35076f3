"""How busy an endpoint is, as one number of prompt tokens.

::

    work = slowness * (prompts not prefilled yet + decode_tokens * requests there)
         + memory_tokens * usage / (1 - usage) of the KV cache
           (where memory is short: * (1 + backlog))

*Requests there* are those in flight from here, or the queue that the server reports if that is
longer. :mod:`Slowness <extproc.picking.scheduling.pace>` is 1 where all servers are equal. The last
term is the wait for memory, as of a queue: nothing while there is room, and at 99 % more than any
prompt. Where all are full, what counts is who has to wait behind how many: not who has the fewest
requests, for those may be the ones that hold the most.
"""

from __future__ import annotations

from collections.abc import Sequence

from extproc.picking.scheduling.candidate import Candidate

DECODE_TOKENS = 64.0
"""What one request in flight is worth in prompt tokens to a prompt that has to wait for its first
token: it makes a step of the batch longer. Were it much more, a pod that comes back empty would
get every prompt until its queue is as long as the others' batches."""
LASTING_DECODE_TOKENS = 256.0
"""The same to what stays where it is for long: a prefix or an adapter brings all its requests to
that endpoint, and each decodes there to its end."""
STEP_TOKENS = 16.0
"""The same where only those are looked for whose first token comes about as early: hardly anything.
What is left to tell apart is told by what follows."""
ANSWER_TOKENS = 1024.0
"""The same to an even load: it stays until its answer is given."""
MEMORY_TOKENS = 2400.0
"""What the KV cache being half in use is worth: 0.15 s of prefill."""


def work_at(candidate: Candidate) -> float:
    """The work of one, to what stays there for long."""
    in_flight, queue = candidate.in_flight, candidate.queue
    return (
        candidate.slowness
        * (
            candidate.prefill_tokens
            + LASTING_DECODE_TOKENS * (in_flight if in_flight > queue else queue)
        )
        + MEMORY_TOKENS * candidate.memory_queue
    )


def work_of(
    candidates: Sequence[Candidate],
    decode_tokens: float = LASTING_DECODE_TOKENS,
    memory_tokens: float = MEMORY_TOKENS,
) -> list[float]:
    """The work of each."""
    return [
        c.slowness
        * (c.prefill_tokens + decode_tokens * (c.in_flight if c.in_flight > c.queue else c.queue))
        + memory_tokens * c.memory_queue
        for c in candidates
    ]


def work_with(
    tokens: Sequence[float],
    candidates: Sequence[Candidate],
    decode_tokens: float = DECODE_TOKENS,
    memory_tokens: float = MEMORY_TOKENS,
) -> list[float]:
    """The work of each with so many ``tokens`` more to prefill."""
    return [
        c.slowness
        * (
            more
            + c.prefill_tokens
            + decode_tokens * (c.in_flight if c.in_flight > c.queue else c.queue)
        )
        + memory_tokens * c.memory_queue
        for c, more in zip(candidates, tokens, strict=True)
    ]
