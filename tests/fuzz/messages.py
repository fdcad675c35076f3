"""Bytes against everything that reads what others wrote: ext-proc messages, request bodies, access
log entries, and pages of metrics.

``python -m tests.fuzz.messages --seconds 3600`` (``make fuzz TARGET=messages``) runs for as long as
it is told: with coverage as its guide if atheris is installed, otherwise with mutations at random.
The first byte of an input chooses who reads it. What is found is written to a file, and the exit
status is 1.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from extproc.apis import fields, model_name
from extproc.apis.restore import ModelRestorer
from extproc.exchange import Exchange, ExchangeSettings, Withdraw
from extproc.picking.scheduling.prefix import chain_of, prompt_of
from extproc.request import Api, Completed, InferenceRequest, Refused, Routed
from extproc.service.access_log import completions
from extproc.signals.engines import engine_of
from extproc.wire import access_log_pb2 as log_pb
from extproc.wire import ext_proc_pb2 as pb
from pools.model import ObjectName
from tests.extproc import envoy_messages as envoy

POOL = ObjectName("default", "llm")
SLOW = 2.0
"""Seconds of CPU for one input of at most 20,000 bytes; far more than any should need."""
LIMIT = 20_000
_BODY_LIMIT = 10_000


def exchange(data: bytes) -> None:
    """A conversation of one exchange: messages behind two bytes of length each. Odd lengths have
    the answer of the picker come before the next message."""
    one = Exchange(POOL, ExchangeSettings(body_limit=_BODY_LIMIT, restore_model=True), 0.0)
    asked = answers = 0
    now = 0.0
    at = 0

    def take(actions: list[Any]) -> None:
        nonlocal asked
        for action in actions:
            if isinstance(action, bytes):
                response = pb.ProcessingResponse.FromString(action)
                assert response.WhichOneof("response") is not None
            elif isinstance(action, InferenceRequest):
                asked += 1
                assert action is actions[-1], "what follows a question may come too late"
                assert len(action.body) <= _BODY_LIMIT
            else:
                assert isinstance(action, Refused | Withdraw | Completed)

    while at + 2 <= len(data):
        size = int.from_bytes(data[at : at + 2], "big") & 0x3FFF
        early = data[at] & 0x80
        message = data[at + 2 : at + 2 + size]
        at += 2 + size
        now += 0.01
        try:
            take(one.receive(message, now))
        except DecodeError:
            return
        if early and answers < asked:
            answers += 1
            routed = Routed(("10.0.0.1:80",), POOL, f"p{answers}", "x" if size % 2 else None)
            take(one.answer(routed))
    assert asked <= 1, "a request is picked for once"
    take(one.expire())
    take(one.close(now))


def body(data: bytes) -> None:
    """A request body: what is read from it, its prompt, and the model's name replaced."""
    apis = [api for api in Api if api is not Api.OTHER]
    api = apis[data[0] % len(apis)] if data else Api.COMPLETIONS
    text = data[1:]
    found = fields.read(api, text)
    fields.read_prefix(api, text)
    if isinstance(found, Refused):
        return
    request = InferenceRequest("r", POOL, "/", "POST", {}, api=api, document=found.document)
    chain_of(prompt_of(request, found.model).data, 0)
    if not found.model:
        return
    try:
        rewritten = model_name.replaced(text, "another")
    except model_name.IntricateError:
        return
    before, after = json.loads(text), json.loads(rewritten)
    assert after.pop("model") == "another"
    before.pop("model")
    # NaN is no JSON, but json.loads reads it, and it equals nothing.
    assert repr(before) == repr(after), "the rewrite changed more than the name"


def response(data: bytes) -> None:
    """A response in pieces, in which the model's name is put back."""
    size = data[0] if data and data[0] else 1 << 20
    restorer = ModelRestorer("told", "asked")
    text = data[1:]
    pieces = [text[at : at + size] for at in range(0, len(text), size)] or [b""]
    whole = ModelRestorer("told", "asked").feed(text, end=True)
    parts = [restorer.feed(p, end=i == len(pieces) - 1) for i, p in enumerate(pieces)]
    assert b"".join(parts) == whole, "it matters how the response was cut"


def access_log(data: bytes) -> None:
    try:
        ends = completions(data)
    except DecodeError:
        return
    for end in ends:
        assert end.pick_id


def metrics(data: bytes) -> None:
    engine = engine_of(data)
    if engine is not None:
        engine.read(data)


READERS: tuple[Callable[[bytes], None], ...] = (exchange, body, response, access_log, metrics)


def _conversation(*messages: bytes) -> bytes:
    return b"".join((0x8000 | len(m)).to_bytes(2, "big") + m for m in messages)


