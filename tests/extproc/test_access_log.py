from __future__ import annotations

import pytest

from extproc.request import Completed
from extproc.service.access_log import FLAGS, METHOD, AccessLog, completions
from extproc.service.sent_picks import SentPicks
from extproc.transport.api import GrpcStatus
from extproc.wire import access_log_pb2 as pb
from tests.extproc.streams import RecordedStream


def entry(
    pick: str | None = "pick-1", log_type: pb.AccessLogType.ValueType = pb.DownstreamEnd
) -> pb.HttpAccessLogEntry:
    """A request that ended well."""
    message = pb.HttpAccessLogEntry()
    common = message.common_properties
    common.access_log_type = log_type
    common.upstream_remote_address.socket_address.address = "10.0.0.1"
    common.upstream_remote_address.socket_address.port_value = 8000
    common.time_to_first_upstream_rx_byte.FromMilliseconds(250)
    common.duration.FromMilliseconds(1500)
    common.upstream_request_attempt_count = 1
    message.request.request_body_bytes = 2048
    message.response.response_code.value = 200
    message.response.response_body_bytes = 512
    if pick is not None:
        common.metadata.filter_metadata["poolpilot"].update({"pick": pick})
    return message


def told(*entries: pb.HttpAccessLogEntry) -> list[Completed]:
    message = pb.StreamAccessLogsMessage()
    message.http_logs.log_entry.extend(entries)
    return completions(message.SerializeToString())


def test_an_entry_tells_how_the_request_ended() -> None:
    assert told(entry()) == [
        Completed(
            pick_id="pick-1",
            code=200,
            duration=1.5,
            time_to_first_byte=0.25,
            served="10.0.0.1:8000",
            tried="10.0.0.1:8000",
            attempts=1,
            request_bytes=2048,
            response_bytes=512,
        )
    ]


def test_several_entries_come_in_one_message() -> None:
    assert [end.pick_id for end in told(entry("a"), entry("b"))] == ["a", "b"]


@pytest.mark.parametrize("log_type", [pb.DownstreamStart, pb.DownstreamPeriodic, pb.UpstreamEnd])
def test_only_the_end_settles(log_type: pb.AccessLogType.ValueType) -> None:
    assert told(entry(log_type=log_type)) == []


def test_a_request_that_we_did_not_route_is_none_of_our_business() -> None:
    assert told(entry(pick=None), entry(pick="")) == []


def test_an_old_envoy_that_knows_no_types_is_believed() -> None:
    assert len(told(entry(log_type=pb.NotSet))) == 1


def test_an_endpoint_that_only_was_tried_did_not_answer() -> None:
    failed = entry()
    failed.common_properties.ClearField("time_to_first_upstream_rx_byte")
    failed.common_properties.response_flags.upstream_connection_failure = True
    failed.response.response_code.value = 503
    (end,) = told(failed)
    assert (end.served, end.tried, end.flags) == ("", "10.0.0.1:8000", {"UF"})
    assert end.time_to_first_byte is None


def test_the_metadata_of_the_load_balancer_is_believed_first() -> None:
    served = entry()
    key = "x-gateway-destination-endpoint-served"
    served.common_properties.metadata.filter_metadata["envoy.lb"].update({key: "10.0.0.9:8000"})
    assert told(served)[0].served == "10.0.0.9:8000"


def test_an_ipv6_endpoint_is_written_in_brackets() -> None:
    ipv6 = entry()
    ipv6.common_properties.upstream_remote_address.socket_address.address = "fd00::1"
    assert told(ipv6)[0].served == "[fd00::1]:8000"


def test_without_a_duration_the_last_byte_counts() -> None:
    old = entry()
    old.common_properties.ClearField("duration")
    old.common_properties.time_to_last_downstream_tx_byte.FromMilliseconds(1250)
    assert told(old)[0].duration == 1.25


def test_token_usage_comes_from_the_metadata_of_envoys_filters() -> None:
    used = entry()
    used.common_properties.metadata.filter_metadata["poolpilot.usage"].update(
        {"prompt_tokens": 12, "completion_tokens": "34", "cached_tokens": None}
    )
    (end,) = told(used)
    assert (end.prompt_tokens, end.completion_tokens, end.cached_tokens) == (12, 34, None)


