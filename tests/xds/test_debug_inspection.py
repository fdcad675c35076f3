"""What the pages of the xDS server tell, hide, and refuse."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from starlette.testclient import TestClient

from inspection.answers import PageError
from inspection.guard import is_trusted
from inspection.live import MOST_LISTENERS, Live
from pools.model import (
    AbsentEndpoint,
    Endpoint,
    Gateway,
    GatewayListener,
    Origin,
    Problem,
    Severity,
    World,
)
from tests.xds.envoy import until
from tests.xds.scripted_node import ScriptedNode
from tests.xds.worlds import name, pods, pool, route, rule, to, world
from xds.config import XdsServerConfig
from xds.control_plane import ControlPlane
from xds.debug.admin import admin_address
from xds.debug.change_log import ChangeLog
from xds.debug.pages import app
from xds.debug.redact import REDACTED, redacted
from xds.debug.text import unified_diff
from xds.http import HttpConfig
from xds.resource import ENDPOINT
from xds.status import State

LLAMA = pool("llama", origin=Origin("InferencePool", name("llama"), "pools.yaml", 3))
BEFORE = world(
    LLAMA,
    pool("qwen"),
    endpoint_origins={
        "10.0.0.1:8000": Origin("PoolEndpoints", name("llama"), "pods.yaml", 7),
        "10.0.0.2:8000": Origin("PoolEndpoints", name("llama"), "pods.yaml", 8),
    },
)
FEWER = replace(BEFORE, revision=2, endpoints={**BEFORE.endpoints, name("llama"): pods(1)})
MORE = replace(BEFORE, revision=2, endpoints={**BEFORE.endpoints, name("llama"): pods(3)})


class Silent:
    """A source that says nothing: tests hand over Worlds themselves."""

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
async def client(control: ControlPlane) -> AsyncIterator[httpx.AsyncClient]:
    url = f"http://127.0.0.1:{control.http_port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
        yield client


async def get(client: httpx.AsyncClient, path: str) -> Any:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def all_acked(control: ControlPlane, node_id: str) -> bool:
    return any(
        node.node.id == node_id and all(s.converged and len(s.types) == 4 for s in node.streams)
        for node in control.status().nodes
    )


def offline() -> TestClient:
    """Pages of a control plane that listens nowhere."""
    control = ControlPlane(Silent())
    control.take(BEFORE)
    return TestClient(app(control))


# Formats


def test_answers_come_as_yaml_too_and_unknown_formats_are_named():
    client = offline()
    found = client.get("/debug/xds/snapshots?format=yaml")
    assert found.headers["content-type"].startswith("application/yaml")
    assert "group: default" in found.text
    assert "json, yaml" in client.get("/debug/xds/snapshots?format=xml").json()["error"]


def test_a_snapshot_that_did_not_change_is_not_sent_again():
    client = offline()
    path = "/debug/xds/snapshots/default"
    first = client.get(path)
    assert first.headers["etag"] == f'"{first.json()["version"]}"'
    again = client.get(path, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = client.get(f"{path}?full=1", headers={"if-none-match": first.headers["etag"]})
    assert other.status_code == 200, "another form of it is another document"


def test_names_are_filtered_as_envoys_admin_does():
    client = offline()
    found = client.get("/debug/xds/config_dump?name_regex=.*/llama").json()
    named = [
        item["name"]
        for part in found["configs"]
        for value in part.values()
        if isinstance(value, list)
        for item in value
    ]
    assert named == ["pool/default/llama"] * 2
    assert client.get("/debug/xds/config_dump?name_regex=(").status_code == 400


@pytest.mark.parametrize(
    "pattern",
    [
        "(.|.|.|.)*Z",
        "(.+)+Z",
        "(.{1,9}){1,9}Z",
        "(?x)(.|.) #\n *Z",
        ".*.*.*.*.*.*Z",
        "(.|.)" * 20 + "Z",
        "a" * 2000,
    ],
)
def test_an_expression_that_could_take_for_ever_is_refused_at_once(pattern: str):
    """Also a web site can have a browser ask for a page, if not read it."""
    began = time.process_time()
    answer = offline().get("/debug/xds/config_dump", params={"name_regex": pattern})
    assert answer.status_code == 400
    assert "name_regex" in answer.json()["error"]
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "pattern", [r"pool/(default|prod)/.*", r"[^/]+/.*\..*", "(?i)POOL.*", r"a\)*", "[)*+{}|]*"]
)
def test_ordinary_expressions_are_not(pattern: str):
    answer = offline().get("/debug/xds/config_dump", params={"name_regex": pattern})
    assert answer.status_code == 200


def test_a_config_dump_has_the_shape_of_envoys():
    parts = {
        part["@type"].rpartition(".")[2]: part
        for part in offline().get("/debug/xds/config_dump").json()["configs"]
    }
    cluster = parts["ClustersConfigDump"]["dynamic_active_clusters"][1]
    assert cluster["cluster"]["@type"].endswith("config.cluster.v3.Cluster")
    assert cluster["cluster"]["name"] == "pool/default/llama"
    assert cluster["origin"] == "InferencePool default/llama (pools.yaml:3)"
    (listener,) = parts["ListenersConfigDump"]["dynamic_listeners"]
    assert listener["active_state"]["listener"]["name"] == listener["name"]
    assignment = parts["EndpointsConfigDump"]["dynamic_endpoint_configs"][0]["endpoint_config"]
    assert len(assignment["endpoints"][0]["lb_endpoints"]) == 2


# What is hidden


@pytest.mark.parametrize(
    ("shown", "hidden"),
    [
        ({"header": {"key": "Authorization", "value": "Bearer x"}}, "Bearer x"),
        ({"name": "x-api-key", "string_match": {"exact": "abc123"}}, "abc123"),
        ({"name": "cookie", "value": "session=1"}, "session=1"),
        ({"metadata": {"auth_token": "abc123", "zone": "a"}}, "abc123"),
        ({"private_key": {"inline_string": "-----BEGIN"}}, "-----BEGIN"),
        ({"tls": [{"password": {"inline_bytes": "c2VjcmV0"}}]}, "c2VjcmV0"),
    ],
)
def test_tokens_and_keys_are_never_shown(shown: Mapping[str, object], hidden: str):
    text = json.dumps(redacted(shown))
    assert hidden not in text
    assert REDACTED in text


@pytest.mark.parametrize(
    "shown",
    [
        {"max_tokens": 3, "name": "prompt_tokens", "value": "7"},
        {"header": {"key": "x-model", "value": "llama"}},
        {"name": "tokenizer", "value": "bpe"},
    ],
)
def test_what_only_sounds_like_a_secret_is_shown(shown: Mapping[str, object]):
    assert redacted(shown) == shown


async def test_secrets_in_the_metadata_of_a_node_are_hidden(
    control: ControlPlane, client: httpx.AsyncClient
):
    async with ScriptedNode(control.port, "e", metadata={"api_key": "k-123", "zone": "a"}):
        await until(lambda: bool(control.status().nodes), "the node is known")
        (node,) = (await get(client, "/debug/xds/nodes"))["nodes"]
        assert node["metadata"] == {"api_key": REDACTED, "zone": "a"}


# Who is answered


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("localhost:18001", True),
        ("127.0.0.1:18001", True),
        ("[::1]:18001", True),
        ("10.1.2.3", True),
        ("xds:18001", True),
        ("pages.example.com", True),
        ("PAGES.example.com.:80", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
        ("[", False),
    ],
)
def test_only_names_that_no_stranger_can_own_are_answered(host: str, trusted: bool):
    assert is_trusted(host, ("pages.example.com",)) is trusted


def test_a_foreign_name_is_refused_except_for_machines_that_watch():
    client = offline()
    refused = client.get("/debug/xds/nodes", headers={"host": "evil.example"})
    assert refused.status_code == 421
    assert "--http-name" in refused.json()["error"]
    assert client.get("/metrics", headers={"host": "evil.example"}).status_code == 200


def test_pages_run_no_script_but_their_own_and_nobody_may_read_them_from_elsewhere():
    page = offline().get("/ui/nodes", headers={"origin": "https://evil.example"})
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "access-control-allow-origin" not in page.headers
    assert "<script>" not in page.text
    assert " style=" not in page.text


def test_nothing_can_be_changed():
    client = offline()
    for path in ("/debug/xds/nodes", "/debug/xds/snapshots/default", "/ui", "/debug/xds/simulate"):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert client.request(method, path).status_code == 405


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://169.254.169.254/", 403),
        ("http://10.0.0.1:19000", 403),
        ("http://envoy.example:19000", 403),
        ("https://127.0.0.1:19000", 400),
        ("http://127.0.0.1:19000/quitquitquit", 400),
        ("http://127.0.0.1:19000?x", 400),
        ("http://user@127.0.0.1:19000", 400),
        ("http://127.0.0.1:99999", 400),
    ],
)
def test_the_server_fetches_nothing_but_admins_on_its_own_machine(url: str, status: int):
    with pytest.raises(PageError) as refused:
        admin_address(url)
    assert refused.value.status == status


def test_admins_that_the_operator_allows_are_asked_as_well():
    assert admin_address("localhost:19000") == "127.0.0.1:19000"
    assert admin_address("http://[::1]:19000") == "[::1]:19000"
    assert admin_address("http://envoy:19000", ("envoy:19000",)) == "envoy:19000"


async def test_what_is_no_envoy_is_not_passed_on(control: ControlPlane, client: httpx.AsyncClient):
    async def secret(_request: web.Request) -> web.Response:
        return web.json_response({"token": "s3cret"})

    other = web.Application()
    other.router.add_get("/{path:.*}", secret)
    async with TestServer(other) as server, ScriptedNode(control.port, "e"):
        await until(lambda: all_acked(control, "e"), "the node has everything")
        page = f"/debug/xds/nodes/e/diff?admin=http://127.0.0.1:{server.port}"
        answer = await client.get(page)
    assert answer.status_code == 502
    assert "is not an Envoy admin" in answer.text
    assert "s3cret" not in answer.text


# Differences


def test_one_more_item_is_one_more_line():
    old = {"hosts": [{"address": f"10.0.0.{i}", "port": 8000, "zone": "a" * 30} for i in range(9)]}
    new = {"hosts": [*old["hosts"], {"address": "10.0.0.9", "port": 8000, "zone": "b"}]}
    changed = [
        line for line in unified_diff(old, new, "old", "new").splitlines()[2:] if line[0] in "+-"
    ]
    assert changed == ['+    {"address": "10.0.0.9", "port": 8000, "zone": "b"},']
    assert unified_diff(old, old, "old", "new") == ""


async def test_a_change_is_told_with_its_cause_its_lines_and_who_has_it_when(
    control: ControlPlane, client: httpx.AsyncClient
):
    async with (
        ScriptedNode(control.port, "new") as new,
        ScriptedNode(control.port, "old", version=(1, 37, 0)),
    ):
        await until(lambda: all_acked(control, "new"), "the first node")
        await until(lambda: all_acked(control, "old"), "the second node")
        new.silent = True
        control.take(MORE)
        await until(lambda: all_acked(control, "old"), "the second has the change")
        await until(
            lambda: any(
                "old" in entry.acked and "added" in entry.cause
                for group in control.status().groups
                for entry in group.history
            ),
            "its convergence is noted",
        )
        (group,) = (await get(client, "/debug/xds/history"))["groups"]
        newest = [e for e in group["history"] if "10.0.0.3:8000 added" in e["cause"]]
        assert len(newest) == 2, "one for each kind of Envoy"
        waiting = next(e for e in newest if e["waiting_for"])
        assert waiting["waiting_for"] == ["new"]
        assert waiting["convergence"]["all_seconds"] is None
        done = next(e for e in newest if not e["waiting_for"])
        assert done["acked_after_seconds"]["old"] == done["convergence"]["all_seconds"]
        for entry in newest:
            shown = await get(client, f"/debug/xds/history/default/{entry['id']}")
            (changed,) = shown["resources"]
            assert (changed["type"], changed["change"]) == ("endpoints", "changed")
            assert changed["origin"] == "InferencePool default/llama (pools.yaml:3)"
            added = [li for li in changed["diff"].splitlines()[2:] if li.startswith(("+", "-"))]
            assert len(added) == 1, "against what the same kind of Envoy had before"
            assert "10.0.0.3" in added[0]
        assert (await client.get("/debug/xds/history/default/nope")).status_code == 404
        assert (await client.get("/debug/xds/history/nowhere/x")).status_code == 404


async def test_a_node_is_compared_with_what_it_is_meant_to_have(
    control: ControlPlane, client: httpx.AsyncClient
):
    async with ScriptedNode(control.port, "team/e") as node:
        await until(lambda: all_acked(control, "team/e"), "the node has everything")
        same = (await get(client, "/debug/xds/nodes/team/e/diff"))["resources"]
        assert {one["finding"] for one in same} == {"same"}
        node.rejected[ENDPOINT] = "malformed"
        control.take(MORE)
        await until(lambda: control.status().nodes[0].state is State.ERROR, "it is rejected")
        found = (await get(client, "/debug/xds/nodes/team/e/diff"))["resources"]
        worst = found[0]
        assert (worst["finding"], worst["name"]) == ("rejected", "pool/default/llama")
        assert worst["error"] == "malformed"
        assert worst["wanted"] != worst["acked"]
        assert "10.0.0.3" in worst["acked_diff"]
        dump = await get(client, "/debug/xds/nodes/team/e/config_dump?as=wanted")
        (part,) = [p for p in dump["configs"] if p["@type"].endswith("EndpointsConfigDump")]
        assert part["dynamic_endpoint_configs"][0]["error_state"]["details"] == "malformed"


# Why


async def test_a_pod_is_followed_to_each_envoy(control: ControlPlane, client: httpx.AsyncClient):
    async with ScriptedNode(control.port, "a") as slow, ScriptedNode(control.port, "b"):
        await until(lambda: all_acked(control, "a") and all_acked(control, "b"), "both nodes")
        for query in ("10.0.0.1", "10.0.0.1:8000"):
            found = await get(client, f"/debug/xds/why?q={query}")
            assert found["verdict"] == "served"
            (match,) = found["matches"]
            assert match["origin"] == "PoolEndpoints default/llama (pods.yaml:7)"
            assert [node["state"] for node in match["nodes"]] == ["known", "known"]
        slow.silent = True
        control.take(MORE)
        await until(lambda: len(slow.received) > 4, "the change is sent")
        await until(lambda: all_acked(control, "b"), "the other has it")
        found = await get(client, "/debug/xds/why?q=10.0.0.3:8000")
        assert found["verdict"] == "partly"
        states = {node["id"]: node["state"] for node in found["matches"][0]["nodes"]}
        assert states == {"a": "sent", "b": "known"}
        assert "a: it was sent, and there is no ACK yet" in found["summary"]


async def test_a_pod_that_left_is_remembered_with_the_reason(
    control: ControlPlane, client: httpx.AsyncClient
):
    control.take(FEWER)
    found = await get(client, "/debug/xds/why?q=10.0.0.2")
    assert found["verdict"] == "absent"
    assert found["absence"][0]["reason"] == "removed"
    assert "no manifest describes it any more" in found["summary"]
    assert "pods.yaml:8" in found["summary"]
    (removal,) = found["departures"]
    assert removal["revision"] == 2


async def test_a_pod_that_is_not_ready_is_absent_with_the_reason(
    control: ControlPlane, client: httpx.AsyncClient
):
    reason = "not Ready since 12:03: containers with unready status: [vllm]"
    absent = AbsentEndpoint("llama-9", reason, name("llama"), "10.0.0.2")
    control.take(replace(FEWER, absent=(absent,)))
    for query in ("10.0.0.2", "10.0.0.2:8000", "llama-9"):
        found = await get(client, f"/debug/xds/why?q={query}")
        assert found["verdict"] == "absent"
        assert found["absence"][0]["reason"] == "absent"
        assert reason in found["summary"]
        assert all(one["cause"] == reason for one in found["departures"])
    (shown,) = (await get(client, "/debug/world"))["absent"]
    assert shown == {
        "name": "llama-9",
        "address": "10.0.0.2",
        "pool": "default/llama",
        "reason": reason,
        "origin": "",
    }


async def test_a_pod_in_a_manifest_with_a_problem_is_found_in_its_words(
    control: ControlPlane, client: httpx.AsyncClient
):
    problem = Problem(
        Severity.ERROR,
        "'llama-9.llama' could not be resolved (no such host): no endpoint",
        Origin("PoolEndpoints", name("llama"), "pods.yaml", 2),
        line=9,
        field="spec.endpoints[2].address",
    )
    control.take(replace(BEFORE, revision=2, problems=(problem,)))
    found = await get(client, "/debug/xds/why?q=llama-9.llama")
    assert found["verdict"] == "absent"
    assert found["absence"][0]["problem"]["line"] == 9
    unknown = await get(client, "/debug/xds/why?q=10.9.9.9")
    assert unknown["verdict"] == "unknown"
    assert "may be in what could not be used" in unknown["summary"]


async def test_a_pool_that_no_route_leads_to_is_the_reason(
    control: ControlPlane, client: httpx.AsyncClient
):
    gateway = Gateway(name("edge"), (GatewayListener("http", 80),))
    routes = (route("r", rule(backends=to("qwen"))),)
    control.take(replace(BEFORE, revision=2, gateways=(gateway,), routes=routes))
    found = await get(client, "/debug/xds/why?q=10.0.0.1")
    assert found["verdict"] == "not served"
    assert "no HTTPRoute leads to this pool" in found["summary"]


async def test_a_name_is_guessed_where_nothing_has_it(
    control: ControlPlane, client: httpx.AsyncClient
):
    found = await get(client, "/debug/xds/why?q=pod_1")
    assert "pod-1" in found["similar"]
    assert (await client.get("/debug/xds/why")).status_code == 400


def test_one_name_with_another_address_is_told_as_such():
    change_log = ChangeLog()
    moved = (pods(1)[0], Endpoint("10.0.0.9", 8000, "pod-1"))
    after = replace(BEFORE, endpoints={**BEFORE.endpoints, name("llama"): moved})
    change_log.note(BEFORE, after, 5.0)
    (removal,) = change_log.removals()
    assert removal.cause == "pod-1 has another address now: 10.0.0.9:8000"


def test_an_absence_in_the_endpoints_own_pool_is_the_reason_and_the_first_of_several():
    change_log = ChangeLog()
    absent = (
        AbsentEndpoint("pod-1", "of another pool", name("qwen"), "10.0.0.2"),
        AbsentEndpoint("other", "by its address", name("llama"), "10.0.0.2"),
        AbsentEndpoint("pod-1", "by its name", None, ""),
    )
    change_log.note(BEFORE, replace(FEWER, absent=absent), 5.0)
    (removal,) = change_log.removals()
    assert (removal.endpoint.name, removal.cause) == ("pod-1", "by its address")


def test_that_all_of_many_pods_go_at_once_costs_no_time_when_it_matters_most():
    many = replace(BEFORE, endpoints={name("llama"): pods(5000)})
    reason = "not Ready since 12:03: NodeNotReady"
    absent = [AbsentEndpoint(e.name, reason, name("llama"), e.address) for e in pods(5000)]
    change_log = ChangeLog()
    began = time.process_time()
    change_log.note(many, replace(many, endpoints={}, absent=tuple(absent)), 1.0)
    assert time.process_time() - began < 1.0
    assert {removal.cause for removal in change_log.removals()} == {reason}


def test_departures_are_remembered_up_to_a_limit():
    change_log = ChangeLog(max_removals=3)
    many = replace(BEFORE, endpoints={name("llama"): pods(10)})
    change_log.note(many, replace(many, endpoints={}), 1.0)
    assert len(list(change_log.removals())) == 3


# What if


def test_asking_what_a_node_would_get_changes_nothing():
    control = ControlPlane(Silent())
    control.take(BEFORE)
    client = TestClient(app(control))
    for minor in range(20, 40):
        answer = client.get(f"/debug/xds/simulate?version=1.{minor}&metadata.zone=a")
        assert answer.status_code == 200
    assert len(list(control.provider.variants())) == 1
    full = client.get("/debug/xds/simulate?full=1").json()
    assert full["resources"]["clusters"]["pool/default/llama"]["resource"]["name"]
    assert "gateway" in client.get("/debug/xds/simulate?nodeid=x").json()["error"]


# Live


async def test_a_change_is_told_to_everyone_who_listens(
    control: ControlPlane, client: httpx.AsyncClient
):
    heard: list[list[str]] = [[], []]

    async def listen(into: list[str]) -> None:
        async with client.stream("GET", "/debug/events") as stream:
            async for line in stream.aiter_lines():
                into.append(line)
                if line.startswith("data:") and "world" in line:
                    return

    listening = [asyncio.create_task(listen(into)) for into in heard]
    await until(lambda: all("event: hello" in into for into in heard), "both listen")
    control.take(MORE)
    await asyncio.gather(*listening)
    for into in heard:
        topics = json.loads(into[-2 if not into[-1] else -1].removeprefix("data:"))["topics"]
        assert {"world", "snapshots"} <= set(topics)
    await until(lambda: control.live.listeners == 0, "nobody listens")


async def test_while_nobody_listens_nothing_is_looked_at():
    looks = 0

    def pulse() -> dict[str, int]:
        nonlocal looks
        looks += 1
        return {"things": looks}

    live = Live(pulse)
    assert looks == 0
    events = live.events()
    assert "hello" in await anext(events)
    assert '"topics": ["things"]' in await anext(events)
    await events.aclose()
    seen = looks
    await asyncio.sleep(0)
    assert looks == seen
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "live"]


@pytest.mark.looptime
async def test_who_cannot_be_told_any_more_is_not_left_to_believe_that_nothing_changes():
    looks = iter(range(100))

    def pulse() -> dict[str, int]:
        if (look := next(looks)) == 2:
            raise ArithmeticError("no pulse")
        return {"things": look}

    live = Live(pulse)
    events = live.events()
    assert "hello" in await anext(events)
    assert '"topics": ["things"]' in await anext(events)
    with pytest.raises(StopAsyncIteration):
        await anext(events)

    again = live.events()
    assert "hello" in await anext(again)
    assert '"topics": ["things"]' in await anext(again)
    await again.aclose()
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "live"]


async def test_there_is_a_limit_to_listeners_and_an_end_to_listening():
    live = Live(lambda: {})
    streams = [live.events() for _ in range(MOST_LISTENERS)]
    for stream in streams:
        await anext(stream)
    assert live.full
    live.close()
    for stream in streams:
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert live.listeners == 0


async def test_a_stop_does_not_wait_for_pages_that_listen(client: httpx.AsyncClient):
    control = ControlPlane(
        Silent(), server_config=XdsServerConfig(port=0), http_config=HttpConfig(port=0)
    )
    await control.start()
    async with client.stream("GET", f"http://127.0.0.1:{control.http_port}/debug/events") as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        async with asyncio.timeout(0.9):
            await control.stop(0)
        async for _line in lines:
            pass
