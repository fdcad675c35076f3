"""Clients that keep to the xDS protocol and nothing else, for tests that have no network.

A client accepts content unless it is bad; then it rejects the response, either as a whole (as Envoy
does where validation fails) or after taking the good part (as Envoy does where a cluster or
listener cannot be built).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from xds.protocol.message import DeltaRequest, ErrorDetail, Request, Response, SotwRequest
from xds.protocol.sotw import FULL_STATE
from xds.resource import Resource

BAD = b"bad"


def content(type_url: str, name: str, number: int = 1, *needs: tuple[str, str]) -> Resource:
    return Resource(type_url, name, f"{name} {number}".encode(), needs=needs)


def bad_content(type_url: str, name: str, number: int = 1, *needs: tuple[str, str]) -> Resource:
    return Resource(type_url, name, BAD + f" {name} {number}".encode(), needs=needs)


def is_bad(resource: Resource) -> bool:
    return resource.body.startswith(BAD)


@dataclass
class TypeState:
    names: list[str] = field(default_factory=list)
    wildcard: bool = False
    resources: dict[str, Resource] = field(default_factory=dict)
    version: str = ""
    nonce: str = ""
    first: bool = True

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names


class ModelClient:
    """What a client knows. Requests that it wants to send pile up in ``outbox``."""

    def __init__(self, *, takes_good_part: bool = False, names_culprit: bool = False) -> None:
        self.types: dict[str, TypeState] = {}
        self.outbox: list[Request] = []
        self.takes_good_part = takes_good_part
        self.names_culprit = names_culprit

    def of(self, type_url: str) -> TypeState:
        return self.types.setdefault(type_url, TypeState())

    def subscribe(
        self, type_url: str, names: Iterable[str] = (), *, wildcard: bool = False
    ) -> None:
        """Make this the subscription from now on."""
        raise NotImplementedError

    def receive(self, response: Response) -> None:
        state = self.of(response.type_url)
        wanted = [r for r in response.resources if state.wants(r.name)]
        bad = [r for r in wanted if is_bad(r)]
        good = [r for r in wanted if not is_bad(r)]
        state.nonce = response.nonce
        if bad:
            if self.takes_good_part:
                self._apply(state, response, good, bad)
            words = "value must be greater than 0s"
            if self.names_culprit:
                listed = ", ".join(f"{r.name}: out of range" for r in bad)
                words = f"Error adding/updating cluster(s) {listed}"
            self._answer(response, ErrorDetail(3, words))
            return
        self._apply(state, response, good, [])
        state.version = response.version
        self._answer(response, None)

    def reconnect(self) -> None:
        """A new stream: everything in flight is lost, resources are kept."""
        self.outbox.clear()
        for state in self.types.values():
            state.nonce = ""
            state.first = True
        for type_url, state in self.types.items():
            if state.wildcard or state.names:
                self._open(type_url, state)

    def _apply(
        self, state: TypeState, response: Response, good: list[Resource], kept: list[Resource]
    ) -> None:
        raise NotImplementedError

    def _answer(self, response: Response, error: ErrorDetail | None) -> None:
        raise NotImplementedError

    def _open(self, type_url: str, state: TypeState) -> None:
        raise NotImplementedError


class SotwClient(ModelClient):
    def subscribe(
        self, type_url: str, names: Iterable[str] = (), *, wildcard: bool = False
    ) -> None:
        state = self.of(type_url)
        state.names, state.wildcard = sorted(names), wildcard
        state.resources = {n: r for n, r in state.resources.items() if state.wants(n)}
        self._request(type_url, state)

    def _open(self, type_url: str, state: TypeState) -> None:
        self._request(type_url, state)

    def _request(self, type_url: str, state: TypeState, error: ErrorDetail | None = None) -> None:
        state.first = False
        names = (*state.names, "*") if state.wildcard else tuple(state.names)
        self.outbox.append(SotwRequest(type_url, names, state.version, state.nonce, error))

    def _apply(
        self, state: TypeState, response: Response, good: list[Resource], kept: list[Resource]
    ) -> None:
        if response.type_url in FULL_STATE:
            stay = {r.name for r in kept}
            state.resources = {n: r for n, r in state.resources.items() if n in stay}
        state.resources.update({r.name: r for r in good})

    def _answer(self, response: Response, error: ErrorDetail | None) -> None:
        self._request(response.type_url, self.of(response.type_url), error)


class DeltaClient(ModelClient):
    def subscribe(
        self, type_url: str, names: Iterable[str] = (), *, wildcard: bool = False
    ) -> None:
        state = self.of(type_url)
        before = {*state.names, *(["*"] if state.wildcard else [])}
        state.names, state.wildcard = sorted(names), wildcard
        after = {*state.names, *(["*"] if wildcard else [])}
        for name in before - after:
            # Even if the wildcard covers it still: the server must say so.
            state.resources.pop(name, None)
        state.resources = {n: r for n, r in state.resources.items() if state.wants(n)}
        if state.first:
            self._open(type_url, state)
        elif before != after:
            self.outbox.append(
                DeltaRequest(type_url, tuple(sorted(after - before)), tuple(sorted(before - after)))
            )

    def _open(self, type_url: str, state: TypeState) -> None:
        state.first = False
        names = (*state.names, "*") if state.wildcard else tuple(state.names)
        versions = {n: r.version for n, r in state.resources.items()}
        self.outbox.append(DeltaRequest(type_url, names, initial_versions=versions))

    def _apply(
        self, state: TypeState, response: Response, good: list[Resource], kept: list[Resource]
    ) -> None:
        state.resources.update({r.name: r for r in good})
        for name in response.removed:
            state.resources.pop(name, None)

    def _answer(self, response: Response, error: ErrorDetail | None) -> None:
        self.outbox.append(DeltaRequest(response.type_url, nonce=response.nonce, error=error))
