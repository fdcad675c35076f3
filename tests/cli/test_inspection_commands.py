"""``status``, ``snapshot``, ``diff`` and ``why`` against a running control plane."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer

from pools.model import Origin, World
from tests.xds.envoy import until
from tests.xds.scripted_node import ScriptedNode
from tests.xds.worlds import name, pods, pool, world
from xds.config import XdsServerConfig
from xds.control_plane import ControlPlane
from xds.debug.config_dump import DumpEntry, config_dump
from xds.http import HttpConfig
from xds.resource import ENDPOINT
from xds.status import State

LLAMA = pool("llama", origin=Origin("InferencePool", name("llama"), "pools.yaml", 3))
BEFORE = world(LLAMA)
MORE = replace(BEFORE, revision=2, endpoints={name("llama"): pods(3)})


class Silent:
    async def worlds(self) -> AsyncIterator[World]:
        for nothing in ():
            yield nothing


@pytest.fixture
async def control() -> AsyncIterator[ControlPlane]:
    control = ControlPlane(
        Silent(), server_config=XdsServerConfig(port=0), http_config=HttpConfig(port=0)
    )
    await control.start()
    control.take(BEFORE)
    yield control
    await control.stop(0)


@pytest.fixture
async def node(control: ControlPlane) -> AsyncIterator[ScriptedNode]:
    async with ScriptedNode(control.port, "edge/1") as node:
        await until(
            lambda: any(
                s.converged and len(s.types) == 4 for n in control.status().nodes for s in n.streams
            ),
            "the node has everything",
        )
        yield node


async def run(control: ControlPlane, *arguments: str) -> tuple[int, str, str]:
    """In a process of its own: commands run an event loop."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "poolpilot", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            "PATH": "",
            "COLUMNS": "200",
            "POOLPILOT_XDS_URL": f"http://127.0.0.1:{control.http_port}",
        },
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def reject(control: ControlPlane, node: ScriptedNode) -> None:
    node.rejected[ENDPOINT] = "malformed IP address"
    control.take(MORE)
    await until(lambda: control.status().nodes[0].state is State.ERROR, "it is rejected")


async def test_status_shows_each_type_and_the_words_of_a_rejection(
    control: ControlPlane, node: ScriptedNode
) -> None:
    code, output, _ = await run(control, "status")
    assert code == 0
    assert re.search(r"edge/1 +SYNCED +default +1\.40\.0 +sotw( +SYNCED){4}", output)
    await reject(control, node)
    code, output, _ = await run(control, "status")
    assert code == 1
    assert re.search(r"edge/1 +ERROR .* ERROR +SYNCED +SYNCED", output)
    assert (
        "edge/1 rejects endpoints pool/default/llama (InferencePool default/llama (pools.yaml:3)): "
        "malformed IP address"
    ) in output


async def test_a_snapshot_is_shown_by_type_and_name(control: ControlPlane) -> None:
    code, output, _ = await run(control, "snapshot", "-o", "names")
    assert code == 0
    assert re.fullmatch(r"default [0-9a-f]{16}\n", output)
    _, output, _ = await run(control, "snapshot", "default", "endpoints", "-o", "names")
    assert output == "pool/default/llama\n"
    _, output, _ = await run(
        control, "snapshot", "default", "endpoints", "pool/default/llama", "-o", "yaml"
    )
    assert yaml.safe_load(output)["resource"]["cluster_name"] == "pool/default/llama"
    _, output, _ = await run(control, "snapshot", "default")
    assert "pool/default/llama" in json.loads(output)["resources"]["clusters"]


async def test_what_a_node_has_is_compared_with_what_it_should_have(
    control: ControlPlane, node: ScriptedNode
) -> None:
    said = await run(control, "diff")
    assert said == (0, "5 resources the same: wanted and acknowledged\n", "")
    await reject(control, node)
    code, output, _ = await run(control, "diff", "edge/1")
    assert code == 1
    assert output.startswith("REJECTED  endpoints/pool/default/llama")
    assert "malformed IP address" in output
    assert re.search(r'^ +\+ +\{"address": "10\.0\.0\.3"', output, re.MULTILINE)


async def test_an_envoy_that_lost_something_is_found_out(
    control: ControlPlane, node: ScriptedNode
) -> None:
    snapshot = control.provider.preview(control.status().nodes[0].node).snapshot
    assert snapshot is not None
    everything = {
        type_url: [DumpEntry(r) for r in named.values() if r.name != "ext-proc"]
        for type_url, named in snapshot.resources.items()
    }

    async def page(_request: web.Request) -> web.Response:
        return web.json_response(config_dump(everything, {}))

    admin = web.Application()
    admin.router.add_get("/config_dump", page)
    async with TestServer(admin) as server:
        code, output, _ = await run(control, "diff", "--admin", f"http://127.0.0.1:{server.port}")
    assert code == 1
    assert output.startswith("MISSING  clusters/ext-proc")
    assert "4 resources the same: wanted, acknowledged and in Envoy" in output


async def test_a_pod_is_explained(control: ControlPlane, node: ScriptedNode) -> None:
    code, output, _ = await run(control, "why", "pod-1")
    assert code == 0
    assert output.startswith("served  10.0.0.2:8000 of default/llama: every Envoy")
    assert "known    edge/1: it has acknowledged it" in output
    control.take(replace(BEFORE, revision=2, endpoints={name("llama"): pods(1)}))
    code, output, _ = await run(control, "why", "10.0.0.2")
    assert code == 1
    assert "left InferencePool default/llama" in output


async def test_nodes_to_choose_from_are_named(control: ControlPlane) -> None:
    code, _, errors = await run(control, "diff")
    assert code == 2
    assert "none is" in errors


async def test_a_server_that_is_not_there_is_named_with_the_way_to_another(
    control: ControlPlane,
) -> None:
    code, _, errors = await run(control, "status", "--xds", "http://127.0.0.1:1")
    assert code == 1
    assert "http://127.0.0.1:1/debug/world does not answer" in errors
    assert "--xds URL or POOLPILOT_XDS_URL" in errors
