"""What only a real Redis can show of the bus: memory, time to live, scripts, several servers, layouts, bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from shared.bus.layout import BusLayout
from shared.bus.publisher import BusPublisher
from shared.bus.push import Keep, Outcome, Push, Pushed
from shared.envelope import PREFIX_BYTES
from shared.errors import BusLayoutError, BusUnavailableError
from tests.conftest import StartRedis
from tests.contract.backends import LAYOUT, RedisBackend, make_push
from tests.rig.redis_server import RedisServer


@pytest.fixture
def bus(redis_server: RedisServer) -> Iterator[RedisBackend]:
    redis_server.flush()
    with closing(RedisBackend(redis_server)) as backend:
        yield backend


def opened(bus: RedisBackend) -> BusPublisher:
    publisher = bus.publisher()
    publisher.open()
    return publisher


def test_both_keys_of_a_channel_expire_and_live_on_with_each_push(bus: RedisBackend):
    publisher = opened(bus)
    keys = [LAYOUT.head_key("a:1"), LAYOUT.history_key("a:1")]
    publisher.push([make_push("a:1", b"1", 1, keep=Keep(ttl_ms=50_000))])
    assert all(40_000 < int(str(bus.client.pttl(key))) <= 50_000 for key in keys)
    publisher.push([make_push("a:1", b"1", 2, keep=Keep(ttl_ms=90_000), only_changed=True)])
    assert all(80_000 < int(str(bus.client.pttl(key))) <= 90_000 for key in keys)


@pytest.mark.parametrize("first", ["push", "beat"])
def test_it_goes_on_after_redis_forgot_the_scripts(bus: RedisBackend, first: str):
    publisher = opened(bus)
    bus.client.script_flush()
    with pytest.raises(BusUnavailableError):
        publisher.push([make_push("a:1", b"1", 1)]) if first == "push" else publisher.beat()
    assert publisher.open() == []
    assert publisher.push([make_push("a:1", b"1", 1)])[0].outcome is Outcome.FULL


def test_the_stored_bytes_in_the_history_are_counted_right(bus: RedisBackend):
    """`trim` believes a running sum; it must never drift from what is really there."""
    publisher = opened(bus)
    keep = Keep(history_size=7, history_bytes=2000)
    publisher.push([make_push("a:1", bytes(number * 37 % 500), number, keep=keep) for number in range(200)])
    entries = bus.client.lrange(LAYOUT.history_key("a:1"), 0, -1)
    assert isinstance(entries, list)
    state = bus.client.hget(LAYOUT.head_key("a:1"), "p")
    assert isinstance(state, bytes)
    assert int.from_bytes(state[36:44], "big") == sum(map(len, entries)) <= 2000
    assert all(len(entry) > PREFIX_BYTES for entry in entries)


def test_a_channel_whose_head_is_gone_starts_over_with_an_empty_history(bus: RedisBackend):
    publisher = opened(bus)
    old = publisher.push([make_push("a:1", b"1", 1), make_push("a:1", b"2", 2)])[-1]
    bus.client.delete(LAYOUT.head_key("a:1"))
    [new] = publisher.push([make_push("a:1", b"3", 3, base=b"2")])
    assert (new.outcome, new.offset) == (Outcome.FULL, 1)
    assert new.epoch != old.epoch
    assert [entry.offset for entry in bus.history("a:1")] == [1]


@pytest.mark.parametrize("other", [BusLayout(shards=8), BusLayout(shards=4, servers=2)])
def test_a_process_that_is_set_up_otherwise_is_refused(bus: RedisBackend, other: BusLayout):
    opened(bus)
    with pytest.raises(BusLayoutError, match=r"shards|servers"):
        bus.publisher(layout=other).open()


def test_a_channel_too_many_is_refused_whole_by_a_full_redis(start_redis: StartRedis):
    """A full Redis is back-pressure: nothing is half done, nothing overtakes, and nothing goes beyond the limit unnoticed."""
    with closing(RedisBackend(start_redis(options={"maxmemory-policy": "noeviction"}))) as bus:
        publisher = opened(bus)
        pushes = [make_push(f"c:{number % 50}", b"%04d" % number * 50, number) for number in range(400)]
        publisher.push(pushes[:100])
        bus.client.config_set("maxmemory", "1mb")
        for _ in range(3):
            with pytest.raises(BusUnavailableError, match="maxmemory"):
                _push(publisher, pushes)
        assert len(bus.wire("c:0")) == 2
        assert publisher.open() == []
        assert publisher.beat() == []  # Edges must not take a full bus for a dead one.
        bus.client.config_set("maxmemory", "0")
        outcomes = [pushed.outcome for pushed in _push(publisher, pushes)]
        assert outcomes == [Outcome.DUPLICATE] * 100 + [Outcome.FULL] * 300
        for name in range(50):
            assert [int(entry.body[:4]) for entry in bus.wire(f"c:{name}")] == list(range(name, 400, 50))


@pytest.mark.parametrize("only_changed", [True, False])
def test_a_full_redis_takes_no_new_channel_either(start_redis: StartRedis, only_changed: bool):
    with closing(RedisBackend(start_redis(options={"maxmemory-policy": "noeviction"}))) as bus:
        publisher = opened(bus)
        publisher.push([make_push("old:1", b"1", 1)])
        bus.client.config_set("maxmemory", "1mb")
        with pytest.raises(BusUnavailableError, match="maxmemory"):
            publisher.push([make_push("old:1", b"1", 2, only_changed=only_changed), make_push("new:1", bytes(1000), 3)])
        assert not bus.client.exists(LAYOUT.head_key("new:1"))


def test_several_servers_share_the_shards(start_redis: StartRedis):
    servers = [start_redis(), start_redis()]
    layout = BusLayout(shards=8, servers=2)
    publisher = BusPublisher([server.client() for server in servers], layout, instance="one")
    with closing(publisher):
        assert publisher.open() == []
        pushes = [make_push(f"c:{number % 20}", b"%d" % number, number) for number in range(200)]
        publisher.push(pushes)
        for number in range(20):
            home = layout.server_of(layout.shard_of(f"c:{number}"))
            key = layout.history_key(f"c:{number}")
            assert [has(server, key) for server in servers] == [home == 0, home == 1]
        servers[1].restart(empty=True)
        with pytest.raises(BusUnavailableError):
            publisher.push(pushes)
        assert publisher.open() == list(layout.shards_of(1))
        outcomes = {push.channel: pushed.outcome for push, pushed in zip(pushes, publisher.push(pushes), strict=True)}
        for channel, outcome in outcomes.items():
            is_home_lost = layout.server_of(layout.shard_of(channel)) == 1
            assert outcome is (Outcome.FULL if is_home_lost else Outcome.DUPLICATE)


def test_a_heartbeat_that_failed_leaves_no_answers_for_others_to_misread(start_redis: StartRedis):
    servers = [start_redis(), start_redis()]
    publisher = BusPublisher([server.client(timeout_s=3) for server in servers], BusLayout(shards=8, servers=2), instance="one")
    with closing(publisher):
        publisher.open()
        servers[0].pause()
        with pytest.raises(BusUnavailableError):
            publisher.beat()
        servers[0].resume()
        assert publisher.open() == []
        answers = publisher.push([make_push(f"c:{number}", b"1", number) for number in range(50)])
        assert {pushed.outcome for pushed in answers} == {Outcome.FULL}
        assert publisher.beat() == []


def test_one_server_away_loses_nothing_on_the_others(start_redis: StartRedis):
    servers = [start_redis(), start_redis()]
    layout = BusLayout(shards=8, servers=2)
    publisher = BusPublisher([server.client(timeout_s=3) for server in servers], layout, instance="one")
    with closing(publisher):
        publisher.open()
        pushes = [make_push(f"c:{number % 20}", b"%d" % number, number) for number in range(2000)]
        servers[1].pause()
        with pytest.raises(BusUnavailableError):
            publisher.push(pushes)
        servers[1].resume()
        assert publisher.open() == []
        publisher.push(pushes)
        for number in range(20):
            home = servers[layout.server_of(layout.shard_of(f"c:{number}"))]
            with home.client() as client:
                entries = client.lrange(layout.history_key(f"c:{number}"), 0, -1)
                assert isinstance(entries, list)
                assert [int(entry[46:]) for entry in entries] == list(range(number, 2000, 20))


def has(server: RedisServer, key: str) -> bool:
    with server.client() as client:
        return bool(client.exists(key))


def _push(publisher: BusPublisher, pushes: list[Push]) -> list[Pushed]:
    publisher.open()
    return publisher.push(pushes)
