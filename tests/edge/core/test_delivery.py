"""What a namespace allows, and what is agreed on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.delivery import Delivery, Mode, Policies, Policy, Wish

rates = st.one_of(st.just(0.0), st.floats(0.01, 1_000))
wishes = st.builds(Wish, st.one_of(st.none(), st.sampled_from(Mode)), rates, st.integers(0, 10_000))
policies = st.builds(Policy, st.lists(st.sampled_from(Mode), min_size=1, unique=True).map(tuple), rates, st.integers(1, 10_000))


@pytest.mark.parametrize(
    ("policy", "wish", "agreed"),
    [
        (Policy(), Wish(), Delivery()),
        (Policy(), Wish(Mode.QUEUE, 5, 5), Delivery()),
        (Policy(), Wish(Mode.ACK), Delivery(Mode.ACK, 0, 64)),
        (Policy(window=10), Wish(Mode.ACK, 0, 100), Delivery(Mode.ACK, 0, 10)),
        (Policy(window=10), Wish(Mode.ACK, 0, 3), Delivery(Mode.ACK, 0, 3)),
        (Policy(), Wish(Mode.CONFLATE), Delivery(Mode.CONFLATE)),
        (Policy(max_rate=2), Wish(Mode.CONFLATE), Delivery(Mode.CONFLATE, 2)),
        (Policy(max_rate=2), Wish(Mode.CONFLATE, 1, 1), Delivery(Mode.CONFLATE, 1, 1)),
        (Policy(max_rate=2), Wish(Mode.CONFLATE, 9), Delivery(Mode.CONFLATE, 2)),
        (Policy((Mode.CONFLATE, Mode.QUEUE)), Wish(), Delivery(Mode.CONFLATE)),
        (Policy((Mode.CONFLATE,)), Wish(Mode.QUEUE), None),
    ],
)
def test_agreed(policy: Policy, wish: Wish, agreed: Delivery | None):
    assert policy.agree(wish) == agreed


@given(policies, wishes)
def test_never_more_than_the_namespace_allows_nor_than_was_asked_for(policy: Policy, wish: Wish):
    agreed = policy.agree(wish)
    if agreed is None:
        assert wish.mode is not None
        assert wish.mode not in policy.modes
        return
    assert agreed.mode is (wish.mode or policy.modes[0])
    assert agreed.window <= policy.window
    assert agreed.window > 0 or agreed.mode is not Mode.ACK
    if wish.window:
        assert agreed.window <= wish.window
    if agreed.mode is Mode.CONFLATE:
        assert (agreed.window == 0) is (wish.window == 0)
        assert (agreed.max_rate == 0) is (wish.max_rate == policy.max_rate == 0)
        assert all(agreed.max_rate <= rate for rate in (wish.max_rate, policy.max_rate) if rate)
    else:
        assert agreed.max_rate == 0


def test_a_namespace_without_a_policy_has_the_default_one():
    policies = Policies(Policy(window=1), {"bus": Policy(window=2)})
    assert [policies.of(name).window for name in ("bus", "bu", "")] == [2, 1, 1]
