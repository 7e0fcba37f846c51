"""No hole, no duplicate, no wrong value and no silence: whatever the bus, the links and the clients do, in whatever order."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import edge.core.keyed
import edge.core.paced_keyed
import edge.core.pages
import edge.keys
import edge.lane
import edge.pacer
from edge.core.delivery import Mode
from edge.core.variant import Dialect
from shared.publication import ContentType, DeltaFormat, Position
from tests.edge.reference_client import NOWHERE
from tests.edge.reference_keyed import KeyedHolding
from tests.edge.simulation import Edge, Simulation

CHANNELS = ("latest:1", "stream:1", "keyed:1")
EXAMPLES = int(os.environ.get("SIMULATION_EXAMPLES", "150"))
STEPS = int(os.environ.get("SIMULATION_STEPS", "30"))

channels = st.sampled_from(CHANNELS)
numbers = st.integers(0, 7)
deltas = st.sampled_from([DeltaFormat.NONE, DeltaFormat.VCDIFF, DeltaFormat.JSON_PATCH])
modes = st.sampled_from([Mode.QUEUE, Mode.CONFLATE, Mode.ACK])
windows = st.sampled_from([0, 1, 2, 3])
rates = st.sampled_from([0, 0, 2])
rewinds = st.one_of(st.builds(lambda n: {"count": n}, st.integers(1, 9)), st.builds(lambda n: {"age_s": n / 1000}, st.integers(1, 20)))


class EdgeMachine(RuleBasedStateMachine):
    """Two edges on one store, and clients of every variant."""

    def __init__(self) -> None:
        super().__init__()
        self.simulation = Simulation(edges=2)

    @initialize(count=st.integers(0, 5), delta=deltas, at_rest=st.booleans())
    def begin(self, count: int, delta: DeltaFormat, at_rest: bool) -> None:
        """Some publications, and a client of each channel on each edge."""
        for channel in CHANNELS:
            for at in range(count):
                self.push(channel, DeltaFormat.NONE, False, 0, 100, ContentType.JSON, 1, "abcdef"[at])
            for number in range(2):
                self.connect(number, Dialect.JSON if count % 2 else Dialect.MSGPACK, delta, channel)
        if at_rest:
            self.simulation.come_to_rest()

    def edge(self, number: int) -> Edge:
        return self.simulation.edges[number % 2]

    # -- bridges -------------------------------------------------------------------------------------------------------------------

    @rule(
        channel=channels,
        delta=deltas,
        base_is_wrong=st.booleans(),
        size=st.sampled_from([0, 0, 40, 150]),
        keep=st.sampled_from([1, 2, 5, 100, 100]),
        content_type=st.sampled_from([ContentType.JSON, ContentType.JSON, ContentType.TEXT, ContentType.BINARY, ContentType.NONE]),
        count=st.sampled_from([1, 1, 2, 5]),
        keys=st.text(alphabet="abcdef", min_size=1, max_size=4),
    )
    def push(
        self, channel: str, delta: DeltaFormat, base_is_wrong: bool, size: int, keep: int, content_type: ContentType, count: int, keys: str
    ) -> None:
        def go() -> None:
            for number in range(count):
                self.simulation.push(
                    channel,
                    size=size,
                    content_type=content_type,
                    delta=delta,
                    base_is_wrong=base_is_wrong,
                    keep=keep,
                    key=keys[number % len(keys)],
                )

        self.simulation.do(go)

    @rule(
        channel=channels,
        delta=deltas,
        number=numbers,
        damaged=st.sampled_from(["", "", "", "body", "base", "lost"]),
        at=st.integers(0, 200),
    )
    def follow(self, channel: str, delta: DeltaFormat, number: int, damaged: str, at: int) -> None:
        """What happens most: a delta to the newest value, which an edge gets at once; or gets damaged, or not at all."""
        link = self.edge(number).bus
        self.deliver(number, 100)
        self.push(channel, delta, False, 40, 100, ContentType.JSON, 1, "ab")
        if damaged == "lost":
            self.simulation.lose(self.edge(number), len(link.inbox))
        elif damaged:
            self.simulation.damage(self.edge(number), base=damaged == "base", at=at)
        self.deliver(number, 100)

    @rule(channel=channels, number=numbers, count=st.integers(1, 5), lost=st.integers(0, 2))
    def race(self, channel: str, number: int, count: int, lost: int) -> None:
        """Publications come, or get lost, while the answer to a read is on its way."""
        edge = self.edge(number)
        self.simulation.do(lambda: edge.bus.verify("silence"))
        for _ in range(10):
            if any(stage == "answer" for stage, _ in edge.gates):
                break
            self.let(number, 0)
        before = len(edge.bus.inbox)
        self.push(channel, DeltaFormat.VCDIFF, False, 0, 100, ContentType.JSON, count, "bc")
        for _ in range(min(lost, len(edge.bus.inbox) - before - 1)):
            del edge.bus.inbox[before]  # and what follows shows it: nobody needs to tell the edge to look
        self.deliver(number, 100)

    @rule(channel=channels, number=numbers, read=st.booleans())
    def restart(self, channel: str, number: int, read: bool) -> None:
        """The store loses everything and a bridge puts a value back, while an edge may be reading."""
        if read:
            self.verify(number)
        self.simulation.flush()
        self.simulation.do(self.simulation.store.open)
        self.push(channel, DeltaFormat.NONE, False, 0, 100, ContentType.JSON, 1, "ab")

    @rule(beats=st.booleans())
    def reopen(self, beats: bool) -> None:
        self.simulation.do(self.simulation.store.open)
        if beats:
            self.simulation.do(self.simulation.store.beat)

    # -- the bus and its links -----------------------------------------------------------------------------------------------------

    @rule(number=numbers, count=st.sampled_from([1, 1, 2, 100]))
    def deliver(self, number: int, count: int) -> None:
        self.simulation.do(lambda: self.edge(number).bus.deliver(count))

    @rule(number=numbers, which=numbers)
    def let(self, number: int, which: int) -> None:
        self.simulation.do(lambda: self.edge(number).let(which))

    @rule()
    def let_all(self) -> None:
        self.simulation.let_all()

    @rule(number=numbers, count=st.integers(1, 3))
    def lose(self, number: int, count: int) -> None:
        self.simulation.lose(self.edge(number), count)

    @rule(number=numbers, base=st.booleans(), at=st.integers(0, 200))
    def damage(self, number: int, base: bool, at: int) -> None:
        self.simulation.damage(self.edge(number), base=base, at=at)

    @rule(number=numbers)
    def break_or_mend(self, number: int) -> None:
        bus = self.edge(number).bus
        self.simulation.do(bus.break_link if bus.is_linked else bus.mend_link)

    @rule(number=numbers)
    def verify(self, number: int) -> None:
        self.simulation.do(lambda: self.edge(number).bus.verify("silence"))

    @rule(how=st.sampled_from(["flush", "expire"]), channel=channels)
    def lose_data(self, how: str, channel: str) -> None:
        if how == "flush":
            self.simulation.flush()
        else:
            self.simulation.expire(channel)

    @rule(seconds=st.sampled_from([0.1, 0.5, 3, 12]))
    def wait(self, seconds: float) -> None:
        self.simulation.wait(seconds)

    # -- clients -------------------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.simulation.clients) < 7)
    @rule(number=numbers, dialect=st.sampled_from(list(Dialect)), delta=deltas, channel=channels)
    def connect(self, number: int, dialect: Dialect, delta: DeltaFormat, channel: str) -> None:
        def go() -> None:
            client = self.simulation.connect(self.edge(number), dialect)
            if dialect.is_named:
                client.subscribe_bare(channel, delta=delta)
            else:
                client.subscribe(channel, delta=delta)

        self.simulation.do(go)

    @precondition(lambda self: len(self.simulation.clients) < 6)
    @rule(
        number=numbers,
        dialect=st.sampled_from([Dialect.JSON, Dialect.MSGPACK]),
        delta=deltas,
        mode=modes,
        is_full=st.booleans(),
        stops=st.lists(st.integers(2, 5), min_size=2, max_size=4),
        keys=st.permutations("abcdef"),
        content_type=st.sampled_from([ContentType.JSON, ContentType.NONE]),
    )
    def crowd(
        self,
        number: int,
        dialect: Dialect,
        delta: DeltaFormat,
        mode: Mode,
        is_full: bool,
        stops: list[int],
        keys: list[str],
        content_type: ContentType,
    ) -> None:
        """Some of one variant begin on the keyed channel, one after the other, and stop reading after so many writes."""
        if is_full:
            self.push("keyed:1", DeltaFormat.NONE, False, 0, 100, ContentType.JSON, 6, "fedcba")

        def go(after: int) -> None:
            client = self.simulation.connect(self.edge(number), dialect)
            client.stall(after)
            client.subscribe("keyed:1", delta=delta, mode=mode)

        for after in stops:
            self.simulation.let_all()
            self.simulation.do(partial(go, after))
            self.push("keyed:1", DeltaFormat.NONE, False, 0, 100, content_type, 1, keys[0])
            self.push("keyed:1", DeltaFormat.NONE, False, 0, 100, ContentType.JSON, 2, "".join(keys[1:3]))
            keys = keys[1:] + keys[:1]

    @precondition(lambda self: self.simulation.clients)
    @rule(which=numbers, channel=channels, delta=deltas, rewind=st.one_of(st.none(), rewinds), mode=modes, window=windows, max_rate=rates)
    def subscribe(
        self, which: int, channel: str, delta: DeltaFormat, rewind: dict[str, Any] | None, mode: Mode, window: int, max_rate: float
    ) -> None:
        client = self.simulation.clients[which % len(self.simulation.clients)]
        if channel not in client.holdings:
            self.simulation.do(lambda: client.subscribe(channel, delta=delta, rewind=rewind, mode=mode, window=window, max_rate=max_rate))

    @precondition(lambda self: self.simulation.clients)
    @rule(
        which=numbers,
        channel=channels,
        delta=deltas,
        how=st.sampled_from(["newest", "older", "older", "nowhere", "future", "former epoch", "foreign epoch"]),
        distance=st.integers(0, 12),
        mode=modes,
        window=windows,
    )
    def resume(self, which: int, channel: str, delta: DeltaFormat, how: str, distance: int, mode: Mode, window: int) -> None:
        client = self.simulation.clients[which % len(self.simulation.clients)]
        if channel in client.holdings:
            return
        newest = self.simulation.newest(channel) or Position("AAAAAAAAAAAAAAAA", 3)
        epochs = self.simulation.epochs
        position = {
            "newest": newest,
            "older": Position(newest.epoch, max(0, newest.offset - distance)),
            "nowhere": NOWHERE,
            "future": Position(newest.epoch, newest.offset + distance),
            "former epoch": Position(epochs[distance % len(epochs)] if epochs else newest.epoch, distance),
            "foreign epoch": Position("not an epoch", distance),
        }[how]
        self.simulation.do(lambda: client.subscribe(channel, position=position, delta=delta, mode=mode, window=window))

    @precondition(lambda self: self.simulation.clients)
    @rule(which=numbers, channel=channels)
    def unsubscribe(self, which: int, channel: str) -> None:
        client = self.simulation.clients[which % len(self.simulation.clients)]
        if channel in client.holdings:
            self.simulation.do(lambda: client.unsubscribe(channel))

    @precondition(lambda self: self.simulation.clients)
    @rule(which=numbers, number=numbers, dialect=st.sampled_from([Dialect.JSON, Dialect.MSGPACK]), delta=deltas)
    def come_back(self, which: int, number: int, dialect: Dialect, delta: DeltaFormat) -> None:
        """A client reconnects, to this edge or the other one, with its positions."""
        former = self.simulation.clients[which % len(self.simulation.clients)]
        self.simulation.leave(former)

        def go() -> None:
            client = self.simulation.connect(self.edge(number), dialect)
            for holding in former.holdings.values():
                position = holding.position or (NOWHERE if holding.is_anchored else None)
                if holding.mode is Mode.ACK:
                    position = holding.acked
                client.subscribe(
                    holding.channel,
                    position=position if holding.is_subscribed else None,
                    delta=delta,
                    mode=holding.mode,
                    window=holding.window,
                    max_rate=holding.max_rate,
                    state=holding.state if isinstance(holding, KeyedHolding) and holding.mode is not Mode.ACK else None,
                    is_partial=isinstance(holding, KeyedHolding) and (holding.is_partial or not holding.is_whole),
                )

        self.simulation.do(go)

    @precondition(lambda self: self.simulation.clients)
    @rule(which=numbers, channel=channels, but=st.sampled_from([0, 0, 1, 2]), epoch=st.sampled_from([None, None, None, "former"]))
    def acknowledge(self, which: int, channel: str, but: int, epoch: str | None) -> None:
        client = self.simulation.clients[which % len(self.simulation.clients)]
        if channel in client.holdings:
            self.simulation.do(lambda: client.acknowledge(channel, but=but, epoch=epoch))

    @precondition(lambda self: self.simulation.clients)
    @rule(which=numbers, after=st.sampled_from([0, 0, 1, 2]))
    def stall_or_read_on(self, which: int, after: int) -> None:
        client = self.simulation.clients[which % len(self.simulation.clients)]
        self.simulation.do(partial(client.stall, after) if client.is_writable else client.read_on)

    @precondition(lambda self: self.simulation.clients)
    @rule(which=numbers, after=st.sampled_from([0, 0, 1, 2]))
    def fill(self, which: int, after: int) -> None:
        """Much is unsent; and again, perhaps, as soon as there was room."""
        client = self.simulation.clients[which % len(self.simulation.clients)]
        if after and not client.is_writable:
            self.simulation.do(client.read_on)
        client.fill(after)

    @precondition(lambda self: self.simulation.clients)
    @rule(which=numbers)
    def leave(self, which: int) -> None:
        self.simulation.leave(self.simulation.clients[which % len(self.simulation.clients)])

    # -- the end -------------------------------------------------------------------------------------------------------------------

    @rule()
    def rest(self) -> None:
        self.simulation.come_to_rest()
        self.simulation.check_rest()

    def teardown(self) -> None:
        try:
            self.simulation.come_to_rest()
            self.simulation.check_rest()
            self.simulation.check_nothing_is_left()
        finally:
            self.simulation.close()


TestEdge = EdgeMachine.TestCase
TestEdge.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    print_blob=True,
)


@pytest.fixture(autouse=True)
def few_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few that a short run meets the bound."""
    monkeypatch.setattr(edge.lane, "MAX_WAITING_ENVELOPES", 3)
    monkeypatch.setattr(edge.lane, "MAX_EARLY", 6)
    monkeypatch.setattr(edge.keys, "KEYS_A_PAGE", 2)
    monkeypatch.setattr(edge.core.keyed, "MAX_DELETIONS", 2)
    monkeypatch.setattr(edge.core.keyed, "_SPARE", 2)
    monkeypatch.setattr(edge.core.keyed, "ENTRY_BYTES", 5_000)
    monkeypatch.setattr(edge.core.keyed, "ENTRIES_A_PAGE", 3)
    monkeypatch.setattr(edge.core.pages, "PAGE_BYTES", 0)
    monkeypatch.setattr(edge.core.paced_keyed, "MOST_AT_ONCE", 2)
    monkeypatch.setattr(edge.core.paced_keyed, "PINNED", 1)
    monkeypatch.setattr(edge.core.paced_keyed, "RECENT", 2)
    monkeypatch.setattr(edge.core.paced_keyed, "MANY", 2)
    monkeypatch.setattr(edge.pacer, "PARTS_A_TURN", 2)


