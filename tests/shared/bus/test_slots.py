from __future__ import annotations

from shared.bus.slots import ClusterNode, Owners, parse_owners, slot_of

A, B = ClusterNode("a", 1), ClusterNode("b", 2)


def test_slots_are_those_of_redis():
    # CLUSTER KEYSLOT d:{0}:incarnation and so on, as Redis 7.0 answers.
    assert [slot_of(shard) for shard in (0, 1, 15)] == [13907, 9842, 4178]


def test_shards_are_placed_by_slot():
    assert Owners([(0, 9999, A), (10000, 16383, B)]).place(3) == {B: [0], A: [1, 2]}


def test_a_slot_without_an_owner_leaves_its_shard_out():
    owners = Owners([(0, 9999, A)])
    assert owners.place(3) == {A: [1, 2]}
    assert owners.owner_of(0) is None


def test_an_answer_is_read():
    replica = [b"r", 9, b"id", []]
    answer = [[0, 5000, [b"10.0.0.1", 1, b"id", []], replica], [5001, 9999, [None, 2, b"id"]], [10000, 16383, [b"?", 3, b"id"]]]
    owners = parse_owners(answer, "asked")
    assert owners.owner_of(3) == ClusterNode("10.0.0.1", 1)
    assert owners.owner_of(1) == ClusterNode("asked", 2)
    assert owners.owner_of(0) is None
