"""What the pipeline needs of the outside: the bus, and a source of records. Adapters provide them; tests use those in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from bridge.core.flow import Hold
from bridge.core.letter import DeadLetter
from bridge.core.record import Partition, Record
from bridge.core.reload import Change
from shared.bus.layout import BusLayout
from shared.bus.push import Push, Pushed
from shared.errors import DistributaryError


class RecordsError(DistributaryError):
    """The source of records broke for good: this process must end, and another may go on from the last commit."""


class Bus(Protocol):
    """Where publications go. One caller, one thread.

    Every method may raise BusUnavailableError: then nothing was lost, and the same call succeeds later. `push` and `beat` also
    raise it until `open` has succeeded on the present connections, so: `open` before each of them (it is cheap when all is well).
    """

    @property
    def layout(self) -> BusLayout:
        """Shards and their names."""

    def open(self) -> list[int]:
        """Connect where need be. Returns the shards that have another incarnation than this caller was told before."""

    def reopen(self, shards: Iterable[int]) -> list[int]:
        """Learn the incarnations of these shards anew; the answer is that of `open`."""

    def push(self, pushes: Sequence[Push]) -> list[Pushed]:
        """Publish in this order and answer in this order.

        Raises IncarnationError where shards are not what the caller believes: reopen them, then push the same again. Whatever was
        already published of it is answered as a duplicate.
        """

    def beat(self) -> list[int]:
        """Publish a heartbeat on each shard. Returns the shards to reopen."""

    def close(self) -> None:
        """Disconnect."""


class LetterAnswer(msgspec.Struct, frozen=True):
    """What became of a dead letter."""

    number: int
    problem: str = ""
    """Why it is not on its topic; nothing where it is, on all replicas in sync."""
    is_final: bool = False
    """Whether trying again brings nothing until somebody changes something."""
    note: str = ""
    """What is to be said of a letter that is on its topic."""


class DeadLetters(Protocol):
    """Where records go that a route cannot handle. One caller, one thread. No method waits, but for `close`."""

    def send(self, number: int, letter: DeadLetter) -> None:
        """Begin to write it; `poll` answers with this number, once. Keeps no more than what it was given and has not answered."""

    def poll(self) -> list[LetterAnswer]:
        """Go on with the work. Returns the answers since the last call."""

    def close(self) -> None:
        """Give up what has no answer, in at most a second."""


class Listener(Protocol):
    """Who is told what happens to partitions. Called from within `Records.consume` and `Records.close`, never at another time."""

    def on_assigned(self, partitions: Sequence[Partition]) -> None:
        """They are ours from now on (maybe none: then others' changed)."""

    def on_revoked(self, partitions: Sequence[Partition]) -> None:
        """They are ours until this returns: finish and commit what was begun."""

    def on_lost(self, partitions: Sequence[Partition]) -> None:
        """They are somebody else's already: commit nothing."""

    def on_commit_failed(self, partitions: Sequence[Partition]) -> None:
        """Their last commit did not reach Kafka."""


class NewRules(Protocol):
    """Where changed rules come from, checked already. `take` is for the pipeline's thread, the others for the one that took."""

    def take(self) -> Change | None:
        """The rules to go over to, once; None where there are none."""

    def accept(self, change: Change) -> None:
        """They are in force."""

    def refuse(self, problems: Sequence[str]) -> None:
        """They cannot be; the old ones stay."""


class Records(Protocol):
    """Where records come from: a member of a consumer group."""

    def start(self, listener: Listener) -> None:
        """Join the group."""

    def consume(self, max_records: int, timeout_s: float) -> list[Record]:
        """The next records, in order within each partition, of partitions that are ours and not held back. May be none.

        Must be called every few seconds to stay in the group. Calls the listener. Raises RecordsError where all is lost.
        """

    def subscribe(self, topics: Sequence[str]) -> None:
        """Read these topics (and patterns) from now on, as the same member of the group.

        No more records come of the others, and what was read ahead of them is as if it never had been. Raises ConfigurationError
        where they cannot be subscribed to; then all is as it was.
        """

    def rewind(self, offsets: Mapping[Partition, int]) -> None:
        """Return the records from these offsets on again."""

    def source_id(self, partition: Partition) -> bytes:
        """Who a partition is (shared.bus.push.source_id). Known for each partition of which `consume` returned records."""

    @property
    def cluster_id(self) -> str:
        """Where the records come from. Known as soon as `consume` returned records."""

    @property
    def owns_all(self) -> bool:
        """Whether every partition of every topic subscribed to is ours, so that no other member of the group publishes."""

    def hold(self, partitions: Iterable[Partition], reason: Hold) -> None:
        """Return no records of them until `release` with the same reason (or until they are assigned anew)."""

    def release(self, partitions: Iterable[Partition], reason: Hold) -> None:
        """Take one reason away."""

    @property
    def assigned(self) -> frozenset[Partition]:
        """The partitions that are ours."""

    def commit(self, offsets: Mapping[Partition, int], *, wait: bool) -> None:
        """Store the offsets to go on from. Without `wait`, failures are told to the listener; with it too, but before this returns."""

    def lag(self, unfinished: Mapping[Partition, int]) -> int | None:
        """How many records of the assigned partitions are not done, as far as known without waiting.

        `unfinished` tells the oldest unfinished record of each partition of which any that were consumed are not done.
        None where the lag is not known, as before the group has said which partitions are ours.
        """

    @property
    def is_away(self) -> bool:
        """Whether no broker can be reached at the moment."""

    def close(self) -> None:
        """Leave the group."""
