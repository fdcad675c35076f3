"""Small rules: when to try again, which kinds are there, how an outage is told."""

import datetime

from pools.kubernetes.backoff import FIRST, delay
from pools.kubernetes.discovery import ABSENT_FOR, Discovery, paths
from pools.kubernetes.kinds import ALL_KINDS, ENDPOINTS, POD, POOLS, ROUTES, Collection
from pools.kubernetes.outage import Outages

NEW_POOL, OLD_POOL = POOLS
NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
LATER = NOON + datetime.timedelta(hours=1)


def test_waits_double_up_to_the_longest() -> None:
    assert [delay(n, 2.0, 0.0) for n in range(1, 7)] == [
        FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST, 2.0, 2.0
    ]  # fmt: skip
    assert delay(100_000, 10.0, 0.0) == 10.0


def test_chance_takes_away_half_at_most_and_the_server_has_the_last_word() -> None:
    assert delay(9, 10.0, 1.0) == 5.0
    assert delay(1, 10.0, 0.5, retry_after=7.0) == 7.0


def test_collections_are_where_the_api_server_has_them() -> None:
    assert Collection(POD, "v1").path == "/api/v1/pods"
    assert Collection(NEW_POOL, "v1", "models").path == (
        "/apis/inference.networking.k8s.io/v1/namespaces/models/inferencepools"
    )
    assert str(Collection(POD, "v1", "models")) == "Pod of namespace models"


def test_the_first_version_that_the_server_has_is_followed() -> None:
    group = "/apis/inference.networking.x-k8s.io"
    both = {f"{group}/{v}": {"inferencepools"} for v in ("v1alpha1", "v1alpha2")}
    found = Discovery([OLD_POOL, POD])
    found.update({f"{group}/v1alpha1": {"inferencepools"}}, 0.0)
    assert found.present == {OLD_POOL: "v1alpha1", POD: "v1"}
    found.update(both, 1.0)
    assert found.present[OLD_POOL] == "v1alpha2"
    assert set(both) <= paths([OLD_POOL, POD])
    assert "/api/v1" not in paths(ALL_KINDS)


def test_a_kind_is_gone_only_after_it_was_missing_for_long() -> None:
    here = {"/apis/poolpilot.dev/v1alpha1": {"poolendpoints"}}
    found = Discovery(ENDPOINTS)
    found.update(here, 0.0)
    found.update({}, 100.0)
    assert found.present
    assert found.deadline() == 100.0 + ABSENT_FOR
    found.update(here, 100.0 + ABSENT_FOR / 2)
    found.update({}, 100.0 + ABSENT_FOR)
    assert found.present, "it was back in between"
    found.update({}, 100.0 + 2 * ABSENT_FOR)
    assert (found.present, found.absent, found.deadline()) == ({}, ENDPOINTS, None)


def said(outages: Outages) -> list[str]:
    return [problem.message for problem in outages.problems("https://cluster")]


def test_a_server_that_is_away_is_one_problem_since_its_beginning() -> None:
    outages = Outages()
    assert outages.failed("Pod", 0, "Connection refused", NOON)
    assert outages.failed("HTTPRoute", 0, "no answer in time", LATER)
    assert said(outages) == [
        "the API server https://cluster cannot be reached since 2026-01-01T12:00:00Z"
        " (Connection refused); what it said last stays in effect"
    ]
    before = said(outages)
    outages.ended("Pod")
    assert said(outages) == before, "the text does not change while it is not over"
    outages.ended("HTTPRoute")
    assert said(outages) == []
    outages.failed("Pod", 0, "no answer in time", LATER)
    assert "13:00:00Z (no answer in time)" in said(outages)[0], "the next one is another"


def test_credentials_that_are_refused_are_one_problem() -> None:
    outages = Outages()
    outages.failed("Pod", 401, "Unauthorized", NOON)
    outages.failed("HTTPRoute", 401, "Unauthorized", NOON)
    assert said(outages) == [
        "the API server https://cluster does not accept our credentials since"
        " 2026-01-01T12:00:00Z (Unauthorized); what it said last stays in effect: renew them"
    ]
    outages.failed("Pod", 0, "Connection refused", LATER)
    outages.failed("HTTPRoute", 0, "Connection refused", LATER)
    assert ["cannot be reached" in one for one in said(outages)] == [True]


def test_retries_that_fail_in_the_same_way_are_no_news() -> None:
    outages = Outages()
    outages.failed("Pod", 0, "Connection refused", NOON)
    assert not outages.failed("Pod", 0, "Connection reset by peer", LATER)
    assert outages.failed("Pod", 403, "forbidden", LATER), "another failure is"
    [message] = said(outages)
    assert message.startswith("Pod cannot be read since 2026-01-01T12:00:00Z (forbidden)")
    assert outages.ended("Pod")
    assert not outages.ended("Pod")


def test_kinds_are_in_order_of_precedence() -> None:
    assert ALL_KINDS.index(NEW_POOL) < ALL_KINDS.index(OLD_POOL)
    assert [kind.namespaced for kind in ROUTES] == [True, True, False]
