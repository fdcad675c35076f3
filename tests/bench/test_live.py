"""The live comparison: small forms of the workloads, what plays them, and the router beside us."""

from __future__ import annotations

import random
import sys
import time
import urllib.request
from asyncio import to_thread
from collections.abc import Iterable
from pathlib import Path

import pytest

from bench.live.forms import FORMS
from bench.live.load import Answer, Played, play
from bench.live.router import RouterError, router
from bench.live.rows import live
from bench.live.servers import Share
from sim.config import PodConfig
from sim.fleet.prompt import Segment
from sim.fleet.traffic import WARM_UP, AbortStorm, Arrival, Call, Death, Incident
from sim.pod import Pod
from sim.workloads.catalogue import WORKLOADS

# Without what is only one instant, and a variant.
FULL_SIZE = [name for name in WORKLOADS if name not in ("w1-fresh", "w11")]


@pytest.mark.parametrize("name", FULL_SIZE)
def test_a_pod_gets_in_small_what_it_gets_at_full_size(name):
    form, whole = FORMS[name], WORKLOADS[name]
    assert form.workload.pods < whole.pods or whole.pods == 4
    per_pod = form.load / form.workload.pods
    assert any(per_pod == pytest.approx(load / whole.pods, rel=0.01) for load in whole.loads)
    traffic = form.workload.traffic(form.load, form.workload.pods, random.Random(1))
    adapters = {call.adapter for _, call in traffic.start() if call.adapter}
    assert adapters <= set(form.adapters)
    assert bool(adapters) == (name == "w8")


class TwoTurns:
    """A question, and another one that has it and its answer before it."""

    name = title = unit = ""
    loads = (1.0,)
    pods = 1
    first = Call("1", (Segment(1, 320),), 64, output=500, stage=WARM_UP)
    second = Call("2", (Segment(1, 320), Segment(500, 64), Segment(2, 100)), 8, output=501)

    def start(self) -> Iterable[Arrival]:
        return [(0.0, self.first)]

    def ended(self, call: Call, at: float) -> Iterable[Arrival]:
        return [(at + 1.0, self.second)] if call is self.first else []

    def traffic(self, load, pods, rng):
        return self

    def engines(self, pods, engine):
        return [engine]

    def incidents(self, load):
        return ()


async def test_a_turn_holds_what_the_server_answered_so_that_it_is_found_in_the_cache():
    async with Pod(PodConfig(port=0, name="pod-0", time_scale=50)) as pod:
        played = await play(TwoTurns(), pod.url, 1.0, seed=1, scale=50)
    first, second = played.answers
    assert (played.failures, first.cached, first.measured) == (0, 0, False)
    # Of the answer's last token nothing is in the cache: it was never put in.
    assert second.cached == (320 + 63) // 16 * 16
    assert second.measured
    assert second.pod == "pod-0"
    assert 0 < second.ttft < second.latency
    assert second.began - first.began > 1.0


async def test_a_refused_request_counts_as_failed_and_the_run_goes_on(capsys):
    async with Pod(PodConfig(port=0, max_model_len=350, time_scale=50)) as pod:
        played = await play(TwoTurns(), pod.url, 1.0, seed=1, scale=50)
    assert (played.failures, played.answers) == (2, [])
    assert "maximum context length is 350" in capsys.readouterr().err


def test_a_row_tells_the_path_from_the_pods_own_time_and_who_was_starved():
    def answer(stage: int, began: float, ttft: float, pod: str) -> Answer:
        call = Call("1", (Segment(1, 100),), 10, 1, stage=stage)
        return Answer(call, began, ttft, ttft + 1.0, 50, pod)

    played = Played(
        [answer(WARM_UP, 0.0, 0.6, "pod-0"), answer(1, 2.0, 0.2, "pod-0")],
        failures=1,
        late=[0.0, 0.03],
    )
    shares = {"pod-0": Share(0.1, 0.01), "pod-1": Share(0.0, 0.02), "envoy": Share(0.05, 0.5)}
    row = live("default", played, pods_ttft=0.15, shares=shares, scale=2.0)
    assert (row.ttft_p50, row.hit_rate, row.spread, row.failed) == (0.2, 0.5, 2.0, 1)
    assert row.tokens_per_second == pytest.approx(10 / 1.2)
    assert row.path == pytest.approx((0.6 + 0.2) / 2 / 2.0 - 0.15)
    assert (row.pods_waited, row.front_used) == (0.02, 0.05)
    assert row.late == pytest.approx(0.027)
    assert row.starved


