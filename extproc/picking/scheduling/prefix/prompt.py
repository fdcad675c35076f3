"""A prompt as canonical bytes: what two requests share at their beginning is the same here.

Chat templates differ, but all of them write the messages one after another, so a chat that grew by
a turn begins with the bytes of the one before. Tools come first, as in most templates. What is not
part of the text (an image, a file) is represented by a hash of its content; what only annotates it
(``cache_control``, ids) is left out. Token ids are four bytes each.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from xxhash import xxh3_128_hexdigest

from extproc.picking.scheduling.prefix.blocks import MAX_TOKENS, seed_of
from extproc.raw_json import DATA_URL, TOKEN_IDS
from extproc.request import Api, InferenceRequest

_END = "\x1e"
"""Ends a message, so that two short ones are not taken for one long."""
_ROLE = "\x1f"

_TEXT_PARTS = frozenset(("text", "input_text", "output_text", "refusal"))
_NOT_CONTENT = frozenset(("id", "status", "cache_control"))
_MEDIA_PARTS = frozenset(
    (
        "audio_url",
        "document",
        "file",
        "image",
        "image_url",
        "input_audio",
        "input_file",
        "input_image",
        "video_url",
    )
)

_canonical = msgspec.json.Encoder(order="deterministic").encode


class Prompt(NamedTuple):
    """A prompt, ready to be cut into blocks."""

    data: bytes = b""
    """Empty: nothing that a prefix cache could know."""
    seed: int = 0
    multimodal: bool = False
    exact: bool = False
    """It is one prompt of token ids without a salt: what a server says of its cache applies."""


NO_PROMPT = Prompt()


def prompt_of(request: InferenceRequest, model: str) -> Prompt:
    """The prompt of a request. ``model`` is what the server is asked for, after any rewrite."""
    document = request.document
    if document is None:
        return _raw_prompt(request.prompt_json, model)
    api = request.api
    if api is Api.EMBEDDINGS or api is Api.OTHER:
        return NO_PROMPT
    salt = document.get("cache_salt")
    seed = seed_of(model, salt if isinstance(salt, str) else "")
    if api is Api.COMPLETIONS:
        return _one_or_more(document.get("prompt"), seed, salted=bool(salt))
    if api is Api.GENERATE:
        return _one_or_more(document.get("token_ids"), seed, salted=bool(salt))
    pieces: list[str] = []
    media = False
    if tools := document.get("tools"):
        pieces += (_json(tools), _END)
    if api is Api.RESPONSES:
        instructions, messages = document.get("instructions"), document.get("input")
    else:
        instructions, messages = document.get("system"), document.get("messages")
    if instructions:
        pieces += ("system", _ROLE)
        media |= _add_content(instructions, pieces)
        pieces.append(_END)
    if isinstance(messages, str):
        pieces += ("user", _ROLE, messages, _END)
    elif isinstance(messages, list):
        for message in messages:
            if type(message) is dict and len(message) == 2:
                role, content = message.get("role"), message.get("content")
                if type(role) is str and type(content) is str:
                    pieces += (role, _ROLE, content, _END)
                    continue
            media |= _add_message(message, pieces)
    return Prompt("".join(pieces).encode("utf-8", "surrogatepass"), seed, media)


def _raw_prompt(parts: Sequence[bytes], model: str) -> Prompt:
    """Of a body too large to be decoded: the JSON text of its prompt is canonical enough."""
    if len(parts) < 2:
        return NO_PROMPT
    salt, *texts = parts
    seed = seed_of(model, salt.decode("utf-8", "replace"))
    if len(texts) == 1 and TOKEN_IDS.match(texts[0]):
        return Prompt(_raw_ids(texts[0]), seed)
    data = b"\x1e".join(texts)
    if b'"data:' not in data:
        return Prompt(data, seed)
    return Prompt(DATA_URL.sub(_digest_of_match, data), seed, multimodal=True)


def _raw_ids(text: bytes) -> bytes:
    """Token ids from JSON text, as many as are ever looked at."""
    if len(text) > _MAX_RAW_IDS:
        end = text.rfind(b",", 0, _MAX_RAW_IDS)
        if end < 0:
            return b""
        text = text[:end] + b"]"
    try:
        return token_bytes(_decode_ids(text))
    except (msgspec.DecodeError, ValueError):
        return b""


_MAX_RAW_IDS = 8 * MAX_TOKENS
_decode_ids = msgspec.json.Decoder(list[int]).decode


def _one_or_more(prompt: object, seed: int, *, salted: bool) -> Prompt:
    exact = not salted and isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], int)
    return Prompt(_completion(prompt), seed, exact=exact)


def _completion(prompt: object) -> bytes:
    """Text, token ids, or several of either."""
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return b"\x1e".join([_one_completion(one) for one in prompt])
    return _one_completion(prompt)


def _one_completion(prompt: object) -> bytes:
    if isinstance(prompt, str):
        return prompt.encode("utf-8", "surrogatepass")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
        return token_bytes(prompt)
    return b""


def token_bytes(tokens: Sequence[object]) -> bytes:
    """Four bytes each; empty where one of them is no token id."""
    try:
        return array("I", tokens).tobytes()  # type: ignore[type-var]  # anything else raises
    except (TypeError, OverflowError):
        return b""


def _add_message(message: object, pieces: list[str]) -> bool:
    """Returns whether there is anything but text in it."""
    if not isinstance(message, dict):
        pieces += (_json(message), _END)
        return False
    role, content = message.get("role"), message.get("content")
    if isinstance(role, str):
        pieces.append(role)
    pieces.append(_ROLE)
    media = False
    if type(content) is str:
        pieces.append(content)
    elif content is not None:
        media = _add_content(content, pieces)
    if len(message) > 2:
        for key in sorted(message.keys() - _OF_MESSAGE):
            if (value := message[key]) is not None:
                pieces += (key, _ROLE, value if type(value) is str else _json(value))
    pieces.append(_END)
    return media


_OF_MESSAGE = _NOT_CONTENT | {"role", "content"}


def _add_content(content: object, pieces: list[str]) -> bool:
    if isinstance(content, str):
        pieces.append(content)
        return False
    if not isinstance(content, list):
        pieces.append(_json(content))
        return False
    media = False
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if type(kind) is not str:  # also what has no hash
            kind = ""
        if kind in _TEXT_PARTS:
            text = part.get("text") or part.get("refusal")
            pieces.append(text if isinstance(text, str) else "")
        elif isinstance(part, str):
            pieces.append(part)
        else:
            if isinstance(part, dict):
                part = {key: part[key] for key in part if key not in _NOT_CONTENT}
            text = _json(part)
            if kind in _MEDIA_PARTS:
                media = True
                text = xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))
            pieces.append(text)
    return media


def _json(value: object) -> str:
    try:
        try:
            return _canonical(value).decode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold and UTF-8 cannot
            return repr(value)
    except RecursionError:  # a pick is made further in than its body was read
        return ""


def _digest_of_match(match: re.Match[bytes]) -> bytes:
    return xxh3_128_hexdigest(match[0]).encode()
