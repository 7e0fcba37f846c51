"""Bridges that publish on one keyed channel, and a reader, through whatever happens: always against a plain model of what must be there.

The records of a partition are given: key, value or deletion. Two partitions belong to two bridges, or both to one; a bridge may die and
another process its last records again; the bus may lose all it has, or an answer. Where it may lose all, each key comes from one partition
only, as with Kafka's own partitioner: then what must come back is known. Else keys come from both, and versions in any order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bridge.adapters.memory_bus import MemoryBus, MemoryServer
from bridge.core.chain import DeltaChain
from bridge.core.draft import ChannelSettings, Draft
from shared import envelope
from shared.bus.layout import BusLayout
from shared.bus.push import Push, Source, source_id
from shared.delta import vcdiff
from shared.envelope import NO_TIME, Envelope
from shared.errors import IncarnationError
from shared.publication import ContentType, DeltaFormat, Kind, payload_hash

LAYOUT = BusLayout(shards=2)
CHANNEL = "fleet"
PARTITIONS = (0, 1)
OWN_KEYS = {0: [b"a", b"b", b"c"], 1: [b"x", b"y"]}
SHARED_KEYS = {0: [b"a", b"b"], 1: [b"a", b"b"]}
TEXT = b'{"of":"a vehicle with a long name that stays, so that a delta is smaller than the whole of it","and":"%s","value":%%d}' % (
    b"x" * 60
)


@dataclass
class Logged:
    """A record of a partition."""

    key: bytes
    value: bytes | None
    version: float


@dataclass
class Partition:
    """Its records, and how far they were committed and pushed."""

    log: list[Logged] = field(default_factory=list)
    pushed: int = 0
    committed: int = 0
    held_from: int = 0
    """What its present owner has processed itself begins here."""


class Bridge:
    """A chain and a connection; what a pipeline does with them."""

    def __init__(self, server: MemoryServer, of: ChannelSettings, *, versioned: bool) -> None:
        self.chain = DeltaChain(shards=LAYOUT.shards, clock=lambda: 0.0, max_bytes=10**6)
        self._bus = MemoryBus(server)
        self._settings = of
        self._versioned = versioned

    def process(self, number: int, records: list[tuple[int, Logged]], *, sole_writer: bool) -> None:
        """Make pushes of records, with their kafka offsets, and push them until they are on the bus."""
        pushes: list[Push] = []
        for offset, record in records:
            content_type = ContentType.JSON if record.value is not None else ContentType.NONE
            version = record.version if self._versioned else None
            draft = Draft(CHANNEL, record.value or b"", content_type, 0, self._settings, "route", None, record.key, version=version)
            pushes += self.chain.prepare(draft, Source(source_of(number), offset, 0), NO_TIME, sole_writer=sole_writer)
        while True:
            self.open(pushes)
            try:
                answers = self._bus.push(pushes)
            except IncarnationError as error:
                self.lose(error.shards, pushes)
                continue
            break
        for push, pushed in zip(pushes, answers, strict=True):
            self.chain.confirm(push, pushed)

    def open(self, in_flight: list[Push]) -> None:
        """Find out what was lost, and put it back."""
        changed = self._bus.open() or self._bus.reopen(range(LAYOUT.shards))
        if changed:
            self.put_back(changed, in_flight)

    def lose(self, shards: list[int], in_flight: list[Push]) -> None:
        self._bus.reopen(shards)
        self.put_back(shards, in_flight)

    def put_back(self, shards: list[int], in_flight: list[Push]) -> None:
        self.chain.lose(shards)
        held = self.chain.held(shards, in_flight)
        for push, pushed in zip(held, self._bus.push(held), strict=True):
            self.chain.confirm(push, pushed)


def source_of(number: int) -> bytes:
    return source_id("cluster", "topic", number)


class Reader:
    """A subscriber that keeps the state of the channel from what is published, and believes nothing that does not fit."""

    def __init__(self) -> None:
        self.state: dict[bytes, Envelope] = {}
        self.values: dict[bytes, bytes] = {}
        self.at = (b"", 0)
        self.read_until = 0

    def read(self, published: list[bytes]) -> None:
        for data in published[self.read_until :]:
            self._apply(envelope.decode(data))
        self.read_until = len(published)

    def _apply(self, entry: Envelope) -> None:
        assert entry.key is not None
        if entry.epoch != self.at[0]:
            assert entry.offset == 1
            assert entry.delta is DeltaFormat.NONE
            self.state.clear()
            self.values.clear()
        else:
            assert entry.offset == self.at[1] + 1
        self.at = entry.epoch, entry.offset
        if entry.is_deletion:
            self.state.pop(entry.key, None)
            self.values.pop(entry.key, None)
            return
        body = entry.body
        if entry.delta is not DeltaFormat.NONE:
            base = self.state[entry.key]
            assert entry.base_offset == base.offset
            assert entry.base_hash == base.payload_hash
            body = vcdiff.decode(self.values[entry.key], body, max_size=10_000)
        assert payload_hash(body) == entry.payload_hash
        self.state[entry.key], self.values[entry.key] = entry, body


class KeyedChannel(RuleBasedStateMachine):
    """See the module."""

    only_changed = False
    versioned = False
    keys = OWN_KEYS

    def __init__(self) -> None:
        super().__init__()
        self.settings = ChannelSettings(kind=Kind.KEYED, only_changed=self.only_changed, history_size=5)
        self.server = MemoryServer(LAYOUT)
        self.partitions = {number: Partition() for number in PARTITIONS}
        self.bridges = [self._bridge(), self._bridge()]
        self.owner = {0: 0, 1: 1}
        self.reader = Reader()
        self.lost: set[bytes] = set()
        """Keys that no living bridge could put back: they are there again with their next record."""
        self.model: dict[bytes, bytes | None] = {}
        self.versions: dict[bytes, float] = {}

    def _bridge(self) -> Bridge:
        return Bridge(self.server, self.settings, versioned=self.versioned)

    @rule(
        number=st.sampled_from(PARTITIONS),
        made=st.lists(st.tuples(st.integers(0, 2), st.sampled_from([None, 0, 1, 2]), st.integers(0, 3)), min_size=1, max_size=4),
        is_answer_lost=st.booleans(),
    )
    def publish(self, number: int, made: list[tuple[int, int | None, int]], *, is_answer_lost: bool) -> None:
        """New records, one batch of them; or the same batch twice, because the answer to the first was lost."""
        partition, keys = self.partitions[number], self.keys[number]
        for key, value, age in made:
            version = sum(len(each.log) for each in self.partitions.values()) - (age if self.keys is SHARED_KEYS else 0)
            partition.log.append(Logged(keys[key % len(keys)], None if value is None else TEXT % value, float(version)))
        self._push_all(number)
        if is_answer_lost:
            self._again(number, partition.pushed - len(made))

    def _push_all(self, number: int) -> None:
        partition = self.partitions[number]
        records = list(enumerate(partition.log))[partition.pushed :]
        self.bridges[self.owner[number]].process(number, records, sole_writer=self._is_alone)
        for _, record in records:
            self.lost.discard(record.key)
            if not self.versioned or record.version > self.versions.get(record.key, -9.0):
                self.model[record.key], self.versions[record.key] = record.value, record.version
        partition.pushed = len(partition.log)

    def _again(self, number: int, start: int) -> None:
        partition = self.partitions[number]
        records = list(enumerate(partition.log))[start:]
        self.bridges[self.owner[number]].process(number, records, sole_writer=self._is_alone)

    @property
    def _is_alone(self) -> bool:
        return len(set(self.owner.values())) == 1

    @rule(number=st.sampled_from(PARTITIONS))
    def commit(self, number: int) -> None:
        """What was pushed is committed."""
        self.partitions[number].committed = self.partitions[number].pushed

    @rule(which=st.sampled_from([0, 1]))
    def die(self, which: int) -> None:
        """A bridge is killed; its successor begins where the last commit was."""
        self.bridges[which] = self._bridge()
        self._assign(which, [number for number in PARTITIONS if self.owner[number] == which])

    @rule(number=st.sampled_from(PARTITIONS), to=st.sampled_from([0, 1]))
    def rebalance(self, number: int, to: int) -> None:
        """A partition goes to the other bridge, in order or (without a commit) not."""
        before = self.owner[number]
        if before == to:
            return
        self.bridges[before].chain.forget({source_of(number)})
        for bridge in self.bridges:
            bridge.chain.distrust()
        self.owner[number] = to
        self._assign(to, [number])

    def _assign(self, which: int, numbers: list[int]) -> None:
        self.bridges[which].chain.distrust()
        for number in numbers:
            self.partitions[number].held_from = self.partitions[number].committed
            self._again(number, self.partitions[number].committed)

    @precondition(lambda self: self.server.published[CHANNEL] and self.keys is OWN_KEYS)
    @rule()
    def flush(self) -> None:
        """The bus loses everything; every bridge that lives puts back what it holds."""
        held = {record.key for each in self.partitions.values() for record in each.log[each.held_from : each.pushed]}
        self.lost |= self.model.keys() - held
        self.server.flush()
        for bridge in self.bridges:
            bridge.open([])

    @invariant()
    def the_bus_has_the_newest_of_each_key(self) -> None:
        """And the reader has what the bus has, and nothing else."""
        self.reader.read(self.server.published[CHANNEL])
        found = {key: envelope.decode(entry) for key, entry in self.server.keys(CHANNEL).items()}
        for key, value in self.model.items():
            if key not in self.lost or key in found:
                assert (found[key].body if key in found else None) == value, key
        if found:
            assert {key: entry.offset for key, entry in self.reader.state.items()} == {key: entry.offset for key, entry in found.items()}
            assert self.reader.values == {key: entry.body for key, entry in found.items()}
        history = [envelope.decode(entry).offset for entry in self.server.history(CHANNEL)]
        assert history == list(range(history[0], history[0] + len(history))) if history else True


class OnlyChanged(KeyedChannel):
    only_changed = True


class Versioned(KeyedChannel):
    versioned = True


class VersionedOnlyChanged(KeyedChannel):
    only_changed = True
    versioned = True


class OnlyChangedOfBoth(KeyedChannel):
    only_changed = True
    keys = SHARED_KEYS


class VersionedOfBoth(KeyedChannel):
    only_changed = True
    versioned = True
    keys = SHARED_KEYS


for _machine in (KeyedChannel, OnlyChanged, Versioned, VersionedOnlyChanged, OnlyChangedOfBoth, VersionedOfBoth):
    _machine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestEach, TestOnlyChanged = KeyedChannel.TestCase, OnlyChanged.TestCase
TestVersioned, TestVersionedOnlyChanged = Versioned.TestCase, VersionedOnlyChanged.TestCase
TestOnlyChangedOfBoth, TestVersionedOfBoth = OnlyChangedOfBoth.TestCase, VersionedOfBoth.TestCase