def test_a_row_tells_priorities_apart_and_leaves_restarted_pods_out_of_the_path():
    def call(objective: str) -> Call:
        return Call("1", (Segment(1, 100),), 10, 1, objective=objective)

    def answer(objective: str, ttft: float, pod: str) -> Answer:
        return Answer(call(objective), 0.0, ttft, ttft + 1.0, 0, pod)

    played = Played(
        [answer("urgent", 0.2, "pod-0"), answer("normal", 3.0, "pod-1")],
        refused=[call("batch"), call("normal")],
        late=[0.0],
    )
    shares = {"pod-0": Share(0.1, 0.01), "pod-1": Share(0.1, 0.01)}
    row = live("default", played, 0.15, shares, 1.0, restarted={"pod-1"})
    assert row.path == pytest.approx(0.2 - 0.15)
    assert row.refused == 2
    seen = [(one.priority, one.requests, one.refused) for one in row.priorities]
    assert seen == [(10, 1, 0), (0, 2, 1), (-1, 1, 1)]
    assert [one.ttft_mean for one in row.priorities[:2]] == [0.2, 3.0]


class Troubled(TwoTurns):
    """One long answer, in the middle of which something happens."""

    first = Call("1", (Segment(1, 320),), 2000, output=500)

    def __init__(self, incident: Incident) -> None:
        self.incident = incident

    def ended(self, call: Call, at: float) -> Iterable[Arrival]:
        return []

    def incidents(self, load):
        return (self.incident,)


async def test_clients_hang_up_when_the_workload_says_so():
    async with Pod(PodConfig(port=0, name="pod-0", time_scale=20)) as pod:
        played = await play(Troubled(AbortStorm(4.0, 1.0)), pod.url, 1.0, seed=1, scale=20)
    assert (played.aborted, played.answers, played.failures) == (1, [], 0)


async def test_an_answer_that_its_pods_death_breaks_off_is_cut_and_no_failure():
    async with Pod(PodConfig(port=0, name="pod-0", time_scale=20)) as pod:
        suffered: list[Incident] = []

        async def suffer(incident: Incident) -> None:
            suffered.append(incident)
            pod.reset()

        workload = Troubled(Death(4.0, 0))
        played = await play(workload, pod.url, 1.0, seed=1, scale=20, suffer=suffer)
    assert suffered == [workload.incident]
    assert (played.cut, played.answers, played.failures) == (1, [], 0)


@pytest.fixture
def launcher(tmp_path: Path):
    def write(body: str) -> str:
        path = tmp_path / "router"
        path.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
        path.chmod(0o755)
        return str(path)

    return write


SERVE = """
import http.server

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(" ".join(sys.argv).encode())

port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


async def test_a_router_is_started_once_its_pods_answer_and_stopped_afterwards(launcher):
    def look(pod: str) -> str:
        with router([pod], "cache_aware", launcher(SERVE)) as started:
            said = urllib.request.urlopen(f"{started.url}/health", timeout=5).read().decode()
        assert started.process.poll() is not None
        return said

    async with Pod(PodConfig(port=0)) as pod:
        said = await to_thread(look, pod.url)
    assert f"--worker-startup-check-interval 1 --worker-urls {pod.url}" in said


async def test_a_router_that_ends_says_what_it_wrote(launcher):
    def look(pod: str) -> None:
        with router([pod], "cache_aware", launcher("sys.exit('no such policy')")):
            raise AssertionError("it is up")

    async with Pod(PodConfig(port=0)) as pod:
        with pytest.raises(RouterError, match="ended with 1: no such policy"):
            await to_thread(look, pod.url)


def test_a_pod_that_does_not_answer_is_named(launcher):
    began = time.monotonic()
    with (
        pytest.raises(RouterError, match=r"http://127\.0\.0\.1:1/health does not answer"),
        router(["http://127.0.0.1:1"], "cache_aware", launcher(SERVE), limit=0.2),
    ):
        raise AssertionError("it is up")
    assert time.monotonic() - began < 5
