"""The kubernetes source against a server that answers, refuses, forgets and goes away."""

import asyncio
import contextlib
import dataclasses
import datetime
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from pools.extras import install_command
from pools.kubernetes import ALL_KINDS, PICKER_KINDS, KubernetesSettings, KubernetesSource, Timing
from pools.model import ObjectName, World
from pools.source import SourceError
from tests.pools.kubernetes.api import (
    GATEWAY_CLASSES,
    GATEWAYS,
    GRANTS,
    GROUPS,
    PODS,
    POOLS,
    ROUTES,
    SECRETS,
    FakeServer,
    Object,
    pod,
    pool,
)
from tests.pools.pairs import good_pair, pair

LLAMA = ObjectName("default", "llama")
QUICK = Timing(page_size=2, discovery=0.05, debounce=0.01, longest_retry=0.05)
NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
LIMIT = 20.0


def kubeconfig(path: Path, url: str, user: Object | None = None) -> Path:
    document = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with FakeServer().running() as server:
        yield server


@pytest.fixture
def settings(server: FakeServer, tmp_path: Path) -> KubernetesSettings:
    return KubernetesSettings(kubeconfig(tmp_path / "config", server.url), timing=QUICK)


class Worlds:
    """The Worlds of a source, one after the other."""

    def __init__(self, worlds: AsyncIterator[World]) -> None:
        self._worlds = worlds
        self.last = World()

    async def next(self) -> World:
        self.last = await asyncio.wait_for(anext(self._worlds), LIMIT)
        return self.last

    async def until(self, holds: Callable[[World], bool]) -> World:
        while not holds(await self.next()):
            pass
        return self.last


@contextlib.asynccontextmanager
async def following(settings: KubernetesSettings) -> AsyncIterator[Worlds]:
    worlds = KubernetesSource(settings, now=lambda: NOON, chance=lambda: 0.5).worlds()
    try:
        yield Worlds(worlds)
    finally:
        await worlds.aclose()  # type: ignore[attr-defined]  # an async generator


def keys(world: World) -> list[str]:
    return [one.key for one in world.endpoints_of(LLAMA)]


def messages(world: World) -> list[str]:
    return [one.message for one in world.problems]


async def test_the_first_world_has_everything_over_all_pages(
    server: FakeServer, settings: KubernetesSettings
) -> None:
    server.put(POOLS, pool("llama"))
    server.put(PODS, *(pod(f"p{n}", "llama", f"10.0.0.{n}") for n in range(5)))
    async with following(settings) as worlds:
        world = await worlds.next()
    assert (world.revision, len(keys(world)), world.problems) == (1, 5, ())
    pages = [path for path in server.requests if path.startswith(PODS) and "watch" not in path]
    assert len(pages) == 3
    assert all("status.phase" in path for path in pages), "finished pods are not even listed"


async def test_no_world_comes_before_every_kind_was_listed(
    server: FakeServer, settings: KubernetesSettings
) -> None:
    server.refusals["httproutes"] = [500] * 5
    server.put(POOLS, pool("llama"))
    server.put(ROUTES, route("llm"))
    async with following(settings) as worlds:
        world = await worlds.next()
    assert not server.refusals["httproutes"]
    assert (list(world.pools), len(world.routes), world.problems) == ([LLAMA], 1, ())


async def test_a_certificate_that_expires_is_told_although_nothing_changes(
    server: FakeServer, settings: KubernetesSettings
) -> None:
    times = [NOON]
    server.put(SECRETS, pair(end=NOON + datetime.timedelta(seconds=1)).secret())
    secure_gateway(server)
    source = KubernetesSource(settings, now=lambda: times[-1], chance=lambda: 0.5)
    async with contextlib.aclosing(source.worlds()) as stream:
        worlds = Worlds(stream)
        assert (await worlds.next()).certificates
        assert not [one for one in messages(worlds.last) if "expired" in one]
        times.append(NOON + datetime.timedelta(seconds=1))
        await worlds.until(lambda world: any("expired" in one for one in messages(world)))


def route(name: str) -> Object:
    ref = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "llama"}
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"rules": [{"backendRefs": [ref]}]},
    }


