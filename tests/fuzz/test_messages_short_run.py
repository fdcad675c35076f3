"""A short run of the message fuzzer, so that it works when somebody needs a long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import messages
from tests.fuzz.messages import READERS, SEEDS, one_input, run_random


@pytest.mark.parametrize("seed", SEEDS)
def test_what_it_starts_from_is_read(seed: bytes) -> None:
    one_input(seed)


def test_every_reader_has_a_start() -> None:
    assert {seed[0] for seed in SEEDS} == set(range(len(READERS)))


def test_two_seconds_of_it_find_nothing() -> None:
    assert run_random(2.0, seed=2026) > 50


def test_a_finding_is_kept_for_a_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> None:
        raise AssertionError("a promise is broken")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(messages, "READERS", (broken,))
    with pytest.raises(AssertionError, match="promise"):
        run_random(2.0, seed=1)
    (found,) = tmp_path.glob("message-crash-*.bin")
    with pytest.raises(AssertionError, match="promise"):
        one_input(found.read_bytes())
