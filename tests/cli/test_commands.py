"""The commands, as they are typed."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from typer.core import TyperGroup
from typer.testing import CliRunner, Result

from extproc.compiled import is_compiled
from extproc.transport.h2 import Limits
from extproc.transport.h2.limits import Rate
from extproc.transport.native import Upkeep
from poolpilot import check, debug
from poolpilot.cli import app
from poolpilot.demo import quickstart
from poolpilot.errors import PoolPilotError
from poolpilot.picker_tls import read_picker_tls
from poolpilot.transport_limits import transport_limits
from pools.manifests import read_text
from tests.certificates import self_signed
from xds.translate import PickerTls

ROOT = Path(__file__).parents[2]
runner = CliRunner()


def poolpilot(*arguments: str) -> Result:
    return runner.invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1"})


def command_names() -> list[tuple[str, ...]]:
    """Every command and command group, the root as the empty name."""
    found: list[tuple[str, ...]] = []

    def walk(command: object, path: tuple[str, ...]) -> None:
        found.append(path)
        if isinstance(command, TyperGroup):
            context = typer.Context(command)
            for name in command.list_commands(context):
                walk(command.get_command(context, name), (*path, name))

    walk(typer.main.get_command(app), ())
    return found


@pytest.mark.parametrize("name", command_names(), ids=" ".join)
def test_help_teaches_with_an_example(name: tuple[str, ...]) -> None:
    result = poolpilot(*name, "--help")
    assert result.exit_code == 0
    assert re.search(r"^ +poolpilot [a-z]", result.output, re.MULTILINE)


def test_help_loads_neither_envoys_types_nor_grpc() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from poolpilot.cli import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "print({'grpc', 'envoy_data_plane', 'aiohttp', 'starlette'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"


def test_the_version_says_whether_the_request_path_is_compiled() -> None:
    result = poolpilot("--version")
    assert result.exit_code == 0
    path = "compiled" if is_compiled() else "interpreted"
    assert re.fullmatch(
        rf"poolpilot {version('poolpilot')} \(CPython \d.*, request path {path}\)\n", result.output
    )


# bootstrap


def test_the_bootstrap_is_yaml_that_leads_to_the_given_xds_server() -> None:
    document = yaml.safe_load(poolpilot("bootstrap", "--xds", "xds.example:18000").output)
    (cluster,) = document["static_resources"]["clusters"]
    (locality,) = cluster["load_assignment"]["endpoints"]
    (endpoint,) = locality["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"] == {
        "address": "xds.example",
        "port_value": 18000,
    }
    assert cluster["type"] == "STRICT_DNS"


@pytest.mark.parametrize(("flag", "api"), [("--delta", "DELTA_GRPC"), ("--sotw", "GRPC")])
def test_the_bootstrap_asks_for_the_chosen_kind_of_xds(flag: str, api: str) -> None:
    document = yaml.safe_load(poolpilot("bootstrap", flag).output)
    assert document["dynamic_resources"]["ads_config"]["api_type"] == api


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--xds", "nowhere"), "'nowhere' is not of the form host:port"),
        (("--admin", "127.0.0.1:99999"), "ports go from 1 to 65535"),
        (("--gateway", "a/b/c"), "'a/b/c' is not of the form namespace/name"),
    ],
)
def test_a_wrong_option_is_named_with_what_it_should_be(
    arguments: tuple[str, str], message: str
) -> None:
    result = poolpilot("bootstrap", *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.output
    assert message in result.output


def test_the_bootstrap_for_compose_is_what_the_command_prints() -> None:
    head, _, rest = (ROOT / "deploy/compose/envoy.yaml").read_text().partition("\n")
    command = head.removeprefix("# Made by: poolpilot ").split()
    assert command[0] == "bootstrap"
    assert rest == poolpilot(*command).output


def test_the_bootstrap_can_show_a_certificate() -> None:
    tls = ("--tls-ca", "/ca.pem", "--tls-certificate", "/cert.pem", "--tls-key", "/key.pem")
    document = yaml.safe_load(poolpilot("bootstrap", *tls).output)
    (cluster,) = document["static_resources"]["clusters"]
    assert "/cert.pem" in json.dumps(cluster["transport_socket"])
    half = poolpilot("bootstrap", "--tls-ca", "/ca.pem", "--tls-key", "/key.pem")
    assert half.exit_code == 2
    assert "a key its certificate" in half.output


def test_the_manifests_for_compose_are_without_fault() -> None:
    for path in (ROOT / "deploy/compose/pools").iterdir():
        for manifest in read_text(path.read_text(), path.name).manifests:
            assert manifest.object is not None
            assert manifest.problems == ()


# check


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    for name, text in quickstart.manifests([("vllm-0", "127.0.0.1", 8000)]).items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_good_manifests_pass_the_check(manifests: Path) -> None:
    result = poolpilot("check", str(manifests))
    assert result.exit_code == 0
    assert result.output == "1 pool, 1 endpoint, 0 routes: 0 errors, 0 warnings\n"


def test_a_mistake_is_named_with_file_line_and_field(manifests: Path) -> None:
    path = manifests / "endpoints.yaml"
    path.write_text(path.read_text().replace("[8000]", "[80000]"))
    line = path.read_text().splitlines().index("    ports: [80000]") + 1
    result = poolpilot("check", str(manifests))
    assert result.exit_code == 1
    assert f"error: endpoints.yaml:{line}: " in result.output
    assert "spec.endpoints[0].ports[0]" in result.output


def test_the_rendered_configuration_is_all_that_is_on_stdout_and_envoy_takes_it(
    manifests: Path,
) -> None:
    result = poolpilot("check", str(manifests), "--render", "--envoy")
    assert result.exit_code == 0
    document = yaml.safe_load(result.stdout)
    names = {cluster["name"] for cluster in document["static_resources"]["clusters"]}
    assert f"pool/default/{quickstart.POOL}" in names
    assert "Envoy accepts the configuration." in result.stderr


NAMES = ("y", "N", "1e3", "-1.5e3", "0x1p3", ".5e3", "5.E-3", "+1e9", "0o17", "1_0", "inf", "null")


def test_names_that_envoy_would_read_as_numbers_or_truths_stay_names(manifests: Path) -> None:
    pods = [(f'"{name}"', f"10.0.0.{n}", 8000) for n, name in enumerate(NAMES, 1)]
    (manifests / "endpoints.yaml").write_text(quickstart.endpoints(pods))
    result = poolpilot("check", str(manifests), "--render", "--envoy")
    assert "Envoy accepts the configuration." in result.stderr
    for name in ("y", "1e3"):
        assert f"hostname: '{name}'\n" in result.stdout
    assert "  id: '1e5'\n" in poolpilot("bootstrap", "--node", "1e5").output


def test_what_envoy_objects_to_fails_the_check(
    manifests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_world: object) -> tuple[str, tuple[str, ...]]:
        return yaml.safe_dump({"static_resources": {"clusters": [{"name": "x", "typo": 1}]}}), ()

    monkeypatch.setattr("poolpilot.check.configuration", broken)
    result = poolpilot("check", str(manifests), "--envoy")
    assert result.exit_code == 1
    assert "Envoy rejects the configuration" in result.output
    assert "typo" in result.output


def test_a_directory_that_is_not_there_is_explained(tmp_path: Path) -> None:
    result = poolpilot("check", str(tmp_path / "nowhere"))
    assert result.exit_code == 2, "nothing could be checked"
    assert "there is no directory" in result.output


def test_a_directory_that_describes_nothing_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "model.py").touch()
    result = poolpilot("check", str(tmp_path))
    assert result.exit_code == 2, "nothing could be checked"
    assert f"{tmp_path}: nothing is described here" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("no program", "cannot be run: Exec format error"),
        ("#!/bin/sh\nexec sleep 60\n", "was not done within 0.2 s"),
    ],
)
def test_an_envoy_that_says_nothing_leaves_the_manifests_unchecked(
    manifests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, why: str
) -> None:
    monkeypatch.setattr(check, "VALIDATE_LIMIT", 0.2)
    envoy = tmp_path / "envoy"
    envoy.write_text(program)
    envoy.chmod(0o755)
    result = poolpilot("check", str(manifests), "--envoy", "--envoy-path", str(envoy))
    assert result.exit_code == 2
    assert result.stderr == f"poolpilot: {envoy} {why}\n"


# serve and fake-vllm


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serve", "xds", "--address", "18000"), "'18000' is not of the form host:port"),
        (("serve", "xds", "--tls-key", "key.pem"), "TLS needs both a certificate and its key"),
        (
            ("serve", "xds", "--picker-tls-ca", "/nowhere.pem"),
            "--picker-tls-ca: /nowhere.pem: No such file or directory",
        ),
        (("serve", "xds", "--picker-tls-name", "picker"), "needs --picker-tls-ca too"),
        (("serve", "extproc", "--profile", "best"), "there is no 'best'; choose one of"),
        (("serve", "extproc", "--address", "nowhere"), "is no address to listen on"),
        (
            ("serve", "extproc", "--health-address", "127.0.0.1:9002"),
            "health_address: 127.0.0.1:9002 is also the address; give each one of its own",
        ),
        (
            ("serve", "extproc", "--http-address", ":9003"),
            "http_address: :9003 takes the port of health_address, 127.0.0.1:9003",
        ),
        (
            ("serve", "extproc", "--address", "unix:/a.sock", "--http-address", "unix:///a.sock"),
            "http_address: unix:///a.sock is also the address",
        ),
        (("serve", "all", "--listen", "example.com:80"), "is not an IP address"),
    ],
)
def test_a_server_says_at_once_which_option_is_wrong(
    manifests: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = poolpilot(*arguments, "--manifests", str(manifests))
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_a_certificate_that_is_not_there_is_named_without_a_traceback(manifests: Path) -> None:
    result = poolpilot(
        *("serve", "xds", "--manifests", str(manifests)),
        *("--address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"),
        *("--tls-certificate", "/nowhere.pem", "--tls-key", "/nowhere.key"),
    )
    assert isinstance(result.exception, PoolPilotError)
    assert "TLS file /nowhere.pem: No such file or directory" in str(result.exception)
    assert "unexpected error" not in result.output


def test_how_envoy_reaches_the_picker_is_read_from_files(tmp_path: Path) -> None:
    """A key that stands in the file of its certificate does not come with the certificate."""
    made = self_signed("envoy")
    ca, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    ca.write_bytes(b"the authority\n" + made.chain)
    key.write_bytes(made.key + made.chain)
    pem = PickerTls(made.chain.decode(), made.chain.decode(), made.key.decode(), "picker")
    assert read_picker_tls(ca, key, key, "picker") == pem
    assert read_picker_tls(ca, None, None, None) == PickerTls(made.chain.decode())
    assert read_picker_tls(None, None, None, None) is None


@pytest.mark.parametrize(
    ("arguments", "option", "message"),
    [
        (("garbage", None, None), "--picker-tls-ca", "is not PEM with a certificate"),
        (("broken", None, None), "--picker-tls-ca", "cannot be used"),
        (("good", "good", None), "--picker-tls-key", "needs --picker-tls-key too"),
        (("good", None, "key"), "--picker-tls-certificate", "needs --picker-tls-certificate"),
        (("good", "good", "other"), "--picker-tls-certificate", "cannot be used"),
        (("good", "good", "locked"), "--picker-tls-certificate", "cannot be used"),
        (("good", "good", "nowhere"), "--picker-tls-key", "No such file"),
    ],
)
def test_files_with_which_envoy_could_not_reach_the_picker_are_named(
    tmp_path: Path, arguments: tuple[str | None, ...], option: str, message: str
) -> None:
    made = self_signed("envoy")
    for name, content in {
        "good": made.chain,
        "key": made.key,
        "other": self_signed("other").key,
        "locked": self_signed("envoy", passphrase=b"secret").key,
        "garbage": b"garbage",
        "broken": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    }.items():
        (tmp_path / name).write_bytes(content)
    ca, certificate, key = (tmp_path / one if one is not None else None for one in arguments)
    with pytest.raises(typer.BadParameter, match=message) as refused:
        read_picker_tls(ca, certificate, key, None)
    assert refused.value.param_hint == option


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_a_pickers_key_that_is_not_there_is_named_without_a_traceback(
    manifests: Path, tmp_path: Path, transport: str
) -> None:
    certificate = tmp_path / "tls.crt"
    certificate.write_bytes(self_signed("localhost").chain)
    result = poolpilot(
        *("serve", "extproc", "--manifests", str(manifests), "--transport", transport),
        *("--address", "127.0.0.1:0", "--http-address", "", "--health-address", ""),
        *("--tls-certificate", str(certificate), "--tls-key", "/nowhere.key"),
    )
    assert isinstance(result.exception, PoolPilotError)
    assert "TLS key /nowhere.key cannot be read: No such file" in str(result.exception)
    assert "unexpected error" not in result.output


def test_limits_of_the_transport_are_read_by_their_names() -> None:
    limits, upkeep = transport_limits(
        ["max_streams=50", "resets=5/60", "max_connection_age=3600", "busy_poll=0.005"]
    )
    assert (limits.max_streams, limits.resets) == (50, Rate(5, 60))
    assert (upkeep.max_connection_age, upkeep.busy_poll) == (3600, 0.005)
    assert transport_limits([]) == (Limits(), Upkeep())
    assert transport_limits(["busy_poll=1", "busy_poll=0"]) == (Limits(), Upkeep())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("max_stream=50", "there are busy_poll, connection_window, "),
        ("max_streams", "write NAME=VALUE"),
        ("max_streams=many", "no whole number"),
        ("max_streams=0", "greater than 0"),
        ("resets=5", "PER_SECOND/BURST"),
        ("stall_timeout=inf", "greater than 0"),
        ("__doc__=1", "write NAME=VALUE"),
        ("busy_poll=-1", "greater than 0"),
        ("busy_poll=never", "no number"),
        ("max_frame_size=1", "use 16384 to 16777215"),
    ],
)
def test_a_limit_that_cannot_be_says_what_could(text: str, complaint: str) -> None:
    with pytest.raises(typer.BadParameter, match=re.escape(complaint)):
        transport_limits([text])


def test_options_can_come_from_the_environment(manifests: Path) -> None:
    result = runner.invoke(
        app,
        ["serve", "extproc"],
        env={"POOLPILOT_MANIFESTS": str(manifests), "POOLPILOT_PROFILE": "best"},
    )
    assert result.exit_code == 2
    assert "there is no 'best'" in result.output


# status, snapshot and picks


WORLD = {
    "pools": {
        "default/llama": {
            "endpoints": [{"key": "10.0.0.1:8000"}],
            "failure_mode": "FailClose",
            "origin": {"source": "pool.yaml", "line": 3},
        }
    },
    "problems": [],
}
NODE = {
    "id": "envoy-7",
    "group": "default",
    "version": "1.40.0",
    "state": "SYNCED",
    "streams": [{"protocol": "delta", "types": {"clusters": {"state": "SYNCED", "rejected": []}}}],
}
DECISION = {
    "at": "2026-01-02T03:04:05.678",
    "id": "ab12-1",
    "model": "tweet-summary",
    "target_model": "tweet-summary-1",
    "outcome": "routed",
    "endpoints": ["10.0.0.1:8000", "10.0.0.2:8000"],
    "candidates": 3,
    "steps": [{"name": "queue-below-50", "kept": 3}, {"name": "adapter-active", "kept": 1}],
    "completed": {"code": 200, "duration_s": 0.25},
}


@pytest.fixture
async def servers() -> AsyncIterator[tuple[str, dict[str, object]]]:
    """Debug pages with canned answers by path; a test may change them."""
    pages: dict[str, object] = {
        "/debug/world": WORLD,
        "/debug/xds/nodes": {"nodes": [NODE]},
        "/debug/decisions": {"decisions": [DECISION]},
    }

    async def page(request: web.Request) -> web.Response:
        if request.path not in pages:
            return web.json_response({"error": "no such page"}, status=404)
        return web.json_response(pages[request.path])

    application = web.Application()
    application.router.add_get("/{path:.*}", page)
    async with TestServer(application) as server:
        yield f"http://127.0.0.1:{server.port}", pages


async def run(*arguments: str) -> tuple[int, str, str]:
    """In a process of its own: commands run an event loop."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "poolpilot", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "", "COLUMNS": "200"},
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def test_status_shows_pools_and_nodes(servers: tuple[str, dict[str, object]]) -> None:
    url, _ = servers
    code, output, _ = await run("status", "--xds", url)
    assert code == 0
    assert re.search(r"envoy-7 +SYNCED +default +1\.40\.0 +delta", output)
    assert re.search(r"default/llama +10\.0\.0\.1:8000 +closed +pool\.yaml:3", output)


