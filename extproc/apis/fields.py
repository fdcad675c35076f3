"""What of a request's body matters to a pick."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from typing import Final

import msgspec

from extproc.apis import model_name
from extproc.apis.table import ROWS
from extproc.raw_json import DATA_URL, TOKEN_IDS, made_strict, undone
from extproc.reasons import Reason
from extproc.request import Api, Refused, refused

_TOKEN_BYTES: Final = 4
"""A prompt that is given as token ids counts as this many bytes of text for each."""

_MOST_TOKENS: Final = 1 << 31
"""A client that allows more output has set no limit."""
_LARGE: Final = 1 << 20
_LONGEST_MODEL: Final = 1024
"""Characters. A name is remembered for longer than its request."""
_SMALL: Final = 1 << 14
"""Bytes of a single value beside the prompt."""
_PIECE: Final = 1 << 16
"""Bytes that are checked for UTF-8 at a time, so that the text of a whole body is never held."""
_NOT_AN_OBJECT: Final = refused(Reason.INVALID_JSON, problem="body must be a JSON object")

_MAX_TOKENS: Final[dict[Api, tuple[str, ...]]] = {api: row.max_tokens for api, row in ROWS.items()}
_PROMPT: Final[dict[Api, tuple[str, ...]]] = {api: row.prompt for api, row in ROWS.items()}
_RAW_PROMPT: Final[dict[Api, tuple[str, ...]]] = {api: row.template for api, row in ROWS.items()}

_LARGE_BODY: Final = msgspec.json.Decoder(
    msgspec.defstruct(
        "_LargeBody",
        [
            (key, msgspec.Raw, msgspec.Raw())
            for key in sorted(
                {"model", "stream", "sampling_params", "cache_salt"}
                | {key for keys in (*_MAX_TOKENS.values(), *_PROMPT.values()) for key in keys}
            )
        ],
    )
)
"""Skips all else without making objects of it."""


class Fields(msgspec.Struct, frozen=True):
    """What was read from a body. Fields of a wrong type count as absent: the pod will say so."""

    model: str
    stream: bool = False
    max_tokens: int | None = None
    prompt_bytes: int = 0
    document: Mapping[str, object] | None = None
    prompt_json: tuple[bytes, ...] = ()


def read(api: Api, body: bytes) -> Fields | Refused:
    """Decode a whole body once. ``api`` is not ``Api.OTHER``.

    Bodies over 1 MiB are not decoded further than needed (``document`` is None then): a dense one
    of 32 MiB would take seconds, in which nobody else is served.
    """
    if len(body) > _LARGE:
        return _read_large(api, body)
    try:
        document = _decoded(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return _unreadable(error)
    if type(document) is not dict:
        return _NOT_AN_OBJECT
    return _fields(api, document)


def _decoded(text: bytes) -> object:
    """
    :raises ValueError, RecursionError: It is no JSON, not even with what Python's own parser takes
        beyond it, and so model servers: NaN, lone surrogates, 1e400.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as strict:
        try:
            return json.loads(text.decode())
        except (ValueError, RecursionError):
            raise strict from None


def _read_large(api: Api, body: bytes) -> Fields | Refused:
    # One thing is left that a small body is refused for: an integer of more digits than Python
    # reads (4300), where it is skipped. The pod will say so.
    limits = ("sampling_params",) if api is Api.GENERATE else _MAX_TOKENS[api]
    prompt = _RAW_PROMPT[api]
    try:
        _check_utf8(body)
        texts = _skimmed(body, ("model", "stream", "cache_salt", *limits, *_PROMPT[api]))
    except msgspec.ValidationError:
        return _NOT_AN_OBJECT
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return _unreadable(error)
    document: dict[str, object] = {}
    try:
        for key in ("model", "stream", *limits):
            if text := texts[key]:
                document[key] = _small_value(key, text)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        # What was skipped was not looked at closely: huge numbers.
        return _unreadable(error)
    found = _fields(api, document)
    if isinstance(found, Refused):
        return found
    return msgspec.structs.replace(
        found,
        prompt_bytes=sum([_raw_text_bytes(texts[key]) for key in _PROMPT[api]]),
        document=None,
        prompt_json=(texts["cache_salt"], *[texts[key] for key in prompt]) if prompt else (),
    )


