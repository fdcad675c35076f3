"""A stream whose client reads slowly."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import HttpVersion11

from sim.answers import Answer, EventStream, StreamedChoice
from sim.config import PodConfig
from sim.events import Finished, FirstToken
from sim.openai import ChunkWriter, read_completion


class Transport:
    """Holds what was written until somebody reads it."""

    def __init__(self) -> None:
        self.held = 0
        self.written = b""

    def get_write_buffer_size(self) -> int:
        return self.held

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.written += data


class Connection:
    version = HttpVersion11

    def __init__(self, transport: Transport) -> None:
        self.transport = transport


async def test_tokens_wait_while_the_client_does_not_read_and_then_come_in_one_chunk():
    job = read_completion(b'{"prompt": "a", "max_tokens": 10, "stream": true}', PodConfig())
    answer = Answer(job, "cmpl-1")
    transport = Transport()
    connection: Any = Connection(transport)
    writer = ChunkWriter(job, answer.id, answer.created)
    choice = StreamedChoice(answer, job.choices[0], EventStream(connection, None), writer, 1)

    def texts() -> list[str]:
        lines = transport.written.split(b"\n")
        events = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
        return [event["choices"][0]["text"] for event in events]

    choice.on_first_token(FirstToken("1", 0.1, 0))
    choice.on_tokens(2)
    assert len(texts()) == 2
    transport.held = 1 << 20
    choice.on_tokens(3)
    choice.on_tokens(4)
    assert len(texts()) == 2
    transport.held = 0
    choice.on_tokens(5)
    assert [len(text.split()) for text in texts()] == [1, 1, 3]
    choice.on_finished(Finished("1", 1.0, 0.0, 0.0, 0.1, 0))
    assert "".join(texts()) == job.choices[0].text()


async def test_with_an_interval_the_first_token_comes_alone_and_the_others_in_bundles():
    job = read_completion(b'{"prompt": "a", "max_tokens": 10, "stream": true}', PodConfig())
    answer = Answer(job, "cmpl-1")
    transport = Transport()
    connection: Any = Connection(transport)
    writer = ChunkWriter(job, answer.id, answer.created)
    choice = StreamedChoice(answer, job.choices[0], EventStream(connection, None), writer, 4)
    choice.on_first_token(FirstToken("1", 0.1, 0))
    for generated in range(1, 10):
        choice.on_tokens(generated)
    choice.on_finished(Finished("1", 1.0, 0.0, 0.0, 0.1, 0))
    lines = [line for line in transport.written.split(b"\n") if line.startswith(b"data: {")]
    texts = [json.loads(line[6:])["choices"][0]["text"] for line in lines]
    assert [len(text.split()) for text in texts] == [1, 4, 4, 1]
