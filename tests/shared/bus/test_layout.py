from __future__ import annotations

import msgspec
import pytest

from shared.bus.layout import BusLayout, StoredLayout, check_layout, decode_layout
from shared.errors import BusLayoutError


def test_names_are_those_of_the_protocol():
    layout = BusLayout()
    shard = layout.shard_of("bus:1430")
    assert layout.head_key("bus:1430") == f"d:{{{shard}}}:c:bus:1430"
    assert layout.history_key("bus:1430") == f"d:{{{shard}}}:h:bus:1430"
    assert layout.keys_key("bus:1430") == f"d:{{{shard}}}:k:bus:1430"
    assert layout.versions_key("bus:1430") == f"d:{{{shard}}}:v:bus:1430"
    assert layout.ids_key("bus:1430") == f"d:{{{shard}}}:i:bus:1430"
    assert layout.incarnation_key(3) == "d:{3}:incarnation"
    assert layout.beat_channel(3) == "d:{3}:beat"
    assert BusLayout(prefix="x").layout_key() == "x:layout"


def test_in_a_cluster_every_key_has_the_hash_tag_of_a_shard():
    layout = BusLayout(cluster=True)
    assert layout.layout_key() == "d:{0}:layout"
    assert layout.stored(0) == StoredLayout(1, 16, 1, 0, cluster=True)


def test_what_servers_say_is_as_it_always_was():
    assert msgspec.json.encode(BusLayout().stored(0)) == b'{"version":1,"shards":16,"servers":1,"server":0}'


def test_a_cluster_is_told_from_servers():
    stored = decode_layout(msgspec.json.encode(BusLayout(cluster=True).stored(0)), "Redis a")
    with pytest.raises(BusLayoutError, match="cluster True"):
        check_layout(stored, BusLayout().stored(0), "Redis a")


def test_every_shard_has_one_server():
    layout = BusLayout(shards=16, servers=3)
    assert sorted(shard for server in range(3) for shard in layout.shards_of(server)) == list(range(16))
    assert all(layout.server_of(shard) == server for server in range(3) for shard in layout.shards_of(server))


def test_a_layout_that_says_the_same_is_accepted():
    stored = decode_layout(b'{"version":1,"shards":16,"servers":1,"server":0}', "Redis a")
    check_layout(stored, BusLayout().stored(0), "Redis a")


def test_each_difference_is_told_with_the_server():
    with pytest.raises(BusLayoutError, match=r"Redis a .*shards 8.*servers 2.*server 1"):
        check_layout(StoredLayout(1, 8, 2, 1), BusLayout().stored(0), "Redis a")


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"no", b'{"version":2,"shards":16,"servers":1,"server":0}', b'{"version":1,"shards":0,"servers":1,"server":0}']
)
def test_what_is_no_layout_of_this_version_is_refused(data: bytes):
    with pytest.raises(BusLayoutError, match="Redis a"):
        decode_layout(data, "Redis a")
