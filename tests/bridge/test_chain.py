"""The delta chain, against the bus in memory: whatever happens, who applies what the bus publishes has the right value."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.adapters.memory_bus import MemoryBus, MemoryServer
from bridge.core.chain import DeltaChain
from bridge.core.draft import ChannelSettings, Draft
from shared import envelope
from shared.bus.layout import BusLayout
from shared.bus.push import Outcome, Push, Pushed, Source, source_id
from shared.delta import json_patch, vcdiff
from shared.publication import ContentType, DeltaFormat, Kind, payload_hash

SOURCE = source_id("cluster", "topic", 0)
LATEST = ChannelSettings(kind=Kind.LATEST, only_changed=True)
STREAM = ChannelSettings(kind=Kind.STREAM, delta=DeltaFormat.NONE)
LAYOUT = BusLayout(shards=4)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def make_chain(clock: Clock | None = None, max_bytes: int = 10_000_000) -> DeltaChain:
    return DeltaChain(shards=LAYOUT.shards, clock=clock or Clock(), max_bytes=max_bytes)


def make_draft(payload: bytes, channel: str = "bus:1", channel_settings: ChannelSettings = LATEST) -> Draft:
    return Draft(channel, payload, ContentType.JSON, 0, channel_settings, "route")


def prepare(chain: DeltaChain, draft: Draft, offset: int, *, sole_writer: bool = True) -> Push | None:
    pushes = chain.prepare(draft, Source(SOURCE, offset, 0), 1000 + offset, sole_writer=sole_writer)
    assert len(pushes) <= 1
    return pushes[0] if pushes else None


def prepared(chain: DeltaChain, draft: Draft, offset: int, *, sole_writer: bool = True) -> Push:
    push = prepare(chain, draft, offset, sole_writer=sole_writer)
    assert push is not None
    return push


def answer(outcome: Outcome) -> Pushed:
    return Pushed(outcome, bytes(12), 1)


def snapshot(number: int) -> bytes:
    return b'{"id":"1430","vehicle":{"label":"a bus with a name that stays","position":%d}}' % number


class TestLostPartitions:
    def test_what_another_bridge_feeds_now_is_not_put_back(self):
        chain, other = make_chain(), source_id("cluster", "topic", 1)
        prepared(chain, make_draft(snapshot(1), "bus:1"), 1)
        chain.prepare(make_draft(snapshot(2), "bus:2"), Source(other, 1, 0), 1000, sole_writer=True)
        chain.forget({SOURCE})
        assert [push.channel for push in chain.held(range(LAYOUT.shards), ())] == ["bus:2"]
        assert prepared(chain, make_draft(snapshot(3), "bus:1"), 2).delta == b""


class TestSeveralPartitions:
    """One channel that several partitions feed: what was skipped for one must not come back as news."""

    def test_a_record_that_was_skipped_and_comes_again_after_a_crash(self):
        other = source_id("cluster", "topic", 1)
        bus = MemoryBus(server := MemoryServer(LAYOUT))
        bus.open()
        chain = make_chain()

        def process(value: int, source: Source) -> None:
            pushes = chain.prepare(make_draft(snapshot(value)), source, 1000, sole_writer=True)
            for push, pushed in zip(pushes, bus.push(pushes), strict=True):
                chain.confirm(push, pushed)

        process(1, Source(SOURCE, 1, 0))
        process(1, skipped := Source(SOURCE, 2, 0))
        process(2, Source(other, 7, 0))
        assert [envelope.decode(data).offset for data in server.published["bus:1"]] == [1, 2]
        chain = make_chain()
        process(1, skipped)
        assert [envelope.decode(data).offset for data in server.published["bus:1"]] == [1, 2]

    def test_two_partitions_that_say_the_same(self):
        chain, other = make_chain(), source_id("cluster", "topic", 1)
        push = prepared(chain, make_draft(snapshot(1)), 1)
        chain.confirm(push, answer(Outcome.FULL))
        assert chain.prepare(make_draft(snapshot(1)), Source(SOURCE, 2, 0), 1000, sole_writer=True) == ()
        # The bus is told of the other partition's record; the first one's still waits to be told with the next change.
        [told] = chain.prepare(make_draft(snapshot(1)), Source(other, 7, 0), 1000, sole_writer=True)
        chain.confirm(told, answer(Outcome.UNCHANGED))
        pushes = chain.prepare(make_draft(snapshot(2)), Source(other, 8, 0), 1000, sole_writer=True)
        assert [(push.payload, push.source.offset) for push in pushes] == [(snapshot(1), 2), (snapshot(2), 8)]


class TestDeltas:
    def test_the_first_one_is_full(self):
        push = prepared(make_chain(), make_draft(snapshot(1)), 1)
        assert (push.delta_format, push.delta, push.base_hash) == (DeltaFormat.NONE, b"", b"")

    def test_the_next_one_is_a_delta_to_it_before_the_bus_confirmed_it(self):
        chain = make_chain()
        prepared(chain, make_draft(snapshot(1)), 1)
        push = prepared(chain, make_draft(snapshot(2)), 2)
        assert push.delta_format is DeltaFormat.VCDIFF
        assert push.base_hash == payload_hash(snapshot(1))
        assert vcdiff.decode(snapshot(1), push.delta, max_size=1000) == snapshot(2) == push.payload

    def test_json_patch_where_the_route_says_so(self):
        chain, of_route = make_chain(), ChannelSettings(delta=DeltaFormat.JSON_PATCH)
        prepared(chain, make_draft(snapshot(1), channel_settings=of_route), 1)
        push = prepared(chain, make_draft(snapshot(2), channel_settings=of_route), 2)
        assert push.delta_format is DeltaFormat.JSON_PATCH
        assert json_patch.decode(snapshot(1), push.delta, max_size=1000) == snapshot(2)

    def test_none_that_is_not_smaller_than_the_payload(self):
        chain = make_chain()
        prepared(chain, make_draft(b"1"), 1)
        assert prepared(chain, make_draft(b"2"), 2).delta_format is DeltaFormat.NONE

    def test_none_where_the_route_wants_none(self):
        chain = make_chain()
        prepared(chain, make_draft(snapshot(1), channel_settings=STREAM), 1)
        assert prepared(chain, make_draft(snapshot(2), channel_settings=STREAM), 2).delta_format is DeltaFormat.NONE

    def test_a_ttl_of_none_does_not_delete_the_channel(self):
        push = prepared(make_chain(), make_draft(b"1", channel_settings=ChannelSettings(ttl_ms=0)), 1)
        assert push.keep.ttl_ms > 10**12


class TestSkipping:
    """The trip to the bus is saved only where its answer is known."""

    def confirmed(self, clock: Clock | None = None, outcome: Outcome = Outcome.FULL) -> DeltaChain:
        chain = make_chain(clock)
        chain.confirm(prepared(chain, make_draft(snapshot(1)), 1), answer(outcome))
        return chain

    def test_an_unchanged_payload_that_the_bus_confirmed_is_skipped(self):
        for outcome in (Outcome.FULL, Outcome.DELTA, Outcome.UNCHANGED):
            assert prepare(self.confirmed(outcome=outcome), make_draft(snapshot(1)), 2) is None

    def test_a_changed_one_is_not(self):
        assert prepare(self.confirmed(), make_draft(snapshot(2)), 2) is not None

    def test_one_that_the_bus_did_not_confirm_is_not(self):
        chain = make_chain()
        prepared(chain, make_draft(snapshot(1)), 1)
        assert prepared(chain, make_draft(snapshot(1)), 2).only_changed
        for outcome in (Outcome.DUPLICATE, Outcome.FAILED):
            assert prepare(self.confirmed(outcome=outcome), make_draft(snapshot(1)), 2) is not None

    def test_only_the_answer_to_the_newest_push_counts(self):
        chain = make_chain()
        first = prepared(chain, make_draft(snapshot(1)), 1)
        prepared(chain, make_draft(snapshot(2)), 2)
        prepared(chain, make_draft(snapshot(1)), 3)
        chain.confirm(first, answer(Outcome.FULL))
        assert prepare(chain, make_draft(snapshot(1)), 4) is not None

    def test_without_only_changed_nothing_is(self):
        chain, of_route = make_chain(), ChannelSettings(only_changed=False)
        chain.confirm(prepared(chain, make_draft(b"1", channel_settings=of_route), 1), answer(Outcome.FULL))
        assert prepare(chain, make_draft(b"1", channel_settings=of_route), 2) is not None

    def test_with_other_writers_nothing_is(self):
        assert prepare(self.confirmed(), make_draft(snapshot(1)), 2, sole_writer=False) is not None

    def test_after_an_assignment_nothing_is_until_confirmed_anew(self):
        chain = self.confirmed()
        chain.distrust()
        push = prepared(chain, make_draft(snapshot(1)), 2)
        chain.confirm(push, answer(Outcome.UNCHANGED))
        assert prepare(chain, make_draft(snapshot(1)), 3) is None

    def test_in_shards_that_lost_their_data_nothing_is(self):
        chain = self.confirmed()
        home = LAYOUT.shard_of("bus:1")
        chain.lose([shard for shard in range(LAYOUT.shards) if shard != home])
        assert prepare(chain, make_draft(snapshot(1)), 2) is None
        chain.lose([home])
        assert prepare(chain, make_draft(snapshot(1)), 3) is not None

    def test_the_channel_is_kept_alive_on_the_bus(self):
        """A skip neither extends the time to live there nor sees what somebody deleted, so after five minutes the trip is made."""
        clock = Clock()
        chain = self.confirmed(clock)
        clock.now_s = 299
        assert prepare(chain, make_draft(snapshot(1)), 2) is None
        clock.now_s = 301
        push = prepared(chain, make_draft(snapshot(1)), 3)
        chain.confirm(push, answer(Outcome.UNCHANGED))
        assert prepare(chain, make_draft(snapshot(1)), 4) is None


class TestBounds:
    def test_the_channels_longest_without_news_are_forgotten(self):
        chain = make_chain(max_bytes=10_000)
        for number in range(100):
            prepared(chain, make_draft(snapshot(number), "always"), 2 * number)
            prepared(chain, make_draft(bytes(500), f"c:{number}"), 2 * number + 1)
        assert chain.bytes_held <= 10_000
        assert 2 <= len(chain) < 20
        assert prepared(chain, make_draft(snapshot(1), "always"), 1000).delta
        assert not prepared(chain, make_draft(bytes(500), "c:0"), 1001).delta

    def test_a_payload_larger_than_all_of_it_is_not_held(self):
        chain = make_chain(max_bytes=1000)
        assert prepared(chain, make_draft(bytes(2000)), 1).payload == bytes(2000)
        assert (len(chain), chain.bytes_held) == (0, 0)

    def test_clear_forgets_all(self):
        chain = make_chain()
        prepared(chain, make_draft(snapshot(1)), 1)
        chain.clear()
        assert (len(chain), chain.bytes_held) == (0, 0)
        assert not prepared(chain, make_draft(snapshot(2)), 2).delta


class TestHeld:
    def test_it_gives_the_newest_of_each_latest_channel_with_its_source_and_time(self):
        chain = make_chain()
        prepared(chain, make_draft(snapshot(1)), 1)
        prepared(chain, make_draft(snapshot(2)), 2)
        prepared(chain, make_draft(snapshot(3), "stream:1", STREAM), 3)
        [push] = chain.held(range(LAYOUT.shards), ())
        assert push.restore
        assert (push.channel, push.payload, push.source, push.time_ms) == ("bus:1", snapshot(2), Source(SOURCE, 2, 0), 1002)
        assert (push.delta, push.only_changed) == (b"", False)

    def test_it_leaves_out_other_shards_and_the_channels_in_flight(self):
        chain = make_chain()
        names = [f"bus:{number}" for number in range(20)]
        made = {name: prepared(chain, make_draft(snapshot(number), name), number) for number, name in enumerate(names)}
        found = {push.channel for push in chain.held([1, 2], [made["bus:3"]])}
        assert found == {name for name in names if LAYOUT.shard_of(name) in {1, 2}} - {"bus:3"}


class Reader:
    """A subscriber that applies what it is sent, and stops at anything that does not fit."""

    def __init__(self) -> None:
        self.at = (b"", 0)
        self.value = b""

    def read(self, data: bytes) -> None:
        entry = envelope.decode(data)
        if entry.delta is DeltaFormat.NONE:
            assert entry.epoch != self.at[0] or entry.offset == self.at[1] + 1
            self.value = entry.body
        else:
            assert (entry.epoch, entry.base_offset) == self.at
            assert entry.base_hash == payload_hash(self.value)
            self.value = vcdiff.decode(self.value, entry.body, max_size=100_000)
        assert payload_hash(self.value) == entry.payload_hash
        self.at = entry.epoch, entry.offset


class Bridges:
    """This bridge, another one that feeds the same channels after a rebalance, and the bus between them."""

    def __init__(self) -> None:
        self.server = MemoryServer(LAYOUT)
        self.chain, self.other_chain = make_chain(), make_chain()
        self.newest: dict[str, bytes] = {}
        """What the bus must have."""
        self._bus, self._other_bus = MemoryBus(self.server), MemoryBus(self.server)
        self._is_alone = True

    def flush(self) -> None:
        self.server.flush()
        self.server.published.clear()
        self.newest.clear()
        self.chain.lose(range(LAYOUT.shards))
        self.other_chain.lose(range(LAYOUT.shards))

    def publish(self, channel: str, payload: bytes, offset: int, *, is_answer_lost: bool = False) -> None:
        push = prepare(self.chain, make_draft(payload, channel), offset, sole_writer=self._is_alone)
        if push is None:
            assert self.newest[channel] == payload, "skipped what the bus does not have"
            return
        pushed = self._push(self._bus, push)
        if not is_answer_lost:
            self.chain.confirm(push, pushed)
        self.newest[channel] = payload

    def abandon(self, channel: str, payload: bytes, offset: int) -> None:
        prepare(self.chain, make_draft(payload, channel), offset, sole_writer=self._is_alone)
        self.chain.clear()

    def publish_elsewhere(self, channel: str, payload: bytes, offset: int) -> None:
        self.chain.distrust()
        self._is_alone = False
        source = Source(source_id("cluster", "topic", 1), offset, 0)
        [push] = self.other_chain.prepare(make_draft(payload, channel), source, offset, sole_writer=False)
        self.other_chain.confirm(push, self._push(self._other_bus, push))
        self.newest[channel] = payload

    @staticmethod
    def _push(bus: MemoryBus, push: Push) -> Pushed:
        bus.open()
        bus.reopen(range(LAYOUT.shards))
        return bus.push([push])[0]


EVENTS = st.sampled_from(["publish", "publish", "publish", "lose the answer", "abandon", "distrust", "publish elsewhere", "flush", "clear"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(EVENTS, st.integers(0, 2), st.integers(0, 2)), max_size=40))
def test_whatever_happens_a_subscriber_has_the_value_that_the_bus_has(events: list[tuple[str, int, int]]):
    bridges = Bridges()
    for offset, (event, name, value) in enumerate(events):
        place = f"c:{name}", snapshot(value), offset
        happenings: dict[str, Callable[[], None]] = {
            "publish": partial(bridges.publish, *place),
            "lose the answer": partial(bridges.publish, *place, is_answer_lost=True),
            "abandon": partial(bridges.abandon, *place),
            "publish elsewhere": partial(bridges.publish_elsewhere, *place),
            "distrust": bridges.chain.distrust,
            "flush": bridges.flush,
            "clear": bridges.chain.clear,
        }
        happenings[event]()
    for channel, payload in bridges.newest.items():
        reader = Reader()
        for data in bridges.server.published[channel]:
            reader.read(data)
        assert reader.value == payload


def test_it_counts_how_often_the_base_was_in_memory():
    chain = make_chain(max_bytes=2_000)
    for offset, channel in enumerate(["bus:1", "bus:1", "bus:2", "bus:2", "bus:3", "bus:1"]):
        prepared(chain, make_draft(snapshot(offset), channel), offset)
    assert (chain.hits, chain.misses) == (2, 4)
