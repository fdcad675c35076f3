"""The OpenAI API as vLLM speaks it: bodies read into jobs, answers and errors written."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from sim.config import PodConfig
from sim.tokens import Token, digest, generate, tokenize

MAX_CHOICES = 128


class ApiError(Exception):
    """A request that is refused, with the answer that vLLM gives."""

    def __init__(
        self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = msgspec.json.encode(
            {"error": {"message": message, "type": kind, "param": param, "code": status}}
        )


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    seed: int | None = None
    cache_salt: str | None = None


_B = TypeVar("_B", bound=_Body)


class _CompletionBody(_Body):
    prompt: Any = None
    echo: bool | None = None


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[Any] | None = None


class _ChatBody(_Body, kw_only=True):
    messages: list[_Message]
    max_completion_tokens: int | None = None
    tools: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One text to produce."""

    index: int
    prompt: Sequence[Token]
    output: Sequence[bytes]  # one piece of text a token
    finish_reason: str
    counts_prompt: bool  # several choices of one prompt count its tokens once
    echo: str = ""

    def text(self, start: int = 0, end: int | None = None) -> str:
        """The output from token to token; the echo goes before the first."""
        text = b"".join(self.output[start:end]).decode()
        return self.echo + text if start == 0 else text


@dataclass(frozen=True, slots=True)
class Job:
    """One HTTP request, understood."""

    model: str
    chat: bool
    stream: bool
    include_usage: bool
    cache_salt: str | None
    choices: tuple[Choice, ...]


def read_completion(body: bytes, config: PodConfig) -> Job:
    """Read a /v1/completions body. ApiError if vLLM would refuse it."""
    request = _decode(body, _CompletionBody)
    texts = _prompts(request.prompt)
    prompts = [tokenize(p) if isinstance(p, str) else p for p in texts]
    limit = 16 if request.max_tokens is None else request.max_tokens
    echoes = [p if request.echo and isinstance(p, str) else "" for p in texts]
    return _job(request, config, prompts, limit, echoes, chat=False)


def read_chat(body: bytes, config: PodConfig) -> Job:
    """Read a /v1/chat/completions body. ApiError if vLLM would refuse it."""
    request = _decode(body, _ChatBody)
    if not request.messages:
        raise ApiError(400, "messages must not be empty", param="messages")
    limit = request.max_completion_tokens
    limit = request.max_tokens if limit is None else limit
    return _job(request, config, [_template(request)], limit, [""], chat=True)


def _decode(body: bytes, kind: type[_B]) -> _B:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise ApiError(400, f"Invalid request body: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"JSON decode error: {error}") from None


def _prompts(prompt: object) -> list[str | list[Token]]:
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(item, str) for item in prompt):
            return list(prompt)
        if _is_token_ids(prompt):
            return [prompt]
        if all(isinstance(item, list) and item and _is_token_ids(item) for item in prompt):
            return list(prompt)
    raise ApiError(
        400,
        "prompt must be a string, a list of strings, a list of token ids or a list of such lists",
        param="prompt",
    )


def _is_token_ids(items: list[Any]) -> bool:
    return all(type(item) is int and item >= 0 for item in items)


def _template(request: _ChatBody) -> list[Token]:
    """The prompt of a conversation; each part is split on its own, so that a longer conversation
    begins with the tokens of a shorter one."""
    tokens: list[Token] = []
    if request.tools:
        tokens += tokenize(msgspec.json.encode(request.tools).decode())
    for message in request.messages:
        tokens += (b"<|start|>", message.role.encode(), b"\n")
        if isinstance(message.content, str):
            tokens += tokenize(message.content)
        elif message.content:
            for part in message.content:
                if part.type != "text":
                    raise ApiError(400, f"the model takes no {part.type!r} parts", param="messages")
                tokens += tokenize(part.text or "")
        if message.tool_calls:
            tokens += tokenize(msgspec.json.encode(message.tool_calls).decode())
        tokens += (b"<|end|>", b"\n")
    tokens += (b"<|start|>", b"assistant", b"\n")
    return tokens


def _job(
    request: _Body,
    config: PodConfig,
    prompts: Sequence[list[Token]],
    limit: int | None,
    echoes: Sequence[str],
    *,
    chat: bool,
) -> Job:
    samples = 1 if request.n is None else request.n
    if samples < 1 or samples * len(prompts) > MAX_CHOICES:
        message = f"n times the number of prompts must be between 1 and {MAX_CHOICES}"
        raise ApiError(400, message, param="n")
    choices: list[Choice] = []
    for prompt, echo in zip(prompts, echoes, strict=True):
        room = _room(config, prompt, limit)
        for sample in range(samples):
            seed = digest(prompt, config.seed, request.seed, sample)
            length, reason = _length(request, config, limit, room, seed)
            output = generate(length, seed, opening=chat)
            choices.append(Choice(len(choices), prompt, output, reason, sample == 0, echo))
    options = request.stream_options
    return Job(
        model=request.model or config.model,
        chat=chat,
        stream=bool(request.stream),
        include_usage=bool(options and options.include_usage),
        cache_salt=request.cache_salt,
        choices=tuple(choices),
    )


