from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from extproc.exchange.errors import immediate_response
from extproc.reasons import Reason
from extproc.request import Api, Refused, refused
from extproc.wire import ext_proc_pb2 as pb


def test_the_page_lists_exactly_the_reasons() -> None:
    page = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d+) \| (.*?) \| (.*?) \|$", page, flags=re.MULTILINE)
    assert {code: (int(status), when, what) for code, status, when, what in rows} == {
        reason.value: (reason.status, reason.when, reason.remedy) for reason in Reason
    }


def told(refusal: Refused, api: Api = Api.OTHER, *, grpc: bool = False) -> pb.ImmediateResponse:
    message = pb.ProcessingResponse.FromString(immediate_response(refusal, api, grpc=grpc))
    return message.immediate_response


@pytest.mark.parametrize(
    ("seconds", "header"), [(None, None), (0.0, "1"), (0.2, "1"), (1.0, "1"), (1.5, "2")]
)
def test_retry_after_is_in_whole_seconds_and_never_at_once(
    seconds: float | None, header: str | None
) -> None:
    response = told(Refused(Reason.SHED, "Busy.", retry_after=seconds))
    headers = {o.header.key: o.header.raw_value.decode() for o in response.headers.set_headers}
    assert headers.get("retry-after") == header


def test_the_field_at_fault_is_named() -> None:
    error = json.loads(told(refused(Reason.MISSING_MODEL, model="no model")).body)["error"]
    assert error == {
        "message": 'The request body has no model. Set "model" to a model\'s name.',
        "type": "invalid_request_error",
        "param": "model",
        "code": "missing-model",
    }


@pytest.mark.parametrize(
    ("reason", "grpc"),
    [
        (Reason.INVALID_JSON, 3),
        (Reason.NO_POOL_FOR_MODEL, 5),
        (Reason.BODY_TOO_LARGE, 8),
        (Reason.SHED, 8),
        (Reason.STARTING, 14),
    ],
)
def test_a_grpc_client_gets_the_status_that_means_the_same(reason: Reason, grpc: int) -> None:
    assert told(Refused(reason, ""), grpc=True).grpc_status.status == grpc
    assert not told(Refused(reason, "")).HasField("grpc_status")


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_can_be_told_to_every_client(reason: Reason) -> None:
    for api in Api:
        response = told(Refused(reason, "Why."), api, grpc=True)
        assert response.status.code == reason.status
        assert json.loads(response.body)["error"]["code"] == reason
    assert response.grpc_status.status > 0


def test_a_refusal_says_when_to_try_again_as_its_reason_does_unless_more_is_known() -> None:
    assert refused(Reason.SHED, pool="llm", priority=-1).retry_after == 1.0
    assert refused(Reason.SHED, 7.5, pool="llm", priority=-1).retry_after == 7.5
    assert refused(Reason.BODY_TOO_LARGE, limit=10).retry_after is None


def test_what_a_client_wrote_is_shown_as_it_is() -> None:
    refusal = refused(Reason.NO_POOL_FOR_MODEL, asked="the model '{pool}'", known="{0}")
    assert "'{pool}'" in refusal.message
    assert "{0}" in refusal.message


def test_a_refusal_that_lacks_what_its_sentence_needs_is_a_fault() -> None:
    with pytest.raises(KeyError):
        refused(Reason.SHED, pool="llm")
