"""Dead letters in Kafka, for the commands that look at them and play them again."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from bridge.adapters.kafka_dead_letters import producer_properties
from bridge.adapters.kafka_headers import headers_of
from bridge.core.letter import MARK, LetterFacts, read_letter, replay_headers
from bridge.core.record import Record
from shared.errors import ConfigurationError, DistributaryError

_ANSWER_S = 10.0
_TRANSACTION_S = 30.0
_MAX_BATCH_LETTERS = 100
_TAKEN_AT_ONCE = 500
_MAX_BATCH_BYTES = 8_388_608
_END = KafkaError._PARTITION_EOF  # noqa: SLF001  (librdkafka's own codes begin with an underscore)
_PLACE = re.compile(r"([A-Za-z0-9._-]{1,249})(?::([0-9]{1,10}):|\[([0-9]{1,10})\]@)([0-9]{1,19})")


class LettersError(DistributaryError):
    """Kafka did not answer, or refused."""


class Place(msgspec.Struct, frozen=True, order=True):
    """Where a letter (or any record) is."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """TOPIC:PARTITION:OFFSET, or TOPIC[PARTITION]@OFFSET as logs write it."""
        found = _PLACE.fullmatch(text)
        return Place(found[1], int(found[2] or found[3]), int(found[4])) if found else None


class Letter(msgspec.Struct, frozen=True):
    """A dead letter as it is on its topic."""

    place: Place
    facts: LetterFacts
    record: Record
    """As Kafka has it; `facts.headers` are its own headers."""


class Mark(msgspec.Struct, frozen=True):
    """That a letter was played again. On the letter's own partition, as a record with the header `distributary.replayed`."""

    letter: str
    cluster: str
    topic: str
    partition: int
    offset: int
    route: str
    at: datetime

    @property
    def identity(self) -> tuple[str, str, int, int, str]:
        """As that of the letter."""
        return self.cluster, self.topic, self.partition, self.offset, self.route


