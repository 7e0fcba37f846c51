"""Dead letters on their way: what was made and is not acknowledged yet, bounded, tried again until it is.

A record's kafka offset is done only when its letters are acknowledged. A partition is blocked (the pipeline makes nothing more of its
records, and Kafka's client reads no more of them) while one of its letters failed and is to be tried again, or while all letters
together hold as much as they may. Nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import msgspec

from bridge.core.backoff import Backoff
from bridge.core.draft import RecordProblem
from bridge.core.letter import DeadLetter, Origin, make_letter
from bridge.core.record import Partition, Record
from bridge.core.tally import Tally
from bridge.ports import DeadLetters, LetterAnswer
from shared.telemetry import Log, Throttle


class LetterSettings(msgspec.Struct, frozen=True):
    """Bounds and intervals."""

    max_letters: int = 1_000
    """Not acknowledged, of all partitions; and about so many bytes. What one batch of records becomes may go beyond."""
    max_bytes: int = 33_554_432
    first_backoff_s: float = 0.2
    most_backoff_s: float = 10.0


class _Waiting:
    """A letter that is not acknowledged."""

    __slots__ = ("due", "letter", "offset", "partition", "problem", "size")

    def __init__(self, letter: DeadLetter) -> None:
        record = letter.record
        self.letter = letter
        self.partition: Partition = (record.topic, record.partition)
        self.offset = record.offset
        self.size = letter.size
        self.problem = ""
        self.due: float | None = None
        """When to try again; None while it is being written."""


class DeadLetterQueue:
    """See the module. `now` tells seconds that only go forward, `wall` seconds since 1970, `random` a number from 0 to 1."""

    def __init__(
        self,
        letters: DeadLetters,
        origin: Origin,
        *,
        now: Callable[[], float],
        wall: Callable[[], float],
        random: Callable[[], float],
        settings: LetterSettings | None = None,
    ) -> None:
        self.tally = Tally()
        self.away_since: float | None = None
        """Since when letters fail; None while none does."""
        self._letters = letters
        self._origin = origin
        self._now = now
        self._wall = wall
        self._settings = settings or LetterSettings()
        self._waiting: dict[int, _Waiting] = {}
        self._bytes = 0
        self._is_full = False
        self._count = 0
        self._backoff = Backoff(first_s=self._settings.first_backoff_s, most_s=self._settings.most_backoff_s, random=random)
        self._throttle = Throttle(10, clock=now)
        self._log = Log("bridge.dead_letters")

    def __repr__(self) -> str:
        away = "" if self.away_since is None else ", away"
        return f"<DeadLetterQueue {len(self._waiting)} letters of {self._bytes} bytes wait{away}>"

    def __len__(self) -> int:
        """How many letters are not acknowledged."""
        return len(self._waiting)

    def post(self, record: Record, problems: Sequence[RecordProblem], cluster: str) -> None:
        """Put a record aside for one route, whose problems with it these are."""
        origin = msgspec.structs.replace(self._origin, cluster=cluster)
        waiting = _Waiting(make_letter(record, problems, origin, self._wall()))
        self._count += 1
        self._waiting[self._count] = waiting
        self._bytes += waiting.size
        self._letters.send(self._count, waiting.letter)

    def has(self, partitions: Collection[Partition]) -> bool:
        """Whether letters of one of these partitions wait."""
        return any(waiting.partition in partitions for waiting in self._waiting.values())

    @property
    def group(self) -> str:
        """Whose letters they are."""
        return self._origin.group

    @property
    def is_full(self) -> bool:
        """Whether partitions whose letters wait are to make no more of them. From the bound on, until half of it is gone."""
        settings = self._settings
        share = 0.5 if self._is_full else 1.0
        self._is_full = len(self._waiting) >= share * settings.max_letters or self._bytes >= share * settings.max_bytes
        return self._is_full

    def blocked(self) -> set[Partition]:
        """The partitions to make no more letters of."""
        if not self._waiting:
            return set()
        is_full = self.is_full
        return {waiting.partition for waiting in self._waiting.values() if is_full or waiting.problem}

    def poll(self) -> tuple[list[tuple[Partition, int]], list[tuple[Record, str]]]:
        """Go on: the places of records with one letter more acknowledged, and records that cannot be put aside, with why."""
        if not self._waiting:
            return [], []
        done: list[tuple[Partition, int]] = []
        refused: list[tuple[Record, str]] = []
        failed: list[_Waiting] = []
        for answer in self._letters.poll():
            waiting = self._waiting.get(answer.number)
            if waiting is None:
                continue
            if not answer.problem:
                self._on_written(waiting, answer)
                done.append((waiting.partition, waiting.offset))
            elif answer.is_final:
                refused.append((waiting.letter.record, f"its dead letter is refused for good: {answer.problem}"))
            else:
                waiting.problem = answer.problem
                failed.append(waiting)
                continue
            self._drop(answer.number)
        if failed:
            self._on_failed(failed)
        elif done:
            self._on_taken()
        self._try_again()
        return done, refused

    def forget(self, partitions: Collection[Partition]) -> None:
        """They are not ours any more: whoever has them makes their letters anew."""
        for number in [number for number, waiting in self._waiting.items() if waiting.partition in partitions]:
            self._drop(number)

    def close(self) -> None:
        """Give up what is not acknowledged: its records were not committed, and come again."""
        if self._waiting:
            self._log.warning("stopping with dead letters that are not acknowledged: their records stay in Kafka", letters=len(self))
        self._waiting.clear()
        self._bytes = 0
        self._letters.close()

    def _on_written(self, waiting: _Waiting, answer: LetterAnswer) -> None:
        letter, counts = waiting.letter, self.tally.dead_letters
        counts[letter.route] = counts.get(letter.route, 0) + 1
        if answer.note:
            self._log.error("a dead letter is incomplete", record=letter.record.where, topic=letter.topic, problem=answer.note)

    def _on_taken(self) -> None:
        """Letters were written, and none failed with them."""
        if any(waiting.problem for waiting in self._waiting.values()):
            return
        self._backoff.reset()
        if self.away_since is not None:
            self._log.info("dead letters are taken again", after_s=round(self._now() - self.away_since, 1))
            self.away_since = None

    def _on_failed(self, failed: Sequence[_Waiting]) -> None:
        self.tally.dead_letter_failures += len(failed)
        now = self._now()
        due = now + self._backoff.next_s()
        for waiting in failed:
            waiting.due = due
        if self.away_since is None:
            self.away_since = now
        letter = failed[-1].letter
        if (silenced := self._throttle.admit(letter.topic)) is not None:
            self._log.error(
                "dead letters are not taken: their partitions wait, nothing is lost",
                topic=letter.topic,
                problem=failed[-1].problem,
                waiting=len(failed),
                not_shown=silenced,
            )

    def _try_again(self) -> None:
        now = self._now()
        for number, waiting in self._waiting.items():
            if waiting.due is not None and now >= waiting.due:
                waiting.due = None
                self._letters.send(number, waiting.letter)

    def _drop(self, number: int) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            self._bytes -= waiting.size
