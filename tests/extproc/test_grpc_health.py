from __future__ import annotations

import pytest

from extproc.service.grpc_health import LIVENESS, READINESS, Health
from extproc.transport.api import GrpcStatus
from extproc.wire import health_pb2 as pb
from tests.extproc.streams import RecordedStream

SERVING = pb.HealthCheckResponse.SERVING
NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING
UNKNOWN = pb.HealthCheckResponse.SERVICE_UNKNOWN


def call(health: Health, method: str, service: str = "") -> RecordedStream:
    stream = RecordedStream()
    handler = health.services()[f"/grpc.health.v1.Health/{method}"](stream)
    handler.on_message(pb.HealthCheckRequest(service=service).SerializeToString())
    handler.on_half_close()
    return stream


def statuses(stream: RecordedStream) -> list[int]:
    return [pb.HealthCheckResponse.FromString(message).status for message in stream.sent]


@pytest.mark.parametrize("service", READINESS)
def test_the_readiness_of_the_picker_is_known_by_several_names(service: str) -> None:
    health = Health()
    assert statuses(call(health, "Check", service)) == [NOT_SERVING]
    health.ready = True
    checked = call(health, "Check", service)
    assert statuses(checked) == [SERVING]
    assert checked.finished == (GrpcStatus.OK, "")


def test_the_names_are_those_of_the_protocol() -> None:
    wanted = {"readiness", "envoy.service.ext_proc.v3.ExternalProcessor"}
    assert wanted <= set(READINESS)
    assert LIVENESS == "liveness"


def test_a_process_that_answers_is_alive() -> None:
    assert statuses(call(Health(), "Check", "liveness")) == [SERVING]


def test_an_unknown_service_is_not_found() -> None:
    stream = call(Health(), "Check", "nothing")
    assert not stream.sent
    assert stream.finished is not None
    assert stream.finished[0] is GrpcStatus.NOT_FOUND


def test_a_check_without_a_request_is_an_error() -> None:
    stream = RecordedStream()
    Health().services()["/grpc.health.v1.Health/Check"](stream).on_half_close()
    assert stream.finished is not None
    assert stream.finished[0] is GrpcStatus.INVALID_ARGUMENT


def test_a_watcher_hears_of_every_change_and_of_nothing_else() -> None:
    health = Health()
    stream = call(health, "Watch", "readiness")
    alive = call(health, "Watch", "liveness")
    for ready in (True, True, False, True):
        health.ready = ready
    assert statuses(stream) == [NOT_SERVING, SERVING, NOT_SERVING, SERVING]
    assert statuses(alive) == [SERVING]
    assert stream.finished is None


def test_a_watcher_of_an_unknown_service_is_told_so_and_waits() -> None:
    stream = call(Health(), "Watch", "nothing")
    assert statuses(stream) == [UNKNOWN]
    assert stream.finished is None


def test_a_watcher_that_left_is_forgotten() -> None:
    health = Health()
    stream = RecordedStream()
    handler = health.services()["/grpc.health.v1.Health/Watch"](stream)
    handler.on_message(pb.HealthCheckRequest().SerializeToString())
    handler.on_closed()
    health.ready = True
    assert statuses(stream) == [NOT_SERVING]


def test_all_services_can_be_listed() -> None:
    (message,) = call(Health(), "List").sent
    listed = pb.HealthListResponse.FromString(message).statuses
    assert {name: value.status for name, value in listed.items()} == {
        **dict.fromkeys(READINESS, NOT_SERVING),
        "liveness": SERVING,
    }
