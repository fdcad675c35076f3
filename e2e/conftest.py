"""One gateway for each xDS mode and test process, shared by all tests that leave it whole."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from e2e.harness import MODES, Gateway, Mode
from e2e.kube.fixtures import api_server, pytest_collection_finish

__all__ = ["api_server", "pytest_collection_finish"]


class Gateways:
    """Started when first asked for; thrown away when a test left one that cannot be restored."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._running: dict[Mode, Gateway] = {}
        self._failed: dict[Mode, Exception] = {}

    def get(self, mode: Mode) -> Gateway:
        if mode in self._failed:
            pytest.fail(f"the gateway did not start for a test before: {self._failed[mode]}")
        if mode not in self._running:
            gateway = Gateway(self._factory.mktemp(mode), mode)
            try:
                gateway.start()
            except Exception as error:
                # Each test would wait as long again, for the same reason.
                self._failed[mode] = error
                raise
            self._running[mode] = gateway
        return self._running[mode]

    def drop(self, mode: Mode) -> None:
        self._running.pop(mode).stop()

    def stop(self) -> None:
        for mode in tuple(self._running):
            self.drop(mode)


@pytest.fixture(scope="session")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    gateways = Gateways(tmp_path_factory)
    yield gateways
    gateways.stop()


@pytest.fixture(params=MODES)
def gateway(request: pytest.FixtureRequest, gateways: Gateways) -> Iterator[Gateway]:
    """A gateway that is as good as new."""
    mode: Mode = request.param
    gateway = gateways.get(mode)
    yield gateway
    try:
        gateway.restore()
    except BaseException:
        gateways.drop(mode)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the end of every log of its gateway."""
    report = yield
    gateway = getattr(item, "funcargs", {}).get("gateway")
    if report.when == "call" and report.failed and isinstance(gateway, Gateway):
        for child in gateway.stack.children:
            report.sections.append((f"log of {child.name}", child.tail(40)))
    return report
