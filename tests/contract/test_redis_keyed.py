"""What only a real Redis can show of keyed channels: time to live, memory, foreign content, and a hundred thousand keys."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from shared import envelope
from shared.bus.publisher import BusPublisher
from shared.bus.push import Keep, Outcome, Push
from shared.envelope import Envelope
from shared.errors import BusUnavailableError
from tests.conftest import StartRedis
from tests.contract.backends import LAYOUT, RedisBackend, make_keyed, make_push
from tests.rig.redis_server import RedisServer

NAMES = (LAYOUT.head_key, LAYOUT.history_key, LAYOUT.keys_key, LAYOUT.versions_key, LAYOUT.ids_key)


@pytest.fixture
def bus(redis_server: RedisServer) -> Iterator[RedisBackend]:
    redis_server.flush()
    with closing(RedisBackend(redis_server)) as backend:
        yield backend


def opened(bus: RedisBackend) -> BusPublisher:
    publisher = bus.publisher()
    publisher.open()
    return publisher


def id_(number: int) -> bytes:
    return number.to_bytes(16, "big")


def left(bus: RedisBackend) -> list[int]:
    """What the keys of the channel have left, in ms."""
    return [int(str(bus.client.pttl(name("k:1")))) for name in NAMES]


class TestTimeToLive:
    @pytest.mark.parametrize("what", ["keyed", "unchanged", "stale", "repeated", "deleted"])
    def test_keys_versions_and_ids_outlive_the_channel_a_little_and_live_on_with_each_push(self, bus: RedisBackend, what: str):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1, version=1.0, id=id_(1), keep=Keep(ttl_ms=50_000)), make_keyed("b", b"1", 2)])
        keep = Keep(ttl_ms=90_000)
        pushes = {
            "keyed": make_keyed("a", b"2", 3, keep=keep),
            "unchanged": make_keyed("a", b"1", 3, keep=keep, only_changed=True),
            "stale": make_keyed("a", b"2", 3, keep=keep, version=1.0),
            "repeated": make_keyed("a", b"2", 3, keep=keep, id=id_(1)),
            "deleted": make_keyed("a", None, 3, keep=keep),
        }
        publisher.push([pushes[what]])
        assert all(80_000 < ttl_ms <= 90_000 for ttl_ms in left(bus)[:2])
        assert all(90_000 <= ttl_ms <= 112_500 for ttl_ms in left(bus)[2:])

    def test_what_begins_later_expires_too(self, bus: RedisBackend):
        publisher = opened(bus)
        for push in (
            make_keyed("a", b"1", 1),
            make_keyed("a", b"2", 2, version=1.0),
            make_keyed("a", b"3", 3, id=id_(1)),
            make_keyed("a", None, 4),
            make_keyed("a", b"5", 5),
        ):
            publisher.push([push])
            assert all(bus.client.pttl(key) > 0 for key in bus.client.keys("*{*}:[chkvi]:*"))
        assert min(left(bus)) > 0

    def test_a_push_with_neither_keeps_the_versions_and_ids_of_its_channel_alive(self, bus: RedisBackend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1, version=1.0, id=id_(1), keep=Keep(ttl_ms=50_000))])
        publisher.push([make_keyed("a", b"2", 2, keep=Keep(ttl_ms=90_000))])
        assert all(80_000 < ttl_ms <= 90_000 for ttl_ms in left(bus)[:2])
        assert all(90_000 <= ttl_ms <= 112_500 for ttl_ms in left(bus)[3:])


class TestFailures:
    @pytest.mark.parametrize("name", NAMES[1:])
    def test_something_else_under_a_key_fails_before_anything_is_written(self, bus: RedisBackend, name: Any):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1, version=1.0, id=id_(1))])
        before = bus.client.hgetall(LAYOUT.head_key("k:1"))
        bus.client.set(name("k:1"), "something else")
        [pushed] = publisher.push([make_keyed("a", b"2", 2, version=2.0, id=id_(2))])
        assert pushed.outcome is Outcome.FAILED
        assert "WRONGTYPE" in pushed.reason
        assert bus.client.hgetall(LAYOUT.head_key("k:1")) == before
        assert len(bus.wire("k:1")) == 1

    def test_a_full_redis_does_nothing_by_halves(self, start_redis: StartRedis):
        with closing(RedisBackend(start_redis(options={"maxmemory-policy": "noeviction"}))) as bus:
            publisher = opened(bus)
            pushes = [
                make_keyed(f"{number % 50}", b"%04d" % number * 50, number, version=float(number), id=id_(number)) for number in range(400)
            ]
            publisher.push(pushes[:100])
            bus.client.config_set("maxmemory", "1mb")
            for _ in range(3):
                publisher.open()
                with pytest.raises(BusUnavailableError, match="maxmemory"):
                    publisher.push(pushes)
            assert len(bus.wire("k:1")) == len(bus.history("k:1")) == 100
            bus.client.config_set("maxmemory", "0")
            publisher.open()
            assert [pushed.outcome for pushed in publisher.push(pushes)] == [Outcome.DUPLICATE] * 100 + [Outcome.FULL] * 300
            assert {int(entry.body[:4]) for entry in bus.keys("k:1").values()} == set(range(350, 400))

    def test_without_its_head_a_channel_starts_over_with_nothing_of_the_old_one(self, bus: RedisBackend):
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1, version=9.0, id=id_(1)), make_keyed("b", b"1", 2)])
        bus.client.delete(LAYOUT.head_key("k:1"))
        [pushed] = publisher.push([make_keyed("a", b"2", 3, version=1.0, id=id_(1))])
        assert (pushed.outcome, pushed.offset) == (Outcome.FULL, 1)
        assert set(bus.keys("k:1")) == {b"a"}

    def test_versions_and_ids_that_the_head_knows_nothing_of_do_not_count(self, bus: RedisBackend):
        """As after a head that was lost, and made anew by a push without any."""
        publisher = opened(bus)
        publisher.push([make_keyed("a", b"1", 1, version=9.0, id=id_(1))])
        saved = [bus.client.dump(name("k:1")) for name in NAMES[2:]]
        bus.flush()
        publisher.reopen(range(LAYOUT.shards))
        publisher.push([make_push("k:1", b"1", 2)])
        for name, data in zip(NAMES[2:], saved, strict=True):
            bus.client.restore(name("k:1"), 0, data)  # type: ignore[arg-type]
        [pushed] = publisher.push([make_keyed("a", b"2", 3, version=1.0, id=id_(1))])
        assert pushed.outcome is Outcome.FULL
        assert set(bus.keys("k:1")) == {b"a"}

    def test_the_stored_bytes_in_the_history_are_counted_right(self, bus: RedisBackend):
        publisher = opened(bus)
        keep = Keep(history_size=7, history_bytes=2000)
        publisher.push(
            [make_keyed(f"{number % 9}", bytes(number * 37 % 500) if number % 5 else None, number, keep=keep) for number in range(200)]
        )
        entries: Any = bus.client.lrange(LAYOUT.history_key("k:1"), 0, -1)
        state: Any = bus.client.hget(LAYOUT.head_key("k:1"), "p")
        assert int.from_bytes(state[36:44], "big") == sum(map(len, entries)) <= 2000


class Reader:
    """Reads a keyed channel as docs/protocol.md, section 8, says: subscribe, position, pages; then what came meanwhile."""

    def __init__(self, bus: RedisBackend, channel: str) -> None:
        self._bus = bus
        self._channel = channel
        self._pubsub: Any = bus.client.pubsub()
        self._pubsub.subscribe(LAYOUT.head_key(channel))
        assert self._pubsub.get_message(timeout=60)["type"] == "subscribe"
        state: Any = bus.client.hget(LAYOUT.head_key(channel), "p")
        self.epoch, self.offset = state[:12], int.from_bytes(state[12:20], "big")
        self.state: dict[bytes, Envelope] = {}

    def pages(self, count: int) -> Iterator[int]:
        """Read page by page; tells how much each one had."""
        cursor = 0
        while True:
            cursor, page = self._page(cursor, count)
            for key, data in page.items():
                entry = envelope.decode(data)
                assert (entry.epoch, entry.key) == (self.epoch, key)
                if key not in self.state or self.state[key].offset < entry.offset:
                    self.state[key] = entry
            yield len(page)
            if cursor == 0:
                return

    def catch_up(self, offset: int) -> None:
        """Apply what was published since the position was read, up to this offset."""
        while self.offset < offset:
            message = self._pubsub.get_message(timeout=60)
            assert message is not None
            entry = envelope.decode(message["data"])
            assert entry.key is not None
            if entry.offset > self.offset:
                assert entry.offset == self.offset + 1
                self.offset = entry.offset
                held = self.state.get(entry.key)
                if held is not None and held.offset >= entry.offset:
                    continue
                if entry.is_deletion:
                    self.state.pop(entry.key, None)
                else:
                    self.state[entry.key] = entry

    def _page(self, cursor: int, count: int) -> tuple[int, dict[bytes, bytes]]:
        found: Any = self._bus.client.hscan(LAYOUT.keys_key(self._channel), cursor, count=count)
        cursor, page = found
        return int(cursor), page


class TestSnapshot:
    KEYS = 100_000
    KEEP = Keep(max_keys=120_000)

    def test_a_hundred_thousand_keys_are_read_in_pages_while_publications_go_on(self, bus: RedisBackend):
        publisher, chance = opened(bus), random.Random(1)
        model: dict[bytes, bytes] = {}
        offset = 0

        def publish(count: int, choose: Any) -> None:
            nonlocal offset
            pushes: list[Push] = []
            for _ in range(count):
                key, is_deletion = choose(offset)
                payload = None if is_deletion else b'{"at":%d}' % offset
                pushes.append(make_keyed(key, payload, offset, keep=self.KEEP))
                if payload is None:
                    model.pop(key.encode(), None)
                else:
                    model[key.encode()] = payload
                offset += 1
            assert {pushed.outcome for pushed in publisher.push(pushes)} == {Outcome.FULL}

        def any_key(_: int) -> tuple[str, bool]:
            return f"vehicle-{chance.randrange(self.KEYS + 5_000)}", chance.random() < 0.3

        for start in range(0, self.KEYS, 5_000):
            publish(5_000, lambda number, _=start: (f"vehicle-{number}", False))
        reader = Reader(bus, "k:1")
        assert reader.offset == self.KEYS
        sizes = []
        for size in reader.pages(count=1000):
            sizes.append(size)
            publish(100, any_key)
        assert max(sizes) < 3000
        assert len(sizes) > 30
        reader.catch_up(offset)
        assert {key: entry.body for key, entry in reader.state.items()} == model
