"""The names on which Envoy's configuration and the endpoint picker agree stand in one place."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from pools import contract

ROOT = Path(inspect.getfile(contract)).parents[1]
PARTS = ("pools", "inspection", "xds", "extproc", "sim", "poolpilot")
EVERYWHERE = {contract.OWN_NAMESPACE, contract.PICK_KEY, contract.REQUEST_ID}
"""Words that mean other things elsewhere as well."""
IN_RESPONSES = {contract.PROMPT_TOKENS, contract.COMPLETION_TOKENS, contract.CACHED_TOKENS}
"""OpenAI's names too."""
NAMES = {
    value: name
    for name, value in vars(contract).items()
    if name.isupper() and value not in EVERYWHERE | IN_RESPONSES
}


def literals(path: Path) -> set[str]:
    """All texts in a module but its docstrings (also those of attributes)."""
    tree = ast.parse(path.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    }


@pytest.mark.parametrize("part", PARTS)
def test_no_part_spells_a_name_of_the_contract_itself(part: str) -> None:
    copies = [
        f"{path.relative_to(ROOT)}: {value!r} is pools.contract.{NAMES[value]}"
        for path in sorted((ROOT / part).rglob("*.py"))
        if path != ROOT / "pools" / "contract.py"
        for value in sorted(literals(path) & NAMES.keys())
    ]
    assert copies == []


def test_both_servers_take_each_name_from_the_contract_or_one_side_alone_needs_it() -> None:
    users: dict[str, set[str]] = {name: set() for name in NAMES.values()}
    for part in ("xds", "extproc"):
        for path in (ROOT / part).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module == "pools.contract":
                    for alias in node.names:
                        users.setdefault(alias.name, set()).add(part)
    assert {name for name, parts in users.items() if len(parts) < 2} == {"SUBSET_KEY"}, (
        "a name that one server needs belongs to that server; the subset's key is written by other "
        "gateways than ours"
    )
