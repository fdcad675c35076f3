"""Which endpoint has how much of a prompt in its prefix cache.

A prompt becomes canonical bytes (``prompt``), the bytes a chain of block hashes (``blocks``), and
the chain is looked up in an index of what was sent where (``index``).
"""

from extproc.picking.scheduling.prefix.blocks import BLOCK_TOKENS, BYTES_PER_TOKEN, chain_of
from extproc.picking.scheduling.prefix.index import PrefixIndex
from extproc.picking.scheduling.prefix.match import NO_MATCH, PrefixMatch
from extproc.picking.scheduling.prefix.prompt import Prompt, prompt_of

__all__ = [
    "BLOCK_TOKENS",
    "BYTES_PER_TOKEN",
    "NO_MATCH",
    "PrefixIndex",
    "PrefixMatch",
    "Prompt",
    "chain_of",
    "prompt_of",
]
