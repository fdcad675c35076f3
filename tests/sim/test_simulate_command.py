"""``poolpilot simulate`` as a user meets it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from typer.testing import CliRunner, Result

from extproc.picking.endpoint_health import HealthPolicy
from poolpilot.cli import app
from poolpilot.errors import PoolPilotError
from poolpilot.simulation import plots
from poolpilot.simulation.chart import Axis, Line, Point, line_chart
from sim.workloads import WORKLOADS

BURST = ("simulate", "w11", "-p", "default", "-p", "random", "--pods", "4", "-j", "1")


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments], env={"COLUMNS": "200"})


def test_the_table_has_a_row_for_every_policy_at_every_load():
    result = simulate(*BURST, "--load", "20", "--load", "40", "--seeds", "2")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    assert sum("default" in row for row in rows) == 2
    assert sum("random" in row for row in rows) == 2
    assert "4 pods, 2 seeds" in result.output


def test_the_json_has_every_seed_and_what_was_simulated():
    result = simulate(
        *BURST, "--load", "20", "--seeds", "2", "--kv-cache-tokens", "50000", "--json"
    )
    document = json.loads(result.stdout)
    assert document["workload"]["name"] == "w11"
    assert document["engine"]["kv_cache_tokens"] == 50_000
    assert [row["policy"] for row in document["results"]] == ["default", "random"]
    for row in document["results"]:
        assert [seed["seed"] for seed in row["seeds"]] == [1, 2]
        assert row["seeds"][0]["requests"] == 20
        mean = sum(seed["ttft_p50"] for seed in row["seeds"]) / 2
        assert row["mean"]["ttft_p50"] == pytest.approx(mean, abs=1e-5)
        assert row["seeds"][0]["leaked"] == 0


PROFILES = """
apiVersion: poolpilot.dev/v1alpha1
kind: SchedulingProfiles
default: idlest
profiles:
  idlest:
    scorers: [queue-scorer]
admission:
  saturation: {concurrency: {maxConcurrency: 2}}