def _entry() -> bytes:
    message = log_pb.StreamAccessLogsMessage()
    entry = message.http_logs.log_entry.add()
    entry.common_properties.metadata.filter_metadata["poolpilot"].update({"pick": "p-1"})
    usage = entry.common_properties.metadata.filter_metadata["poolpilot.usage"]
    usage.update({"prompt_tokens": 12, "completion_tokens": 3})
    entry.common_properties.access_log_type = log_pb.DownstreamEnd
    return message.SerializeToString()


_COMPLETION = b'{"model": "m\\u0061", "stream":true,"prompt": ["a", "\\ud83d\\ude00"], "n": 1e3}'
_CHAT = b'{"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}],"model":"a"}'
_COMPLETION_IDS = b'{"prompt":[[1,2],["a"]],"tools":[{"a":1}],"cache_salt":"s","model":"a"}'
SEEDS = (
    b"\0"
    + _conversation(
        envoy.headers(), envoy.body(_COMPLETION[:9]), envoy.body(_COMPLETION[9:], end=True)
    ),
    b"\0"
    + _conversation(
        envoy.headers(mode=envoy.BodyMode.BUFFERED, response_mode=envoy.FDS),
        envoy.body(_COMPLETION, end=True),
        envoy.response_headers(served="10.0.0.1:80"),
        envoy.response_body(b'data: {"model":"x"}\n\n'),
        envoy.response_body(b"", end=True),
    ),
    b"\0"
    + _conversation(
        envoy.headers(mode=envoy.BodyMode.STREAMED), envoy.body(_CHAT), envoy.trailers()
    ),
    b"\0" + _conversation(envoy.headers(end=True, method="GET")),
    b"\0"
    + _conversation(envoy.headers(upgrade="websocket", connection="Upgrade"), envoy.body(b"x")),
    b"\1\0" + _COMPLETION,
    b"\1\1" + _CHAT,
    b"\1\0" + _COMPLETION_IDS,
    b"\2\7" + b'data: {"model":"told","x":1}\n\ndata: {"model": "told"}\n\n',
    b"\3" + _entry(),
    b"\4" + b'vllm:num_requests_waiting{model_name="m"} 3\n'
    b'vllm:lora_requests_info{max_lora="4",running_lora_adapters="a,b"} 1.7e9\n'
    b'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1\nsglang:token_usage 0.5\n',
)


def one_input(data: bytes) -> None:
    """Give ``data`` to its reader. Whatever it raises, and taking too long, is a finding."""
    if not data:
        return
    began = time.process_time()
    READERS[data[0] % len(READERS)](data[1 : LIMIT + 1])
    used = time.process_time() - began
    assert used < SLOW, f"{used:.1f} s for {len(data)} bytes"


def mutate(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(1, len(changed) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at:at] = rng.choice((b"{", b"[", b'"', b"\\", b"\\u", b"\xff", b"\0", b"null"))
        elif kind == 2:
            del changed[at : at + rng.randint(1, 12)]
        elif kind == 3:
            changed[at:at] = changed[max(1, at - rng.randint(1, 60)) : at]
        else:
            other = rng.choice(SEEDS)
            start = rng.randrange(1, len(other))
            changed[at:at] = other[start : start + rng.randint(1, 80)]
    return bytes(changed[:LIMIT])


def run_random(seconds: float, seed: int) -> int:
    """Returns how many inputs were tried. Raises what the first finding raised."""
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        data = rng.choice(SEEDS)
        for _ in range(rng.randint(1, 4)):
            data = mutate(data, rng)
        try:
            one_input(data)
        except Exception:
            found = Path(f"message-crash-{seed}-{count}.bin")
            found.write_bytes(data)
            print(f"{found}: run it again with --replay {found}", file=sys.stderr)
            raise
        count += 1
    return count


def run_atheris(atheris: Any, seconds: float) -> None:
    atheris.instrument_all()
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS):
            Path(corpus, str(number)).write_bytes(seed)
        options = [
            f"-max_total_time={int(seconds)}",
            f"-max_len={LIMIT}",
            "-timeout=10",
            "-artifact_prefix=message-",
            corpus,
        ]
        atheris.Setup([sys.argv[0], *options], one_input)
        atheris.Fuzz()  # ends the process


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.fuzz.messages", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--replay", type=Path, help="one input that was found before")
    arguments = parser.parse_args()
    if arguments.replay is not None:
        one_input(arguments.replay.read_bytes())
        return
    try:
        import atheris
    except ImportError:
        print(f"atheris is not installed; mutating at random, seed {arguments.seed}")
        count = run_random(arguments.seconds, arguments.seed)
        print(f"{count} inputs in {arguments.seconds:g} s, nothing found")
        return
    run_atheris(atheris, arguments.seconds)


if __name__ == "__main__":
    main()
