"""An option is defined once, and every command that can use it has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperOption
from typer.testing import CliRunner

from extproc.config.settings import PickerConfig
from poolpilot import parts
from poolpilot.cli import app
from poolpilot.commands import serve_extproc, servers
from poolpilot.picker_options import PickerOptions
from poolpilot.xds_options import XdsOptions
from pools.attachment import OWN_PICKERS
from xds.config import XdsServerConfig
from xds.http import HttpConfig
from xds.translate import SocketAddress, TranslateSettings


def options(command: str) -> dict[str, TyperOption]:
    """By flag."""
    module = serve_extproc if command == "extproc" else servers
    group: Any = typer.main.get_command(module.app)
    return {
        one.opts[0]: one for one in group.commands[command].params if isinstance(one, TyperOption)
    }


def test_serve_all_has_every_option_of_both_servers_under_the_same_variable() -> None:
    found = options("all")
    variables = {one.envvar for one in found.values() if one.envvar}
    assert len(variables) == len([one for one in found.values() if one.envvar])
    for server in ("xds", "extproc"):
        for flag, one in options(server).items():
            prefixed = f"--{server}-{flag.removeprefix('--')}"
            same = found.get(prefixed) or found[flag]
            assert same.envvar == one.envvar
            if same.default is not None:
                assert (same.default, same.help) == (one.default, one.help)
            else:
                assert one.default is None or f"{one.default:g} ({server})" in str(same.help)


@pytest.mark.parametrize("command", ["xds", "extproc", "all"])
def test_every_option_has_a_variable_a_help_and_a_panel(command: str) -> None:
    # Where a kubeconfig is says KUBECONFIG, and its context is of it.
    without = {"--kubeconfig", "--context"}
    for flag, one in options(command).items():
        assert one.help, flag
        assert one.rich_help_panel, flag
        assert one.envvar or flag in without, flag


def test_what_is_not_said_is_as_the_servers_have_it_themselves() -> None:
    assert PickerOptions().config() == PickerConfig()
    xds = XdsOptions()
    assert xds.envoy(sorted(OWN_PICKERS)) == TranslateSettings()
    assert xds.server() == XdsServerConfig()
    assert xds.http() == HttpConfig()


class Started:
    """What ``serve all`` would have run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, manifests: Path) -> None:
        self._manifests = manifests
        self.picker = PickerConfig()
        self.envoy = TranslateSettings()
        self.server = XdsServerConfig()
        self.graces: list[float] = []

        def xds(
            _: object,
            envoy: TranslateSettings,
            server: XdsServerConfig,
            http: object,
            grace: float,
            statuses: object,
        ) -> None:
            self.envoy, self.server = envoy, server
            self.graces.append(grace)

        def picker(_: object, config: PickerConfig, grace: float) -> None:
            self.picker = config
            self.graces.append(grace)

        monkeypatch.setattr(parts, "xds_server", xds)
        monkeypatch.setattr(parts, "endpoint_picker", picker)
        for module in (serve_extproc, servers):
            monkeypatch.setattr(module, "run_until_stopped", lambda make, grace: make())

    def by(self, *arguments: str, **env: str) -> Any:
        command = ["serve", "all", "--manifests", str(self._manifests), *arguments]
        return CliRunner().invoke(app, command, env={"COLUMNS": "200", **env})


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Started:
    return Started(monkeypatch, tmp_path)


def test_both_servers_can_be_told_everything_at_once(started: Started) -> None:
    result = started.by(
        *("--xds-address", "127.0.0.1:18100", "--extproc-address", "127.0.0.1:9102"),
        *("--extproc-http-address", "127.0.0.1:9190", "--scrape-interval", "0.5"),
        *("--kv-events-port", "5557", "--explain-header", "--trace-share", "0.25"),
    )
    assert result.exit_code == 0, result.output
    assert started.server.port == 18100
    picker = started.picker
    assert (picker.address, picker.http_address) == ("127.0.0.1:9102", "127.0.0.1:9190")
    assert (picker.scrape.interval, picker.kv_events_port) == (0.5, 5557)
    assert picker.explain_header
    assert (started.envoy.trace_share, picker.trace_share) == (0.25, 0.25)
    assert started.envoy.ext_proc.targets == (SocketAddress("127.0.0.1", 9102),), "ours, there"


def test_where_the_servers_differ_each_keeps_its_own_default(started: Started) -> None:
    assert started.by().exit_code == 0
    assert started.graces == [5, 10]
    assert (started.envoy.trace_share, started.picker.trace_share) == (1, 0)
    assert started.by("--grace", "3").exit_code == 0
    assert started.graces[2:] == [3, 3]


def test_an_interface_is_for_all_that_no_option_is_about(started: Started) -> None:
    result = started.by("--host", "0.0.0.0", POOLPILOT_EXTPROC_HEALTH_ADDRESS="127.0.0.1:9003")
    assert result.exit_code == 0, result.output
    assert started.server.host == "0.0.0.0"
    assert (started.picker.address, started.picker.health_address) == (
        "0.0.0.0:9002",
        "127.0.0.1:9003",
    )
    assert started.picker.http_address == "127.0.0.1:9090", "pages stay on loopback"
    assert started.envoy.ext_proc.targets == (SocketAddress("127.0.0.1", 9002),)


def test_a_picker_with_tls_is_not_asked_without(started: Started) -> None:
    result = started.by("--extproc-tls-certificate", "tls.crt", "--extproc-tls-key", "tls.key")
    assert result.exit_code == 2
    assert "--picker-tls-ca" in result.output


def test_a_wrong_address_is_told_by_the_option_that_has_it(started: Started) -> None:
    result = started.by("--xds-http-address", "18001")
    assert result.exit_code == 2
    assert "'--xds-http-address'" in result.output
    assert "not of the form host:port" in result.output
