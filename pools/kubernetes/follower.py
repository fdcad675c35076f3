"""The loops around the pure parts: they do what is to be done next and tell what came of it.

One task for each collection lists and watches it into the cache. One more looks for kinds that come
and go.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from pools.assemble import next_expiry
from pools.kubernetes.backoff import delay
from pools.kubernetes.cache import Cache
from pools.kubernetes.connection import ApiError, Connection, Status, UnreachableError
from pools.kubernetes.discovery import Discovery, paths, read_resources
from pools.kubernetes.kinds import SOURCE, Collection, Head, Kind, Read, read_item
from pools.kubernetes.outage import NO_STATUS, Outages
from pools.kubernetes.reflection import ListPage, Reflection
from pools.model import Problem, Severity, World
from pools.tasks import Parts
from pools.waiting import set_within

log = structlog.get_logger(__name__)

MAX_SETTLE = 0.25
"""Seconds after which a World is made although changes go on."""
LONGEST_WAIT = 60.0
"""Seconds between two looks at the time of day, which can be set."""
SHORT_WATCH = 1.0
"""Seconds. A watch that ends sooner is not taken up again at once."""
DISCOVERY = "the list of its kinds"
BUSY = 429
PATIENCE = 4
"""Answers in a row of a server that is busy before that is a problem."""
BELIEVED = 3
"""Refusals in a row before the first World comes without an optional kind. A server that has just
started may refuse what it allows a moment later."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Sizes, and times in seconds."""

    page_size: int = 250
    """Objects in one answer to a list."""
    discovery: float = 15.0
    """Between two looks for kinds that were installed or removed."""
    watch: float = 300.0
    """After which a watch is ended and taken up again, give or take a quarter."""
    debounce: float = 0.05
    """For which nothing may change before a World is made."""
    longest_retry: float = 10.0
    """Between two tries of something that fails."""


class _ListMetadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    next_page: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _WatchBrokeError(Exception):
    """A watch was accepted and then broke, or ended at once. Whether the server can be reached is
    for the next request to tell."""


