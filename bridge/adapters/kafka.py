"""Records from Kafka: one member of a consumer group (confluent-kafka, cooperative rebalancing)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from bridge.adapters.kafka_ends import HeldEnds
from bridge.adapters.kafka_headers import headers_of
from bridge.adapters.kafka_identity import TopicIdentities
from bridge.adapters.kafka_properties import not_only_of_consumers
from bridge.core.flow import Flow, Hold
from bridge.core.record import Partition, Record
from bridge.ports import Listener, RecordsError
from shared.bus.push import source_id
from shared.errors import ConfigurationError
from shared.telemetry import Log, Throttle

_RECONNECT_MS = 2000
"""At most so long between two attempts to reach a broker, where librdkafka would take 10 s."""
_METADATA_REFRESH_MS = 10_000
"""How soon a topic that is created later, or gets more partitions, is seen, where librdkafka would take 5 minutes."""
_QUEUED_KBYTES = 16_384
"""Read ahead for each partition, where librdkafka would take 64 MiB."""
# librdkafka's own codes begin with an underscore.
_END = KafkaError._PARTITION_EOF  # noqa: SLF001
_ALL_BROKERS_DOWN = KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001
_NO_SUCH_TOPIC = frozenset((KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION))  # noqa: SLF001
_PROBE_INTERVAL_S = 2.0
_PROBE_TIMEOUT_S = 0.5
_LOOK_INTERVAL_S = 10.0

_MOST_STASHED = 2_000
"""Records that wait for their topic's id before it is paused."""

Settings = Mapping[str, str | int | float | bool]


