"""A headless Chromium, driven over its DevTools protocol: no more than these tests need."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

LIMIT = 15.0
"""Seconds that anything may take to appear."""

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
_KEYS = {
    "Enter": ("Enter", "\r", 13),
    "Escape": ("Escape", "", 27),
    "Tab": ("Tab", "", 9),
    "ArrowDown": ("ArrowDown", "", 40),
    "ArrowUp": ("ArrowUp", "", 38),
}


def find_chromium() -> str | None:
    """The binary, or None."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        found = shutil.which(name)
        if found is not None:
            return found
    return None


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read())
        self.complaints: list[str] = []
        """Exceptions in scripts, console errors, and what the browser refused to load or run."""
        self.requests: list[str] = []
        """URLs that the page has asked for."""

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(LIMIT):
            return await answer

    async def _read(self) -> None:
        async for message in self._socket:
            event = json.loads(message.data)
            if "id" in event:
                waiting = self._answers.pop(event["id"], None)
                if waiting is None or waiting.done():
                    continue
                if "error" in event:
                    waiting.set_exception(RuntimeError(event["error"]["message"]))
                else:
                    waiting.set_result(event["result"])
            else:
                self._note(event["method"], event["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(
                details.get("exception", {}).get("description") or details["text"]
            )
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            entry = params["entry"]
            self.complaints.append(f"{entry['text']} {entry.get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    async def start(self) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")

    async def close(self) -> None:
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        await self._socket.close()

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def run(self, expression: str) -> Any:
        """The value of a JavaScript expression. Raises AssertionError for what it throws."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, expression: str, limit: float = LIMIT) -> Any:
        """Wait until it is true (or an element); returns its value."""
        wrapped = f"(value => value instanceof Node ? true : value)({expression})"
        deadline = time.monotonic() + limit
        while True:
            try:
                value = await self.run(wrapped)
            except RuntimeError:
                value = None  # Between two documents.
            if value:
                return value
            if time.monotonic() > deadline:
                text = await self.run("document.body.innerText")
                raise AssertionError(f"not within {limit:g} s: {expression}\n{text}")
            await asyncio.sleep(0.02)

    async def text(self, selector: str = "main") -> str:
        return str(await self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def shows(self, text: str, selector: str = "main") -> None:
        """Wait until the text is visible."""
        where = json.dumps(selector)
        await self.until(f"document.querySelector({where})?.innerText.includes({json.dumps(text)})")

    async def press(self, *keys: str) -> None:
        """Keys one after the other, as a person would."""
        for key in keys:
            name, text, code = _KEYS.get(key, (key, key, ord(key.upper()[0])))
            event: dict[str, Any] = {"key": name, "windowsVirtualKeyCode": code}
            await self.call(
                "Input.dispatchKeyEvent",
                type="keyDown" if text else "rawKeyDown",
                **event,
                **({"text": text} if text else {}),
            )
            await self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    async def write(self, text: str) -> None:
        await self.call("Input.insertText", text=text)

    async def size(self, width: int, height: int) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def scheme(self, name: str) -> None:
        """What the system prefers: light or dark."""
        await self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": name}],
        )

    async def screenshot(self, *, whole: bool = False) -> bytes:
        """A PNG of what is seen, or of the whole page."""
        options: Mapping[str, Any] = {}
        if whole:
            area = (await self.call("Page.getLayoutMetrics"))["cssContentSize"]
            options = {
                "captureBeyondViewport": True,
                "clip": {"x": 0, "y": 0, "scale": 1, **{k: area[k] for k in ("width", "height")}},
            }
        answer = await self.call("Page.captureScreenshot", format="png", **options)
        return base64.b64decode(answer["data"])


@asynccontextmanager
async def browser(binary: str, directory: Path) -> AsyncIterator[Page]:
    """A Chromium with one empty tab; its profile is in ``directory``."""
    profile = directory / "chromium"
    process = _start(binary, profile, directory / "chromium.log")
    try:
        port = await _port(profile / "DevToolsActivePort", process)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                tabs = [tab for tab in await answer.json() if tab["type"] == "page"]
            socket = await session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0)
            page = Page(socket)
            try:
                await page.start()
                yield page
            finally:
                await page.close()
    finally:
        # Its renderers are in the same process group.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _start(binary: str, profile: Path, log: Path) -> subprocess.Popen[bytes]:
    profile.mkdir(parents=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            [binary, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=output,
            stderr=output,
            env={**os.environ, "HOME": str(profile)},
            start_new_session=True,
        )


async def _port(told: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + 40
    while True:
        port = _read_port(told)
        if port:
            return port
        assert process.poll() is None, "Chromium ended; chromium.log says why"
        assert time.monotonic() < deadline, "Chromium tells no DevTools port"
        await asyncio.sleep(0.02)


def _read_port(told: Path) -> int:
    try:
        return int(told.read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return 0