def test_nothing_comes_twice_to_one_who_holds_the_state_while_deliveries_wait():
    simulation = Simulation(edges=2)
    edge = simulation.edges[1]
    for key in "abcd":
        simulation.push("keyed:1", key=key)
    slow, other = (simulation.connect(edge) for _ in range(2))
    slow.stall(2)
    simulation.do(lambda: slow.subscribe("keyed:1"))
    simulation.do(lambda: other.subscribe("latest:1"))
    for _ in range(20):
        simulation.let_all()
    assert not slow.is_writable
    for channel in ("latest:1", "keyed:1"):  # For the second one this turn has no time.
        simulation.push(channel, key="b")
        simulation.do(lambda: edge.bus.deliver(100))
    assert len(edge.node.deliveries) == 1
    simulation.do(slow.read_on)
    holding = slow.holdings["keyed:1"]
    assert isinstance(holding, KeyedHolding)
    assert holding.is_whole
    simulation.come_to_rest()
    simulation.check_rest()
    simulation.close()


@pytest.mark.parametrize("mode", [Mode.QUEUE, Mode.CONFLATE, Mode.ACK])
@pytest.mark.parametrize("channel", ["latest:1", "keyed:1"])
@pytest.mark.parametrize("delta", list(DeltaFormat))
def test_nobody_gets_anything_of_a_new_epoch_before_the_gap_while_deliveries_wait(mode: Mode, channel: str, delta: DeltaFormat):
    simulation = Simulation(edges=2)
    edge = simulation.edges[1]
    for name, key in (("stream:1", "a"), (channel, "a"), (channel, "b")):
        simulation.push(name, key=key)
    client, other, another = (simulation.connect(edge) for _ in range(3))
    simulation.do(partial(client.subscribe, channel, mode=mode, delta=delta, window=3 if mode is Mode.ACK else 0))
    for name in ("stream:1", channel):
        for each in (other, another):
            simulation.do(partial(each.subscribe, name, delta=delta))
    simulation.come_to_rest()
    for name in ("stream:1", channel):  # For the second one this turn has no time.
        simulation.push(name)
        simulation.do(lambda: edge.bus.deliver(100))
    assert len(edge.node.deliveries) == 2
    simulation.flush()
    simulation.do(simulation.store.open)
    for key in "abcdef":
        simulation.push(channel, key=key)
    simulation.do(partial(edge.bus.verify, "silence"))
    while answers := [at for at, (stage, _) in enumerate(edge.gates) if stage != "turn"]:
        simulation.do(partial(edge.let, answers[0]))
    simulation.come_to_rest()
    simulation.check_rest()
    simulation.close()