class KafkaRecords:
    """A `bridge.ports.Records`. `properties` are librdkafka's, without those in `bridge.settings.OWN_PROPERTIES`.

    Raises ConfigurationError where librdkafka does not take one.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        group: str,
        topics: Sequence[str],
        *,
        start_from: str,
        properties: Settings,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._log = Log("bridge.kafka")
        self._throttle = Throttle(60, clock=clock)
        self._clock = clock
        self._group = group
        self._begins_early = start_from == "earliest"
        self._topics = list(topics)
        common = {"log_level": 2, "bootstrap.servers": bootstrap_servers, **properties}
        try:
            self._consumer = Consumer(self._consumer_settings(common, group, start_from), logger=logging.getLogger("bridge.kafka.client"))
            admin = AdminClient(_admin_settings(common))
        except KafkaException as error:
            raise ConfigurationError([f"Kafka properties: {_told(error)}"]) from error
        self._flow = Flow()
        self._identities = TopicIdentities(self._consumer, admin, self._topics, clock=clock, random=random)
        self._held_ends = HeldEnds(admin, clock=clock)
        self._listener: Listener | None = None
        self._stash: list[Record] = []
        """Consumed before their topic was identified."""
        self._newest: dict[Partition, int] = {}
        self._starts: dict[Partition, int] = {}
        """Where partitions begin of which nothing came yet: without it all that was consumed before would count as lag."""
        self._ends: dict[Partition, int] = {}
        """Where the end was reached: behind the newest record there may be marks of transactions, which are no records."""
        self._next_look = 0.0
        self._left: dict[Partition, int | None] = {}
        """Ours still, of topics that are not subscribed to any more; and the first record that came of them since."""
        self._fatal = ""
        self._has_joined = False
        """Whether the group has said which partitions are ours, if any."""
        self._is_away = False
        self._next_probe = 0.0

    def __repr__(self) -> str:
        return f"<KafkaRecords group {self._group!r}, topics {self._topics}, {self._flow}{', brokers away' * self._is_away}>"

    def start(self, listener: Listener) -> None:
        """See `bridge.ports.Records`."""
        self._listener = listener
        self._subscribe(self._topics)

    def subscribe(self, topics: Sequence[str]) -> None:
        """See `bridge.ports.Records`."""
        if set(topics) == set(self._topics):
            return
        try:
            self._subscribe(topics)
        except KafkaException as error:
            raise ConfigurationError([f"Kafka's client does not take these topics: {_told(error)}"]) from error
        self._topics = list(topics)
        self._identities.subscribe(self._topics)
        # Kafka takes away and brings the others at one of the next polls. Until then:
        for partition in self._flow.assigned:
            if not self._identities.is_subscribed(partition[0]):
                self._leave(partition)
            elif partition in self._left:
                self._return_to(partition)

    def rewind(self, offsets: Mapping[Partition, int]) -> None:
        """See `bridge.ports.Records`."""
        self._stash = [record for record in self._stash if (record.topic, record.partition) not in offsets]
        for (topic, number), offset in offsets.items():
            self._newest[topic, number] = offset - 1
            self._ends.pop((topic, number), None)
            try:
                self._consumer.seek(TopicPartition(topic, number, offset))
            except KafkaException as error:
                # It is being taken away; its next owner begins at the last commit, which is not behind this.
                self._log.debug("a partition could not be rewound", partition=f"{topic}[{number}]", reason=_told(error))

    def consume(self, max_records: int, timeout_s: float) -> list[Record]:
        """See `bridge.ports.Records`."""
        self._probe()
        records = self._identified()
        if records:
            timeout_s = 0
        try:
            messages = self._consumer.consume(max_records, timeout_s)
        except KafkaException as raised:
            self._on_error(raised.args[0])
            messages = []
        for message in messages:
            if (error := message.error()) is None:
                self._take(message, records)
            elif error.code() == _END:
                self._reach_end((message.topic() or "", message.partition() or 0), message.offset() or 0)
            else:
                self._on_error(error)
        if self._fatal:
            raise RecordsError(self._fatal)
        return records

    def source_id(self, partition: Partition) -> bytes:
        """See `bridge.ports.Records`."""
        topic, number = partition
        return source_id(self._identities.cluster_id, self._identities.topic_ids[topic], number)

    @property
    def cluster_id(self) -> str:
        """See `bridge.ports.Records`."""
        return self._identities.cluster_id

    @property
    def owns_all(self) -> bool:
        """See `bridge.ports.Records`."""
        return len(self._flow) == self._identities.partitions

    @property
    def assigned(self) -> frozenset[Partition]:
        """See `bridge.ports.Records`."""
        return self._flow.assigned

    @property
    def is_away(self) -> bool:
        """See `bridge.ports.Records`."""
        return self._is_away

    def hold(self, partitions: Iterable[Partition], reason: Hold) -> None:
        """See `bridge.ports.Records`."""
        self._control(self._consumer.pause, self._flow.hold(partitions, reason))

    def release(self, partitions: Iterable[Partition], reason: Hold) -> None:
        """See `bridge.ports.Records`."""
        self._control(self._consumer.resume, self._flow.release(partitions, reason))

    def commit(self, offsets: Mapping[Partition, int], *, wait: bool) -> None:
        """See `bridge.ports.Records`."""
        places = [TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()]
        try:
            # A wait for brokers that are away could be long, and would bring nothing.
            if wait and not self._is_away:
                done = self._consumer.commit(offsets=places, asynchronous=False)
                self._on_commit(None, done or [])
            else:
                self._consumer.commit(offsets=places, asynchronous=True)
        except KafkaException as error:
            self._on_commit(error.args[0], places)

    def lag(self, unfinished: Mapping[Partition, int]) -> int | None:
        """See `bridge.ports.Records`."""
        if not self._has_joined:
            return None
        self._look_for_starts()
        self._held_ends.look(partition for partition in self._flow.assigned if self._flow.is_held(partition))
        stashed = {(record.topic, record.partition): record.offset for record in reversed(self._stash)}
        oldest = {**stashed, **unfinished}
        total = 0
        for partition in self._flow.assigned:
            lag = self._lag_of(partition, oldest.get(partition))
            if lag is None:
                return None
            total += lag
        return total

    def close(self) -> None:
        """See `bridge.ports.Records`."""
        self._identities.close()
        self._held_ends.close()
        self._consumer.close()

    def _consumer_settings(self, common: Settings, group: str, start_from: str) -> dict[str, Any]:
        return {
            "queued.max.messages.kbytes": _QUEUED_KBYTES,
            "reconnect.backoff.max.ms": _RECONNECT_MS,
            "topic.metadata.refresh.interval.ms": _METADATA_REFRESH_MS,
            "client.id": "distributary-bridge",
            **common,
            "group.id": group,
            "auto.offset.reset": start_from,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.partition.eof": True,
            "error_cb": self._on_error,
            "on_commit": self._on_commit,
        }

    # Records.

    def _take(self, message: Message, records: list[Record]) -> None:
        record = record_of(message)
        partition = record.topic, record.partition
        if not self._flow.owns(partition):
            return
        if self._left and partition in self._left:
            first = self._left[partition]
            self._left[partition] = record.offset if first is None else first
            return
        self._is_away = False
        newest = self._newest.get(partition, -1)
        if record.offset <= newest:
            self._ends.pop(partition, None)
            self._held_ends.forget(partition)
            self._log.warning("kafka offsets went back: was the topic deleted and made anew?", record=record.where, newest=newest)
            # Without a pause: where the topic is new, librdkafka would begin it again at each resume.
            self._identities.want({record.topic})
        self._newest[partition] = record.offset
        if self._identities.is_known(record.topic):
            records.append(record)
        else:
            self._stash.append(record)
            if len(self._stash) == _MOST_STASHED:
                self._identify_anew([record.topic])

    def _reach_end(self, partition: Partition, end: int) -> None:
        self._ends[partition] = end
        self._held_ends.forget(partition)  # From here on the client knows better.

    def _identified(self) -> list[Record]:
        """Go on with identifying topics. Returns the records that waited for it."""
        for topic in self._identities.poll():
            self.release([partition for partition in self._flow.assigned if partition[0] == topic], Hold.UNIDENTIFIED)
        if not self._stash:
            return []
        is_known = self._identities.is_known
        ready = [record for record in self._stash if is_known(record.topic)]
        self._stash = [record for record in self._stash if not is_known(record.topic)]
        return ready

    def _leave(self, partition: Partition) -> None:
        self.hold([partition], Hold.UNSUBSCRIBED)
        waiting = [record.offset for record in self._stash if (record.topic, record.partition) == partition]
        self._stash = [record for record in self._stash if (record.topic, record.partition) != partition]
        self._left.setdefault(partition, min(waiting, default=None))

    def _return_to(self, partition: Partition) -> None:
        first = self._left.pop(partition)
        self.release([partition], Hold.UNSUBSCRIBED)
        if first is not None:
            self.rewind({partition: first})

    def _identify_anew(self, topics: Iterable[str]) -> None:
        topics = set(topics)
        self._identities.want(topics)
        self.hold([partition for partition in self._flow.assigned if partition[0] in topics], Hold.UNIDENTIFIED)

    # What Kafka's client tells, from within `consume`, `poll` and `close`.

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        partitions = _partitions(places)
        self._has_joined = True
        consumer.incremental_assign(places)
        self._flow.assign(partitions)
        for partition in partitions:
            self._newest.pop(partition, None)
            self._starts.pop(partition, None)
            self._ends.pop(partition, None)
            self._held_ends.forget(partition)
            self._left.pop(partition, None)
        # Those that we had, too: a topic may have got more partitions, or have been made anew.
        self._identify_anew(topic for topic, _ in self._flow.assigned)
        self._told().on_assigned(partitions)

    def _on_revoke(self, _: Consumer, places: list[TopicPartition]) -> None:
        partitions = _partitions(places)
        self._told().on_revoked(partitions)
        self._drop(partitions)

    def _on_lost(self, _: Consumer, places: list[TopicPartition]) -> None:
        partitions = _partitions(places)
        self._has_joined = False
        self._drop(partitions)
        self._told().on_lost(partitions)

    def _drop(self, partitions: Sequence[Partition]) -> None:
        gone = set(partitions)
        self._flow.drop(gone)
        for partition in gone:
            self._left.pop(partition, None)
        self._stash = [record for record in self._stash if (record.topic, record.partition) not in gone]
        self._identities.keep_only(topic for topic, _ in self._flow.assigned)

    def _on_commit(self, error: KafkaError | None, places: Sequence[TopicPartition]) -> None:
        failed = [place for place in places if error is not None or place.error is not None]
        if not failed:
            return
        reason = error or failed[0].error
        self._log.warning("offsets were not committed; they will be again", reason=str(reason), partitions=len(failed))
        self._told().on_commit_failed(_partitions(failed))

    def _on_error(self, error: KafkaError) -> None:
        code = error.code()
        if error.fatal():
            self._fatal = f"Kafka's client cannot go on: {error.str()}"
        elif code == _ALL_BROKERS_DOWN:
            if not self._is_away:
                self._log.warning("Kafka is away: no broker can be reached", reason=error.str())
            self._is_away = True
        elif code in _NO_SUCH_TOPIC:
            if self._throttle.admit(error.str()) is not None:
                self._log.warning("a topic does not exist yet (or was deleted); waiting for it", reason=error.str())
        elif (silenced := self._throttle.admit(code)) is not None:
            self._log.warning("Kafka", error=error.name(), reason=error.str(), not_shown=silenced)

    # The rest.

    def _lag_of(self, partition: Partition, unfinished: int | None) -> int | None:
        """From the oldest unfinished record on, else from where the next one is to come; None where that, or the end, is not known."""
        low, high = self._watermarks(TopicPartition(*partition))
        high = max(high, self._held_ends.of(partition))
        if high < 0:
            return None
        if unfinished is not None:
            return max(0, high - unfinished)
        newest = self._newest.get(partition)
        start = self._starts.get(partition) if newest is None else newest + 1
        end = self._ends.get(partition)
        if start is None and end is None:
            return None
        return max(0, high - max(start or 0, end or 0, low))

    def _look_for_starts(self) -> None:
        """Ask Kafka where partitions begin of which nothing came yet; not for long, and not all the time."""
        unknown = [place for place in self._flow.assigned if place not in self._newest and place not in self._starts]
        if not unknown or self._is_away or self._clock() < self._next_look:
            return
        try:
            found = self._consumer.committed([TopicPartition(*place) for place in unknown], timeout=_PROBE_TIMEOUT_S)
        except KafkaException as error:
            self._next_look = self._clock() + _LOOK_INTERVAL_S
            self._log.debug("committed offsets cannot be had", reason=_told(error))
            return
        for place in found:
            start = place.offset
            if start < 0:
                low, high = self._watermarks(place)
                start = max(low, 0) if self._begins_early else high
            if place.error is None and start >= 0:
                self._starts[place.topic, place.partition] = start

    def _subscribe(self, topics: Sequence[str]) -> None:
        self._consumer.subscribe(list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    def _probe(self) -> None:
        """Whether brokers that were away are back: their client does not tell while there is nothing to consume."""
        if not self._is_away or self._clock() < self._next_probe:
            return
        try:
            self._consumer.list_topics(timeout=_PROBE_TIMEOUT_S)
        except KafkaException:
            self._next_probe = self._clock() + _PROBE_INTERVAL_S
            return
        self._is_away = False
        self._log.info("Kafka is back")

    def _control(self, call: Callable[[list[TopicPartition]], None], partitions: Sequence[Partition]) -> None:
        if not partitions:
            return
        try:
            call([TopicPartition(topic, number) for topic, number in partitions])
        except KafkaException as error:
            # They are being taken away: what is ours no more needs no control.
            self._log.debug("partitions could not be paused or resumed", reason=_told(error))

    def _watermarks(self, place: TopicPartition) -> tuple[int, int]:
        try:
            return self._consumer.get_watermark_offsets(place, cached=True)
        except KafkaException:
            return 0, OFFSET_INVALID

    def _told(self) -> Listener:
        assert self._listener is not None  # noqa: S101  (start comes first)
        return self._listener


def record_of(message: Message) -> Record:
    """The record in a message without an error."""
    kind, time_ms = message.timestamp()
    return Record(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        time_ms if kind else None,
        _bytes(message.key()),
        _bytes(message.value()),
        headers_of(message),
    )


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _partitions(places: Iterable[TopicPartition]) -> list[Partition]:
    return [(place.topic, place.partition) for place in places]


def _told(error: KafkaException) -> str:
    first = error.args[0]
    return first.str() if isinstance(first, KafkaError) else str(first)


def _admin_settings(common: Settings) -> dict[str, Any]:
    return {**not_only_of_consumers(common), "client.id": "distributary-bridge-admin"}
