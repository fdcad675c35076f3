"""Logs are JSON for machines and plain for people, whoever wrote them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from poolpilot.logs import LogFormat, LogLevel, configure


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
    structlog.reset_defaults()


def test_each_line_is_one_json_object_when_nobody_watches() -> None:
    out = io.StringIO()
    configure(stream=out)
    structlog.get_logger("xds.server").info("listening", address="127.0.0.1:18000")
    logging.getLogger("uvicorn.error").warning("slow %s", "client")

    ours, theirs = (json.loads(line) for line in out.getvalue().splitlines())
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
    (line,) = out.getvalue().splitlines()
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
    assert "ValueError: bad manifest" in out.getvalue()
    assert api_key not in out.getvalue()


def test_people_get_a_console() -> None:
    out = Terminal()
    configure(stream=out)
    structlog.get_logger("xds.server").info("listening")
    assert "listening" in out.getvalue()
    with pytest.raises(json.JSONDecodeError):
        json.loads(out.getvalue())


@pytest.mark.parametrize("form", [LogFormat.JSON, LogFormat.AUTO])
def test_the_level_holds_for_everyone(form: LogFormat) -> None:
    out = io.StringIO()
    configure(LogLevel.WARNING, form, out)
    structlog.get_logger("xds").info("not this")
    logging.getLogger("grpc").info("nor this")
    structlog.get_logger("xds").warning("but this")
    assert [json.loads(line)["message"] for line in out.getvalue().splitlines()] == ["but this"]
