"""Addresses as text, for every option and page that takes one."""

from __future__ import annotations

import pytest

from pools.addresses import host_port, split_host_port


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9002", "127.0.0.1", 9002),
        ("[fd00::1]:9002", "fd00::1", 9002),
        ("picker.example:65535", "picker.example", 65_535),
        (":0", "", 0),
    ],
)
def test_what_is_split_is_joined_to_the_same_again(text: str, host: str, port: int) -> None:
    assert split_host_port(text) == (host, port)
    assert host_port(host, port) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not of the form host:port"),
        ("18000", "not of the form host:port"),
        ("host", "not of the form host:port"),
        ("host:", "not of the form host:port"),
        ("host:x", "not of the form host:port"),
        ("host:-1", "not of the form host:port"),
        ("host:\N{ARABIC-INDIC DIGIT ONE}", "not of the form host:port"),
        ("host:65536", "ports go from 1 to 65535"),
        ("::1:9002", "in brackets"),
    ],
)
def test_what_is_no_address_is_refused_with_the_form_that_is(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        split_host_port(text)