@pytest.mark.parametrize(
    ("counts", "prompt", "cached"),
    [
        ({"prompt_tokens": 4, "cache_read_tokens": 8}, 12, 8),
        ({"prompt_tokens": 4, "cache_read_tokens": 0}, 4, 0),
        ({"prompt_tokens": 5, "cache_read_tokens": 0, "cache_creation_tokens": 640}, 645, 0),
        ({"prompt_tokens": 5, "cache_creation_tokens": 640}, 645, None),
        ({"prompt_tokens": 4, "cache_read_tokens": -1}, 4, None),
        ({"prompt_tokens": 12, "cached_tokens": 8, "cache_read_tokens": 8}, 12, 8),
        ({"cache_read_tokens": 8}, None, 8),
    ],
)
def test_what_is_counted_beside_the_prompt_is_added_to_it(
    counts: dict[str, int], prompt: int | None, cached: int | None
) -> None:
    used = entry()
    used.common_properties.metadata.filter_metadata["poolpilot.usage"].update(counts)
    (end,) = told(used)
    assert (end.prompt_tokens, end.cached_tokens) == (prompt, cached)


@pytest.mark.parametrize(
    "count", [float("nan"), float("inf"), -1, 1e300, "", "x", "9" * 5000, True, [1], None]
)
def test_what_is_no_count_of_tokens_is_left_out(count: object) -> None:
    used = entry()
    used.common_properties.metadata.filter_metadata["poolpilot.usage"].update(
        {"prompt_tokens": count, "completion_tokens": 0}
    )
    (end,) = told(used)
    assert (end.prompt_tokens, end.completion_tokens) == (None, 0)


@pytest.mark.parametrize(("field", "short"), FLAGS.items())
def test_each_flag_has_envoys_short_name(field: str, short: str) -> None:
    flagged = entry()
    flags = flagged.common_properties.response_flags
    if field == "unauthorized_details":
        flags.unauthorized_details.SetInParent()
    else:
        setattr(flags, field, True)
    assert told(flagged)[0].flags == {short}


def test_no_flag_is_without_a_short_name() -> None:
    assert set(FLAGS) == {field.name for field in pb.ResponseFlags.DESCRIPTOR.fields}
    assert len(set(FLAGS.values())) == len(FLAGS)


def test_the_service_settles_until_envoy_ends_the_stream() -> None:
    settled: list[Completed] = []

    class Ledger:
        pick = None

        def settle(self, completed: Completed) -> None:
            settled.append(completed)

    stream = RecordedStream()
    handler = AccessLog(Ledger()).services()[METHOD](stream)  # type: ignore[arg-type]
    message = pb.StreamAccessLogsMessage()
    message.http_logs.log_entry.append(entry())
    handler.on_message(message.SerializeToString())
    handler.on_message(message.SerializeToString())
    handler.on_half_close()
    handler.on_closed()
    assert [end.pick_id for end in settled] == ["pick-1", "pick-1"]
    assert stream.sent == []
    assert stream.finished == (GrpcStatus.OK, "")


def test_a_request_that_envoy_gave_up_before_it_had_its_pick_is_settled_by_its_id() -> None:
    settled: list[Completed] = []

    class Ledger:
        pick = None

        def settle(self, completed: Completed) -> None:
            settled.append(completed)

    picks = SentPicks()
    picks.sent("request-1", "pick-1", now=0)
    service = AccessLog(Ledger(), picks, clock=lambda: 1.0)  # type: ignore[arg-type]
    handler = service.services()[METHOD](RecordedStream())
    given_up = entry(pick=None)
    given_up.request.request_id = "request-1"
    given_up.response.ClearField("response_code")
    given_up.common_properties.response_flags.downstream_connection_termination = True
    late = entry(pick=None)
    late.request.request_id = "request-2"
    message = pb.StreamAccessLogsMessage()
    message.http_logs.log_entry.extend([given_up, late])
    handler.on_message(message.SerializeToString())
    assert [(end.pick_id, end.code, end.flags) for end in settled] == [("pick-1", 0, {"DC"})]
    assert not picks.sent("request-2", "pick-2", now=1.0), "whoever picks for it now is told"
