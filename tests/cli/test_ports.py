"""Ports are ours while we hold them, and a taken one is explained."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from poolpilot.demo import ports as ports_module
from poolpilot.demo.ports import LOOPBACK, Ports, PortTakenError, holder, reserve


def listener(port: int, *options: int) -> socket.socket:
    server = socket.socket()
    for option in options:
        server.setsockopt(socket.SOL_SOCKET, option, 1)
    server.bind((LOOPBACK, port))
    server.listen()
    return server


@pytest.mark.parametrize("option", [socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_a_server_can_listen_stop_and_listen_again_on_a_reserved_port(option: int) -> None:
    held = reserve()
    try:
        for _ in range(2):
            options = {socket.SO_REUSEADDR, option}
            with (
                listener(held.port, *options) as server,
                socket.create_connection((LOOPBACK, held.port), 5),
            ):
                server.accept()[0].close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, held.port), 5)
    finally:
        held.close()


def test_nobody_gets_a_reserved_port_by_chance() -> None:
    held = reserve()
    others = [reserve() for _ in range(200)]
    try:
        assert held.port not in {other.port for other in others}
        assert len({other.port for other in others}) == len(others)
    finally:
        for reservation in [held, *others]:
            reservation.close()


@pytest.mark.parametrize("option", [socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_a_taken_port_is_noticed_even_if_its_holder_would_share_it(option: int) -> None:
    with listener(0, option) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"127.0.0.1:{port}: Address already in use"):
            reserve(port)


def test_the_holder_of_a_port_is_named() -> None:
    with listener(0) as server:
        name = holder(server.getsockname()[1])
    assert name is not None
    assert name.endswith(f"(pid {os.getpid()})")


def test_an_unknown_holder_is_no_error(tmp_path: Path) -> None:
    assert holder(1, proc=tmp_path) is None


def test_free_ports_are_all_different() -> None:
    ports = Ports.free(pods=5)
    numbers = [reservation.port for reservation in ports]
    ports.close()
    assert len(set(numbers)) == 12


def test_a_taken_fixed_port_names_its_use_its_holder_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with listener(0) as server:
        port = server.getsockname()[1]
        monkeypatch.setitem(ports_module._FIXED, "listener", ("Envoy", port))
        with pytest.raises(PortTakenError) as taken:
            Ports.fixed(pods=0)
    assert f"port {port}, for Envoy, is held by " in str(taken.value)
    assert f"(pid {os.getpid()})" in str(taken.value)
    assert "`--ports auto`" in str(taken.value)
