"""A source of records, and dead letters, in memory, for tests and try-outs: the same promises as Kafka, and the same ways to break."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from bridge.core.flow import Flow, Hold
from bridge.core.letter import DeadLetter
from bridge.core.record import Partition, Record
from bridge.ports import LetterAnswer, Listener
from shared.bus.push import source_id


class MemoryTopics:
    """The Kafka side that several `MemoryRecords` share: topics, their records, and one group's committed offsets."""

    def __init__(self) -> None:
        self.records: dict[Partition, list[Record]] = {}
        self.committed: dict[Partition, int] = {}

    def __repr__(self) -> str:
        return f"<MemoryTopics {sum(map(len, self.records.values()))} records in {len(self.records)} partitions>"

    def produce(self, topic: str, value: bytes | None, *, partition: int = 0, time_ms: int = 0) -> Record:
        """Append a record."""
        log = self.records.setdefault((topic, partition), [])
        record = Record(topic, partition, len(log), time_ms, None, value)
        log.append(record)
        return record


class MemoryRecords:
    """One member of the group: a `bridge.ports.Records`. Tests assign and revoke by `pending`, which the next `consume` carries out."""

    def __init__(self, topics: MemoryTopics, *, assign: Iterable[Partition] | None = None) -> None:
        self.flow = Flow()
        self.pending: list[Callable[[], None]] = []
        """Rebalances (or anything else) for the next `consume` to call first, as Kafka's client calls back from its poll."""
        self.refuse_commits = False
        self.consumed = 0
        """Calls of `consume`."""
        self._topics = topics
        self._first = list(topics.records if assign is None else assign)
        self._next: dict[Partition, int] = {}
        self._listener: Listener | None = None
        self._topic_names: frozenset[str] | None = None

    def __repr__(self) -> str:
        return f"<MemoryRecords {self.flow}>"

    def start(self, listener: Listener) -> None:
        """See `bridge.ports.Records`."""
        self._listener = listener
        self.pending.append(lambda: self.assign(self._first))

    def assign(self, partitions: Iterable[Partition]) -> None:
        """Give it partitions."""
        partitions = list(partitions)
        self.flow.assign(partitions)
        for partition in partitions:
            self._next[partition] = self._topics.committed.get(partition, 0)
        self._told().on_assigned(partitions)

    def revoke(self, partitions: Iterable[Partition]) -> None:
        """Take partitions away, in order."""
        self._told().on_revoked(list(partitions))
        self.flow.drop(partitions)

    def lose(self, partitions: Iterable[Partition]) -> None:
        """Take partitions away after the fact."""
        self.flow.drop(partitions)
        self._told().on_lost(list(partitions))

    def consume(self, max_records: int, timeout_s: float) -> list[Record]:  # noqa: ARG002  (never waits)
        """See `bridge.ports.Records`."""
        self.consumed += 1
        pending, self.pending = self.pending, []
        for call in pending:
            call()
        found: list[Record] = []
        for partition in sorted(self.flow.assigned):
            if not self.flow.is_held(partition):
                start = self._next[partition]
                taken = self._topics.records.get(partition, [])[start : start + max_records - len(found)]
                self._next[partition] += len(taken)
                found += taken
        return found

    def subscribe(self, topics: Sequence[str]) -> None:
        """See `bridge.ports.Records`. Knows no patterns; the next `consume` carries it out."""
        names = frozenset(topics)
        self._topic_names = names
        self.flow.hold([partition for partition in self.flow.assigned if partition[0] not in names], Hold.UNSUBSCRIBED)

        def rebalance() -> None:
            if gone := [partition for partition in self.flow.assigned if partition[0] not in names]:
                self.revoke(gone)
            self.assign([partition for partition in self._topics.records if partition[0] in names and not self.flow.owns(partition)])

        self.pending.append(rebalance)

    def rewind(self, offsets: Mapping[Partition, int]) -> None:
        """See `bridge.ports.Records`."""
        self._next.update(offsets)

    def source_id(self, partition: Partition) -> bytes:
        """See `bridge.ports.Records`."""
        return source_id("memory", partition[0], partition[1])

    @property
    def cluster_id(self) -> str:
        """See `bridge.ports.Records`."""
        return "memory"

    @property
    def owns_all(self) -> bool:
        """See `bridge.ports.Records`."""
        names = self._topic_names
        return self.flow.assigned >= {place for place in self._topics.records if names is None or place[0] in names}

    @property
    def assigned(self) -> frozenset[Partition]:
        """See `bridge.ports.Records`."""
        return self.flow.assigned

    def hold(self, partitions: Iterable[Partition], reason: Hold) -> None:
        """See `bridge.ports.Records`."""
        self.flow.hold(partitions, reason)

    def release(self, partitions: Iterable[Partition], reason: Hold) -> None:
        """See `bridge.ports.Records`."""
        self.flow.release(partitions, reason)

    def commit(self, offsets: Mapping[Partition, int], *, wait: bool) -> None:  # noqa: ARG002  (never waits)
        """See `bridge.ports.Records`."""
        if self.refuse_commits:
            self._told().on_commit_failed(list(offsets))
        else:
            self._topics.committed.update(offsets)

    def lag(self, unfinished: Mapping[Partition, int]) -> int | None:
        """See `bridge.ports.Records`."""
        following = {**self._next, **unfinished}
        return sum(len(self._topics.records.get(partition, [])) - following[partition] for partition in self.flow.assigned)

    @property
    def is_away(self) -> bool:
        """See `bridge.ports.Records`."""
        return False

    def close(self) -> None:
        """See `bridge.ports.Records`."""
        self.revoke(self.flow.assigned)

    def _told(self) -> Listener:
        assert self._listener is not None  # noqa: S101  (start comes first)
        return self._listener


class MemoryDeadLetters:
    """A `bridge.ports.DeadLetters`: topics that several bridges share, and the ways in which they break."""

    def __init__(self, topics: dict[str, list[DeadLetter]] | None = None) -> None:
        self.topics: dict[str, list[DeadLetter]] = {} if topics is None else topics
        self.away = ""
        """Why nothing is taken for now."""
        self.refused = ""
        """Why nothing is ever taken."""
        self.is_slow = False
        """Letters are taken in, and not answered."""
        self.sent = 0
        """Calls of `send`."""
        self._begun: dict[int, DeadLetter] = {}

    def __repr__(self) -> str:
        return f"<MemoryDeadLetters {sum(map(len, self.topics.values()))} letters, {len(self._begun)} begun>"

    def send(self, number: int, letter: DeadLetter) -> None:
        """See `bridge.ports.DeadLetters`."""
        self.sent += 1
        self._begun[number] = letter

    def poll(self) -> list[LetterAnswer]:
        """See `bridge.ports.DeadLetters`."""
        if self.is_slow:
            return []
        begun, self._begun = self._begun, {}
        return [self._answer(number, letter) for number, letter in begun.items()]

    def close(self) -> None:
        """See `bridge.ports.DeadLetters`."""
        self._begun.clear()

    def _answer(self, number: int, letter: DeadLetter) -> LetterAnswer:
        if self.refused or self.away:
            return LetterAnswer(number, self.refused or self.away, bool(self.refused))
        self.topics.setdefault(letter.topic, []).append(letter)
        return LetterAnswer(number)
