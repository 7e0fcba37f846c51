from __future__ import annotations

from bridge.core.backoff import Backoff


def test_waits_double_up_to_the_most_with_jitter():
    chance = iter([0.0, 1.0, 0.5, 1.0, 1.0])
    backoff = Backoff(first_s=1, most_s=4, random=lambda: next(chance))
    assert [backoff.next_s() for _ in range(4)] == [0.5, 2.0, 3.0, 4.0]
    backoff.reset()
    assert backoff.next_s() == 1.0