def _room(config: PodConfig, prompt: Sequence[Token], limit: int | None) -> int:
    """Output tokens that the context length leaves."""
    if not prompt:
        raise ApiError(400, "the prompt must hold at least one token", param="prompt")
    if limit is not None and limit < 1:
        raise ApiError(400, f"max_tokens must be at least 1, got {limit}.", param="max_tokens")
    room = config.max_model_len - len(prompt)
    asked = 1 if limit is None else limit
    if asked > room:
        raise ApiError(
            400,
            f"This model's maximum context length is {config.max_model_len} tokens. However, you"
            f" requested {len(prompt) + asked} tokens ({len(prompt)} in the input, {asked} in the"
            " completion). Please reduce the length of the input or completion.",
        )
    return room


def _length(
    request: _Body, config: PodConfig, limit: int | None, room: int, seed: int
) -> tuple[int, str]:
    """How many tokens come out, and why no more."""
    most = room if limit is None else limit
    if request.ignore_eos or (limit is not None and not config.stop_early):
        return most, "length"
    sigma = 0.8
    mu = math.log(config.output_tokens_mean) - sigma * sigma / 2
    drawn = math.ceil(random.Random(seed).lognormvariate(mu, sigma))
    drawn = max(1, request.min_tokens or 0, drawn)
    return (drawn, "stop") if drawn < most else (most, "length")


def usage(job: Job, cached_tokens: int, generated: int) -> dict[str, Any]:
    """The usage object; ``generated`` over all choices."""
    prompt_tokens = sum(len(c.prompt) for c in job.choices if c.counts_prompt)
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + generated,
        "completion_tokens": generated,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def answer(job: Job, answer_id: str, created: int, cached_tokens: int) -> bytes:
    """The whole body of a plain answer."""
    choices: list[dict[str, Any]] = []
    for choice in job.choices:
        content: dict[str, Any] = {"text": choice.text()}
        if job.chat:
            message = {"role": "assistant", "content": choice.text(), "tool_calls": []}
            content = {"message": message}
        choices.append(
            {
                "index": choice.index,
                **content,
                "logprobs": None,
                "finish_reason": choice.finish_reason,
                "stop_reason": None,
            }
        )
    return msgspec.json.encode(
        {
            "id": answer_id,
            "object": "chat.completion" if job.chat else "text_completion",
            "created": created,
            "model": job.model,
            "choices": choices,
            "system_fingerprint": None,
            "usage": usage(job, cached_tokens, sum(len(c.output) for c in job.choices)),
        }
    )


class ChunkWriter:
    """The events of one stream: what never changes is encoded once."""

    def __init__(self, job: Job, answer_id: str, created: int) -> None:
        self._job = job
        head = {
            "id": answer_id,
            "object": "chat.completion.chunk" if job.chat else "text_completion",
            "created": created,
            "model": job.model,
        }
        self._head = b"data: " + msgspec.json.encode(head)[:-1] + b',"choices":['

    def role(self, choice: Choice) -> bytes:
        """The first chunk of a chat."""
        return self._head + (
            b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,'
            b'"finish_reason":null}]}\n\n' % choice.index
        )

    def text(self, choice: Choice, start: int, end: int) -> bytes:
        """Tokens from ``start`` to ``end``; the last carry the finish reason."""
        text = msgspec.json.encode(choice.text(start, end))
        reason = b"null"
        if end == len(choice.output):
            reason = b'"%b","stop_reason":null' % choice.finish_reason.encode()
        shape = b'"text":%b' if not self._job.chat else b'"delta":{"content":%b}'
        return self._head + (
            b'{"index":%d,%b,"logprobs":null,"finish_reason":%b}]}\n\n'
            % (choice.index, shape % text, reason)
        )

    def usage(self, cached_tokens: int) -> bytes:
        """The last chunk, where the client asked for it."""
        total = usage(self._job, cached_tokens, sum(len(c.output) for c in self._job.choices))
        return self._head + b'],"usage":%b}\n\n' % msgspec.json.encode(total)


DONE = b"data: [DONE]\n\n"


def models(config: PodConfig, adapters: Sequence[tuple[str, str]], created: int) -> bytes:
    """The list of served models: the base model, then adapters by name and path."""

    def card(name: str, root: str, parent: str | None) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "vllm",
            "root": root,
            "parent": parent,
            "max_model_len": config.max_model_len if parent is None else None,
            "permission": [],
        }

    cards = [card(config.model, config.model, None)]
    cards += [card(name, path, config.model) for name, path in adapters]
    return msgspec.json.encode({"object": "list", "data": cards})
