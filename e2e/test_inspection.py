"""The web pages of the xDS server, in a real browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from e2e.browser import Page, browser, find_chromium
from pools.model import Endpoint, Origin, Problem, Severity, World
from tests.xds.envoy import envoy, until
from tests.xds.scripted_node import ScriptedNode
from tests.xds.worlds import name, pods, pool, route, rule, to, world
from xds.config import XdsServerConfig
from xds.control_plane import ControlPlane
from xds.http import HttpConfig
from xds.resource import CLUSTER, ENDPOINT
from xds.status import State

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (apt-get install chromium)"),
    pytest.mark.timeout(180),
]

LLAMA = pool("llama", origin=Origin("InferencePool", name("llama"), "pools.yaml", 3))
BEFORE = world(LLAMA, pool("qwen"))
HOSTILE = "<img src=x onerror=document.title='owned'>"
VIEWS = (
    "/ui",
    "/ui/nodes",
    "/ui/nodes/edge-1",
    "/ui/snapshots",
    "/ui/snapshots/default",
    "/ui/snapshots/default/clusters/pool%2Fdefault%2Fllama",
    "/ui/history",
    "/ui/world",
    "/ui/why?q=pod-0",
    "/ui/simulate?version=1.37.0",
    "/ui/api",
)


class Silent:
    """A source that says nothing: tests hand over Worlds themselves."""

    async def worlds(self) -> AsyncIterator[World]:
        for nothing in ():
            yield nothing


class Site:
    """A running control plane, and a browser that looks at it."""

    def __init__(self, control: ControlPlane, page: Page, nodes: AsyncExitStack) -> None:
        self.control = control
        self.page = page
        self._nodes = nodes
        self.url = f"http://127.0.0.1:{control.http_port}"

    async def node(self, node_id: str) -> ScriptedNode:
        """Connect a node, and wait until it has all it will take."""
        node = ScriptedNode(self.control.port, node_id)
        await self._nodes.enter_async_context(node)
        await until(lambda: self.has_answered(node_id), f"{node_id} has answered")
        return node

    def has_answered(self, node_id: str) -> bool:
        return any(
            n.node.id == node_id
            and all(s.converged for s in n.streams)
            and any(t.type_url == ENDPOINT for s in n.streams for t in s.types)
            for n in self.control.status().nodes
        )

    async def open(self, path: str) -> Page:
        await self.page.open(self.url + path)
        await self.page.until("document.querySelector('main h1')")
        await self.page.shows("Live", "#live")
        return self.page


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    assert CHROMIUM is not None
    control = ControlPlane(
        Silent(), server_config=XdsServerConfig(port=0), http_config=HttpConfig(port=0)
    )
    await control.start()
    control.take(BEFORE)
    try:
        async with browser(CHROMIUM, tmp_path) as page, AsyncExitStack() as nodes:
            yield Site(control, page, nodes)
            assert not page.complaints
            foreign = {url for url in page.requests if not url.startswith("http://127.0.0.1:")}
            assert not foreign, "pages need nothing from elsewhere"
    finally:
        await control.stop(0)


def grown(count: int) -> World:
    """``BEFORE`` with so many pods in the pool llama."""
    return World(
        pools=BEFORE.pools, endpoints={**BEFORE.endpoints, name("llama"): pods(count)}, revision=2
    )


async def test_a_rejection_appears_on_top_of_the_list_without_reloading(site: Site):
    for i in range(3):
        await site.node(f"edge-{i}")
    bad = await site.node("zone-z")
    page = await site.open("/ui/nodes")
    await page.run("window.loadedOnce = true")
    first = "document.querySelector('tbody tr a.row').innerText"
    assert await page.run(first) == "edge-0"
    bad.rejected[ENDPOINT] = "malformed IP address: 10.0.0.3"
    site.control.take(grown(3))
    await page.until(f"{first} === 'zone-z'")
    await page.shows("malformed IP address: 10.0.0.3")
    text = await page.text("tbody")
    assert text.index("malformed") < text.index("edge-0")
    assert "InferencePool default/llama (pools.yaml:3)" in text
    assert await page.run("window.loadedOnce"), "nothing was reloaded"
    bad.rejected.clear()
    site.control.take(grown(4))
    await page.until(f"{first} === 'edge-0'")


async def test_everything_can_be_reached_with_the_keyboard_alone(site: Site):
    await site.node("edge-0")
    await site.node("edge-1")
    page = await site.open("/ui")
    await page.press("g", "n")
    await page.until("document.title.startsWith('Nodes') && document.querySelector('a.row')")
    await page.press("j", "j")
    assert await page.run("document.activeElement.innerText") == "edge-1"
    await page.press("k", "ArrowDown", "Enter")
    await page.until("location.pathname === '/ui/nodes/edge-1'")
    await page.shows("Exchanges on stream")
    await page.press("Escape")
    await page.until("document.title.startsWith('Nodes') && document.querySelector('a.row')")
    await page.press("/")
    await page.write("edge-0")
    await page.until("document.querySelectorAll('tbody a.row').length === 1")
    await page.press("ArrowDown", "Enter")
    await page.until("location.pathname === '/ui/nodes/edge-0'")
    for key, path in {"s": "snapshots", "h": "history", "w": "world", "y": "why"}.items():
        await page.run("document.activeElement.blur()")
        await page.press("g", key)
        await page.until(f"location.pathname === '/ui/{path}'")
    # The page of questions puts the cursor into its field, where a question mark is only text.
    await page.until("document.activeElement.matches('input')")
    await page.run("document.activeElement.blur()")
    await page.press("?")
    await page.shows("Next row", "#help")
    await page.press("Escape")
    await page.until("!document.querySelector('#help').open")


async def test_who_is_reading_is_not_disturbed_by_an_update(site: Site):
    for i in range(40):
        await site.node(f"edge-{i:02}")
    page = await site.open("/ui/nodes")
    await page.size(900, 500)
    await page.press("/")
    await page.write("edge-")
    await page.until("location.search === '?filter=edge-'")
    await page.run("window.scrollTo(0, 600)")
    await page.run("getSelection().selectAllChildren(document.querySelectorAll('tbody a.row')[5])")
    await page.run("document.querySelectorAll('a.row')[7].focus({preventScroll: true})")
    version = "document.querySelector('td:nth-child(6) .version').title"
    before = await page.run(version)
    site.control.take(grown(3))
    await page.until(f"{version} !== '{before}'")
    assert await page.run("window.scrollY") == 600
    assert await page.run("document.activeElement.innerText") == "edge-07"
    assert await page.run("getSelection().toString()") == "edge-05"
    assert await page.run("document.querySelector('#filter').value") == "edge-"


async def test_a_filter_is_part_of_the_address_and_says_when_nothing_matches(site: Site):
    await site.node("edge-0")
    await site.node("inner-0")
    page = await site.open("/ui/nodes?filter=inner")
    await page.until("document.querySelectorAll('tbody a.row').length === 1")
    assert "1 of 2" in await page.text(".heading")
    await page.press("/")
    await page.write("nobody")
    await page.shows("No node matches the filter")
    await page.press("Escape")
    await page.until("document.querySelectorAll('tbody a.row').length === 2")
    assert await page.run("location.search") == ""


async def test_it_is_dark_where_the_system_is_and_as_the_reader_chooses(site: Site):
    luminance = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    await site.page.scheme("dark")
    page = await site.open("/ui")
    assert await page.run(luminance) < 60
    await page.scheme("light")
    assert await page.run(luminance) > 200
    await page.press("t", "t")
    await page.until("document.documentElement.dataset.theme === 'dark'")
    assert await page.run(luminance) < 60
    page = await site.open("/ui/nodes")
    assert await page.run(luminance) < 60, "the choice is remembered"


async def test_what_comes_from_outside_is_shown_as_text_and_never_run(site: Site):
    node = await site.node(HOSTILE)
    node.rejected[CLUSTER] = f"bad cluster {HOSTILE}"
    site.control.take(world(pool("llama"), pool("new"), revision=2))
    for path in ("/ui/nodes", "/ui", f"/ui/nodes/{quote(HOSTILE, safe='')}", "/ui/history"):
        page = await site.open(path)
        if path != "/ui/history":
            await page.shows(f"bad cluster {HOSTILE}")
        await page.shows(HOSTILE)
        assert await page.run("document.querySelectorAll('main img').length") == 0
    page = await site.open(f"/ui/why?q={quote(HOSTILE)}")
    await page.shows(HOSTILE)
    assert await page.run("document.title") != "owned"


async def test_the_history_shows_what_changed_line_by_line_and_who_has_it(site: Site):
    await site.node("edge-0")
    slow = await site.node("edge-1")
    slow.silent = True
    page = await site.open("/ui/history")
    site.control.take(grown(3))
    await page.shows("Endpoint 10.0.0.3:8000 added to InferencePool default/llama")
    await page.shows("1 of 2 have it, waiting for edge-1")
    shares = "[...document.querySelector('.bar').children].map(part => part.style.flexGrow)"
    assert await page.run(shares) == ["0.5", "0.5"], "the bar grows along"
    await page.press("j", "Enter")
    await page.until("document.querySelector('.diff .added')")
    changed = "[...document.querySelectorAll('.diff .added, .diff .removed')]"
    lines = await page.run(f"{changed}.map(line => line.innerText)")
    assert len(lines) == 1
    assert lines[0].startswith("+")
    assert "10.0.0.3" in lines[0]
    await page.shows("edge-0")
    assert "InferencePool default/llama (pools.yaml:3)" in await page.text()


async def test_a_pod_that_left_is_explained(site: Site):
    site.control.take(grown(3))
    await site.node("edge-0")
    page = await site.open("/ui/why")
    assert await page.run("document.activeElement.name") == "q", "one can write at once"
    await page.write("pod-2")
    await page.press("Enter")
    await page.shows("every Envoy that is to have it has it")
    site.control.take(grown(2))
    await page.shows("is not there")
    await page.shows("no manifest describes it any more")


async def test_problems_of_manifests_are_shown_where_one_looks_first(site: Site):
    page = await site.open("/ui")
    await page.shows("No Envoy is connected")
    origin = Origin("InferencePool", name("bad"), "bad.yaml", 7)
    broken = Problem(Severity.ERROR, "must be a number", origin, line=9, field="spec.targetPorts")
    site.control.take(World(pools=BEFORE.pools, problems=(broken,), revision=2))
    await page.shows("1 error in the manifests")
    text = await page.text()
    for part in ("InferencePool default/bad", "bad.yaml:9", "spec.targetPorts", "must be a number"):
        assert part in text


async def test_pages_fit_phones_and_wide_screens_in_both_schemes(site: Site):
    await site.node("edge-1")
    site.control.take(
        World(
            pools=BEFORE.pools,
            endpoints={name("llama"): (*pods(3), Endpoint("2001:db8::1", 8000, "six" * 30))},
            routes=(route("r", rule(backends=to("llama"))),),
            revision=2,
        )
    )
    for width, scheme in ((400, "dark"), (1600, "light")):
        await site.page.size(width, 900)
        await site.page.scheme(scheme)
        for path in VIEWS:
            page = await site.open(path)
            assert await page.run("document.documentElement.scrollWidth <= innerWidth"), path


async def test_a_real_envoy_is_compared_with_what_it_acknowledged(site: Site, tmp_path: Path):
    def narrow(bootstrap: dict[str, Any]) -> None:
        """Too narrow for our listener: Envoy's own words are what one has to see."""
        limit = {"re2.max_program_size.error_level": 10}
        bootstrap["layered_runtime"] = {"layers": [{"name": "narrow", "static_layer": limit}]}

    async with envoy(
        tmp_path / "envoy", site.control.port, delta=True, node="real", amend=narrow
    ) as running:
        await until(
            lambda: any(n.state is State.ERROR for n in site.control.status().nodes),
            "Envoy rejects the listener",
        )
        page = await site.open(f"/ui/nodes/real?admin={quote(running.admin)}")
        await page.shows("max program size")
        await page.shows("Wanted, acknowledged, and what Envoy has")
        await page.until("document.querySelector('.badge[data-look=ERROR]')")
        found = await page.text("[aria-label='Wanted, acknowledged, and what Envoy has']")
        assert "REJECTED" in found.upper()
        assert "5 further resources are the same" in found


async def test_a_server_that_goes_away_is_noticed(site: Site):
    page = await site.open("/ui/nodes")
    await site.control.stop(0)
    await page.shows("Reconnecting", "#live")
    page.complaints.clear()


async def test_a_page_that_nobody_sees_does_not_listen(site: Site):
    await site.open("/ui")
    assert site.control.live.listeners == 1
    await site.page.open("about:blank")
    await until(lambda: site.control.live.listeners == 0, "nobody listens")