def _check_utf8(body: bytes) -> None:
    """Takes 1.5 ms for each MiB at most.

    :raises ValueError: It is something else.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for at in range(0, len(body), _PIECE):
            decoder.decode(body[at : at + _PIECE])
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        # Its position would be that in the piece.
        raise ValueError("it is not UTF-8") from None


def _skimmed(text: bytes, keys: tuple[str, ...]) -> dict[str, bytes]:
    """The JSON text of some members of an object; empty if they are absent. Of duplicates, the
    last. As lenient as :func:`_decoded`, but without making objects of anything.

    :raises msgspec.ValidationError: It is no object.
    :raises msgspec.DecodeError, RecursionError: It is no JSON.
    """
    try:
        raw = _LARGE_BODY.decode(text)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        first, second = made_strict(text)
        if first == text:
            raise
        one, other = _LARGE_BODY.decode(first), _LARGE_BODY.decode(second)
        return {key: undone(bytes(getattr(one, key)), bytes(getattr(other, key))) for key in keys}
    return {key: bytes(getattr(raw, key)) for key in keys}


def _small_value(key: str, text: bytes) -> object:
    """Of a value that takes long to decode, what matters, or something of a wrong type.

    :raises ValueError, RecursionError: It is no JSON after all.
    """
    if len(text) <= _SMALL or (key == "model" and text.startswith(b'"')):
        return _decoded(text)
    if key == "sampling_params" and text.startswith(b"{"):
        # With a long JSON schema, say.
        limit = _skimmed(text, ("max_tokens",))["max_tokens"]
        return {"max_tokens": _decoded(limit)} if 0 < len(limit) <= _SMALL else {}
    return text


def _raw_text_bytes(value: bytes) -> int:
    """As :func:`_text_bytes`, roughly, of JSON that is not decoded."""
    if TOKEN_IDS.match(value):
        return _TOKEN_BYTES * (value.count(b",") + 1)
    return len(value) - sum(map(len, DATA_URL.findall(value)))


def read_prefix(api: Api, body: bytes) -> Fields:
    """What the first bytes of a body tell, where the rest is not shown to us.

    The model is empty if it comes later."""
    document: dict[str, object] = {}
    for key, start, end in model_name.members(body):
        if key in ("model", "stream") or key in _MAX_TOKENS[api]:
            try:
                document[key] = msgspec.json.decode(body[start:end])
            except (msgspec.DecodeError, ValueError, RecursionError):
                continue
    model = document.get("model")
    return Fields(
        model=model if isinstance(model, str) else "",
        stream=document.get("stream") is True,
        max_tokens=_max_tokens(api, document),
        prompt_bytes=len(body),
    )


def _unreadable(error: Exception) -> Refused:
    reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    return refused(Reason.INVALID_JSON, problem=f"body is not valid JSON: {reason}")


def _fields(api: Api, document: dict[str, object]) -> Fields | Refused:
    model = document.get("model")
    if not isinstance(model, str) or not model:
        if api is not Api.GENERATE or model is not None:
            problem = (
                "no model"
                if model is None
                else "an empty model"
                if model == ""
                else "a model that is not a string"
            )
            return refused(Reason.MISSING_MODEL, model=problem)
        model = ""
    elif not model.isascii() and (broken := _half_a_pair(model)) is not None:
        return broken
    elif len(model) > _LONGEST_MODEL:
        return refused(Reason.MISSING_MODEL, model=f"a model of {len(model)} characters")
    prompt_bytes = 0
    for key in _PROMPT[api]:
        value = document.get(key)
        if value is not None:
            prompt_bytes += _text_bytes(value)
    return Fields(
        model=model,
        stream=document.get("stream") is True,
        max_tokens=_max_tokens(api, document),
        prompt_bytes=prompt_bytes,
        document=document,
    )


def _half_a_pair(model: str) -> Refused | None:
    try:
        # It is shown in metrics and on pages, which half a surrogate pair would break.
        model.encode()
    except UnicodeEncodeError as error:
        return _unreadable(error)
    return None


def _max_tokens(api: Api, document: Mapping[str, object]) -> int | None:
    if api is Api.GENERATE:
        sampling = document.get("sampling_params")
        document = sampling if isinstance(sampling, dict) else {}
    for key in _MAX_TOKENS[api]:
        value = document.get(key)
        if type(value) is int and 0 <= value < _MOST_TOKENS:
            return value
    return None


def _text_bytes(value: object) -> int:
    """UTF-8 size of all text in a prompt: a string, token ids, or messages with their parts."""
    total = 0
    pending = [value]
    while pending:
        item = pending.pop()
        kind = type(item)
        if kind is str:
            text = str(item)
            total += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        elif kind is list:
            assert isinstance(item, list)
            if item and type(item[0]) is int:
                total += _TOKEN_BYTES * len(item)
            else:
                pending += item
        elif kind is dict:
            assert isinstance(item, dict)
            # An image or audio part is no text; its data must not count as a million tokens.
            part = item.get("type")
            # A client may send anything as a type, also what has no hash.
            if isinstance(part, str) and part in _NOT_TEXT:
                continue
            pending += item.values()
    return total


_NOT_TEXT: Final = frozenset(
    {
        "audio_url",
        "document",
        "file",
        "image",
        "image_url",
        "input_audio",
        "input_file",
        "input_image",
        "video_url",
    }
)