@pytest.mark.parametrize("expression", ["/(a{99999999999}", "(" * 1500 + ")" * 1500])
async def test_one_routes_expression_that_cannot_be_read_ends_nothing(
    server: FakeServer, settings: KubernetesSettings, expression: str
) -> None:
    server.put(POOLS, pool("llama"))
    match = {"path": {"type": "RegularExpression", "value": expression}}
    async with following(settings) as worlds:
        await worlds.next()
        bad = route("bad")
        bad["spec"]["rules"][0]["matches"] = [match]
        server.put(ROUTES, bad)
        world = await worlds.next()
        assert [one.field for one in world.problems] == ["spec.rules[0].matches[0].path.value"]
        server.put(ROUTES, route("good"))
        world = await worlds.until(lambda world: len(world.routes) == 1)
    assert [one.name.name for one in world.routes] == ["good"]


async def test_changes_are_followed_and_what_says_nothing_new_yields_nothing(
    server: FakeServer, settings: KubernetesSettings
) -> None:
    server.put(POOLS, pool("llama"))
    async with following(settings) as worlds:
        await worlds.next()
        server.put(PODS, pod("one", "llama", "10.0.0.1"))
        assert keys(await worlds.next()) == ["10.0.0.1:8000"]
        server.put(PODS, pod("other", "sql", "10.0.0.9"))
        server.put(PODS, pod("one", "llama", "10.0.0.1", ready=False))
        world = await worlds.next()
        assert (world.revision, keys(world), world.absent[0].name) == (3, [], "one")
        server.delete(PODS, "default", "one")
        assert (await worlds.next()).absent == ()


async def test_a_burst_is_one_world(server: FakeServer, settings: KubernetesSettings) -> None:
    server.put(POOLS, pool("llama"))
    async with following(settings) as worlds:
        await worlds.next()
        server.put(PODS, *(pod(f"p{n}", "llama", f"10.0.0.{n}") for n in range(200)))
        world = await worlds.until(lambda world: len(keys(world)) == 200)
        assert world.revision <= 4


async def test_a_version_that_expired_leads_to_a_new_list(
    server: FakeServer, settings: KubernetesSettings
) -> None:
    server.put(POOLS, pool("llama"))
    server.put(PODS, pod("goes", "llama", "10.0.0.1"), pod("stays", "llama", "10.0.0.2"))
    async with following(settings) as worlds:
        await worlds.next()
        # Whoever watches is not told of this, only that it is too late for it.
        server.api.delete(PODS, "default", "goes")
        server.api.put(PODS, pod("new", "llama", "10.0.0.3"))
        server.api.compact()
        server.wake()
        assert keys(await worlds.next()) == ["10.0.0.2:8000", "10.0.0.3:8000"]


async def test_watches_that_end_at_once_are_no_outage_and_no_reason_to_hurry(
    server: FakeServer, settings: KubernetesSettings
) -> None:
    server.brief = True
    server.put(POOLS, pool("llama"))
    async with following(settings) as worlds:
        await worlds.next()
        server.put(PODS, pod("one", "llama", "10.0.0.1"))
        world = await worlds.next()
        assert (keys(world), world.problems) == (["10.0.0.1:8000"], ())
        began = asyncio.get_running_loop().time()
        watches = sum("watch=1" in path for path in server.requests)
        await server.asked_for(PODS, times=5)
        seconds = asyncio.get_running_loop().time() - began
        watches = sum("watch=1" in path for path in server.requests) - watches
        kinds = sum(map(len, GROUPS.values())) + 1
        shortest = settings.timing.longest_retry / 2
        assert watches <= kinds * (seconds / shortest + 1), "each waits between two watches"


