"""List, then watch: whatever happens on the way, it ends in the server's state."""

import json

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pools.kubernetes.cache import Cache
from pools.kubernetes.kinds import ALL_KINDS, POD, POOLS, Item, Kind, read_item
from pools.kubernetes.reflection import RELIST_AFTER, ListPage, Reflection, WatchFrom
from pools.model import ObjectName, World
from tests.pools.kubernetes.api import PODS, Event, FakeApi, GoneError, Object, pod, pool
from tests.pools.kubernetes.api import POOLS as POOL_PATH

KINDS: dict[str, Kind] = {POOL_PATH: POOLS[0], PODS: POD}
NAMES = st.sampled_from(["a", "b", "c", "d", "e"])


def item_of(path: str, raw: Object) -> Item:
    kind = KINDS[path]
    read = kind.read(kind.api_version(kind.versions[0]), kind.name)
    return read_item(json.dumps(raw).encode(), read)[0]


def cache_of(api: FakeApi) -> Cache:
    """What a cache holds that has just listed everything."""
    cache = Cache(ALL_KINDS, "ours")
    for path, kind in KINDS.items():
        cache.replace((kind, None), [item_of(path, raw) for raw in api.items(path)])
    return cache


class Client:
    """A reflection and its connection to the server, one step at a time."""

    def __init__(self, api: FakeApi, cache: Cache, path: str, page_size: int) -> None:
        self.api = api
        self.path = path
        self.reflection = Reflection(cache, (KINDS[path], None), page_size)
        self.pending: list[Event] | None = None
        """Events on their way; None while no watch is open."""

    def step(self) -> None:
        """Send the next request, or read the next event of the open watch."""
        reflection, request = self.reflection, self.reflection.next
        try:
            if isinstance(request, ListPage):
                page = self.api.page(self.path, request.limit, request.token)
                items, version, token = page
                reflection.page([item_of(self.path, raw) for raw in items], version, token)
                return
            if self.pending is None:
                self.pending = self.api.since(self.path, request.version)
            elif self.pending:
                self._take(self.pending.pop(0))
            else:
                self.pending = self.api.since(self.path, request.version)
        except GoneError:
            self.pending = None
            reflection.expired()

    def _take(self, event: Event) -> None:
        version = str(event.version)
        if event.type == "DELETED":
            metadata = event.object["metadata"]
            name = ObjectName(metadata["namespace"], metadata["name"])
            self.reflection.remove(name, version)
        else:
            self.reflection.put(item_of(self.path, event.object), version)

    def disconnect(self, *, answered: bool) -> None:
        self.pending = None
        self.reflection.failed(answered=answered)

    @property
    def is_current(self) -> bool:
        request = self.reflection.next
        if not isinstance(request, WatchFrom) or self.pending:
            return False
        try:
            return not self.api.since(self.path, request.version)
        except GoneError:
            return False


