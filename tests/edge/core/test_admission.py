"""Clients come in at a bounded rate, in order; those sent away come back spread."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge.core.admission import BURST_S, MAX_RETRY_AFTER_S, MAX_WAIT_S, Gate, Verdict

RATE = 100.0


def gate(rate: float = RATE) -> Gate[int]:
    return Gate(rate, now=0.0)


def test_a_few_at_once_then_a_queue_then_no_more():
    gate_ = gate()
    verdicts = [gate_.ask(number, 0.0) for number in range(200)]
    burst, queue = int(RATE * BURST_S), int(RATE * MAX_WAIT_S)
    assert verdicts[:burst] == [Verdict.ADMITTED] * burst
    assert verdicts[burst : burst + queue] == [Verdict.WAITS] * queue
    assert set(verdicts[burst + queue :]) == {Verdict.REFUSED}
    assert gate_.refused == 200 - burst - queue


def test_who_waits_comes_in_at_the_rate_and_in_order():
    gate_ = gate()
    waiting = [number for number in range(50) if gate_.ask(number, 0.0) is Verdict.WAITS]
    admitted: list[int] = []
    for tick in range(1, 11):
        due = gate_.due(tick / 100)
        assert len(due) <= 2
        admitted += due
    assert admitted == waiting[:10]


def test_nobody_overtakes_those_who_wait():
    gate_ = gate()
    for number in range(20):
        gate_.ask(number, 0.0)
    assert gate_.ask(20, 0.1) is Verdict.WAITS  # There are tokens again, but they are for those before.
    assert gate_.due(0.1) == [5, 6, 7, 8, 9]


def test_no_rate_is_no_bound():
    gate_ = gate(0)
    assert {gate_.ask(number, 0.0) for number in range(10_000)} == {Verdict.ADMITTED}


@given(steps=st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 50)), max_size=50))
def test_never_more_than_burst_and_rate(steps: list[tuple[float, int]]):
    gate_, now, admitted = gate(), 0.0, 0
    for pause, newcomers in steps:
        now += pause
        admitted += len(gate_.due(now))
        admitted += sum(gate_.ask(number, now) is Verdict.ADMITTED for number in range(newcomers))
    assert admitted <= RATE * BURST_S + RATE * now + 1e-6


def test_those_sent_away_come_back_as_fast_as_they_can_be_let_in():
    gate_ = gate()
    back = [gate_.retry_after_s(0.0, 0.0) for _ in range(1_000)]
    assert back == sorted(back)
    for second in range(1, 10):
        assert RATE - 1 <= back.count(second) <= RATE + 1
    assert gate_.retry_after_s(100.0, 0.0) == 1  # Long after, nobody is outside any more.


def test_what_is_said_to_those_sent_away_has_jitter_and_an_end():
    gate_ = gate()
    assert {gate_.retry_after_s(0.0, chance / 10) for chance in range(10)} == {1, 2, 3}
    assert max(gate_.retry_after_s(0.0, 0.999) for _ in range(100_000)) == MAX_RETRY_AFTER_S
    assert {gate(0).retry_after_s(0.0, chance / 10) for chance in range(10)} == {1, 2, 3}
