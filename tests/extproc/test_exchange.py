"""Exchanges as stories: what Envoy says, and what it hears."""

from __future__ import annotations

import json
import time

import msgspec
import pytest

from extproc.exchange import BodyMode, ExchangeSettings, Waiting, Withdraw
from extproc.reasons import Reason
from extproc.request import Api, Completed, Refused
from extproc.wire import ext_proc_pb2 as pb
from pools.model import ObjectName
from tests.extproc.envoy_messages import (
    FDS,
    ROUTED,
    Conversation,
    body,
    decoded,
    headers,
    kinds,
    picked,
    response_body,
    response_headers,
    response_trailers,
    set_headers,
    streamed,
    trailers,
)

COMPLETION = b'{"model": "tweet-summary", "prompt": "Say hi"}'
BUSY = Refused(Reason.SHED, "Too busy.", retry_after=1)
ENDPOINTS = "10.0.0.1:8000,10.0.0.2:8000"
REWRITTEN = msgspec.structs.replace(ROUTED, model="target")
OTHERS = [mode for mode in BodyMode if mode is not FDS]


# -- full duplex -------------------------------------------------------------------------------


def test_nothing_is_answered_in_full_duplex_before_the_whole_body_was_seen() -> None:
    envoy = Conversation()
    assert envoy.hears(headers(), body(COMPLETION)) == []
    assert envoy.exchange.waiting is Waiting.UPLOAD
    answers = decoded(envoy.hears(body(b"", end=True)))
    assert picked(answers[0], answers[0].request_headers.response) == (ENDPOINTS, "pick-1")
    assert streamed(answers[1:]).data == COMPLETION
    assert streamed(answers[1:]).ends == [True]
    assert envoy.exchange.waiting is Waiting.NOTHING
    (asked,) = envoy.asked
    assert (asked.model, asked.api, asked.body) == ("tweet-summary", Api.COMPLETIONS, COMPLETION)


def test_an_unchanged_body_keeps_its_length_and_its_route() -> None:
    (answer, _) = decoded(
        Conversation().hears(headers(content_length="46"), body(COMPLETION, end=True))
    )
    common = answer.request_headers.response
    assert set(set_headers(common)) == {"x-gateway-destination-endpoint"}
    assert not common.header_mutation.remove_headers
    assert not common.clear_route_cache


def test_a_large_body_goes_back_in_chunks_of_at_most_64_kib() -> None:
    prompt = json.dumps({"model": "m", "prompt": "x" * 300_000}).encode()
    answers = decoded(Conversation().hears(headers(), body(prompt, end=True)))[1:]
    sizes = [len(m.request_body.response.body_mutation.streamed_response.body) for m in answers]
    assert max(sizes) == 65_536
    assert streamed(answers).data == prompt
    assert streamed(answers).ends == [False] * (len(answers) - 1) + [True]


def test_a_body_that_comes_byte_by_byte_goes_back_in_few_pieces() -> None:
    envoy = Conversation()
    envoy.hears(headers(), body(b'{"model": "m", "prompt": "'))
    for _ in range(50_000):
        envoy.hears(body(b"xy"))
    answers = decoded(envoy.hears(body(b'"}', end=True)))[1:]
    assert len(answers) < 50
    assert streamed(answers).data == b'{"model": "m", "prompt": "' + b"xy" * 50_000 + b'"}'
    assert streamed(answers).ends == [False] * (len(answers) - 1) + [True]


def test_trailers_end_the_body_in_place_of_its_last_chunk() -> None:
    actions = Conversation().hears(headers(), body(COMPLETION), trailers())
    assert kinds(actions) == ["request_headers", "request_body", "request_trailers"]
    assert streamed(decoded(actions)).ends == [False]


def test_a_second_end_of_stream_is_ignored() -> None:
    envoy = Conversation()
    envoy.hears(headers(), body(COMPLETION, end=True))
    assert envoy.hears(body(b"", end=True), body(COMPLETION, end=True), trailers()) == []
    assert len(envoy.asked) == 1


def test_a_rewrite_gives_the_body_its_new_length() -> None:
    envoy = Conversation(REWRITTEN)
    answers = decoded(envoy.hears(headers(content_length="46"), body(COMPLETION, end=True)))
    sent = streamed(answers).data
    assert sent == COMPLETION.replace(b"tweet-summary", b"target")
    assert set_headers(answers[0].request_headers.response)["content-length"] == str(len(sent))


