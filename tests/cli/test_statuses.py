"""Options for what is written back to Kubernetes."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from poolpilot.cli import app
from poolpilot.statuses import checked_controller


def test_a_controllers_name_has_a_domain() -> None:
    assert checked_controller("example.com/our-gateways") == "example.com/our-gateways"
    for wrong in ("gateways", "/gateways", "example.com/", "Example.com/x y"):
        with pytest.raises(typer.BadParameter, match="domain/name"):
            checked_controller(wrong)


def test_routes_of_a_directory_are_always_read(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["serve", "xds", "--manifests", str(tmp_path), "--no-routes"], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 2
    assert "--no-routes" in result.output
    assert "only goes with --kubernetes" in result.output