"""


@pytest.fixture
def profiles(tmp_path):
    path = tmp_path / "profiles.yaml"
    path.write_text(PROFILES)
    return str(path)


FULL = ("simulate", "w12", "--pods", "2", "--load", "5", "--seeds", "1", "-j", "1", "--json")


def test_a_profiles_file_is_tried_as_the_endpoint_picker_would_use_it(profiles):
    document = json.loads(simulate(*FULL, "--profiles", profiles).stdout)
    assert document["fleet"]["admission"]["saturation"] == {"max_concurrency": 2}
    [row] = document["results"]
    assert row["policy"] == "idlest", "the file's default, as nobody asked for another"
    urgent, normal, batch = row["seeds"][0]["priorities"]
    assert [one["priority"] for one in (urgent, normal, batch)] == [10, 0, -1]
    assert batch["refused"] > 0.5 * batch["requests"]
    assert urgent["refused"] == 0
    assert urgent["ttft_mean"] < normal["ttft_mean"]


def test_the_admission_of_a_file_can_be_left_out_and_its_profiles_be_compared(profiles):
    arguments = ("--profiles", profiles, "--no-admission", "-p", "idlest", "-p", "random")
    document = json.loads(simulate(*FULL, *arguments).stdout)
    assert document["fleet"]["admission"] is None
    assert [row["policy"] for row in document["results"]] == ["idlest", "random"]
    assert {row["mean"]["refused"] for row in document["results"]} == {0}


def test_the_table_tells_priorities_apart(profiles):
    result = simulate(*FULL[:-1], "--profiles", profiles)
    rows = [line.split() for line in result.output.splitlines()]
    title = next(n for n, row in enumerate(rows) if "priority" in row)
    assert [row[1:3] for row in rows[title + 1 : title + 4]] == [
        ["idlest", priority] for priority in ("10", "0", "-1")
    ]


def test_health_is_as_it_is_asked_for():
    arguments = ("w11", "-p", "random", "--load", "20", "--seeds", "1", "-j", "1", "--json")
    health = ("--cool-down", "7", "--slow-start", "3")
    document = json.loads(simulate("simulate", *arguments, *health).stdout)
    asked = {"cool_down": 7, "slow_start": 3}
    assert asked.items() <= document["fleet"]["health"].items()


def test_health_is_productions_unless_asked_for_and_the_help_says_what_that_is():
    document = json.loads(simulate(*BURST, "--load", "5", "--seeds", "1", "--json").stdout)
    assert document["fleet"]["health"] == asdict(HealthPolicy())
    told = re.sub(r"\s*│\s*", " ", simulate("simulate", "--help").output)
    production = HealthPolicy()
    for value in (production.cool_down, production.slow_start):
        assert f"without it {value:g}." in told


def test_a_slower_pod_is_slower():
    def latency(*more: str) -> float:
        result = simulate(*BURST, "--load", "20", "--seeds", "1", "--json", *more)
        return float(json.loads(result.stdout)["results"][0]["mean"]["latency_p50"])

    assert latency("--decode-base-ms", "24") > 1.5 * latency("--decode-base-ms", "12")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_has_charts_and_the_table_and_needs_nothing_else(tmp_path):
    path = tmp_path / "burst.html"
    result = simulate(*BURST, "-r", "20", "-r", "40", "--seeds", "1", "--html", str(path))
    assert result.exit_code == 0, result.output
    page = _Page()
    page.feed(path.read_text())
    assert page.tags.count("svg") >= 5
    assert page.tags.count("tr") == 5
    assert not page.links
    assert "http" not in path.read_text().replace("http-equiv", "")


def test_plots_are_png_files_one_for_each_chart(tmp_path):
    pytest.importorskip("matplotlib")
    result = simulate(*BURST, "-r", "20", "-r", "40", "--seeds", "1", "--plots", str(tmp_path))
    assert result.exit_code == 0, result.output
    files = sorted(tmp_path.iterdir())
    assert "w11-ttft-p90.png" in [file.name for file in files]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_without_matplotlib_plots_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(PoolPilotError, match=r"--plots needs matplotlib: .*install"):
        plots.prepare_plots(tmp_path)


@pytest.mark.parametrize("option", ["--html", "--plots"])
def test_what_cannot_be_written_is_told_before_anything_runs(tmp_path, monkeypatch, option):
    if option == "--plots":
        pytest.importorskip("matplotlib")
    (tmp_path / "file").touch()
    monkeypatch.setattr("sim.fleet.experiment.perform_all", lambda *_: pytest.fail("it ran"))
    result = simulate(*BURST, option, str(tmp_path / "file" / "below"))
    assert isinstance(result.exception, PoolPilotError)
    assert str(result.exception).startswith(f"{option}: [Errno 20] Not a directory: ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("simulate", "w99"), "there is no workload 'w99'"),
        (("simulate", "w1", "-p", "best"), "there is no policy 'best'"),
        (("simulate", "missing.jsonl"), "missing.jsonl"),
        (("simulate", "w1", "--profiles", "missing.yaml"), "does not exist"),
        (("simulate", "w1", "--kv-cache-tokens", "16", "--max-num-seqs", "9000"), "must be above"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(arguments, complaint):
    result = simulate(*arguments)
    assert result.exit_code == 2
    assert complaint in re.sub(r"\s*│\s*", " ", result.output)


def test_a_profiles_file_with_a_mistake_is_refused_with_its_line(tmp_path):
    path = tmp_path / "profiles.yaml"
    path.write_text(PROFILES + "  headrom: 1\n")
    result = simulate("simulate", "w1", "--profiles", str(path))
    assert result.exit_code == 2
    told = re.sub(r"\s*[│\n]\s*", "", result.output)
    assert "profiles.yaml:10" in told
    assert "headrom" in told


def test_the_list_names_every_workload_and_policy():
    result = simulate("simulate", "--list")
    assert all(name in result.output for name in (*WORKLOADS, "default", "least-request"))


def test_a_chart_draws_higher_values_higher_up_and_logarithms_evenly():
    points = [Point(x, 10.0**x, 10.0**x, 10.0**x) for x in range(4)]
    svg = line_chart([Line("a", 0, points)], Axis("x"), Axis("y", logarithmic=True))
    (path,) = re.findall(r'polyline class="line" points="([^"]+)"', svg)
    heights = [float(at.split(",")[1]) for at in path.split()]
    steps = [one - other for one, other in pairwise(heights)]
    assert all(step > 0 for step in steps)
    assert max(steps) - min(steps) < 0.3


def test_a_chart_without_points_is_empty():
    assert line_chart([Line("a", 0, [])], Axis("x"), Axis("y")) == ""