async def test_a_watch_that_nobody_answers_is_an_outage_and_is_asked_for_again(
    server: FakeServer, settings: KubernetesSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy may take the connection and hold it open although nobody is behind it."""
    monkeypatch.setattr("pools.kubernetes.connection.CONNECT_LIMIT", 0.1)
    monkeypatch.setattr("pools.kubernetes.connection.ANSWER_LIMIT", 0.1)
    server.put(POOLS, pool("llama"))
    server.mute = True
    async with following(settings) as worlds:
        await worlds.next()
        world = await worlds.until(lambda world: bool(world.problems))
        assert "cannot be reached since" in world.problems[0].message
        server.mute = False
        server.put(PODS, pod("one", "llama", "10.0.0.1"))
        await worlds.until(lambda world: keys(world) == ["10.0.0.1:8000"] and not world.problems)


async def test_an_outage_is_told_once_and_what_was_known_stays(
    server: FakeServer, tmp_path: Path
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        first = FakeServer(api=server.api)
        running = contextlib.AsyncExitStack()
        await running.enter_async_context(first.running())
        stack.push_async_exit(running)
        port = int(first.url.rpartition(":")[2])
        first.put(POOLS, pool("llama"))
        first.put(PODS, pod("one", "llama", "10.0.0.1"))
        settings = KubernetesSettings(kubeconfig(tmp_path / "config", first.url), timing=QUICK)
        async with following(settings) as worlds:
            before = await worlds.next()
            await running.aclose()
            away = await worlds.next()
            assert away.endpoints == before.endpoints
            [message] = messages(away)
            assert message.startswith(
                f"the API server {first.url} cannot be reached since 2026-01-01T12:00:00Z ("
            )
            async with FakeServer(api=server.api).running(port) as second:
                await worlds.until(lambda world: not world.problems)
                second.put(PODS, pod("two", "llama", "10.0.0.2"))
                await worlds.until(lambda world: len(keys(world)) == 2)


async def test_a_kind_that_may_not_be_read_is_named_and_the_rest_goes_on(
    server: FakeServer, settings: KubernetesSettings
) -> None:
    server.put(POOLS, pool("llama"))
    server.put(ROUTES, route("llm"))
    async with following(settings) as worlds:
        await worlds.next()
        server.refusals["httproutes"] = [403] * 10_000
        server.api.compact()  # every watch has to list anew
        server.api.put(PODS, pod("one", "llama", "10.0.0.1"))
        server.api.compact()
        server.wake()
        world = await worlds.until(lambda world: bool(world.problems and keys(world)))
        assert [str(problem) for problem in world.problems] == [
            "kubernetes: HTTPRoute (gateway.networking.k8s.io) cannot be read since"
            " 2026-01-01T12:00:00Z (no: 403); what was read last stays in effect: allow get, list"
            " and watch on it, in all watched namespaces"
        ]
        assert len(world.routes) == 1
        server.refusals.clear()
        await worlds.until(lambda world: not world.problems)


async def test_without_permission_to_read_secrets_the_rest_is_served_and_told(
    server: FakeServer, settings: KubernetesSettings
) -> None:
    server.put(POOLS, pool("llama"))
    server.put(SECRETS, good_pair().secret())
    secure_gateway(server)
    server.refusals["secrets"] = [403] * 10_000
    async with following(settings) as worlds:
        world = await worlds.next()
        assert (list(world.pools), world.certificates, world.unread) == (
            [LLAMA],
            {},
            frozenset({"Secret"}),
        )
        assert [(one.severity, str(one)) for one in world.problems] == [
            (
                "warning",
                "kubernetes: Secret cannot be read since 2026-01-01T12:00:00Z (no: 403); none is"
                " known, as if there were none: allow get, list and watch on it, in all watched"
                " namespaces, if any is needed",
            )
        ]
        server.refusals.clear()
        allowed = await worlds.until(lambda world: not world.problems)
        assert (list(allowed.certificates), allowed.unread) == (
            [ObjectName("default", "tls")],
            frozenset(),
        )


async def test_a_first_refusal_of_secrets_is_not_believed(
    server: FakeServer, settings: KubernetesSettings
) -> None:
    server.put(SECRETS, good_pair().secret())
    secure_gateway(server)
    server.put(POOLS, pool("llama"))
    server.refusals["secrets"] = [403, 403]
    async with following(settings) as worlds:
        assert list((await worlds.next()).certificates) == [ObjectName("default", "tls")]


async def test_secrets_that_fail_for_another_reason_are_waited_for(
    server: FakeServer, settings: KubernetesSettings
) -> None:
    server.put(POOLS, pool("llama"))
    server.refusals["secrets"] = [500] * 6
    async with following(settings) as worlds:
        assert (await worlds.next()).unread == frozenset()
    assert not server.refusals["secrets"]


async def test_a_secret_that_may_be_read_no_longer_stays_as_it_was(
    server: FakeServer, settings: KubernetesSettings
) -> None:
    server.put(POOLS, pool("llama"))
    server.put(SECRETS, good_pair().secret())
    secure_gateway(server)
    async with following(settings) as worlds:
        assert (await worlds.next()).certificates
        server.refusals["secrets"] = [403] * 10_000
        server.api.put(PODS, pod("one", "llama", "10.0.0.1"))
        server.api.compact()  # every watch has to list anew
        server.wake()
        world = await worlds.until(lambda world: bool(world.problems))
        assert world.certificates
        assert world.unread == frozenset()
        assert "what was read last stays in effect" in messages(world)[0]


async def test_a_grant_comes_with_its_kind(
    server: FakeServer, settings: KubernetesSettings
) -> None:
    group = GRANTS.rpartition("/")[0]
    server.groups[group] = tuple(n for n in GROUPS[group] if n != "referencegrants")
    server.put(POOLS, pool("llama"))
    async with following(settings) as worlds:
        world = await worlds.next()
        assert (world.grants, world.problems, world.unread) == ((), (), frozenset())
        server.put(GRANTS, grant())
        server.groups |= GROUPS
        await worlds.until(lambda world: len(world.grants) == 1)
        server.delete(GRANTS, "default", "grant")
        await worlds.until(lambda world: not world.grants)


def grant() -> Object:
    return {
        "metadata": {"name": "grant", "namespace": "default"},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "a"}],
            "to": [{"group": "", "kind": "Secret"}],
        },
    }


def secure_gateway(server: FakeServer) -> None:
    tls = {"certificateRefs": [{"name": "tls"}]}
    listeners = [{"name": "https", "port": 443, "protocol": "HTTPS", "tls": tls}]
    controller = {"controllerName": "poolpilot.dev/gateway-controller"}
    server.put(GATEWAY_CLASSES, {"metadata": {"name": "ours"}, "spec": controller})
    server.put(
        GATEWAYS,
        {
            "metadata": {"name": "secure", "namespace": "default"},
            "spec": {"gatewayClassName": "ours", "listeners": listeners},
        },
    )


async def test_a_token_that_was_renewed_in_the_kubeconfig_is_taken_up(
    server: FakeServer, tmp_path: Path
) -> None:
    server.token = "first"
    server.put(POOLS, pool("llama"))
    path = kubeconfig(tmp_path / "config", server.url, {"token": "first"})
    async with following(KubernetesSettings(path, timing=QUICK)) as worlds:
        await worlds.next()
        server.token = "second"
        server.api.compact()
        server.api.put(PODS, pod("one", "llama", "10.0.0.1"))
        server.api.compact()
        server.wake()
        refused = await worlds.until(lambda world: bool(world.problems))
        assert ["does not accept our credentials" in one for one in messages(refused)] == [True]
        kubeconfig(path, server.url, {"token": "second"})
        await worlds.until(lambda world: not world.problems and bool(keys(world)))


async def test_a_program_that_logs_in_is_run(server: FakeServer, tmp_path: Path) -> None:
    server.token = "from-a-program"
    server.put(POOLS, pool("llama"))
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": server.token},
    }
    program = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-c", f"print({json.dumps(credential)!r})"],
        "interactiveMode": "Never",
    }
    path = kubeconfig(tmp_path / "config", server.url, {"exec": program})
    async with following(KubernetesSettings(path, timing=QUICK)) as worlds:
        assert LLAMA in (await worlds.next()).pools


async def test_a_program_that_hangs_is_told_waited_for_and_not_run_again_and_again(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pools.kubernetes.connection.LOGIN_LIMIT", 0.2)
    server.put(POOLS, pool("llama"))
    program, runs, hangs = tmp_path / "log-in", tmp_path / "runs", tmp_path / "hangs"
    answer = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "t", "expirationTimestamp": "2020-01-01T00:00:00Z"},
    }
    program.write_text(
        f"#!/bin/sh\necho run >> {runs}\nwhile [ -e {hangs} ]; do sleep 0.05; done\n"
        f"echo '{json.dumps(answer)}'\n"
    )
    program.chmod(0o755)
    user = {"exec": {"apiVersion": answer["apiVersion"], "command": str(program)}}
    path = kubeconfig(tmp_path / "config", server.url, user)
    async with following(KubernetesSettings(path, timing=QUICK)) as worlds:
        await worlds.next()
        hangs.touch()
        world = await worlds.until(lambda world: bool(world.problems))
        assert f"kubeconfig {path} cannot be used: no answer" in world.problems[0].message
        before = len(runs.read_text().splitlines())
        await asyncio.sleep(0.5)
        assert len(runs.read_text().splitlines()) == before, "it still runs"
        hangs.unlink()
        await worlds.until(lambda world: not world.problems)


async def test_kinds_that_are_not_installed_are_told_once_and_found_when_they_are(
    server: FakeServer, settings: KubernetesSettings
) -> None:
    del server.groups["/apis/gateway.networking.k8s.io/v1"]
    server.put(POOLS, pool("llama"))
    with structlog.testing.capture_logs() as logs:
        async with following(settings) as worlds:
            await worlds.next()
            await server.asked_for(POOLS.rpartition("/")[0], times=3)
            server.put(ROUTES, route("llm"))
            server.groups |= GROUPS
            world = await worlds.until(lambda world: bool(world.routes))
    assert world.pools
    told = [line["kind"] for line in logs if line["event"].startswith("kind not installed")]
    assert told.count("HTTPRoute (gateway.networking.k8s.io)") == 1


async def test_without_any_pool_kind_the_world_says_what_to_install(
    server: FakeServer, settings: KubernetesSettings
) -> None:
    for path in list(server.groups):
        if "inference" in path:
            del server.groups[path]
    async with following(settings) as worlds:
        assert ["custom resource definitions" in one for one in messages(await worlds.next())] == [
            True
        ]


async def test_only_the_namespaces_that_are_asked_for_are_read(
    server: FakeServer, tmp_path: Path
) -> None:
    for namespace in ("a", "b", "c"):
        server.put(POOLS, pool("llama", namespace=namespace))
        server.put(PODS, pod("one", "llama", "10.0.0.1", namespace=namespace))
    path = kubeconfig(tmp_path / "config", server.url)
    async with following(KubernetesSettings(path, namespaces=("a", "b"), timing=QUICK)) as worlds:
        world = await worlds.next()
    assert sorted(map(str, world.endpoints)) == ["a/llama", "b/llama"]
    assert PODS not in {path.partition("?")[0] for path in server.requests}


async def test_the_picker_asks_for_no_routes(server: FakeServer, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", server.url)
    async with following(KubernetesSettings(path, kinds=PICKER_KINDS, timing=QUICK)) as worlds:
        await worlds.next()
    others = ("gateway.networking", "secrets", "services", "endpointslices", "namespaces")
    assert not [path for path in server.requests if any(other in path for other in others)]
    assert set(PICKER_KINDS) < set(ALL_KINDS)


async def test_a_stopped_source_leaves_no_task_and_no_connection(
    server: FakeServer, settings: KubernetesSettings
) -> None:
    async def quiet() -> set[asyncio.Task[Any]]:
        await asyncio.sleep(0)
        return asyncio.all_tasks()

    before = await quiet()
    async with following(settings) as worlds:
        await worlds.next()
        assert len(await quiet()) > len(before)
    ours = {task for task in await quiet() if "kubernetes" in task.get_name()}
    assert ours == set()


async def test_a_missing_kubeconfig_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "nowhere"
    with pytest.raises(SourceError, match=f"kubeconfig {path} cannot be used"):
        await anext(KubernetesSource(KubernetesSettings(path)).worlds())


async def test_a_context_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", "http://127.0.0.1:1")
    with pytest.raises(SourceError, match="context 'prod' cannot be used"):
        await anext(KubernetesSource(KubernetesSettings(path, "prod")).worlds())


async def test_without_the_client_library_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(SourceError, match=re.escape(install_command("kubernetes"))):
        await anext(KubernetesSource(KubernetesSettings()).worlds())


def test_a_namespace_must_be_one() -> None:
    with pytest.raises(ValueError, match="'A/b' is not a namespace"):
        KubernetesSettings(namespaces=("A/b",))


async def test_endpoints_of_envoys_own_machine_are_refused_unless_they_are_allowed(
    server: FakeServer, settings: KubernetesSettings
) -> None:
    server.put(POOLS, pool("llama"))
    hosts = ["127.0.0.1", "169.254.169.254", "10.0.0.1"]
    described = {
        "apiVersion": "poolpilot.dev/v1alpha1",
        "kind": "PoolEndpoints",
        "metadata": {"name": "e", "namespace": "default"},
        "spec": {"poolRef": {"name": "llama"}, "endpoints": [{"address": one} for one in hosts]},
    }
    server.put("/apis/poolpilot.dev/v1alpha1/poolendpoints", described)
    async with following(settings) as worlds:
        world = await worlds.next()
    assert keys(world) == ["10.0.0.1:8000"]
    assert [one.name for one in world.absent] == hosts[:2]
    assert "127.0.0.1 is a loopback address" in str(world.problems[0])

    async with following(dataclasses.replace(settings, local_hosts=True)) as worlds:
        assert len(keys(await worlds.next())) == 3
