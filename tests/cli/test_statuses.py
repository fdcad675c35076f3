"""Options for what is written back to Kubernetes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from poolpilot.cli import app


@pytest.mark.parametrize("wrong", ["gateways", "/gateways", "example.com/", "Example.com/x y"])
def test_a_controllers_name_has_a_domain(tmp_path: Path, wrong: str) -> None:
    result = CliRunner().invoke(
        app,
        ["serve", "xds", "--manifests", str(tmp_path), "--controller-name", wrong],
        env={"COLUMNS": "200"},
    )
    assert result.exit_code == 2
    assert "--controller-name" in result.output
    assert "domain/name" in result.output


def test_routes_of_a_directory_are_always_read(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["serve", "xds", "--manifests", str(tmp_path), "--no-routes"], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 2
    assert "--no-routes" in result.output
    assert "only goes with --kubernetes" in result.output
