from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.checkpoint import Checkpoint

P, Q = ("t", 0), ("t", 1)


def test_nothing_is_committed_before_it_is_done():
    checkpoint = Checkpoint()
    checkpoint.track(P, 5)
    assert checkpoint.committable() == {}
    checkpoint.done(P, 5)
    assert checkpoint.committable() == {P: 6}


def test_a_commit_never_jumps_over_an_unfinished_record():
    checkpoint = Checkpoint()
    for offset in (5, 6, 9):
        checkpoint.track(P, offset)
    checkpoint.done(P, 9)
    checkpoint.done(P, 6)
    assert checkpoint.committable() == {}
    checkpoint.done(P, 5)
    assert checkpoint.committable() == {P: 10}


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers())
def test_in_any_order_exactly_the_finished_beginning_is_committable(finished: list[bool], seed: int):
    """Compared with the plain definition: everything before the first unfinished one."""
    checkpoint = Checkpoint()
    offsets = [3 * number for number in range(len(finished))]
    for offset in offsets:
        checkpoint.track(P, offset)
    done = [offset for offset, is_finished in zip(offsets, finished, strict=True) if is_finished]
    random.Random(seed).shuffle(done)
    for offset in done:
        checkpoint.done(P, offset)
    first_open = finished.index(False) if False in finished else len(finished)
    assert checkpoint.committable() == ({P: offsets[first_open - 1] + 1} if first_open else {})
    assert checkpoint.unfinished >= len(offsets) - len(done)


def test_partitions_are_told_apart_and_each_commit_is_made_once():
    checkpoint = Checkpoint()
    for partition in (P, Q):
        checkpoint.track(partition, 1)
        checkpoint.done(partition, 1)
    checkpoint.committed({P: 2})
    assert checkpoint.committable() == {Q: 2}


def test_a_commit_that_failed_is_made_again():
    checkpoint = Checkpoint()
    checkpoint.track(P, 1)
    checkpoint.done(P, 1)
    checkpoint.committed({P: 2})
    checkpoint.commit_failed([P, Q])
    assert checkpoint.committable() == {P: 2}


def test_what_is_forgotten_is_not_committed_even_if_it_is_done_later():
    checkpoint = Checkpoint()
    checkpoint.track(P, 1)
    checkpoint.forget([P])
    checkpoint.done(P, 1)
    assert checkpoint.committable() == {}


def test_a_late_finish_from_before_a_reassignment_marks_nothing():
    checkpoint = Checkpoint()
    checkpoint.track(P, 7)
    checkpoint.forget([P])
    checkpoint.track(P, 3)
    checkpoint.track(P, 4)
    checkpoint.done(P, 7)
    checkpoint.done(P, 4)
    assert checkpoint.committable() == {}


def test_a_partition_that_starts_over_is_tracked_anew():
    checkpoint = Checkpoint()
    checkpoint.track(P, 100)
    checkpoint.track(P, 0)
    checkpoint.done(P, 0)
    assert checkpoint.committable() == {P: 1}


def test_a_partition_that_starts_over_begins_with_its_oldest_unfinished_record():
    checkpoint = Checkpoint()
    for offset in (5, 6, 7):
        checkpoint.track(P, offset)
    checkpoint.owe(P, 7, 1)
    for offset in (5, 7):
        checkpoint.done(P, offset)
    checkpoint.track(Q, 1)
    checkpoint.done(Q, 1)
    assert checkpoint.unfinished_from([P, Q, ("t", 2)]) == {P: 6}
    checkpoint.done(P, 6)
    assert checkpoint.unfinished_from([P]) == {P: 7}
