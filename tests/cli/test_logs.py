"""Logs are JSON for machines and plain for people, whoever wrote them."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator

import pytest
import structlog
from prometheus_client import CollectorRegistry

from poolpilot.log_queue import LogQueue
from poolpilot.logs import LogFormat, LogLevel, configure, count_dropped_lines, flush


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def written(out: io.StringIO) -> str:
    flush()
    return out.getvalue()


def test_each_line_is_one_json_object_when_nobody_watches() -> None:
    out = io.StringIO()
    configure(stream=out)
    structlog.get_logger("xds.server").info("listening", address="127.0.0.1:18000")
    logging.getLogger("uvicorn.error").warning("slow %s", "client")

    ours, theirs = (json.loads(line) for line in written(out).splitlines())
    assert ours["message"] == "listening"
    assert ours["address"] == "127.0.0.1:18000"
    assert ours["level"] == "info"
    assert ours["logger"] == "xds.server"
    assert theirs["message"] == "slow client"
    assert theirs["level"] == "warning"
    assert ours.keys() & theirs.keys() >= {"time", "level", "logger", "message"}


def test_an_exception_stays_on_its_line_and_tells_no_local_variable() -> None:
    out = io.StringIO()
    configure(stream=out)
    api_key = "-".join(["sk", "1234"])
    try:
        assert api_key
        raise ValueError("bad manifest")
    except ValueError:
        structlog.get_logger("pools.files").exception("cannot read")
    (line,) = written(out).splitlines()
    assert json.loads(line)["exception"][0]["exc_value"] == "bad manifest"
    assert api_key not in line


def test_nor_does_one_on_a_console() -> None:
    out = Terminal()
    configure(stream=out)
    api_key = "-".join(["sk", "1234"])
    try:
        assert api_key
        raise ValueError("bad manifest")
    except ValueError:
        structlog.get_logger("pools.files").exception("cannot read")
    assert "ValueError: bad manifest" in written(out)
    assert api_key not in written(out)


def test_people_get_a_console() -> None:
    out = Terminal()
    configure(stream=out)
    structlog.get_logger("xds.server").info("listening")
    assert "listening" in written(out)
    with pytest.raises(json.JSONDecodeError):
        json.loads(written(out))


@pytest.mark.parametrize("form", [LogFormat.JSON, LogFormat.AUTO])
def test_the_level_holds_for_everyone(form: LogFormat) -> None:
    out = io.StringIO()
    configure(LogLevel.WARNING, form, out)
    structlog.get_logger("xds").info("not this")
    logging.getLogger("grpc").info("nor this")
    structlog.get_logger("xds").warning("but this")
    assert [json.loads(line)["message"] for line in written(out).splitlines()] == ["but this"]


def test_a_warning_of_python_is_a_log_line_like_all_others() -> None:
    out = io.StringIO()
    configure(stream=out)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old form", DeprecationWarning, stacklevel=1)
    assert "DeprecationWarning: old form" in json.loads(written(out))["message"]


class Pipe:
    """A log that somebody reads, or not: a pipe that is full."""

    def __init__(self) -> None:
        self.reader, descriptor = os.pipe()
        os.set_blocking(descriptor, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(descriptor, b"x" * 4095 + b"\n")
        os.set_blocking(descriptor, True)
        self.stream = os.fdopen(descriptor, "w")

    def lines(self, until: str) -> list[str]:
        """Read on until a line has this in it."""
        text = ""
        while until not in text or not text.endswith("\n"):
            text += os.read(self.reader, 65_536).decode()
        return [line for line in text.splitlines() if not line.startswith("x")]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.reader)
    pipe.stream.close()


def test_a_log_that_nobody_reads_holds_nobody_up_and_says_later_what_is_missing(
    pipe: Pipe,
) -> None:
    configure(stream=pipe.stream)
    registry = CollectorRegistry()
    count_dropped_lines(registry, "dropped")
    log = logging.getLogger("extproc")
    filler = "y" * 1000
    began = time.monotonic()
    for number in range(10_000):
        log.warning("line %d %s", number, filler)
    assert time.monotonic() - began < 10  # writing would last for ever
    dropped = registry.get_sample_value("dropped_total")
    assert dropped is not None
    assert dropped > 5000

    lines = [json.loads(line)["message"] for line in pipe.lines(until="left out")]
    log.warning("and on it goes")
    [last] = pipe.lines(until="on it goes")

    assert lines[0].startswith("line 0 ")
    assert len(lines) == 10_000 - dropped + 1
    assert lines[-1] == f"the log was not read for a while, and {dropped:g} lines were left out"
    assert json.loads(last)["message"] == "and on it goes"


def test_one_long_line_leaves_room_for_others(pipe: Pipe) -> None:
    configure(stream=pipe.stream)
    log = logging.getLogger("extproc")
    log.warning("a" * 100_000_000)
    log.warning("short")
    first, second = pipe.lines(until="short")
    assert len(first) < 100_000
    assert json.loads(second)["message"] == "short"


def test_an_end_waits_for_who_reads_slowly_but_not_for_who_does_not_read(pipe: Pipe) -> None:
    queue = LogQueue(pipe.stream)
    queue.emit(logging.makeLogRecord({"msg": "the last word"}))
    began = time.monotonic()
    queue.flush(within=0.2)
    assert 0.2 <= time.monotonic() - began < 2

    reading = threading.Thread(target=pipe.lines, args=("the last word",))
    reading.start()
    queue.close()
    reading.join(timeout=10)
    assert not reading.is_alive()


def test_a_log_whose_reader_is_gone_ends_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        queue = LogQueue(stream)
        queue.emit(logging.makeLogRecord({"msg": "anybody there?"}))
        queue.emit(logging.makeLogRecord({"msg": "no"}))
        queue.close()
    assert not queue.dropped
