"""The waiting room: records that were consumed and of which nothing was made yet.

Each record goes in once and is taken once, in the order of its partition. A partition flows, or waits for one or more reasons; as long as
it waits, its records do, and others pass them. What happens to a partition (it goes, its topic has no route any more) happens to its
records here, at any moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator

from bridge.core.flow import Flow, Hold
from bridge.core.record import Partition, Record


class WaitingRoom:
    """See the module."""

    def __init__(self) -> None:
        self._flow = Flow()
        self._ready: deque[Record] = deque()
        """Records of partitions that flow."""
        self._waiting: dict[Partition, list[Record]] = {}
        """Partitions that wait, each with its records in order (maybe none)."""

    def __repr__(self) -> str:
        return f"<WaitingRoom {len(self._ready)} records ready, {sum(map(len, self._waiting.values()))} wait, {self._flow}>"

    def __len__(self) -> int:
        """How many records may be taken."""
        return len(self._ready)

    # Partitions.

    def assign(self, partitions: Collection[Partition]) -> None:
        """They became ours: nothing holds them, and nothing of them is here."""
        self.drop(partitions)
        self._flow.assign(partitions)

    def drop(self, partitions: Collection[Partition]) -> None:
        """They are ours no more: their records are whoever's has them now."""
        self.withdraw(partitions)
        for partition in partitions:
            self._waiting.pop(partition, None)
        self._flow.drop(partitions)

    def hold(self, partitions: Iterable[Partition], reason: Hold) -> None:
        """They wait from now on, until `release` with the same reason. Ignored for those that are not ours."""
        for partition in self._flow.hold(partitions, reason):
            self._waiting[partition] = self._pull([partition])

    def release(self, partitions: Iterable[Partition], reason: Hold) -> None:
        """Take one reason away. Where none is left, their records are the next to be taken."""
        for partition in self._flow.release(partitions, reason):
            self._ready.extendleft(reversed(self._waiting.pop(partition)))

    def held(self, reason: Hold) -> frozenset[Partition]:
        """Those that wait for this reason."""
        return frozenset(self._flow.held(reason)) if self._waiting else frozenset()

    # Records.

    def add(self, records: Iterable[Record]) -> None:
        """They were consumed, later than all that is here of their partitions."""
        if not self._waiting:
            self._ready.extend(records)
            return
        for record in records:
            self._waiting.get((record.topic, record.partition), self._ready).append(record)

    def take(self) -> Iterator[Record]:
        """The records that need not wait, each taken when it is asked for; at most as many as there are now."""
        for _ in range(len(self._ready)):
            if not self._ready:
                return
            yield self._ready.popleft()

    def put_back(self, record: Record, reason: Hold) -> None:
        """The record that was taken last is the next one of its partition again, which waits. It is dropped where that is not ours."""
        partition = record.topic, record.partition
        self.hold([partition], reason)
        if (waiting := self._waiting.get(partition)) is not None:
            waiting.insert(0, record)

    def first(self, partition: Partition) -> Record | None:
        """The record that a partition that waits will go on with; None where it has none here."""
        return next(iter(self._waiting.get(partition, ())), None)

    def oldest(self) -> dict[Partition, int]:
        """The kafka offset of the first record of each partition of which records are here."""
        oldest = {(record.topic, record.partition): record.offset for record in reversed(self._ready)}
        oldest.update((partition, waiting[0].offset) for partition, waiting in self._waiting.items() if waiting)
        return oldest

    def withdraw(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Remove their records. Returns for each partition that had some the kafka offset to read them again from.

        A partition that waits goes on waiting.
        """
        first: dict[Partition, int] = {}
        for record in self._pull(partitions):
            first.setdefault((record.topic, record.partition), record.offset)
        for partition in partitions:
            if waiting := self._waiting.get(partition):
                first[partition] = waiting[0].offset
                waiting.clear()
        return first

    def _pull(self, partitions: Collection[Partition]) -> list[Record]:
        """Take all ready records of these partitions out, in order."""
        pulled = [record for record in self._ready if (record.topic, record.partition) in partitions]
        if pulled:
            self._ready = deque(record for record in self._ready if (record.topic, record.partition) not in partitions)
        return pulled