class Follower:
    """All tasks that keep one cache as the API server has it."""

    def __init__(
        self,
        connection: Connection,
        kinds: Sequence[Kind],
        namespaces: Sequence[str],
        controller: str,
        timing: Timing,
        *,
        local_hosts: bool,
        clock: Callable[[], float],
        now: Callable[[], datetime.datetime],
        chance: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._kinds = kinds
        self._namespaces = tuple(dict.fromkeys(namespaces))
        self._timing = timing
        self._clock = clock
        self._now = now
        self._chance = chance
        self._cache = Cache(kinds, controller, local_hosts=local_hosts)
        self._discovery = Discovery(kinds)
        self._outages = Outages()
        self._reflections: dict[Collection, Reflection] = {}
        self._parts = Parts()
        self._tasks: dict[Collection, asyncio.Task[None]] = {}
        self._started = False
        """Whether everything that was there at the start was listed once."""
        self._expiry = math.inf
        """When the next certificate of the last World expires, in seconds since 1970."""
        self._changed = asyncio.Event()
        self._look_again = asyncio.Event()
        self._back = asyncio.Event()

    def start(self) -> None:
        self._parts.start("kubernetes discovery", self._discover())

    async def stop(self) -> None:
        await self._parts.stop()

    async def settled(self) -> None:
        """Wait for a change after which nothing changes for a moment, or until a certificate
        expires; the first time, also until everything was listed. Raises PartEndedError."""
        await self._parts.watch(self._settle())

    async def _settle(self) -> None:
        while True:
            while (left := self._expiry - self._now().timestamp()) > 0:
                if await set_within(self._changed, min(left, LONGEST_WAIT)):
                    break
            deadline = self._clock() + MAX_SETTLE
            while self._changed.is_set() and self._clock() < deadline:
                self._changed.clear()
                await asyncio.sleep(self._timing.debounce)
            self._changed.clear()
            if not self._started:
                self._started = bool(self._reflections) and all(
                    reflection.listed or self._goes_without(collection, reflection)
                    for collection, reflection in self._reflections.items()
                )
            if self._started:
                return

    def world(self) -> World:
        """What the API server has, as far as it could be read."""
        never_read = [
            collection
            for collection, reflection in self._reflections.items()
            if collection.kind.optional and not reflection.listed
        ]
        outages = self._outages.problems(self._connection.url, frozenset(map(str, never_read)))
        now = self._now().timestamp()
        world = self._cache.world(
            [*outages, *self._notes()],
            now=now,
            unread=frozenset(collection.kind.name for collection in never_read),
        )
        self._expiry = next_expiry(world, now)
        return world

    def _goes_without(self, collection: Collection, reflection: Reflection) -> bool:
        """Whether a World may come without this collection, which was not listed yet."""
        return (
            collection.kind.optional
            and self._outages.forbids(str(collection))
            and reflection.failures >= BELIEVED
        )

    def _notes(self) -> Iterator[Problem]:
        if not any(kind.name == "InferencePool" for kind in self._discovery.present):
            yield Problem(
                Severity.WARNING,
                "the API server has no kind InferencePool: install the custom resource definitions"
                " of the Gateway API inference extension",
                source=SOURCE,
            )

    # Kinds that come and go.

    async def _discover(self) -> None:
        told: set[Kind] = set()
        failures = 0
        while True:
            self._look_again.clear()
            try:
                found = await self._resources()
            except (ApiError, UnreachableError, msgspec.MsgspecError) as error:
                failures += 1
                await self._wait_after(error, DISCOVERY, failures)
                continue
            failures = 0
            self._came_back(DISCOVERY)
            self._discovery.update(found, self._clock())
            for kind in self._discovery.absent:
                if kind not in told:
                    log.info("kind not installed, looking for it from time to time", kind=str(kind))
            told = set(self._discovery.absent)
            self._follow(self._discovery.present)
            await self._until_next_look()

    async def _resources(self) -> dict[str, frozenset[str]]:
        async def one(path: str) -> tuple[str, frozenset[str]]:
            try:
                return path, read_resources(await self._connection.get(path))
            except ApiError as error:
                if error.status == 404:
                    return path, frozenset()
                raise

        # All of them end before one raises: no request outlives this.
        found: dict[str, frozenset[str]] = {}
        for answer in await asyncio.gather(*map(one, paths(self._kinds)), return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer
            found[answer[0]] = answer[1]
        return found

    async def _until_next_look(self) -> None:
        wait = self._timing.discovery
        deadline = self._discovery.deadline()
        if deadline is not None:
            wait = min(wait, max(0.0, deadline - self._clock()))
        # A request that finds its kind missing wakes this up, but not more than once a second.
        pause = min(wait, 1.0)
        await asyncio.sleep(pause)
        await set_within(self._look_again, wait - pause)

    def _follow(self, present: dict[Kind, str]) -> None:
        """Run a task for each collection of these kinds, and no other."""
        wanted = [
            Collection(kind, version, namespace)
            for kind, version in present.items()
            for namespace in ((self._namespaces or (None,)) if kind.namespaced else (None,))
        ]
        scopes = {collection.scope for collection in wanted}
        for collection in [known for known in self._tasks if known not in wanted]:
            self._parts.cancel(self._tasks.pop(collection))
            del self._reflections[collection]
            self._outages.ended(str(collection))
            if collection.scope not in scopes:
                self._cache.drop(collection.scope)
                log.info("kind no longer installed", kind=str(collection))
            self._changed.set()
        for collection in wanted:
            if collection not in self._tasks:
                reflection = Reflection(self._cache, collection.scope, self._timing.page_size)
                self._reflections[collection] = reflection
                self._tasks[collection] = self._parts.start(
                    f"kubernetes {collection}", self._reflect(collection, reflection)
                )

    # One collection.

    async def _reflect(self, collection: Collection, reflection: Reflection) -> None:
        kind = collection.kind
        read = kind.read(kind.api_version(collection.version), kind.name)
        while True:
            try:
                if isinstance(reflection.next, ListPage):
                    await self._list(collection, reflection, reflection.next, read)
                else:
                    await self._watch(collection, reflection, reflection.next.version, read)
            except _WatchBrokeError:
                reflection.failed(answered=False)
                await self._pause(reflection.failures)
            except (ApiError, UnreachableError, msgspec.MsgspecError) as error:
                if isinstance(error, ApiError) and error.expired:
                    log.info("resource version expired, listing anew", what=str(collection))
                    reflection.expired()
                    if reflection.failures > 1:
                        await self._pause(reflection.failures)
                    continue
                reflection.failed(answered=isinstance(error, ApiError))
                if isinstance(error, msgspec.MsgspecError):
                    reflection.expired()
                if not self._started and self._goes_without(collection, reflection):
                    self._changed.set()
                await self._wait_after(error, str(collection), reflection.failures)

    async def _list(
        self, collection: Collection, reflection: Reflection, page: ListPage, read: Read
    ) -> None:
        parameters = dict(collection.kind.query)
        if page.limit is not None:
            parameters["limit"] = str(page.limit)
        if page.token:
            parameters["continue"] = page.token
        answer = msgspec.json.decode(
            await self._connection.get(collection.path, parameters), type=_List
        )
        items = [read_item(bytes(raw), read)[0] for raw in answer.items or ()]
        if reflection.page(items, answer.metadata.resource_version, answer.metadata.next_page):
            self._changed.set()
        self._came_back(str(collection))

    async def _watch(
        self, collection: Collection, reflection: Reflection, version: str, read: Read
    ) -> None:
        seconds = self._timing.watch * (0.75 + self._chance() / 2)
        parameters = {
            **collection.kind.query,
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, round(seconds))),
        }
        began = self._clock()
        accepted = False
        lines = self._connection.watch(collection.path, parameters, seconds + 15)
        try:
            async with contextlib.aclosing(lines):
                async for line in lines:
                    if not line:
                        accepted = True
                        self._came_back(str(collection))
                        continue
                    if _take(reflection, line, read):
                        self._changed.set()
        except UnreachableError as error:
            if accepted:
                raise _WatchBrokeError from error
            raise
        if self._clock() - began < SHORT_WATCH:
            raise _WatchBrokeError
        reflection.ended()

    # What goes wrong.

    async def _wait_after(self, error: Exception, what: str, failures: int) -> None:
        """Note a failure and wait until it is to be tried again."""
        status, retry_after = NO_STATUS, 0.0
        if isinstance(error, ApiError):
            status, retry_after = error.status, error.retry_after
            if status == 404:
                self._look_again.set()
        # A server that asks for patience, as for a kind that was just installed, gets it.
        is_busy = status == BUSY and failures < PATIENCE
        if not is_busy and self._outages.failed(what, status, str(error), self._now()):
            log.warning("cannot be read, trying again", what=what, status=status, error=str(error))
            self._changed.set()
        await self._pause(failures, retry_after)

    async def _pause(self, failures: int, retry_after: float = 0.0) -> None:
        """Wait until it is time for another try, or until something else succeeds again."""
        seconds = delay(failures, self._timing.longest_retry, self._chance(), retry_after)
        if await set_within(self._back, seconds):
            # Everybody was woken: not all at the same instant.
            await asyncio.sleep(max(retry_after, self._chance() / 10))

    def _came_back(self, what: str) -> None:
        if self._outages.ended(what):
            log.info("can be read again", what=what)
            self._changed.set()
            # Whoever waits need not: the server is back.
            self._back.set()
            self._back = asyncio.Event()


def _take(reflection: Reflection, line: bytes, read: Read) -> bool:
    """Tell the reflection what an event says. Returns whether the cache changed. Raises ApiError
    if it says that the watch failed."""
    event = msgspec.json.decode(line, type=_Event)
    raw = bytes(event.object)
    match event.type:
        case "ADDED" | "MODIFIED":
            return reflection.put(*read_item(raw, read))
        case "DELETED":
            head = msgspec.json.decode(raw, type=Head)
            return reflection.remove(head.name, head.metadata.resource_version)
        case "BOOKMARK":
            head = msgspec.json.decode(raw, type=Head)
            reflection.bookmark(head.metadata.resource_version)
        case "ERROR":
            status = msgspec.json.decode(raw, type=Status)
            raise ApiError(status.code, status.reason, status.message)
    return False
