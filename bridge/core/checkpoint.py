"""Checkpoints: which kafka offsets may be committed, because everything up to them is on the bus."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from bridge.core.record import Partition


class Checkpoint:
    """Progress of the assigned partitions. Records may be finished in any order; a commit never jumps over an unfinished one."""

    def __init__(self) -> None:
        self._progress: dict[Partition, _Progress] = {}

    def __repr__(self) -> str:
        return f"<Checkpoint {len(self._progress)} partitions, {self.unfinished} records unfinished>"

    @property
    def unfinished(self) -> int:
        """How many records were begun and are not finished, in all partitions."""
        return sum(len(progress.begun) for progress in self._progress.values())

    def track(self, partition: Partition, offset: int) -> None:
        """A record's processing begins. Offsets of a partition come in ascending order; a lower one means that it started over."""
        progress = self._progress.get(partition)
        if progress is None or offset <= progress.newest:
            progress = self._progress[partition] = _Progress()
        progress.begun.append(offset)
        progress.newest = offset

    def owe(self, partition: Partition, offset: int, letters: int) -> None:
        """A record that was tracked and is not done is so only after `done` was called for each of these dead letters, too."""
        progress = self._progress.get(partition)
        if progress is not None and letters:
            progress.owed[offset] = progress.owed.get(offset, 0) + letters

    def done(self, partition: Partition, offset: int) -> None:
        """All publications of a record are on the bus, or one of its dead letters is acknowledged.

        Ignored for a record that is not tracked (its partition was forgotten meanwhile).
        """
        progress = self._progress.get(partition)
        if progress is not None:
            progress.finish(offset)

    def unfinished_from(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The kafka offset of the oldest unfinished record of each of these partitions that has one."""
        found = ((partition, self._progress.get(partition)) for partition in partitions)
        return {partition: progress.begun[0] for partition, progress in found if progress is not None and progress.begun}

    def committable(self) -> dict[Partition, int]:
        """For each partition with news since the last commit, the kafka offset to go on from: one more than the last finished record's."""
        return {
            partition: progress.next_offset
            for partition, progress in self._progress.items()
            if progress.next_offset is not None and progress.next_offset != progress.committed
        }

    def committed(self, offsets: dict[Partition, int]) -> None:
        """These were handed to Kafka: `committable` names them no more."""
        for partition, offset in offsets.items():
            if partition in self._progress:
                self._progress[partition].committed = offset

    def commit_failed(self, partitions: Iterable[Partition]) -> None:
        """Kafka did not take them: `committable` names them again."""
        for partition in partitions:
            if partition in self._progress:
                self._progress[partition].committed = None

    def forget(self, partitions: Iterable[Partition]) -> None:
        """They are not ours any more."""
        for partition in partitions:
            self._progress.pop(partition, None)


class _Progress:
    """Of one partition."""

    __slots__ = ("begun", "committed", "finished", "newest", "next_offset", "owed")

    def __init__(self) -> None:
        self.begun: deque[int] = deque()
        """Offsets in order, from the oldest unfinished one on."""
        self.finished: set[int] = set()
        """Those of `begun` that are finished already."""
        self.owed: dict[int, int] = {}
        """How many parts of a record beside its publications are not done yet."""
        self.newest = -1
        self.next_offset: int | None = None
        self.committed: int | None = None

    def finish(self, offset: int) -> None:
        begun = self.begun
        if not begun or offset < begun[0] or offset > self.newest:
            return
        if offset in self.owed:
            self.owed[offset] -= 1
            if not self.owed[offset]:
                del self.owed[offset]
            return
        self.finished.add(offset)
        while begun and begun[0] in self.finished:
            oldest = begun.popleft()
            self.finished.discard(oldest)
            self.next_offset = oldest + 1
