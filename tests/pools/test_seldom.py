"""Of a flood of problems a few are told, and how many were not."""

from pools.seldom import Seldom


def test_each_kind_is_told_at_its_own_rate_with_the_count_of_what_was_left_out() -> None:
    problems = Seldom(every=10.0)
    assert problems.details("a", 0.0) == {}
    assert problems.details("b", 1.0) == {}
    assert [problems.details("a", at) for at in (1.0, 5.0, 9.9)] == [None] * 3
    assert problems.details("a", 10.0) == {"not_logged_before": 3}
    assert problems.details("b", 20.0) == {}
    assert problems.details("a", 30.0) == {}