class LetterReader:
    """Reads topics from the beginning, as a member of no group: nothing is committed. Use it as a context manager.

    Raises ConfigurationError where librdkafka refuses a property, LettersError where Kafka does not answer.
    """

    def __init__(self, bootstrap_servers: str, properties: Mapping[str, str]) -> None:
        own = {name: value for name, value in properties.items() if not name.startswith("group.")}
        settings: dict[str, Any] = {
            "log_level": 2,
            "client.id": "distributary-dead-letters",
            **own,
            "bootstrap.servers": bootstrap_servers,
            "group.id": "distributary-dead-letters",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
        try:
            self._consumer = Consumer(settings)
        except KafkaException as error:
            raise ConfigurationError([f"Kafka properties: {_told(error)}"]) from error
        self.cluster = ""
        self._servers = bootstrap_servers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._consumer.close()

    def topics(self) -> dict[str, int]:
        """All topics that can be seen, and how many partitions they have."""
        for left in reversed(range(int(_ANSWER_S))):  # In steps, so that Ctrl-C is heard.
            try:
                metadata = self._consumer.list_topics(timeout=1)
                break
            except KafkaException as error:
                if not left:
                    msg = f"Kafka at {self._servers} does not answer: {_told(error)}"
                    raise LettersError(msg) from error
        self.cluster = metadata.cluster_id or ""
        return {name: len(topic.partitions) for name, topic in metadata.topics.items() if topic.error is None}

    def scan(self, topic: str, partitions: Iterable[int], *, newest: int | None = None) -> Iterator[Letter | Mark]:
        """All letters and marks in these partitions; with `newest` only the last records of each, so many. Ends where the topic ends."""
        return self._scan([self._start(TopicPartition(topic, number, 0), newest) for number in partitions])

    def places(self, topic: str, partition: int) -> int:
        """How many records a partition has at most: marks of transactions take places, too."""
        low, high = self._watermarks(TopicPartition(topic, partition))
        return high - low

    def letters(self, places: Collection[Place]) -> Iterator[Letter]:
        """The letters at these places."""
        starts: dict[tuple[str, int], int] = {}
        for place in places:
            partition = place.topic, place.partition
            starts[partition] = min(place.offset, starts.get(partition, place.offset))
        found = self._scan([TopicPartition(topic, number, offset) for (topic, number), offset in starts.items()])
        return (each for each in found if isinstance(each, Letter) and each.place in places)

    def _scan(self, places: list[TopicPartition]) -> Iterator[Letter | Mark]:
        for message in self._read(places):
            headers = headers_of(message)
            if any(name == MARK for name, _ in headers):
                mark = _mark(message)
                if mark is not None:
                    yield mark
            elif (facts := read_letter(headers)) is not None:
                yield Letter(_place(message), facts, _record(message))

    def read(self, place: Place) -> Record | None:
        """One record; None where it is not there (any more)."""
        partition = TopicPartition(place.topic, place.partition, place.offset)
        try:
            low, high = self._consumer.get_watermark_offsets(partition, timeout=_ANSWER_S)
        except KafkaException:
            return None
        if not low <= place.offset < high:
            return None
        message = next(self._read([partition]), None)
        return _record(message) if message is not None and message.offset() == place.offset else None

    def letter(self, place: Place) -> Letter | None:
        """One letter; None where there is none at that place."""
        record = self.read(place)
        facts = read_letter(record.headers) if record is not None else None
        return Letter(place, facts, record) if record is not None and facts is not None else None

    def _start(self, partition: TopicPartition, newest: int | None) -> TopicPartition:
        low, high = self._watermarks(partition)
        start = low if newest is None else max(low, high - newest)
        return TopicPartition(partition.topic, partition.partition, start)

    def _watermarks(self, partition: TopicPartition) -> tuple[int, int]:
        try:
            found: tuple[int, int] = self._consumer.get_watermark_offsets(partition, timeout=_ANSWER_S)
        except KafkaException as error:
            msg = f"{partition.topic}[{partition.partition}] cannot be read: {_told(error)}"
            raise LettersError(msg) from error
        return found

    def _read(self, places: list[TopicPartition]) -> Iterator[Message]:
        """The records from these places to the ends of their partitions."""
        open_ = {(place.topic, place.partition) for place in places}
        self._consumer.assign(places)
        try:
            while open_:
                # `consume` waits until it has all that it was asked for: one is waited for, the others are taken as they are there.
                messages = self._consumer.consume(1, _ANSWER_S)
                messages += self._consumer.consume(_TAKEN_AT_ONCE, 0)
                if not messages:
                    msg = f"Kafka does not answer (for {_ANSWER_S:g} s)"
                    raise LettersError(msg)
                for message in messages:
                    error = message.error()
                    if error is None:
                        yield message
                    elif error.code() == _END:
                        open_.discard((message.topic() or "", message.partition() or 0))
                    elif not error.retriable() and error.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
                        msg = f"Kafka: {error.str()}"
                        raise LettersError(msg)
        except KafkaException as error:
            msg = f"Kafka: {_told(error)}"
            raise LettersError(msg) from error
        finally:
            self._consumer.unassign()


class Replayed(msgspec.Struct, frozen=True):
    """What became of an attempt to play a letter again."""

    letter: Letter
    problem: str = ""


class Replayer:
    """Produces letters' records again, each together with its mark in one transaction.

    Only one at a time for a dead-letter topic: a second one ends the first (its next transaction fails), so that no letter is played
    twice by two at once. Call `open` before reading marks. Raises LettersError where no transaction is possible.
    """

    def __init__(self, bootstrap_servers: str, properties: Mapping[str, str], reader: LetterReader, topic: str, *, keep_time: bool) -> None:
        self._reader = reader
        self._errors: list[str] = []
        self._keep_time = keep_time
        settings = {
            **producer_properties(bootstrap_servers, properties),
            "client.id": "distributary-replay",
            "transactional.id": f"distributary-replay-{topic}",
            "transaction.timeout.ms": int(_TRANSACTION_S * 1000),
            "message.timeout.ms": int(_TRANSACTION_S * 1000),
        }
        try:
            self._producer = Producer(settings)
        except KafkaException as error:
            raise ConfigurationError([f"Kafka properties: {_told(error)}"]) from error

    def open(self) -> None:
        """Make sure that nobody else plays letters of this topic."""
        try:
            self._producer.init_transactions(_TRANSACTION_S)
        except KafkaException as error:
            msg = f"no transaction is possible: {_told(error)} (it needs Write on the transactional id distributary-replay-TOPIC)"
            raise LettersError(msg) from error

    def replay(self, letters: Iterable[Letter], targets: Mapping[str, int], to: str | None) -> Iterator[Replayed]:
        """Play letters again, in their order, to `to` or to where they came from. `targets`: topics and their partitions."""
        batch: list[tuple[Letter, Record]] = []
        size = 0
        for letter in letters:
            record, problem = self._prepare(letter, targets, to)
            if record is None:
                yield Replayed(letter, problem)
                continue
            batch.append((letter, record))
            size += len(record.value or b"")
            if len(batch) >= _MAX_BATCH_LETTERS or size >= _MAX_BATCH_BYTES:
                yield from self._run(batch)
                batch, size = [], 0
        if batch:
            yield from self._run(batch)

    def _prepare(self, letter: Letter, targets: Mapping[str, int], to: str | None) -> tuple[Record | None, str]:
        """The record to produce (its partition is -1 where the key decides), or why there is none."""
        facts = letter.facts
        topic = to or facts.topic
        if to is None and facts.cluster and self._reader.cluster and facts.cluster != self._reader.cluster:
            return None, f"it comes from another cluster ({facts.cluster}); name a topic of this one with --to"
        if topic not in targets:
            return None, f"the topic {topic} does not exist"
        value = letter.record.value
        if facts.left_out is not None:
            original = self._reader.read(Place(facts.topic, facts.partition, facts.offset))
            if original is None:
                return None, f"its value was left out, and {facts.source} is not there any more"
            value = original.value
        partition = facts.partition if topic == facts.topic and facts.partition < targets[topic] else -1
        headers = replay_headers(facts, str(letter.place))
        return Record(topic, partition, 0, facts.timestamp_ms if self._keep_time else None, letter.record.key, value, headers), ""

    def _run(self, batch: Sequence[tuple[Letter, Record]]) -> Iterator[Replayed]:
        problem = self._transact(batch)
        if not problem:
            yield from (Replayed(letter) for letter, _ in batch)
        elif len(batch) == 1:
            yield Replayed(batch[0][0], problem)
        else:  # Only those that are to blame should fail.
            for one in batch:
                yield from self._run([one])

    def _transact(self, batch: Sequence[tuple[Letter, Record]]) -> str:
        """Why nothing of it was written; nothing where all of it was."""
        self._errors.clear()
        try:
            self._producer.begin_transaction()
            try:
                for letter, record in batch:
                    self._produce(letter, record)
                self._producer.commit_transaction(_TRANSACTION_S)
            except BaseException:
                self._producer.abort_transaction(_TRANSACTION_S)
                raise
        except KafkaException as error:
            first = error.args[0]
            if isinstance(first, KafkaError) and first.fatal():
                msg = f"{first.str()}: is another replay of the same dead letters running?"
                raise LettersError(msg) from error
            return self._errors[0] if self._errors else _told(error)
        return ""

    def _produce(self, letter: Letter, record: Record) -> None:
        self._producer.produce(
            record.topic,
            record.value,
            record.key,
            partition=record.partition,
            headers=list(record.headers),
            timestamp=record.timestamp_ms or 0,
            on_delivery=self._on_delivered,
        )
        facts, place = letter.facts, letter.place
        mark = Mark(str(place), facts.cluster, facts.topic, facts.partition, facts.offset, facts.route, datetime.now(UTC))
        self._producer.produce(
            place.topic,
            msgspec.json.encode(mark),
            f"replayed:{place}".encode(),
            partition=place.partition,
            headers=[(MARK, str(place).encode())],
            on_delivery=self._on_delivered,
        )

    def _on_delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._errors.append(f"{message.topic()}: {error.str()}")


def _mark(message: Message) -> Mark | None:
    try:
        return msgspec.json.decode(message.value() or b"", type=Mark)
    except msgspec.MsgspecError:
        return None


def _place(message: Message) -> Place:
    return Place(message.topic() or "", message.partition() or 0, message.offset() or 0)


def _record(message: Message) -> Record:
    place = _place(message)
    kind, time_ms = message.timestamp()
    value = message.value()
    key = message.key()
    return Record(place.topic, place.partition, place.offset, time_ms if kind else None, _bytes(key), _bytes(value), headers_of(message))


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _told(error: KafkaException) -> str:
    first = error.args[0]
    return first.str() if isinstance(first, KafkaError) else str(first)
