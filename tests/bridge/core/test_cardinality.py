from __future__ import annotations

import pytest

from bridge.core.cardinality import ChannelCap, TooManyChannelsError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_no_more_than_the_limit_is_admitted_or_held():
    cap = ChannelCap(3, 60, Clock())
    cap.admit(["a", "b"])
    cap.admit(["a", "c"])
    for number in range(1_000):
        with pytest.raises(TooManyChannelsError, match="one more than the 3"):
            cap.admit([f"x{number}"])
    assert len(cap) == 3
    cap.admit(["a", "b", "c"])


def test_of_an_item_with_one_channel_too_many_none_is_noted():
    cap = ChannelCap(2, 60, Clock())
    cap.admit(["a"])
    with pytest.raises(TooManyChannelsError):
        cap.admit(["b", "c"])
    cap.admit(["b"])


def test_a_channel_that_was_not_used_for_its_ttl_makes_room():
    clock = Clock()
    cap = ChannelCap(2, 60, clock)
    cap.admit(["a", "b"])
    clock.now = 61
    cap.admit(["a"])  # Still in use.
    with pytest.raises(TooManyChannelsError):
        cap.admit(["c"])
    clock.now = 122
    cap.admit(["a"])
    cap.admit(["c"])
    assert len(cap) == 2


def test_after_a_long_silence_all_are_forgotten():
    clock = Clock()
    cap = ChannelCap(2, 60, clock)
    cap.admit(["a", "b"])
    clock.now = 1_000
    cap.admit(["c", "d"])
    assert len(cap) == 2