async def test_status_names_servers_that_get_nothing(
    servers: tuple[str, dict[str, object]],
) -> None:
    url, pages = servers
    absent = {"name": "llama-9", "address": "10.0.0.9", "pool": "default/llama"}
    pages["/debug/world"] = {**WORLD, "absent": [{**absent, "reason": "not Ready since 12:03"}]}
    code, output, _ = await run("status", "--xds", url)
    assert code == 0
    assert re.search(r"llama-9 \(10\.0\.0\.9\) +default/llama +not Ready since 12:03", output)


async def test_status_fails_when_an_envoy_rejected_something_and_says_what(
    servers: tuple[str, dict[str, object]],
) -> None:
    url, pages = servers
    rejected = [{"name": "pool/default/llama", "message": "bad cluster"}]
    pages["/debug/xds/nodes"] = {
        "nodes": [
            NODE,
            {
                **NODE,
                "id": "envoy-8",
                "state": "ERROR",
                "streams": [
                    {
                        "protocol": "sotw",
                        "types": {"clusters": {"state": "ERROR", "rejected": rejected}},
                    }
                ],
            },
        ]
    }
    code, output, _ = await run("status", "--xds", url)
    assert code == 1
    assert "clusters pool/default/llama: bad cluster" in output
    assert output.index("envoy-8") < output.index("envoy-7"), "the worst comes first"


async def test_picks_show_where_each_request_went_and_why(
    servers: tuple[str, dict[str, object]],
) -> None:
    url, _ = servers
    code, output, _ = await run("picks", "--extproc", url)
    assert code == 0
    for shown in (
        "tweet-summary as tweet-summary-1",
        "10.0.0.1:8000",
        "200 in 250 ms",
        "3: adapter-active 1",
    ):
        assert shown in output
    code, output, _ = await run("picks", "--extproc", url, "--json")
    assert json.loads(output) == {"decisions": [DECISION]}


async def test_what_a_server_does_not_have_is_said_in_one_line(
    servers: tuple[str, dict[str, object]],
) -> None:
    url, _ = servers
    code, output, errors = await run("snapshot", "elsewhere", "--xds", url)
    assert (code, output) == (1, "")
    assert errors == f"poolpilot: {url}/debug/xds/snapshots/elsewhere: no such page\n"


async def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(debug.NoAnswerError, match=r"http://127\.0\.0\.1:1/x does not answer"):
        await debug.fetch_all("http://127.0.0.1:1/x")
