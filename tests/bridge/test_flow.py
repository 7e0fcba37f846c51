from __future__ import annotations

from bridge.core.flow import Flow, Hold

P, Q = ("t", 0), ("t", 1)


def test_a_partition_flows_only_when_no_reason_holds_it():
    flow = Flow()
    flow.assign([P, Q])
    assert flow.hold([P], Hold.BUS_AWAY) == [P]
    assert flow.hold([P, Q], Hold.HALTED) == [Q]
    assert flow.release([P, Q], Hold.BUS_AWAY) == []
    assert flow.is_held(P)
    assert flow.release([P], Hold.HALTED) == [P]
    assert not flow.is_held(P)
    assert flow.held(Hold.HALTED) == [Q]


def test_reasons_end_with_the_assignment():
    flow = Flow()
    flow.assign([P])
    flow.hold([P], Hold.HALTED)
    flow.drop([P])
    assert flow.release([P], Hold.HALTED) == []
    flow.assign([P])
    assert not flow.is_held(P)


def test_what_is_not_ours_cannot_be_held():
    flow = Flow()
    assert flow.hold([P], Hold.BUS_AWAY) == []
    assert not flow.owns(P)
    assert flow.assigned == frozenset()
