"""Envoy, our xDS server and our picker, all as processes: TLS between Envoy and the picker."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from e2e.harness import COMPLETION, READY_LIMIT, eventually
from poolpilot.demo.ports import Ports
from poolpilot.demo.quickstart import manifests
from poolpilot.demo.stack import Stack
from poolpilot.envoy_binary import find_envoy
from tests.certificates import self_signed


class Files:
    """A picker and an Envoy, each with a certificate, and somebody else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.keys: dict[str, str] = {}
        for who in ("picker", "envoy", "stranger"):
            made = self_signed("localhost", name=who, authority=True)
            (folder / f"{who}.pem").write_bytes(made.chain)
            (folder / f"{who}.key").write_bytes(made.key)
            self.keys[who] = made.key.decode()

    def options(self, texts: Sequence[str]) -> list[str]:
        """Options, those that name a file of ours with its whole path."""
        return [self._whole(*text.partition("=")) for text in texts]

    def _whole(self, name: str, equals: str, value: str) -> str:
        path = self._folder / value
        return f"{name}{equals}{path if path.is_file() else value}"


SERVED = ("--tls-certificate=picker.pem", "--tls-key=picker.key")
ASKING = ("--tls-client-ca=envoy.pem",)
TRUSTED = ("--picker-tls-ca=picker.pem",)
SHOWN = ("--picker-tls-certificate=envoy.pem", "--picker-tls-key=envoy.key")


@asynccontextmanager
async def stack(
    folder: Path, extproc: Sequence[str], xds: Sequence[str]
) -> AsyncIterator[tuple[Stack, httpx.AsyncClient, Files]]:
    files = Files(folder)
    made = Stack(
        folder / "stack",
        Ports.free(1),
        ["pod-0"],
        find_envoy(),
        delta=True,
        pod_options=("--time-scale=200",),
        extproc_options=files.options(extproc),
        xds_options=files.options(xds),
    )
    made.write(manifests(made.placed()))
    try:
        made.start()
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            yield made, client, files
    finally:
        made.stop()


@pytest.mark.parametrize(
    ("picker", "xds"),
    [
        (SERVED, TRUSTED),
        ((*SERVED, *ASKING), (*TRUSTED, *SHOWN, "--picker-tls-name=localhost")),
    ],
    ids=["tls", "mutual"],
)
async def test_requests_are_answered_through_a_picker_with_tls(
    tmp_path: Path, picker: Sequence[str], xds: Sequence[str]
) -> None:
    async with stack(tmp_path, picker, xds) as (running, client, files):
        await running.ready(READY_LIMIT)
        for _ in range(5):
            answer = await client.post(f"{running.url}/v1/completions", json=COMPLETION)
            assert answer.status_code == 200, answer.text
        decisions = (await client.get(f"{running.extproc_url}/debug/decisions")).json()
        assert len(decisions["decisions"]) == 5

        async def all_completed() -> bool:
            page = (await client.get(f"{running.extproc_url}/debug/decisions")).json()
            return all(one["completed"] for one in page["decisions"])

        await eventually(all_completed, "the access log reaches the picker too")

        diff = f"/debug/xds/nodes/envoy/diff?admin={running.admin_url.removeprefix('http://')}"
        shown = {}
        for path in (
            "/debug/xds/snapshots/default/clusters/ext-proc",
            "/debug/xds/nodes/envoy/config_dump?as=acked",
            "/debug/xds/config_dump",
        ):
            shown[path] = (await client.get(f"{running.xds_url}{path}")).text
            assert "BEGIN CERTIFICATE" in shown[path], (path, shown[path])
        shown[diff] = (await client.get(f"{running.xds_url}{diff}")).text
        shown["the log"] = running.children["xds"].log.read_text()
        for where, page in shown.items():
            for line in files.keys["envoy"].splitlines()[1:-1]:
                assert line not in page, where
        compared = json.loads(shown[diff])["resources"]
        found = {one["name"]: one["finding"] for one in compared}
        assert found["ext-proc"] == "same", compared


@pytest.mark.parametrize(
    ("picker", "xds"),
    [
        (SERVED, ("--picker-tls-ca=stranger.pem",)),
        (SERVED, (*TRUSTED, "--picker-tls-name=elsewhere")),
        ((*SERVED, *ASKING), TRUSTED),
        (SERVED, ()),
    ],
    ids=["wrong-ca", "wrong-name", "no-certificate", "plain-text"],
)
async def test_a_picker_and_an_envoy_that_do_not_trust_each_other_do_not_talk(
    tmp_path: Path, picker: Sequence[str], xds: Sequence[str]
) -> None:
    async with stack(tmp_path, picker, xds) as (running, client, _):
        failures: list[int] = []

        async def has_tried() -> bool:
            running.children.check()
            url = f"{running.admin_url}/stats?format=json&filter=^cluster.ext-proc.health_check"
            try:
                stats = (await client.get(url)).json()["stats"]
                ready = (await client.get(f"{running.extproc_url}/readyz")).status_code == 200
            except httpx.TransportError:
                return False
            counts = {one["name"].rpartition(".")[2]: one["value"] for one in stats}
            assert counts.get("success", 0) == 0
            # The picker may not have listened yet when Envoy first tried.
            if ready:
                failures.append(counts.get("failure", 0))
            return bool(failures) and failures[-1] - failures[0] >= 2

        await eventually(has_tried, "Envoy tries, while the picker is there", READY_LIMIT)
        answer = await client.post(f"{running.url}/v1/completions", json=COMPLETION)
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["code"] == "picker_failed"