def test_a_chunked_request_is_given_no_length() -> None:
    answers = decoded(Conversation(REWRITTEN).hears(headers(), body(COMPLETION, end=True)))
    assert "content-length" not in set_headers(answers[0].request_headers.response)


def test_a_target_that_is_the_clients_own_model_changes_nothing() -> None:
    same = msgspec.structs.replace(ROUTED, model="tweet-summary")
    answers = decoded(
        Conversation(same).hears(headers(content_length="46"), body(COMPLETION, end=True))
    )
    assert "content-length" not in set_headers(answers[0].request_headers.response)
    assert streamed(answers).data == COMPLETION


def test_an_unknown_api_is_picked_for_at_its_headers_and_flows_past() -> None:
    envoy = Conversation()
    assert kinds(envoy.hears(headers(path="/v1/files"))) == ["request_headers"]
    echoed = streamed(decoded(envoy.hears(body(b"one"), body(b""), body(b"two", end=True))))
    assert (echoed.data, echoed.ends) == (b"onetwo", [False, True])


def test_what_arrives_of_a_passing_body_during_the_pick_follows_the_pick() -> None:
    envoy = Conversation(outcome=None)
    assert envoy.hears(headers(path="/v1/files"), body(b"one"), body(b"two")) == []
    actions = envoy.answer(ROUTED)
    assert kinds(actions) == ["request_headers", "request_body"]
    assert streamed(decoded(actions)).data == b"onetwo"
    assert streamed(decoded(envoy.hears(body(b"", end=True)))).ends == [True]


def test_an_empty_body_that_ends_during_the_pick_is_ended() -> None:
    envoy = Conversation(outcome=None)
    envoy.hears(headers(path="/v1/files"), body(b"", end=True))
    assert streamed(decoded(envoy.answer(ROUTED))).ends == [True]


@pytest.mark.parametrize(
    "upgrade",
    [
        headers(method="GET", path="/v1/realtime", upgrade="websocket"),
        headers(method="CONNECT"),
        headers(path="/vllm.Generate/Generate", content_type="application/grpc+proto"),
    ],
)
def test_who_talks_both_ways_at_once_is_answered_at_once(upgrade: bytes) -> None:
    envoy = Conversation()
    assert kinds(envoy.hears(upgrade)) == ["request_headers"]
    assert streamed(decoded(envoy.hears(body(b"hello")))).data == b"hello"


# -- the other modes ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", BodyMode)
def test_a_request_without_a_body_is_answered_at_once(mode: BodyMode) -> None:
    envoy = Conversation()
    (answer,) = decoded(envoy.hears(headers(method="GET", path="/v1/models", end=True, mode=mode)))
    assert picked(answer, answer.request_headers.response)[0] == ENDPOINTS
    assert envoy.asked[0].api is Api.OTHER


def test_buffered_headers_go_on_and_the_pick_answers_the_body() -> None:
    envoy = Conversation()
    (first,) = decoded(envoy.hears(headers(mode=BodyMode.BUFFERED)))
    assert first.request_headers == pb.HeadersResponse()
    (answer,) = decoded(envoy.hears(body(COMPLETION, end=True)))
    assert picked(answer, answer.request_body.response) == (ENDPOINTS, "pick-1")
    assert not answer.request_body.response.HasField("body_mutation")


def test_a_buffered_rewrite_comes_with_its_length() -> None:
    envoy = Conversation(REWRITTEN)
    envoy.hears(headers(mode=BodyMode.BUFFERED, content_length="46"))
    (answer,) = decoded(envoy.hears(body(COMPLETION, end=True)))
    sent = answer.request_body.response.body_mutation.body
    assert sent == COMPLETION.replace(b"tweet-summary", b"target")
    assert set_headers(answer.request_body.response)["content-length"] == str(len(sent))


@pytest.mark.parametrize("mode", [BodyMode.NONE, BodyMode.STREAMED])
def test_where_no_body_is_seen_in_time_the_pick_is_by_load(mode: BodyMode) -> None:
    envoy = Conversation()
    assert kinds(envoy.hears(headers(mode=mode))) == ["request_headers"]
    assert envoy.asked[0].model == ""


@pytest.mark.parametrize("mode", [BodyMode.NONE, BodyMode.STREAMED])
def test_a_filter_before_us_may_have_told_the_model(mode: BodyMode) -> None:
    envoy = Conversation()
    envoy.hears(headers(mode=mode, x_gateway_model_name="m"))
    assert envoy.asked[0].model == "m"