class ListThenWatch(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.api = FakeApi()
        self.cache = Cache(ALL_KINDS, "ours")
        self.clients = {path: Client(self.api, self.cache, path, 2) for path in KINDS}
        self.states: dict[str, list[dict[ObjectName, Item]]] = {path: [{}] for path in KINDS}

    def note(self) -> None:
        for path, states in self.states.items():
            items = [item_of(path, raw) for raw in self.api.items(path)]
            states.append({item.name: item for item in items})

    @rule(name=NAMES, port=st.integers(8000, 8002), app=st.sampled_from(["x", "y"]))
    def a_pool_is_created_or_changed(self, name: str, port: int, app: str) -> None:
        self.api.put(POOL_PATH, pool(name, [port], app))
        self.note()

    @rule(
        name=NAMES,
        app=st.sampled_from(["x", "y"]),
        address=st.sampled_from(["", "10.0.0.1", "10.0.0.2"]),
        ready=st.booleans(),
        deleted=st.booleans(),
    )
    def a_pod_is_created_or_changed(
        self, name: str, app: str, address: str, ready: bool, deleted: bool
    ) -> None:
        self.api.put(PODS, pod(name, app, address, ready=ready, deleted=deleted))
        self.note()

    @rule(path=st.sampled_from(sorted(KINDS)), name=NAMES)
    def an_object_is_deleted(self, path: str, name: str) -> None:
        self.api.delete(path, "default", name)
        self.note()

    @rule()
    def the_server_forgets_its_history(self) -> None:
        self.api.compact()

    @rule(path=st.sampled_from(sorted(KINDS)), steps=st.integers(1, 4))
    def the_client_goes_on(self, path: str, steps: int) -> None:
        for _ in range(steps):
            self.clients[path].step()

    @rule(path=st.sampled_from(sorted(KINDS)), answered=st.booleans())
    def the_connection_breaks_or_the_server_refuses(self, path: str, answered: bool) -> None:
        self.clients[path].disconnect(answered=answered)

    @rule(path=st.sampled_from(sorted(KINDS)))
    def a_bookmark_comes(self, path: str) -> None:
        client = self.clients[path]
        if client.pending == [] and client.is_current:
            client.reflection.bookmark(str(self.api.version))

    @invariant()
    def the_cache_never_shows_a_state_that_the_server_never_had(self) -> None:
        for path, kind in KINDS.items():
            assert self.cache.items((kind, None)) in self.states[path]

    @precondition(lambda self: self.api.version > 1)
    @rule()
    def everything_settles(self) -> None:
        for client in self.clients.values():
            for _ in range(200):
                if client.is_current:
                    break
                client.step()
            else:
                raise AssertionError("it never catches up")
        assert self.world() == cache_of(self.api).world()

    def world(self) -> World:
        return self.cache.world()

    def teardown(self) -> None:
        self.everything_settles()


ListThenWatch.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_whatever_happens_ends_in_the_world_of_the_server = ListThenWatch.TestCase


def make(page_size: int = 2) -> tuple[FakeApi, Cache, Client]:
    api, cache = FakeApi(), Cache(ALL_KINDS, "ours")
    return api, cache, Client(api, cache, PODS, page_size)


def until_watching(client: Client) -> None:
    while isinstance(client.reflection.next, ListPage):
        client.step()


def test_nothing_of_a_list_shows_before_its_last_page() -> None:
    api, cache, client = make()
    for number in range(5):
        api.put(PODS, pod(f"p{number}", "x", f"10.0.0.{number}"))
    client.step()
    client.step()
    assert (len(cache.items((POD, None))), client.reflection.listed) == (0, False)
    client.step()
    assert (len(cache.items((POD, None))), client.reflection.listed) == (5, True)
    assert client.reflection.next == WatchFrom(str(api.version))


def test_a_list_whose_pages_expire_is_asked_for_in_one_piece() -> None:
    api, cache, client = make()
    for number in range(5):
        api.put(PODS, pod(f"p{number}", "x", f"10.0.0.{number}"))
    client.step()
    api.delete(PODS, "default", "p0")  # which was on the page that came already
    api.compact()
    client.step()
    assert client.reflection.next == ListPage(None)
    client.step()
    names = [name.name for name in cache.items((POD, None))]
    assert names == ["p1", "p2", "p3", "p4"]


def test_an_outage_is_taken_up_where_it_began() -> None:
    api, _, client = make()
    api.put(PODS, pod("p", "x", "10.0.0.1"))
    until_watching(client)
    watching = client.reflection.next
    for _ in range(20):
        client.disconnect(answered=False)
    assert client.reflection.next == watching


def test_a_server_that_refuses_our_version_again_and_again_is_asked_for_a_list() -> None:
    _, _, client = make()
    until_watching(client)
    for _ in range(RELIST_AFTER):
        assert isinstance(client.reflection.next, WatchFrom)
        client.disconnect(answered=True)
    assert client.reflection.next == ListPage(2)


def test_a_version_that_expires_at_once_again_counts_as_a_failure() -> None:
    api, _, client = make()
    until_watching(client)
    api.put(PODS, pod("p", "x", "10.0.0.1"))
    api.compact()
    client.step()
    assert client.reflection.failures == 1
    until_watching(client)
    client.reflection.expired()
    assert client.reflection.failures == 2, "so that the loop waits before it lists again"
