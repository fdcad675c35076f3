"""The API server that all tests of a run share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.kube.api_server import ApiServer
from e2e.kube.binaries import MissingError, build_missing, find

FIXTURE = "api_server"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the programs before the tests begin, where no test's time limit counts."""
    if session.config.option.collectonly:
        return
    if any(FIXTURE in getattr(item, "fixturenames", ()) for item in session.items):
        try:
            build_missing()
        except MissingError:
            return  # the fixture says why its tests are skipped


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A running API server with all custom kinds of ``crds/``. Use a namespace of your own."""
    try:
        build_missing()
        binaries = find()
    except MissingError as error:
        pytest.skip(str(error))
    server = ApiServer(tmp_path_factory.mktemp("kube"), binaries, authorization="RBAC")
    try:
        server.start()
        server.install()
        yield server
    finally:
        server.stop()