def test_each_streamed_chunk_gets_its_answer() -> None:
    envoy = Conversation()
    actions = envoy.hears(
        headers(mode=BodyMode.STREAMED), body(b"one"), body(b""), body(b"two", end=True)
    )
    assert kinds(actions) == ["request_headers"] + ["request_body"] * 3


def test_a_streamed_body_with_trailers_gets_an_answer_for_each() -> None:
    actions = Conversation().hears(headers(mode=BodyMode.STREAMED), body(b"one"), trailers())
    assert kinds(actions) == ["request_headers", "request_body", "request_trailers"]


def replacements(messages: list[pb.ProcessingResponse]) -> list[bytes]:
    return [message.request_body.response.body_mutation.body for message in messages]


def test_a_streamed_rewrite_holds_the_chunks_back_until_the_end() -> None:
    envoy = Conversation(REWRITTEN)
    told = headers(
        mode=BodyMode.STREAMED, x_gateway_model_name="tweet-summary", content_length="46"
    )
    (answer,) = decoded(envoy.hears(told))
    assert answer.request_headers.response.header_mutation.remove_headers == ["content-length"]
    answers = decoded(envoy.hears(body(COMPLETION[:20]), body(COMPLETION[20:], end=True)))
    assert replacements(answers) == [b"", COMPLETION.replace(b"tweet-summary", b"target")]


@pytest.mark.parametrize("mode", [FDS, BodyMode.BUFFERED, BodyMode.STREAMED])
def test_a_body_that_says_its_model_over_and_over_is_not_rewritten(mode: BodyMode) -> None:
    envoy = Conversation(REWRITTEN)
    over_and_over = b'{"model":"m"' + b',"model":"m"' * 1000 + b"}"
    actions = envoy.hears(headers(mode=mode, x_gateway_model_name="m"))
    actions = envoy.hears(body(over_and_over, end=True))
    assert kinds(actions) == ["Completed", "immediate_response", "Refused"]
    assert (envoy.refusals[0].status, envoy.refusals[0].reason) == (400, "invalid-json")


def test_a_streamed_rewrite_cannot_be_ended_by_trailers() -> None:
    envoy = Conversation(REWRITTEN)
    envoy.hears(headers(mode=BodyMode.STREAMED, x_gateway_model_name="m"), body(COMPLETION))
    assert kinds(envoy.hears(trailers())) == ["Completed", "immediate_response", "Refused"]
    assert envoy.refusals[0].reason == "body-not-visible"


def test_a_streamed_rewrite_is_not_waited_for_without_end() -> None:
    """A client that trickles would have us hold its body for ever."""
    envoy = Conversation(REWRITTEN)
    envoy.hears(headers(mode=BodyMode.STREAMED, x_gateway_model_name="m"), body(COMPLETION))
    assert envoy.exchange.waiting is Waiting.UPLOAD
    actions = envoy.exchange.expire()
    assert kinds(actions) == ["Completed", "immediate_response", "Refused"]
    (refusal,) = [action for action in actions if isinstance(action, Refused)]
    assert refusal.reason == "upload-timeout"
    assert envoy.exchange.waiting is Waiting.NOTHING
    assert envoy.exchange.close(200.0) == []


def test_a_streamed_body_that_comes_ahead_tells_its_model_as_soon_as_it_is_there() -> None:
    envoy = Conversation()
    assert envoy.hears(headers(mode=BodyMode.STREAMED, early=True), body(b'{"model": "twe')) == []
    actions = envoy.hears(body(b'et", "prompt": "'))
    assert kinds(actions) == ["request_headers", "request_body", "request_body"]
    assert envoy.asked[0].model == "tweet"


def test_a_model_that_comes_late_is_not_waited_for() -> None:
    envoy = Conversation()
    envoy.hears(headers(mode=BodyMode.STREAMED, early=True), body(b'{"prompt": "' + b"x" * 65_536))
    assert envoy.asked[0].model == ""


def test_a_streamed_body_that_comes_byte_by_byte_is_not_looked_through_each_time() -> None:
    envoy = Conversation()
    envoy.hears(headers(mode=BodyMode.STREAMED, early=True), body(b'{"a": 1'))
    piece = body(b', "a": 1')
    began = time.process_time()
    while not envoy.asked:
        envoy.hears(piece)
    assert time.process_time() - began < 1


