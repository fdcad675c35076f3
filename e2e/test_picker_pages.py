"""The web pages of the endpoint picker, in a real browser."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from e2e.browser import Page, browser, find_chromium
from extproc.config.settings import PickerConfig
from extproc.picking.admission.settings import AdmissionSettings, ConcurrencySettings
from extproc.picking.endpoint_health import Fault
from extproc.picking.scheduling import Adapters, Signals
from extproc.request import Api, Completed, InferenceRequest, Outcome, Routed
from extproc.service.server import EndpointPickerServer
from pools.model import (
    AbsentEndpoint,
    Endpoint,
    InferenceModel,
    InferencePool,
    ObjectName,
    Origin,
    Problem,
    Severity,
    World,
)

CHROMIUM = find_chromium()
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (apt-get install chromium)"),
    pytest.mark.timeout(180),
]

LLAMA, QWEN = ObjectName("default", "llama"), ObjectName("default", "qwen")
HOSTILE = "<img src=x onerror=document.title='owned'>"
VIEWS = (
    "/ui",
    "/ui/fleet",
    "/ui/fleet/10.0.0.1%3A8000",
    "/ui/decisions",
    "/ui/queues",
    "/ui/profiles",
    "/ui/config",
    "/ui/api",
)


def world(pods: int = 3, revision: int = 1, *problems: Problem) -> World:
    return World(
        revision=revision,
        pools={
            LLAMA: InferencePool(
                LLAMA, (8000,), origin=Origin("InferencePool", LLAMA, "pools.yaml", 3)
            ),
            QWEN: InferencePool(QWEN, (8000,)),
        },
        endpoints={
            LLAMA: tuple(
                Endpoint(f"10.0.{n // 250}.{n % 250}", 8000, f"llama-{n}", {"zone": "ab"[n % 2]})
                for n in range(1, pods + 1)
            ),
            QWEN: (Endpoint("10.1.0.1", 8000, "qwen-1"),),
        },
        models=(InferenceModel(ObjectName("default", "sql"), LLAMA, "sql"),),
        absent=(
            AbsentEndpoint(
                "llama-9",
                "not Ready since 12:03: containers with unready status: [vllm]",
                LLAMA,
                "10.0.0.9",
            ),
        ),
        problems=problems,
    )


class Silent:
    """A source that says nothing: tests hand over Worlds themselves."""

    async def worlds(self) -> AsyncIterator[World]:
        await asyncio.Event().wait()
        yield World()


class Site:
    """A running picker, and a browser that looks at it."""

    def __init__(self, server: EndpointPickerServer, page: Page) -> None:
        self.server = server
        self.director = server.director
        self.page = page
        self.url = f"http://{server.http_address}"
        self.take(world())
        server.health.ready = True

    def take(self, described: World) -> None:
        self.director.update(described)
        for number, key in enumerate(self.director.fleet.members):
            self.report(key, Signals(number % 4, 3, (number % 10) / 10))

    def report(self, key: str, signals: Signals) -> None:
        fleet = self.director.fleet
        fleet.scrape_started(key)
        fleet.scraped(key, signals, asyncio.get_running_loop().time())

    def ask(
        self, model: str = "llama-3", request_id: str = "r", prompt: str = "Hi " * 400
    ) -> Outcome:
        request = InferenceRequest(
            request_id, LLAMA, "/v1/completions", "POST", {}, model=model, prompt_bytes=len(prompt)
        )
        request.api = Api.COMPLETIONS
        request.document = {"model": model, "prompt": prompt}
        return self.director.decide(request).outcome

    def end(self, outcome: Outcome, code: int = 200) -> None:
        assert isinstance(outcome, Routed)
        self.director.settle(
            Completed(
                outcome.pick_id,
                code,
                1.25,
                0.2,
                outcome.endpoints[0],
                attempts=1,
                prompt_tokens=300,
                cached_tokens=128,
                completion_tokens=40,
            )
        )

    async def open(self, path: str) -> Page:
        await self.page.open(self.url + path)
        await self.page.until("document.querySelector('main h1')")
        await self.page.shows("Live", "#live")
        return self.page


CONFIG = PickerConfig(address="127.0.0.1:0", health_address=None, http_address="127.0.0.1:0")


@asynccontextmanager
async def opened(directory: Path, config: PickerConfig = CONFIG) -> AsyncIterator[Site]:
    assert CHROMIUM is not None
    server = EndpointPickerServer(Silent(), config)
    await server.start()
    try:
        async with browser(CHROMIUM, directory) as page:
            yield Site(server, page)
            assert not page.complaints
            foreign = {url for url in page.requests if not url.startswith("http://127.0.0.1:")}
            assert not foreign, "pages need nothing from elsewhere"
    finally:
        await server.stop(0)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with opened(tmp_path) as site:
        yield site


TOLD_OF_DECISIONS = """new Promise(told => {
  window.listens = false;
  const source = new EventSource('/debug/events');
  source.addEventListener('hello', () => { window.listens = true; });
  source.addEventListener('change', event => {
    if (!JSON.parse(event.data).topics.includes('decisions')) return;
    source.close();
    told(true);
  });
})"""


def rows(selector: str = "tbody a.row") -> str:
    return f"[...document.querySelectorAll('{selector}')].map(one => one.innerText)"


async def test_the_overview_says_what_needs_attention_first(site: Site) -> None:
    page = await site.open("/ui")
    await page.shows("All 4 endpoints in use, 1 server not ready")
    await page.shows("not Ready since 12:03: containers with unready status: [vllm]")
    now = asyncio.get_running_loop().time()
    for _ in range(3):
        site.director.fleet.failed("10.0.0.2:8000", Fault.CONNECT, now)
    await page.shows("1 endpoint out of picks or returning")
    await page.shows("connections failed", "section[aria-label='Endpoints in trouble']")
    problem = Problem(Severity.ERROR, "It is broken.", source="pools.yaml", line=20)
    site.take(world(3, 2, problem))
    await page.shows("1 error in what was read")
    await page.shows("pools.yaml:20")


async def test_the_fleet_follows_what_endpoints_say_without_reloading(site: Site) -> None:
    page = await site.open("/ui/fleet")
    await page.run("window.loadedOnce = true")
    cell = "document.querySelector('tr[data-key=\"10.0.0.3:8000\"] td:nth-child(5)').innerText"
    await page.until(f"{cell} === '3'")
    site.report("10.0.0.3:8000", Signals(0, 42, 0.5, Adapters(frozenset({"sql"}), frozenset(), 4)))
    await page.until(f"{cell} === '42'")
    await page.shows("sql", "tr[data-key='10.0.0.3:8000']")
    # The pool, its absent server, and the way to one endpoint.
    await page.shows("llama-9")
    await page.run("document.querySelector('tr[data-key=\"10.0.0.3:8000\"] a.row').click()")
    await page.until("location.pathname === '/ui/fleet/10.0.0.3%3A8000'")
    await page.shows("What picks see")
    assert await page.run("window.loadedOnce"), "nothing was reloaded"


async def test_the_order_and_the_pool_are_part_of_the_address(site: Site) -> None:
    page = await site.open("/ui/fleet?pool=default/llama&sort=kv")
    await page.until(f"{rows()}[0] === 'llama-3'")
    assert "qwen-1" not in await page.run(rows())
    await page.run(
        "(select => { select.value = 'name'; select.dispatchEvent(new Event('change')) })"
        "(document.querySelector('#choice-sort'))"
    )
    await page.until(f"{rows()}[0] === 'llama-1'")
    assert "sort=name" in await page.run("location.search")


async def test_decisions_come_in_as_they_are_made_unless_the_reader_holds_them(site: Site) -> None:
    page = await site.open("/ui/decisions")
    await page.shows("No request was picked for yet")
    first = site.ask("sql")
    assert isinstance(first, Routed)
    await page.until(f"{rows()}.includes('{first.pick_id}')")
    await page.shows("In progress", "tbody")
    site.end(first)
    await page.shows("200 in 1.3 s", "tbody")
    await page.run("document.querySelector('#pause').click()")
    await page.shows("Go on", "#pause")
    for _ in range(2):
        # By the second event, the page has done what it does at the first.
        await page.run(f"void (window.told = {TOLD_OF_DECISIONS})")
        await page.until("window.listens")
        site.ask("sql")
        await page.run("window.told")
    assert await page.run(rows()) == [first.pick_id]
    await page.run("document.querySelector('#pause').click()")
    await page.until(f"{rows()}.length === 3")


async def test_decisions_are_found_by_how_they_came_out(site: Site) -> None:
    failed, fine = site.ask("sql"), site.ask("other")
    assert isinstance(failed, Routed)
    site.end(failed, 503)
    site.end(fine)
    page = await site.open("/ui/decisions?outcome=failed")
    await page.until(f"{rows()}.length === 1")
    assert await page.run(rows()) == [failed.pick_id]
    await page.open(f"{site.url}/ui/decisions?model=nobody")
    await page.shows("None of the last decisions is like that")


async def test_a_decision_is_explained_with_candidates_filters_scores_and_its_end(
    site: Site,
) -> None:
    now = asyncio.get_running_loop().time()
    for _ in range(3):
        site.director.fleet.failed("10.0.0.2:8000", Fault.CONNECT, now)
    pick = site.ask("sql", "req-7")
    assert isinstance(pick, Routed)
    # By its request id, as a user would know it.
    page = await site.open("/ui/decisions/req-7")
    await page.shows(f"Decision {pick.pick_id}", "h1")
    await page.shows("It has not ended yet")
    await page.shows("it failed too often of late", "table[aria-label='Steps']")
    table = "table[aria-label='Candidates']"
    await page.shows("left out", table)
    assert "least-work-scorer ×1" in await page.text(table)
    picked = f"document.querySelector(\"{table} tr[data-key='{pick.endpoints[0]}']\").innerText"
    assert "Picked" in await page.run(picked)
    site.end(pick)
    await page.shows("200 in 1.3 s")
    assert "Output tokens" in await page.text("section[aria-label='What happened then']")


async def test_names_of_clients_are_text_and_nothing_else(site: Site) -> None:
    site.end(site.ask(HOSTILE, HOSTILE), 503)
    for view in ("/ui", "/ui/decisions"):
        page = await site.open(view)
        await page.shows("<img src=x")
        assert await page.run("document.querySelector('main img')") is None
        assert "owned" not in await page.run("document.title")


async def test_every_page_fits_every_screen_and_needs_no_mouse(site: Site) -> None:
    site.end(site.ask("a-model-with-quite-a-long-name/" * 4))
    page = site.page
    for width in (320, 390, 768, 1440):
        await page.size(width, 900)
        for view in VIEWS:
            await site.open(view)
            assert await page.run("document.documentElement.scrollWidth") <= width, (view, width)
    for key, path in {"f": "fleet", "d": "decisions", "q": "queues", "p": "profiles"}.items():
        await page.press("g", key)
        await page.until(f"location.pathname === '/ui/{path}'")


async def test_two_hundred_endpoints_are_read_at_little_cost(site: Site) -> None:
    site.take(world(200, 2))
    page = await site.open("/ui/fleet")
    await page.until(f"{rows()}.length === 201")
    await page.press("/")
    await page.write("llama-17")
    await page.until(f"{rows()}.length === 11")
    assert "11 of 200" in await page.text("section[aria-label='default/llama']")


async def test_light_and_dark(site: Site) -> None:
    luminance = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    page = await site.open("/ui")
    await page.scheme("dark")
    assert await page.run(luminance) < 60
    await page.scheme("light")
    assert await page.run(luminance) > 200


async def test_queues_show_who_waits_for_what(site: Site, tmp_path: Path) -> None:
    page = await site.open("/ui/queues")
    await page.shows("Admission is off")
    settings = AdmissionSettings(saturation=ConcurrencySettings(1))
    config = dataclasses.replace(CONFIG, admission=settings)
    async with opened(tmp_path / "on", config) as full:
        admission = full.server.admission
        assert admission is not None
        page = await full.open("/ui/queues")
        for number in range(6):
            request = InferenceRequest(
                str(number), LLAMA, "/", "POST", {}, model="m", fairness_id=f"team-{number % 2}"
            )
            admission.pick(request, lambda _: None)
        await page.shows("3 requests waiting")
        await page.shows("100 %", "section[aria-label='default/llama']")
        await page.shows("team-0")
