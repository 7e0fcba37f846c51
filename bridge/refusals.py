"""Refusals: publications that the bus does not take and never will (`Outcome.FAILED`), of routes that do not just skip them.

The record of such a publication is put aside, or halts its partition, as one that its route cannot handle; by then it is in the middle of
a batch. Nothing of the same source may overtake it on its channel: the bus would take the record for done when it comes again after a
crash, and nobody would ever hear of it. So the bus lets nothing of that pass (`Keep.stops_at_failure`), and the partition waits, with what
was behind, until its dead letters are acknowledged (`Partitions.park`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bridge.core.draft import Draft, RecordProblem
from bridge.core.parked import Made
from bridge.core.record import Partition, Record
from bridge.partitions import Partitions
from bridge.ports import Records
from bridge.reading import Reader
from shared.bus.push import Source


class Refused(NamedTuple):
    """A publication that the bus refused for good."""

    draft: Draft
    source: Source
    reason: str


class Refusals:
    """See the module."""

    def __init__(self, partitions: Partitions, records: Records, reader: Reader) -> None:
        self.left: list[Record] = []
        """Records in hand of which nothing more is to be brought to the bus for now. Whoever has them in hand clears this."""
        self._partitions = partitions
        self._records = records
        self._reader = reader

    def __repr__(self) -> str:
        return f"<Refusals {len(self.left)} records left>"

    def settle(self, refused: Sequence[Refused], behind: Iterable[Made], begun: Iterable[Record], ended: Sequence[Record]) -> list[Record]:
        """Put aside or halt, and park what is `behind`. To be called when the bus has answered to all that was in flight.

        `ended` are the records whose publications were all in flight, `begun` those that have more of them. Returns those of `ended` whose
        publications are done.
        """
        partition_of = self._partitions_by_source()
        found = {_place(record): record for record in (*ended, *begun)}
        by_record: dict[tuple[Partition, int], list[Refused]] = {}
        for each in refused:
            partition = partition_of.get(each.source.id)
            # One that is not ours any more is refused to its new owner, too.
            if partition is not None and (partition, each.source.offset) in found:
                by_record.setdefault((partition, each.source.offset), []).append(each)
        halted: dict[Partition, int] = {}
        for (partition, offset), its in sorted(by_record.items(), key=lambda item: item[0]):
            if partition not in halted and not self._put_aside(found[partition, offset], its):
                halted[partition] = offset
        waiting: set[tuple[Partition, int]] = set()
        for made in behind:
            partition = partition_of.get(made.source.id)
            if partition is not None:
                waiting.add((partition, made.source.offset))
                if partition not in self._partitions.halted:
                    self._partitions.park(partition).made.append(made)
        self.left += [record for record in begun if not self._goes_on(record)]
        return self._done(ended, waiting, halted)

    def _goes_on(self, record: Record) -> bool:
        partition = record.topic, record.partition
        waits = partition in self._partitions.parked or partition in self._partitions.halted
        return not waits and partition in self._records.assigned

    def _put_aside(self, record: Record, refused: Sequence[Refused]) -> bool:
        """False where it halts its partition instead."""
        verdict = self._reader.judge(record, _problems(self._reader, record, refused))
        if verdict.halt is not None:
            self._partitions.halt(record, verdict.halt)
            return False
        self._partitions.put_aside(record, verdict.letters)
        self._partitions.park((record.topic, record.partition))
        return True

    def _done(self, ended: Iterable[Record], waiting: set[tuple[Partition, int]], halted: dict[Partition, int]) -> list[Record]:
        done = []
        for record in ended:
            partition, offset = _place(record)
            if (partition, offset) in waiting:
                self._partitions.park_rest(partition, (), [record])
            elif partition not in halted or offset < halted[partition]:
                done.append(record)
        return done

    def _partitions_by_source(self) -> dict[bytes, Partition]:
        found = {}
        for partition in self._records.assigned:
            with contextlib.suppress(KeyError):  # A topic that is not identified: nothing was made of its records.
                found[self._records.source_id(partition)] = partition
        return found


def _place(record: Record) -> tuple[Partition, int]:
    return (record.topic, record.partition), record.offset


def _problems(reader: Reader, record: Record, refused: Iterable[Refused]) -> list[RecordProblem]:
    """One for each item (or record) and route, however many channels refused it."""
    found: dict[tuple[str, int | str | None], RecordProblem] = {}
    for draft, _, reason in refused:
        if (draft.route, draft.place) not in found:
            found[draft.route, draft.place] = reader.router.refusal(record, draft, reason)
    return list(found.values())