def test_of_a_partial_body_the_beginning_must_do() -> None:
    envoy = Conversation(REWRITTEN)
    envoy.hears(headers(mode=BodyMode.BUFFERED_PARTIAL, content_length="4000000"))
    (answer,) = decoded(envoy.hears(body(b'{"model": "m", "prompt": "x')))
    assert replacements([answer]) == [b'{"model": "target", "prompt": "x']
    assert answer.request_body.response.header_mutation.remove_headers == ["content-length"]


@pytest.mark.parametrize(
    ("mode", "chunk"), [(BodyMode.NONE, b""), (BodyMode.BUFFERED_PARTIAL, b'{"prompt": "x')]
)
def test_a_rewrite_where_the_model_is_out_of_reach_is_an_error_and_settled(
    mode: BodyMode, chunk: bytes
) -> None:
    envoy = Conversation(REWRITTEN)
    envoy.hears(headers(mode=mode, x_gateway_model_name="m"), *([body(chunk)] if chunk else []))
    assert envoy.refusals[0].reason == "body-not-visible"
    assert envoy.completions == [Completed(pick_id="pick-1", code=500)]


@pytest.mark.parametrize("mode", [BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL])
def test_an_upgrade_asks_envoy_not_to_buffer(mode: BodyMode) -> None:
    (answer,) = decoded(Conversation().hears(headers(mode=mode, upgrade="websocket")))
    assert answer.mode_override.request_body_mode == pb.ProcessingMode.NONE
    assert answer.mode_override.response_header_mode == pb.ProcessingMode.SKIP


def test_an_envoy_that_does_not_tell_its_mode_is_taken_to_buffer() -> None:
    envoy = Conversation()
    assert kinds(envoy.hears(headers(mode=None))) == ["request_headers"]
    (answer,) = decoded(envoy.hears(body(COMPLETION, end=True)))
    assert picked(answer, answer.request_body.response)[0] == ENDPOINTS


def test_an_envoy_that_sends_no_headers_gets_its_body_back() -> None:
    assert kinds(Conversation().hears(body(b"x", end=True))) == ["request_body"]


def test_an_observer_is_not_answered() -> None:
    envoy = Conversation()
    assert envoy.hears(headers(observe=True), body(COMPLETION, end=True)) == []
    assert not envoy.asked


# -- what the picker is told -------------------------------------------------------------------


def test_headers_become_the_request() -> None:
    envoy = Conversation()
    envoy.hears(
        headers(
            x_gateway_inference_objective="critical",
            x_gateway_inference_fairness_id="team-a",
        ),
        body(b'{"model": "m", "prompt": "four", "stream": true, "max_tokens": 3}', end=True),
    )
    (asked,) = envoy.asked
    assert (asked.id, asked.objective, asked.fairness_id) == ("r1", "critical", "team-a")
    assert (asked.stream, asked.max_tokens, asked.prompt_bytes) == (True, 3, 4)


def test_repeated_headers_are_joined_and_text_values_of_old_envoys_are_read() -> None:
    message = pb.ProcessingRequest.FromString(headers(method="GET", end=True))
    for header in (
        pb.HeaderValue(key="x-a", raw_value=b"1"),
        pb.HeaderValue(key="x-a", raw_value=b"\xe9"),
        pb.HeaderValue(key="x-b", value="old"),
    ):
        message.request_headers.headers.headers.append(header)
    envoy = Conversation()
    envoy.hears(message.SerializeToString())
    assert (envoy.asked[0].headers["x-a"], envoy.asked[0].headers["x-b"]) == ("1,é", "old")


@pytest.mark.parametrize(
    ("hint", "subset"),
    [
        (["10.0.0.1:8000", "10.0.0.2"], ("10.0.0.1:8000", "10.0.0.2")),
        ("10.0.0.1:8000, 10.0.0.2", ("10.0.0.1:8000", "10.0.0.2")),
        ([], ()),
        ("", ()),
        (7, ()),
        (None, None),
    ],
)
def test_the_subset_hint_may_be_a_list_or_a_text(
    hint: object, subset: tuple[str, ...] | None
) -> None:
    envoy = Conversation()
    key = {"x-gateway-destination-endpoint-subset": hint}
    envoy.hears(headers(end=True, method="GET", metadata={"envoy.lb.subset_hint": key}))
    assert envoy.asked[0].subset == subset


