"""What one exchange costs without any transport: ``python -m bench.extproc_exchange``.

The messages are those that Envoy 1.40 sends for a completion of an OpenAI client, and the picker
answers at once, so what is measured is the protocol: parsing, reading the body, encoding. Prints
the median CPU time for one request, and with ``--profile`` where it goes.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import time
from collections.abc import Callable

from extproc.exchange import BodyMode, Exchange, ExchangeSettings
from extproc.request import InferenceRequest, Routed
from extproc.wire import ext_proc_pb2 as pb
from pools.model import ObjectName

POOL = ObjectName("default", "llm")
SETTINGS = ExchangeSettings()
HEADERS = {
    ":authority": "gateway.example:8081",
    ":path": "/v1/completions",
    ":method": "POST",
    ":scheme": "http",
    "user-agent": "OpenAI/Python 3.54.0",
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "content-type": "application/json",
    "authorization": "Bearer sk-0123456789abcdef0123456789abcdef",
    "x-forwarded-for": "10.0.0.1",
    "x-forwarded-proto": "http",
    "x-envoy-internal": "true",
    "x-request-id": "3f9d0a2c-1111-4222-8333-abcdefabcdef",
    "x-stainless-lang": "python",
    "x-stainless-os": "Linux",
}
CHUNK = 65_536


def messages(size: int, mode: BodyMode) -> list[bytes]:
    """What Envoy sends for a body of ``size`` bytes."""
    filler = "word " * ((size - 90) // 5)
    document = {"model": "tweet-summary", "prompt": filler, "max_tokens": 100, "stream": False}
    body = json.dumps(document).encode()
    first = pb.ProcessingRequest()
    for name, value in {**HEADERS, "content-length": str(len(body))}.items():
        first.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    first.protocol_config.request_body_mode = mode.value
    chunks = [body[at : at + CHUNK] for at in range(0, len(body), CHUNK)]
    if mode is BodyMode.BUFFERED:
        chunks = [body]
    else:
        chunks.append(b"")  # Envoy ends a body with an empty chunk
    rest = [
        pb.ProcessingRequest(
            request_body=pb.HttpBody(body=chunk, end_of_stream=index == len(chunks) - 1)
        )
        for index, chunk in enumerate(chunks)
    ]
    return [message.SerializeToString() for message in (first, *rest)]


def converse(sent: list[bytes], routed: Routed) -> int:
    """One request; the number of answers."""
    exchange = Exchange(POOL, SETTINGS, 0.0)
    answers = 0
    for message in sent:
        for action in exchange.receive(message, 0.0):
            answers += len(exchange.answer(routed)) if type(action) is InferenceRequest else 1
    exchange.close(0.0)
    return answers


def microseconds(run: Callable[[], object], seconds: float) -> float:
    """Median over short runs."""
    samples: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.process_time_ns()
        for _ in range(200):
            run()
        samples.append((time.process_time_ns() - began) / 200 / 1000)
    return statistics.median(samples)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=2.0)
    options.add_argument("--profile", action="store_true")
    arguments = options.parse_args()
    plain = Routed(("10.0.0.1:8000", "10.0.0.2:8000"), pool=POOL, pick_id="0123456789abcdef")
    rewriting = Routed(plain.endpoints, pool=POOL, pick_id=plain.pick_id, model="target-model")
    for mode in (BodyMode.FULL_DUPLEX_STREAMED, BodyMode.BUFFERED, BodyMode.NONE):
        for size in (2_000, 100_000):
            for name, routed in (("as it is", plain), ("rewritten", rewriting)):
                if mode is BodyMode.NONE and (routed is rewriting or size > 2_000):
                    continue
                sent = messages(size, mode)[: 1 if mode is BodyMode.NONE else None]
                cost = microseconds(lambda s=sent, r=routed: converse(s, r), arguments.seconds)
                print(f"{mode.name:22} {size:7} bytes {name:10} {cost:7.1f} µs")
    if arguments.profile:
        sent = messages(2_000, BodyMode.FULL_DUPLEX_STREAMED)
        with cProfile.Profile() as profile:
            for _ in range(50_000):
                converse(sent, plain)
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
