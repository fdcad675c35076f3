"""Tokens without a tokeniser: cheap, deterministic, about four bytes of English each."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence

# A piece of text, or a token id as the client sent it.
Token = bytes | int

# A word with the blank before it, long words in pieces. Text cut at the end of a token gives the
# same tokens in two parts as in one, so an answer that comes back in the next turn hits the cache.
_PIECES = re.compile(rb"\s?\S{1,6}|\s")

_WORDS = (
    b"the of and to in is it that for was on are as with his they at be this from have or by one"
    b" had not but what all were when we there can an your which their if do will each how them"
    b" then she many some so these would other into has more two like him see time could no make"
    b" than been its who now people my made over did down only way find use may water long little"
    b" very after words called just where most know get back much before go good new write our"
    b" used me man too any day same right look think also came come work three must because does"
    b" part even place well such here take why help put years away again off went old number great"
    b" tell men say small every found still name should Mr home big give air line set own under"
    b" read last never us left end along while might next sound below saw both few those always"
    b" show large often asked house world going want school until form food keep light story"
)


def tokenize(text: str) -> list[Token]:
    """The tokens of a text."""
    return list(_PIECES.findall(text.encode()))


def block_hashes(tokens: Sequence[Token], block_size: int, root: object = None) -> list[int]:
    """A hash for each full block, each over all tokens up to its end.

    ``root`` goes into every hash: requests of another adapter or cache salt share nothing.
    Hashes hold within one process only.
    """
    parent = hash(root)
    hashes = []
    for start in range(0, len(tokens) - block_size + 1, block_size):
        parent = hash((parent, *tokens[start : start + block_size]))
        hashes.append(parent)
    return hashes


def digest(tokens: Sequence[Token], *more: object) -> int:
    """A number that depends on the prompt and ``more`` alone, the same in every process."""
    return zlib.crc32(repr((len(tokens), tokens[-64:], more)).encode())


def _corpus(tokens: int) -> list[bytes]:
    rng = random.Random(0)
    words = [word for word in _WORDS.split() if len(word) <= 6]
    return [b" " + word for word in rng.choices(words, k=tokens)]


_CORPUS = _corpus(1 << 15)


def generate(count: int, seed: int, *, opening: bool = False) -> list[bytes]:
    """``count`` tokens of text. An ``opening`` starts without a blank, as an answer in a chat."""
    start = seed % len(_CORPUS)
    text = _CORPUS[start : start + count]
    while len(text) < count:
        text += _CORPUS[: count - len(text)]
    if opening and text:
        text[0] = text[0].strip().capitalize()
    return text