def test_without_the_key_there_is_no_hint() -> None:
    envoy = Conversation()
    envoy.hears(headers(end=True, method="GET", metadata={"envoy.lb.subset_hint": {"other": "x"}}))
    assert envoy.asked[0].subset is None


def test_a_pool_found_by_the_model_sends_envoy_to_its_route() -> None:
    routed = msgspec.structs.replace(ROUTED, headers=(("x-pool", "llm"),))
    envoy = Conversation(routed, pool=None)
    answer = decoded(envoy.hears(headers(), body(COMPLETION, end=True)))[0]
    assert set_headers(answer.request_headers.response)["x-pool"] == "llm"
    assert answer.request_headers.response.clear_route_cache


def test_a_pool_that_the_route_chose_keeps_its_route() -> None:
    routed = msgspec.structs.replace(ROUTED, headers=(("x-other", "1"),))
    answer = decoded(Conversation(routed).hears(headers(), body(COMPLETION, end=True)))[0]
    assert not answer.request_headers.response.clear_route_cache


# -- refusals ----------------------------------------------------------------------------------


def refusal(message: pb.ProcessingResponse) -> tuple[int, dict[str, str], object]:
    immediate = message.immediate_response
    told = {o.header.key: o.header.raw_value.decode() for o in immediate.headers.set_headers}
    return immediate.status.code, told, json.loads(immediate.body)


def test_a_refusal_has_status_reason_and_retry_after() -> None:
    envoy = Conversation(BUSY)
    (message,) = decoded(envoy.hears(headers(), body(COMPLETION, end=True)))
    status, told, error = refusal(message)
    assert status == 429
    assert told == {
        "content-type": "application/json",
        "x-poolpilot-reason": "shed",
        "retry-after": "1",
    }
    assert error == {
        "error": {"message": "Too busy.", "type": "rate_limit_error", "param": None, "code": "shed"}
    }
    assert message.immediate_response.details == "poolpilot_shed"
    assert envoy.hears(body(b"", end=True), trailers()) == []


def test_in_full_duplex_a_client_is_told_when_it_has_sent_everything() -> None:
    envoy = Conversation(BUSY)
    assert envoy.hears(headers(path="/v1/files"), body(b"x" * 1000), body(b"y")) == []
    assert envoy.exchange.waiting is Waiting.UPLOAD
    assert kinds(envoy.hears(body(b"", end=True))) == ["immediate_response", "Refused"]


def test_trailers_end_a_refused_upload_as_well() -> None:
    envoy = Conversation(BUSY)
    assert envoy.hears(headers(path="/v1/files"), body(b"x")) == []
    assert kinds(envoy.hears(trailers())) == ["immediate_response", "Refused"]


def test_a_refused_upgrade_is_told_at_once() -> None:
    envoy = Conversation(BUSY)
    assert kinds(envoy.hears(headers(upgrade="websocket")))[0] == "immediate_response"


def test_a_grpc_client_is_refused_with_a_grpc_status() -> None:
    envoy = Conversation(BUSY)
    (message,) = decoded(envoy.hears(headers(content_type="application/grpc")))
    assert message.immediate_response.grpc_status.status == 8


@pytest.mark.parametrize("mode", OTHERS[2:])
def test_a_body_over_the_limit_is_refused(mode: BodyMode) -> None:
    envoy = Conversation(settings=ExchangeSettings(body_limit=10))
    envoy.hears(headers(mode=mode), body(b"x" * 11))
    assert envoy.refusals[0].status == 413


def test_a_length_over_the_limit_is_refused_before_the_body_comes() -> None:
    envoy = Conversation(settings=ExchangeSettings(body_limit=10))
    envoy.hears(headers(mode=BodyMode.BUFFERED, content_length="11"))
    assert envoy.refusals[0].status == 413


def test_a_body_over_the_limit_is_read_to_its_end_and_not_kept() -> None:
    envoy = Conversation(settings=ExchangeSettings(body_limit=10))
    assert envoy.hears(headers(), body(b"x" * 11), body(b"x" * 4)) == []
    assert kinds(envoy.hears(body(b"", end=True))) == ["immediate_response", "Refused"]
    assert not envoy.asked


def test_reading_to_the_end_has_an_end_too() -> None:
    envoy = Conversation(settings=ExchangeSettings(body_limit=10))
    assert envoy.hears(headers(), body(b"x" * 20)) == []
    assert kinds(envoy.hears(body(b"x"))) == ["immediate_response", "Refused"]


