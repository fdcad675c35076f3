"""A short run of the fuzzer, so that it works when somebody needs a long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import h2_connection
from tests.fuzz.h2_connection import SEEDS, Server, one_input, run_random


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_what_it_starts_from_are_good_conversations(seed: int) -> None:
    server = one_input(b"\0" + SEEDS[seed])
    assert not server.connection.closed
    assert server.opened


def test_two_seconds_of_it_find_nothing() -> None:
    assert run_random(2.0, seed=2026) > 50


def test_a_finding_is_kept_for_a_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(server: Server) -> None:
        raise AssertionError("a promise is broken")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(h2_connection.Server, "check", broken)
    with pytest.raises(AssertionError, match="promise"):
        run_random(2.0, seed=1)
    (found,) = tmp_path.glob("h2-crash-*.bin")
    with pytest.raises(AssertionError, match="promise"):
        one_input(found.read_bytes())
