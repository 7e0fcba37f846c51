"""The time that clients may take of one turn of the event loop: no more than that, the cheap first, and nobody for ever."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.turns import COST_S, MOST_COST, TURN_S, Turns


class Bench:
    """A clock that work moves, and turns that a test makes."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon: list[Callable[[], None]] = []
        self.done: list[str] = []
        self.turns = Turns(lambda: self.now, self.soon.append)

    def work(self, name: str, took_s: float = TURN_S / 4) -> None:
        self.done.append(name)
        self.now += took_s

    def later(self, name: str, cost: int = 0) -> None:
        self.turns.later(lambda: self.work(name), cost)

    def next_turn(self) -> list[str]:
        """What is done in the next turn."""
        self.done.clear()
        soon, self.soon[:] = list(self.soon), []
        for callback in soon:
            callback()
        return list(self.done)


def test_a_turn_is_over_after_its_time_and_the_next_one_is_new():
    bench = Bench()
    done = 0
    while not bench.turns.is_over():
        bench.work("a")
        done += 1
    assert done == 4
    assert bench.turns.is_over()
    bench.next_turn()
    assert not bench.turns.is_over()


def test_what_is_done_after_the_turn_counts_in_it():
    bench = Bench()
    assert not bench.turns.is_over()
    bench.turns.charge(TURN_S)
    assert bench.turns.is_over()
    bench.next_turn()
    bench.turns.charge(TURN_S)
    assert not bench.turns.is_over(), "a turn that has not begun has all its time"


def test_what_waits_goes_first_a_turns_worth_at_a_time():
    bench = Bench()
    for number in range(10):
        bench.later(f"{number}")
    assert bench.next_turn() == ["0", "1", "2", "3"]
    assert bench.turns.is_over(), "what comes now must wait, too"
    assert bench.next_turn() == ["4", "5", "6", "7"]
    assert bench.next_turn() == ["8", "9"]
    assert not bench.turns.is_over()
    bench.next_turn()
    assert bench.soon == [], "an idle loop is left alone"


def test_the_cheap_go_before_the_dear_and_these_do_not_wait_for_ever():
    bench = Bench()
    bench.later("dear", cost=100)
    bench.later("cheaper", cost=50)
    bench.later("cheap")
    assert bench.next_turn() == ["cheap", "cheaper", "dear"]
    bench.later("dear", cost=100)
    bench.now += 101 * COST_S
    bench.later("cheap")
    assert bench.next_turn() == ["dear", "cheap"]


def test_who_is_dearest_of_all_does_not_wait_for_ever_either():
    bench = Bench()
    bench.later("dear", cost=1_000_000_000)
    bench.now += MOST_COST * COST_S + 1
    bench.later("cheap")
    assert bench.next_turn() == ["dear", "cheap"]


def test_work_that_fails_leaves_the_others_their_turn():
    bench = Bench()

    def fail() -> None:
        msg = "nothing"
        raise ValueError(msg)

    bench.turns.later(fail)
    bench.later("other")
    with pytest.raises(ValueError, match="nothing"):
        bench.next_turn()
    bench.later("third")
    assert bench.next_turn() == ["other", "third"]


@given(st.lists(st.tuples(st.sampled_from(["dear", "cheap", "fails", "again", "turn", "over"]), st.integers(0, 3)), max_size=40))
def test_nothing_that_waits_is_ever_left(steps: list[tuple[str, int]]):
    bench = Bench()
    expected, done = 0, 0
    failed = 0

    def work(kind: str, times: int) -> None:
        nonlocal done, failed
        bench.now += TURN_S / 3
        if kind == "fails":
            failed += 1
            raise LookupError
        if times:
            bench.turns.later(lambda: work(kind, times - 1))
        else:
            done += 1

    for kind, times in steps:
        if kind == "turn":
            with contextlib.suppress(LookupError):
                bench.next_turn()
        elif kind == "over":
            bench.turns.is_over()
        else:
            expected += 1
            bench.turns.later(functools.partial(work, kind, times if kind == "again" else 0), 5 if kind == "dear" else 0)
        assert bench.soon or not len(bench.turns)
    for _ in range(500):
        with contextlib.suppress(LookupError):
            bench.next_turn()
    assert (done + failed, len(bench.turns), bench.soon) == (expected, 0, [])


def test_work_that_goes_on_waits_for_the_turn_after():
    bench = Bench()

    def again() -> None:
        bench.work("again", took_s=0)
        bench.turns.later(again)

    bench.turns.later(again)
    assert bench.next_turn() == ["again"]
    assert bench.next_turn() == ["again"]


def test_one_piece_of_work_is_finished_in_several_turns():
    bench = Bench()

    async def main() -> list[int]:
        turns = Turns(lambda: bench.now)
        left = list(range(10))
        other: list[int] = []

        def work() -> bool:
            while left and not turns.is_over():
                bench.work(f"{left.pop(0)}")
            return not left

        turns.later(lambda: other.append(len(left)))
        await turns.finish(work)
        return other

    assert asyncio.run(main()) == [6], "others have their turn meanwhile"
    assert bench.done == [f"{number}" for number in range(10)]


def test_work_that_fails_in_a_later_turn_fails_for_whoever_waits():
    bench = Bench()

    async def main() -> None:
        turns = Turns(lambda: bench.now)
        calls = iter([False, None])

        def work() -> bool:
            if next(calls) is None:
                msg = "no"
                raise LookupError(msg)
            return False

        await turns.finish(work)

    with pytest.raises(LookupError):
        asyncio.run(main())
