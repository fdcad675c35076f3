"""The page of errors tells of everything that Envoy can answer with our configuration."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import xds
from xds.translate.accesslogs import error_bodies
from xds.translate.features import Features

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"


def listed() -> list[tuple[int, str]]:
    """Status and code, as the page lists what Envoy makes."""
    rows = re.findall(
        r"^\| (\d+) \| `([a-z_-]+)` \| [^|]+ \| [^|]+ \|$", PAGE.read_text(), flags=re.MULTILINE
    )
    return [(int(status), code) for status, code in rows]


def answers_of_routes() -> Iterator[tuple[int, str]]:
    """Every ``Answer`` that is written down in the code."""
    for path in sorted(Path(xds.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Answer":
                status, code = node.args[0], node.args[1]
                assert isinstance(status, ast.Constant), f"{path.name}:{node.lineno}"
                assert isinstance(code, ast.Constant), f"{path.name}:{node.lineno}"
                yield int(str(status.value)), str(code.value)


def codes_of_failures() -> list[str]:
    """Codes of what goes wrong on the way to a pod or to the picker."""
    codes = []
    for mapper in error_bodies(Features()).mappers:
        assert mapper.body_format_override is not None
        body = mapper.body_format_override.json_format
        assert body is not None
        codes.append(body.to_dict()["error"]["code"])
    return codes


def test_the_page_lists_exactly_what_envoy_can_answer() -> None:
    routes = set(answers_of_routes())
    failures = codes_of_failures()
    assert routes
    assert "picker_failed" in failures
    codes = [code for _, code in listed()]
    assert sorted(codes) == sorted({code for _, code in routes} | set(failures))


def test_the_page_gives_the_status_that_a_route_answers_with() -> None:
    assert set(answers_of_routes()) <= set(listed())