def test_a_passing_body_over_the_limit_withdraws_the_question() -> None:
    envoy = Conversation(outcome=None, settings=ExchangeSettings(body_limit=10))
    actions = envoy.hears(headers(path="/v1/files"), body(b"x" * 11))
    assert actions == [Withdraw.WITHDRAW]
    assert envoy.answer(ROUTED) == []


def test_a_passing_body_has_no_limit_once_it_is_routed() -> None:
    envoy = Conversation(settings=ExchangeSettings(body_limit=10))
    echoed = envoy.hears(headers(path="/v1/files"), body(b"x" * 1000, end=True))
    assert streamed(decoded(echoed)).data == b"x" * 1000


@pytest.mark.parametrize("mode", [FDS, BodyMode.BUFFERED])
def test_a_post_without_a_body_to_a_known_api_is_the_clients_error(mode: BodyMode) -> None:
    envoy = Conversation()
    envoy.hears(headers(end=True, mode=mode))
    assert envoy.refusals[0].reason == "invalid-json"


def test_a_compressed_body_is_called_that() -> None:
    envoy = Conversation()
    envoy.hears(headers(content_encoding="gzip"), body(b"\x1f\x8b\x08", end=True))
    assert "compressed (gzip)" in envoy.refusals[0].message


def test_an_anthropic_client_finds_its_own_type_beside_the_error() -> None:
    envoy = Conversation(BUSY)
    (message,) = decoded(envoy.hears(headers(path="/v1/messages"), body(COMPLETION, end=True)))
    error = json.loads(message.immediate_response.body)
    assert (error["type"], error["error"]["type"]) == ("error", "rate_limit_error")


# -- time --------------------------------------------------------------------------------------


def test_a_pick_that_takes_too_long_is_withdrawn_and_refused() -> None:
    envoy = Conversation(outcome=None)
    envoy.hears(headers(), body(COMPLETION, end=True))
    assert envoy.exchange.waiting is Waiting.PICK
    actions = envoy.exchange.expire()
    assert actions[0] is Withdraw.WITHDRAW
    assert refusal(decoded(actions)[0])[1]["x-poolpilot-reason"] == "pick-timeout"
    assert envoy.answer(ROUTED) == []


def test_an_upload_that_takes_too_long_is_refused() -> None:
    envoy = Conversation()
    envoy.hears(headers(), body(b"{"))
    (message,) = decoded(envoy.exchange.expire())
    assert refusal(message)[0] == 408
    assert envoy.hears(body(b"}", end=True)) == []


def test_a_held_refusal_is_told_when_the_upload_takes_too_long() -> None:
    envoy = Conversation(BUSY)
    envoy.hears(headers(path="/v1/files"), body(b"x"))
    assert refusal(decoded(envoy.exchange.expire())[0])[0] == 429


def test_what_is_decided_does_not_expire() -> None:
    envoy = Conversation()
    envoy.hears(headers(), body(COMPLETION, end=True))
    assert envoy.exchange.expire() == []


def test_a_client_that_hangs_up_is_withdrawn_once() -> None:
    envoy = Conversation(outcome=None)
    envoy.hears(headers(), body(COMPLETION, end=True))
    assert envoy.exchange.close(101.0) == [Withdraw.WITHDRAW]
    assert envoy.exchange.close(101.0) == []
    assert envoy.answer(ROUTED) == []


# -- the response ------------------------------------------------------------------------------


def routed(response_mode: BodyMode, settings: ExchangeSettings | None = None) -> Conversation:
    envoy = Conversation(REWRITTEN, settings)
    envoy.hears(headers(response_mode=response_mode), body(COMPLETION, end=True))
    envoy.actions.clear()
    return envoy


@pytest.mark.parametrize(
    "mode", [BodyMode.STREAMED, BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED]
)
def test_a_response_passes_and_settles_at_its_end(mode: BodyMode) -> None:
    envoy = routed(mode)
    envoy.hears(response_headers(503, served="10.0.0.2:8000"), now=101.0)
    envoy.hears(response_body(b"one"), now=102.0)
    assert not envoy.completions
    envoy.hears(response_body(b"two", end=True), now=103.0)
    if mode is FDS:
        assert streamed(decoded(envoy.actions), "response_body").data == b"onetwo"
    else:
        assert kinds(envoy.actions)[:3] == ["response_headers", "response_body", "response_body"]
    assert envoy.completions == [
        Completed(
            pick_id="pick-1",
            code=503,
            duration=3.0,
            time_to_first_byte=1.0,
            served="10.0.0.2:8000",
            response_bytes=6,
        )
    ]
    assert envoy.exchange.close(104.0) == []


