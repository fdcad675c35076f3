"""Whatever comes in: the same bytes mean the same however they are cut, nothing is raised, nothing
grows, and another implementation of HTTP/2 agrees."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from extproc.transport.api import GrpcStatus
from extproc.transport.h2 import (
    Connection,
    Event,
    HalfClosed,
    Message,
    StreamOpened,
    StreamReset,
)
from tests.extproc.h2_peer import PREFACE, REQUEST, message
from tests.extproc.h2_peer import settings as settings_frame
from tests.fuzz.h2_connection import LIMITS, Server, conversations

STREAMS = st.sampled_from([1, 3, 5, 7])


@given(conversations(), st.lists(st.integers(0, 1000), max_size=12))
def test_the_same_bytes_cut_anywhere_give_the_same_events_and_answers(
    wire: bytes, cuts: list[int]
) -> None:
    borders = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    whole, parts = Connection(LIMITS, 0.0), Connection(LIMITS, 0.0)
    events = [e for start, stop in pairwise(borders) for e in parts.receive(wire[start:stop], 1.0)]
    assert events == whole.receive(wire, 1.0)
    assert parts.outgoing() == whole.outgoing()
    assert parts.closed == whole.closed


@given(conversations())
def test_whatever_is_said_the_promises_to_whoever_serves_are_kept(wire: bytes) -> None:
    server = Server()
    server.feed(wire)
    server.check()


@given(conversations(), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 7)), max_size=8))
def test_flipped_bits_break_nothing_but_the_conversation(
    wire: bytes, flips: list[tuple[int, int]]
) -> None:
    broken = bytearray(wire)
    for position, bit in flips:
        if position < len(broken):
            broken[position] ^= 1 << bit
    server = Server()
    server.feed(bytes(broken))
    server.check()


@given(st.binary(max_size=400))
def test_noise_after_a_good_beginning_breaks_nothing(noise: bytes) -> None:
    server = Server()
    server.feed(PREFACE + settings_frame() + noise)
    server.check()


class AgainstHyperH2(RuleBasedStateMachine):
    """A client made of the `h2` library, which is strict, and our connection, on a wire that
    carries bytes when the test says so and cuts them where it likes. The service echoes messages
    and ends a call when the client has."""

    @initialize(window=st.sampled_from([0, 10, 65_535]), frame=st.sampled_from([16_384, 70_000]))
    def connect(self, window: int, frame: int) -> None:
        self.client = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.client.local_settings = h2.settings.Settings(
            client=True, initial_values={4: window, 5: frame}
        )
        self.client.max_inbound_frame_size = frame
        self.client.initiate_connection()
        self.window = window
        self.server = Connection(LIMITS, 0.0)
        self.to_server = b""
        self.to_client = b""
        self.sent: dict[int, bytes] = {}
        self.echoed: dict[int, bytes] = {}
        self.heard: dict[int, bytes] = {}
        self.status: dict[int, str] = {}
        self.open: set[int] = set()
        self.ended: set[int] = set()
        self.reset: set[int] = set()
        self.acknowledged = False
        """The first SETTINGS frame was."""

    @rule(again=st.booleans())
    def call(self, again: bool) -> None:
        stream = self.client.get_next_available_stream_id()
        fields = REQUEST if again else [*REQUEST, ("x-n", str(stream))]
        self.client.send_headers(stream, fields)
        self.open.add(stream)
        self.sent[stream] = self.heard[stream] = b""

    @precondition(lambda self: self.open)
    @rule(
        pick=st.randoms(use_true_random=False),
        body=st.binary(max_size=300),
        times=st.integers(1, 90),
    )
    def say(self, pick: Any, body: bytes, times: int) -> None:
        stream = pick.choice(sorted(self.open))
        wire = message(body * times)
        window = self.client.local_flow_control_window(stream)
        if len(wire) > window:
            return
        for at in range(0, len(wire), 16_384):
            self.client.send_data(stream, wire[at : at + 16_384])
        self.sent[stream] += wire

    @precondition(lambda self: self.open)
    @rule(pick=st.randoms(use_true_random=False), trailers=st.booleans())
    def end(self, pick: Any, trailers: bool) -> None:
        stream = pick.choice(sorted(self.open))
        if trailers:
            self.client.send_headers(stream, [("x-end", "1")], end_stream=True)
        else:
            self.client.end_stream(stream)
        self.open.discard(stream)
        self.ended.add(stream)

    @precondition(lambda self: self.open)
    @rule(pick=st.randoms(use_true_random=False))
    def cancel(self, pick: Any) -> None:
        stream = pick.choice(sorted(self.open))
        self.client.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        self.open.discard(stream)
        self.reset.add(stream)

    # The library takes an acknowledgement for that of the oldest change of each setting, also if it
    # belongs to the first SETTINGS frame, and then expects too much of us too early.
    @precondition(lambda self: self.acknowledged)
    @rule(value=st.sampled_from([0, 10, 1000, 65_535]))
    def change_window(self, value: int) -> None:
        self.client.update_settings({4: value})

    @rule()
    def ping(self) -> None:
        self.client.ping(b"12345678")

    @rule(most=st.integers(1, 100_000))
    def carry_to_server(self, most: int) -> None:
        self.to_server += self.client.data_to_send()
        part, self.to_server = self.to_server[:most], self.to_server[most:]
        for event in self.server.receive(part, 0.0):
            self._serve(event)
        self.to_client += self.server.outgoing()

    def _serve(self, event: Event) -> None:
        if isinstance(event, StreamOpened):
            assert event.request.path == "/test.Service/Method"
            self.echoed[event.stream_id] = b""
        elif isinstance(event, Message):
            self.echoed[event.stream_id] += message(event.data)
            self.server.send(event.stream_id, event.data)
        elif isinstance(event, HalfClosed):
            self.server.finish(event.stream_id, GrpcStatus.OK)
        elif isinstance(event, StreamReset):
            assert event.stream_id in self.reset, event
        else:
            raise AssertionError(event)

    @rule(most=st.integers(1, 100_000), acknowledge=st.booleans())
    def carry_to_client(self, most: int, acknowledge: bool) -> None:
        part, self.to_client = self.to_client[:most], self.to_client[most:]
        for event in self.client.receive_data(part):
            if isinstance(event, h2.events.DataReceived):
                self.heard[event.stream_id] += event.data
                size = event.flow_controlled_length
                if acknowledge and size and event.stream_id in self.open:
                    self.client.acknowledge_received_data(size, event.stream_id)
                elif size:
                    self.client.increment_flow_control_window(size)
            elif isinstance(event, h2.events.SettingsAcknowledged):
                self.acknowledged = True
            elif isinstance(event, h2.events.TrailersReceived):
                self.status[event.stream_id] = dict(event.headers)["grpc-status"]
            elif isinstance(event, h2.events.ResponseReceived):
                status = dict(event.headers).get("grpc-status")
                if status is not None:
                    self.status[event.stream_id] = status
            elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                raise AssertionError(event)

    @invariant()
    def what_is_heard_was_said(self) -> None:
        for stream, heard in getattr(self, "heard", {}).items():
            assert self.sent[stream].startswith(heard)

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        # Let everything through: what was not reset must be whole, and ended with OK.
        self.client.update_settings({4: 2**24})
        self.client.increment_flow_control_window(2**24)
        for _ in range(30):
            self.carry_to_server(10**9)
            self.carry_to_client(10**9, acknowledge=False)
        for stream in self.ended:
            assert self.heard[stream] == self.sent[stream]
            assert self.status[stream] == "0"
        assert self.server.open_streams == len(self.open)
        assert self.server.unsent == 0


TestAgainstHyperH2 = AgainstHyperH2.TestCase
TestAgainstHyperH2.settings = settings(max_examples=60, stateful_step_count=40)
