from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import extproc
from extproc.exchange.errors import REASONS, immediate_response
from extproc.request import Api, Refused
from extproc.wire import ext_proc_pb2 as pb

PACKAGE = Path(extproc.__file__).parent


def refusals_in_code() -> Iterator[tuple[str, int, str]]:
    """Where a ``Refused`` is written down: its place, status and reason."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refused":
                status, reason = node.args[0], node.args[1]
                assert isinstance(status, ast.Constant), f"{path.name}:{node.lineno}"
                assert isinstance(reason, ast.Constant), f"{path.name}:{node.lineno}"
                yield f"{path.name}:{node.lineno}", int(str(status.value)), str(reason.value)


def test_every_refusal_in_the_code_is_a_listed_reason_with_its_status() -> None:
    found = list(refusals_in_code())
    assert found
    for place, status, reason in found:
        assert reason in REASONS, place
        assert REASONS[reason].status == status, place


def test_every_listed_reason_is_given_somewhere() -> None:
    assert {reason for _, _, reason in refusals_in_code()} == set(REASONS)


def test_the_page_lists_exactly_the_reasons() -> None:
    page = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d+) \| (.*?) \| (.*?) \|$", page, flags=re.MULTILINE)
    assert {code: (int(status), when, what) for code, status, when, what in rows} == {
        code: (reason.status, reason.when, reason.remedy) for code, reason in REASONS.items()
    }


def told(refused: Refused, api: Api = Api.OTHER, *, grpc: bool = False) -> pb.ImmediateResponse:
    message = pb.ProcessingResponse.FromString(immediate_response(refused, api, grpc=grpc))
    return message.immediate_response


@pytest.mark.parametrize(
    ("seconds", "header"), [(None, None), (0.0, "1"), (0.2, "1"), (1.0, "1"), (1.5, "2")]
)
def test_retry_after_is_in_whole_seconds_and_never_at_once(
    seconds: float | None, header: str | None
) -> None:
    response = told(Refused(429, "shed", "Busy.", retry_after=seconds))
    headers = {o.header.key: o.header.raw_value.decode() for o in response.headers.set_headers}
    assert headers.get("retry-after") == header


def test_the_field_at_fault_is_named() -> None:
    error = json.loads(told(Refused(400, "missing-model", "No model.")).body)["error"]
    assert error == {
        "message": "No model.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "missing-model",
    }


@pytest.mark.parametrize(("status", "grpc"), [(400, 3), (404, 5), (413, 8), (429, 8), (503, 14)])
def test_a_grpc_client_gets_the_status_that_means_the_same(status: int, grpc: int) -> None:
    assert told(Refused(status, "shed", ""), grpc=True).grpc_status.status == grpc
    assert not told(Refused(status, "shed", "")).HasField("grpc_status")