@pytest.mark.parametrize(
    "mode", [BodyMode.STREAMED, BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED]
)
def test_a_response_that_is_shown_tells_its_tokens(mode: BodyMode) -> None:
    envoy = routed(mode)
    envoy.hears(response_headers(content_encoding="identity"))
    envoy.hears(response_body(b'{"choices":[],"usa'))
    envoy.hears(response_body(b'ge":{"prompt_tokens":5,"completion_tokens":7}}', end=True))
    (end,) = envoy.completions
    assert (end.prompt_tokens, end.cached_tokens, end.completion_tokens) == (5, None, 7)


def test_a_compressed_response_tells_no_tokens() -> None:
    envoy = routed(BodyMode.STREAMED)
    envoy.hears(response_headers(content_encoding="gzip"))
    envoy.hears(response_body(b'{"usage":{"prompt_tokens":5,"completion_tokens":7}}', end=True))
    (end,) = envoy.completions
    assert end.completion_tokens is None


def test_without_a_response_body_phase_its_headers_settle() -> None:
    envoy = routed(BodyMode.NONE)
    assert kinds(envoy.hears(response_headers(200))) == ["response_headers", "Completed"]


@pytest.mark.parametrize("mode", [BodyMode.STREAMED, BodyMode.BUFFERED, FDS])
def test_a_client_that_hangs_up_before_the_response_settles_where_responses_are_shown(
    mode: BodyMode,
) -> None:
    """Long prompts are given up while they are prefilled."""
    envoy = Conversation()
    envoy.hears(headers(response_mode=mode), body(COMPLETION, end=True))
    assert envoy.exchange.close(103.0) == [Completed("pick-1", duration=3.0)]
    assert envoy.exchange.close(104.0) == []


def test_where_no_response_is_shown_the_end_of_the_exchange_says_nothing() -> None:
    envoy = Conversation()
    envoy.hears(headers(), body(COMPLETION, end=True))
    assert envoy.exchange.close(103.0) == []


def test_a_client_that_hangs_up_during_the_response_settles() -> None:
    envoy = routed(BodyMode.STREAMED)
    envoy.hears(response_headers(200), response_body(b"one"))
    (end,) = envoy.exchange.close(109.0)
    assert isinstance(end, Completed)
    assert (end.code, end.duration, end.response_bytes) == (200, 9.0, 3)


def test_a_response_may_end_with_trailers() -> None:
    envoy = routed(FDS)
    actions = envoy.hears(response_headers(200), response_body(b"x"), response_trailers())
    assert kinds(actions) == ["response_headers", "response_body", "response_trailers", "Completed"]
    assert streamed(decoded(actions), "response_body").ends == [False]


def test_the_response_of_a_request_that_we_did_not_route_passes() -> None:
    envoy = Conversation()
    actions = envoy.hears(response_headers(200), response_body(b"x", end=True))
    assert kinds(actions) == ["response_headers", "response_body"]


def test_the_clients_model_is_put_back_only_when_asked() -> None:
    answer = b'{"model":"target"}'
    for restore, seen in ((False, answer), (True, b'{"model":"tweet-summary"}')):
        envoy = routed(FDS, ExchangeSettings(restore_model=restore))
        actions = envoy.hears(
            response_headers(200), response_body(answer[:12]), response_body(answer[12:], end=True)
        )
        assert streamed(decoded(actions), "response_body").data == seen


def test_a_buffered_response_that_changed_comes_with_its_length() -> None:
    envoy = routed(BodyMode.BUFFERED, ExchangeSettings(restore_model=True))
    actions = envoy.hears(response_headers(200), response_body(b'{"model":"target"}', end=True))
    common = decoded(actions)[1].response_body.response
    assert common.body_mutation.body == b'{"model":"tweet-summary"}'
    assert set_headers(common) == {"content-length": "25"}


def test_another_pool_than_the_routes_own_clears_no_cache_without_a_header_to_route_by() -> None:
    other = msgspec.structs.replace(ROUTED, pool=ObjectName("default", "other"))
    answer = decoded(Conversation(other).hears(headers(), body(COMPLETION, end=True)))[0]
    assert not answer.request_headers.response.clear_route_cache
