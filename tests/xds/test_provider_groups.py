"""Which Envoys serve which Gateway, as Gateways come and go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pools.model import Gateway, GatewayListener, World
from tests.xds.worlds import name, pool, world
from xds.provider import NO_GROUP, WorldProvider
from xds.resource import LISTENER
from xds.snapshot import Node
from xds.translate import DEFAULT_GATEWAY, TranslateSettings, Translator


def gateway(text: str) -> Gateway:
    return Gateway(name(text), (GatewayListener("http", 80),))


def node(wants: str | None = None) -> Node:
    return Node("envoy", metadata={"gateway": wants} if wants else {})


def provider(*worlds: World) -> WorldProvider:
    made = WorldProvider(Translator(TranslateSettings()))
    for one in worlds:
        made.offer(one)
    return made


def of_cluster(*gateways: str) -> World:
    return world(pool("llama"), gateways=tuple(map(gateway, gateways)), of_cluster=True)


@pytest.mark.parametrize("left", [(), ("other",)], ids=["the only one", "one of two"])
def test_who_served_a_deleted_gateway_is_given_nothing_to_serve_until_it_is_back(
    left: tuple[str, ...],
):
    found = provider(of_cluster("edge", *left))
    before = found.snapshot(node("default/edge"))
    assert before is not None
    assert before.of_type(LISTENER)
    assert found.offer(of_cluster(*left))
    emptied = found.snapshot(node("default/edge"))
    assert emptied is not None
    assert not emptied.resources
    assert found.why_none(node("default/edge")) == ""
    assert found.offer(of_cluster("edge", *left))
    again = found.snapshot(node("default/edge"))
    assert again is not None
    assert again.version == before.version


def test_who_names_a_gateway_that_never_was_waits_and_keeps_what_it_has():
    for known in ((), ("other",)):
        found = provider(of_cluster(*known))
        assert found.snapshot(node("default/edge")) is None
        assert found.group(node("default/edge")) == NO_GROUP
        why = found.why_none(node("default/edge"))
        assert "names the Gateway default/edge" in why
        assert ("default/other" if known else "none") in why


def test_without_any_gateway_who_names_none_gets_what_there_is_and_of_files_everyone():
    clustered = provider(of_cluster())
    assert clustered.group(node()) == DEFAULT_GATEWAY
    files = provider(replace(of_cluster(), of_cluster=False))
    assert files.group(node("default/edge")) == DEFAULT_GATEWAY
