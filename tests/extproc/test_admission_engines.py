"""What clients of a crowded pool feel, with simulated vLLM engines behind the queue."""

from __future__ import annotations

import pytest

from extproc.picking.admission.settings import (
    AdmissionSettings,
    BandSettings,
    ConcurrencySettings,
    Fairness,
    UtilizationSettings,
)
from tests.extproc.admission_engines import SEQUENCES, EngineSimulation, p90

CONCURRENCY, UTILIZATION = ConcurrencySettings(SEQUENCES), UtilizationSettings()
RATE = 13.4
"""Requests that the two pods serve in a second, at most."""
SECONDS = 60
SEEDS = (1, 2, 3)


def room_held_back(ceiling: float) -> dict[int, BandSettings]:
    return {10: BandSettings(), 0: BandSettings(ceiling=ceiling), -1: BandSettings(ceiling=ceiling)}


def loaded(settings: AdmissionSettings, factor: float, seed: int) -> EngineSimulation:
    """``factor`` times what the pods can serve: 0.3 of a load urgent, the rest normal and batch."""
    simulation = EngineSimulation(settings, seed)
    simulation.arrivals("urgent", "urgent", 0.3 * RATE)
    simulation.arrivals("normal", "normal", (factor - 0.3) / 2 * RATE)
    simulation.arrivals("batch", "batch", (factor - 0.3) / 2 * RATE)
    simulation.run(SECONDS)
    return simulation


def test_the_rate_at_which_the_pods_are_full_is_the_one_that_is_taken_for_it() -> None:
    simulation = EngineSimulation(AdmissionSettings(CONCURRENCY))
    simulation.clients("all", "normal", 200)
    simulation.run(SECONDS)
    assert simulation.served / SECONDS == pytest.approx(RATE, rel=0.05)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("saturation", "ceiling", "slower_by"),
    [
        # A fifth of the slots is kept for the urgent: they never wait for one.
        (CONCURRENCY, 0.8, 0.06),
        # All slots are taken: one comes free every 75 ms, and others may be first.
        (CONCURRENCY, 1.0, 0.3),
        # One request waits in each engine, not five.
        (UTILIZATION, 0.2, 0.3),
    ],
)
def test_at_twice_the_load_the_urgent_keep_their_ttft_and_the_sheddable_get_429(
    saturation: ConcurrencySettings | UtilizationSettings,
    ceiling: float,
    slower_by: float,
    seed: int,
) -> None:
    settings = AdmissionSettings(saturation, bands=room_held_back(ceiling))
    alone, double = loaded(settings, 0.3, seed), loaded(settings, 2.0, seed)
    assert p90(double.first_token["urgent"]) < p90(alone.first_token["urgent"]) + slower_by
    assert not [reason for flow, reason in double.refused if flow == "urgent"]
    shed = double.refused["batch", "shed"]
    assert shed > 0.9 * (shed + len(double.first_token["batch"]))
    assert double.served > 0.85 * RATE * SECONDS


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fairness", list(Fairness))
@pytest.mark.parametrize("saturation", [CONCURRENCY, UTILIZATION])
def test_who_needs_less_than_its_share_waits_for_a_few_slots_beside_one_who_floods(
    saturation: ConcurrencySettings | UtilizationSettings, fairness: Fairness, seed: int
) -> None:
    band = BandSettings(ttl=60, fairness=fairness)
    simulation = EngineSimulation(AdmissionSettings(saturation, default_band=band), seed)
    simulation.arrivals("small", "normal", 0.2 * RATE)
    simulation.clients("flood", "normal", 20 * SEQUENCES)
    simulation.run(SECONDS)
    assert p90(simulation.queued["small"]) < 0.4, "a slot comes free every 75 ms"
    assert p90(simulation.queued["flood"]) > 10
    assert simulation.served > 0.9 * RATE * SECONDS
