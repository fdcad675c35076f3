"""Of several replicas one writes: elections by virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from pools.kubernetes.status.election import DURATION, RENEW, RENEW_DEADLINE, Election, Record


@dataclass
class Lease:
    """As the API server keeps it: whoever writes must have read the newest version."""

    record: Record | None = None
    version: int = 0

    def write(self, record: Record, read_version: int) -> bool:
        if read_version != self.version:
            return False
        self.record, self.version = record, self.version + 1
        return True


@dataclass
class Replica:
    lease: Lease
    election: Election
    skew: float = 0.0
    """Of its clock, which counts from another start."""
    pending: tuple[Record, int, float] | None = None
    """A claim on its way to the server: what, read from which version, when it began."""
    said: list[str] = field(default_factory=list)

    def local(self, now: float) -> float:
        return now + self.skew

    def read(self, now: float) -> None:
        self.pending = None
        time = f"time of {self.election.identity}: {self.local(now)}"
        claim = self.election.claim(
            self.lease.record, str(self.lease.version), self.local(now), time
        )
        if claim is not None:
            self.pending = claim, self.lease.version, self.local(now)

    def write(self, *, answered: bool = True) -> None:
        """The claim arrives. ``answered``: and so does the answer."""
        if self.pending is None:
            return
        record, version, began = self.pending
        self.pending = None
        won = self.lease.write(record, version)
        if answered and won:
            self.election.won(began)
        elif answered:
            self.election.lost()

    def leads(self, now: float) -> bool:
        return self.election.leads(self.local(now))

    def round(self, now: float) -> bool:
        self.read(now)
        self.write()
        return self.leads(now)


def replicas(lease: Lease, *skews: float) -> list[Replica]:
    return [Replica(lease, Election(f"replica-{i}"), skew) for i, skew in enumerate(skews)]


def test_the_first_one_takes_a_lease_that_nobody_has() -> None:
    lease = Lease()
    first, second = replicas(lease, 0.0, 1e6)
    assert first.round(0.0)
    assert not second.round(0.0)
    assert lease.record is not None
    assert lease.record.holder == "replica-0"
    assert lease.record.transitions == 0


def test_two_that_claim_at_the_same_instant_do_not_both_get_it() -> None:
    lease = Lease()
    first, second = replicas(lease, 0.0, 0.0)
    first.read(0.0)
    second.read(0.0)
    second.write()
    first.write()
    assert second.leads(0.0)
    assert not first.leads(0.0)


def test_a_holder_that_renews_keeps_it() -> None:
    lease = Lease()
    holder, other = replicas(lease, 0.0, -1e5)
    for step in range(100):
        assert holder.round(step * RENEW)
        assert not other.round(step * RENEW + 1)


def test_one_that_falls_silent_is_followed_after_the_lease_has_expired() -> None:
    lease = Lease()
    holder, other = replicas(lease, 0.0, 5000.0)
    holder.round(0.0)
    assert not other.round(1.0)
    assert not other.round(1.0 + DURATION - 0.1)
    assert other.round(1.0 + DURATION)
    assert lease.record is not None
    assert lease.record.transitions == 1
    assert not holder.round(1.0 + DURATION)


def test_a_holder_that_cannot_renew_stops_before_another_may_begin() -> None:
    [holder] = replicas(Lease(), 0.0)
    holder.round(0.0)
    assert holder.leads(RENEW_DEADLINE - 0.1)
    assert not holder.leads(RENEW_DEADLINE)
    assert RENEW_DEADLINE < DURATION


def test_the_times_that_others_write_down_do_not_matter() -> None:
    """A holder whose clock is an hour behind looks expired by its own record."""
    behind = Record("other", DURATION, "2020-01-01T00:00:00.000000Z", "2020-01-01T00:00:00.000000Z")
    [late] = replicas(Lease(behind, 7), 0.0)
    assert not late.round(0.0)
    assert not late.round(DURATION - 1)


def test_one_that_is_given_back_is_taken_at_once() -> None:
    lease = Lease()
    holder, other = replicas(lease, 0.0, 0.0)
    holder.round(0.0)
    assert lease.record is not None
    released = holder.election.release(lease.record, "now")
    assert released is not None
    lease.write(released, lease.version)
    assert not holder.leads(0.0)
    assert other.round(0.1)


def test_what_is_not_held_is_not_given_back() -> None:
    lease = Lease()
    holder, other = replicas(lease, 0.0, 0.0)
    holder.round(0.0)
    assert lease.record is not None
    assert other.election.release(lease.record, "now") is None


def test_an_answer_that_got_lost_costs_nothing_but_a_look() -> None:
    lease = Lease()
    [holder] = replicas(lease, 0.0)
    holder.read(0.0)
    holder.write(answered=False)
    assert not holder.leads(0.0)
    assert holder.round(1.0), "it finds its own name in the lease"


def test_a_record_survives_its_own_form() -> None:
    record = Record("a", 15.0, "t", "u", 3)
    assert Record.of(record.spec()) == record
    strange = Record.of({"leaseDurationSeconds": "x", "leaseTransitions": None})
    assert strange == replace(record, holder="", acquired="", renewed="", transitions=0)


STEP = st.tuples(
    st.integers(0, 2),
    st.sampled_from(["read", "write", "write without answer", "round", "release"]),
    st.floats(0.0, 8.0),
)


@given(
    st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), st.lists(STEP, min_size=1, max_size=80)
)
def test_there_are_never_two_whatever_is_late_or_lost(
    skews: list[float], steps: list[tuple[int, str, float]]
) -> None:
    lease = Lease()
    three = replicas(lease, *skews)
    now = 0.0
    for who, what, later in steps:
        now += later
        one = three[who]
        if what == "read":
            one.read(now)
        elif what == "write":
            one.write()
        elif what == "write without answer":
            one.write(answered=False)
        elif what == "round":
            one.round(now)
        elif lease.record is not None:
            released = one.election.release(lease.record, "now")
            if released is not None:
                lease.write(released, lease.version)
        assert sum(replica.leads(now) for replica in three) <= 1