def test_what_is_read_anew_for_many_is_written_to_some_a_turn():
    simulation = Simulation(edges=2)
    edge = simulation.edges[1]
    simulation.push("stream:1")
    clients = [simulation.connect(edge) for _ in range(4)]
    for client in clients:
        simulation.do(partial(client.subscribe, "stream:1"))
    simulation.come_to_rest()
    simulation.push("stream:1")
    simulation.lose(edge, 1)
    simulation.do(partial(edge.bus.verify, "the link is back"))
    while answers := [at for at, (stage, _) in enumerate(edge.gates) if stage != "turn"]:
        simulation.do(partial(edge.let, answers[0]))
    assert [client.holdings["stream:1"].offset for client in clients] == [2, 1, 1, 1]
    simulation.come_to_rest()
    assert [client.holdings["stream:1"].offset for client in clients] == [2, 2, 2, 2]
    simulation.close()


@pytest.mark.parametrize("delta", list(DeltaFormat))
def test_who_comes_back_with_a_part_of_the_state_to_an_edge_that_is_behind_has_all_in_the_end(delta: DeltaFormat):
    machine = EdgeMachine()
    machine.begin(count=5, delta=delta, at_rest=True)
    machine.break_or_mend(number=0)
    for _ in range(2):
        machine.leave(which=0)
    keys, stops = list("abcdef"), [2, 2, 2]
    machine.crowd(1, Dialect.JSON, delta, Mode.QUEUE, is_full=False, stops=stops, keys=keys, content_type=ContentType.JSON)
    machine.come_back(which=5, number=0, dialect=Dialect.JSON, delta=delta)
    machine.teardown()
