"""Bounds hold exactly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge.core.limits import CommandRate, ConnectionCounter, Limits


class TestCommandRate:
    def test_a_burst_then_the_rate(self):
        rate = CommandRate(2.0, 3, now=100.0)
        assert [rate.allows(100.0) for _ in range(4)] == [True, True, True, False]
        assert [rate.allows(101.0) for _ in range(3)] == [True, True, False]

    def test_rest_is_not_saved_up_beyond_the_burst(self):
        rate = CommandRate(2.0, 3, now=0.0)
        assert [rate.allows(1_000.0) for _ in range(4)] == [True, True, True, False]

    @given(steps=st.lists(st.floats(0, 2), max_size=100), per_s=st.integers(1, 10), burst=st.integers(1, 10))
    def test_never_more_than_burst_and_rate(self, steps: list[float], per_s: int, burst: int):
        rate, now, allowed = CommandRate(per_s, burst, 0.0), 0.0, 0
        for pause in steps:
            now += pause
            allowed += rate.allows(now)
        assert allowed <= burst + per_s * now + 1e-6


class TestConnectionCounter:
    def test_in_all(self):
        counter = ConnectionCounter(Limits(max_connections=2))
        assert [counter.enter("a"), counter.enter("b"), counter.enter("c")] == [True, True, False]
        counter.leave("a")
        assert counter.enter("c")
        assert counter.total == 2

    def test_by_address(self):
        counter = ConnectionCounter(Limits(max_connections_per_address=1))
        assert [counter.enter("a"), counter.enter("a"), counter.enter("b")] == [True, False, True]
        counter.leave("a")
        assert counter.enter("a")
        assert counter.total == 2

    def test_one_that_was_refused_is_not_counted(self):
        counter = ConnectionCounter(Limits(max_connections=5, max_connections_per_address=1))
        for _ in range(10):
            counter.enter("a")
        assert counter.total == 1

    def test_addresses_are_forgotten(self):
        counter = ConnectionCounter(Limits(max_connections_per_address=1))
        counter.enter("a")
        counter.leave("a")
        assert not counter._by_address
