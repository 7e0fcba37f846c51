"""Dead letters to Kafka: an idempotent producer, and topics made when they are first needed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bridge.adapters.kafka_properties import not_only_of_consumers
from bridge.core.letter import DeadLetter
from bridge.ports import LetterAnswer
from shared.errors import ConfigurationError
from shared.telemetry import Log, Throttle

MAX_CREATED_MESSAGE_BYTES = 67_108_864
"""What a topic that the bridge creates takes: a record as large as its own topic allows, and our headers."""
_MESSAGE_TIMEOUT_MS = 10_000
"""After so long an attempt has failed; the next one is the queue's to make."""
_DESCRIBE_TIMEOUT_S = 5.0
_CREATE_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 1.0
_BROKERS_CHOICE = -1

# librdkafka's own codes begin with an underscore.
_NO_SUCH_TOPIC = frozenset((KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION))  # noqa: SLF001
_TOO_LARGE = frozenset((KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE))
_NOT_ALLOWED = frozenset((KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED))
_NEVER = frozenset((KafkaError.INVALID_RECORD, KafkaError.TOPIC_EXCEPTION, KafkaError.POLICY_VIOLATION))

_Sent = tuple[int, DeadLetter]


def producer_properties(bootstrap_servers: str, properties: Mapping[str, str]) -> dict[str, Any]:
    """What a producer of ours begins with: the operator's properties without those that only a consumer has."""
    return {
        "log_level": 2,
        "bootstrap.servers": bootstrap_servers,
        "reconnect.backoff.max.ms": 2000,
        "partitioner": "murmur2_random",
        **not_only_of_consumers(properties),
        # Only the topic decides how large a record may be.
        "message.max.bytes": 1_000_000_000,
        "enable.idempotence": True,
        "acks": "all",
    }


class KafkaDeadLetters:
    """A `bridge.ports.DeadLetters`. Nothing is opened before it is needed: by `check`, or by the first letter.

    `properties` are librdkafka's, those of the consumer among them.
    """

    def __init__(self, bootstrap_servers: str, properties: Mapping[str, str]) -> None:
        self._settings = {
            **producer_properties(bootstrap_servers, properties),
            "client.id": "distributary-bridge-dead-letters",
            "message.timeout.ms": _MESSAGE_TIMEOUT_MS,
            # How long a topic that was just made may be unknown to some broker.
            "topic.metadata.propagation.max.ms": 5_000,
            # A broker refuses a whole batch where it is too large: with more than one letter in it, we could not tell which one was.
            "batch.num.messages": 1,
        }
        self._producer: Producer | None = None
        self._admin: AdminClient | None = None
        self._answers: list[LetterAnswer] = []
        self._broken: KafkaError | None = None
        """What ended the present producer for good."""
        self._ready: set[str] = set()
        self._asked: dict[str, Future[Any]] = {}
        self._created: dict[str, Future[Any]] = {}
        self._begun: dict[int, DeadLetter] = {}
        """Letters that the present producer has."""
        self._waiting: dict[str, list[_Sent]] = {}
        """Letters whose topic is not known to be there."""
        self._throttle = Throttle(60, clock=time.monotonic)
        self._log = Log("bridge.dead_letters")

    def __repr__(self) -> str:
        in_flight = 0 if self._producer is None else len(self._producer)
        return f"<KafkaDeadLetters topics {sorted(self._ready)}, {in_flight} in flight>"

    def check(self) -> None:
        """Raise ConfigurationError where librdkafka does not take a property (`acks=1`, say, with an idempotent producer)."""
        try:
            self._open()
        except KafkaException as error:
            raise ConfigurationError([f"Kafka properties, for dead letters: {_told(error)}"]) from error

    def send(self, number: int, letter: DeadLetter) -> None:
        """See `bridge.ports.DeadLetters`."""
        topic = letter.topic
        try:
            self._open()
        except KafkaException as error:  # Rules that were reloaded may be the first ones to want a producer.
            self._answers.append(LetterAnswer(number, f"Kafka properties: {_told(error)}"))
            return
        if topic in self._ready:
            self._produce(number, letter)
            return
        self._waiting.setdefault(topic, []).append((number, letter))
        if topic not in self._asked and topic not in self._created:
            self._asked[topic] = self._ask(topic)

    def poll(self) -> list[LetterAnswer]:
        """See `bridge.ports.DeadLetters`."""
        for topic in [topic for topic, future in self._asked.items() if future.done()]:
            self._on_described(topic, self._asked.pop(topic))
        for topic in [topic for topic, future in self._created.items() if future.done()]:
            self._on_created(topic, self._created.pop(topic))
        if self._producer is not None:
            self._serve(self._producer, 0)
        if self._broken:
            self._renew(self._broken.str())
        answers, self._answers = self._answers, []
        return answers

    def close(self) -> None:
        """See `bridge.ports.DeadLetters`."""
        self._asked.clear()
        self._created.clear()
        self._waiting.clear()
        if self._producer is not None:
            self._producer.purge()
            self._serve(self._producer, _CLOSE_TIMEOUT_S)
        self._producer = self._admin = None

    # Topics.

    def _open(self) -> tuple[Producer, AdminClient]:
        if self._producer is None or self._admin is None:
            logger = logging.getLogger("bridge.kafka.client")
            self._producer = Producer(self._settings, logger=logger)
            producer_only = (
                "acks",
                "batch.",
                "compression.",
                "enable.idem",
                "linger.",
                "message.",
                "partitioner",
                "queue.",
                "retr",
                "topic.",
            )
            settings = {name: value for name, value in self._settings.items() if not name.startswith(producer_only)}
            self._admin = AdminClient(settings, logger=logger)
        return self._producer, self._admin

    def _ask(self, topic: str) -> Future[Any]:
        _, admin = self._open()
        try:
            future: Future[Any] = admin.describe_topics(TopicCollection([topic]), request_timeout=_DESCRIBE_TIMEOUT_S)[topic]
        except (KafkaException, ValueError) as error:
            future = Future()
            future.set_exception(error)
        return future

    def _on_described(self, topic: str, future: Future[Any]) -> None:
        code = _code(future.exception())
        if code not in _NO_SUCH_TOPIC:
            # It is there; or that cannot be told, and then the attempt to write will tell.
            self._go_on(topic)
            return
        if not any(letter.may_create for _, letter in self._waiting.get(topic, ())):
            self._fail(topic, f"the topic {topic} does not exist, and the rules say `create: false`: create it")
            return
        # As many partitions and replicas as the cluster gives when it is not told. Kept without a bound of time, which Kafka would
        # count from the records' own times: letters of old records would be gone at once.
        new = NewTopic(
            topic,
            num_partitions=_BROKERS_CHOICE,
            replication_factor=_BROKERS_CHOICE,
            config={"cleanup.policy": "delete", "retention.ms": "-1", "max.message.bytes": str(MAX_CREATED_MESSAGE_BYTES)},
        )
        _, admin = self._open()
        self._created[topic] = admin.create_topics([new], operation_timeout=_CREATE_TIMEOUT_S)[topic]

    def _on_created(self, topic: str, future: Future[Any]) -> None:
        error = future.exception()
        code = _code(error)
        if error is None:
            self._log.info("topic for dead letters created", topic=topic)
        elif code in _NOT_ALLOWED:
            self._fail(topic, f"the topic {topic} does not exist, and the bridge may not create it: create it, or allow Create on it")
            return
        elif code in _NEVER:
            self._fail(topic, f"the topic {topic} cannot be created: {_told(error)}", is_final=True)
            return
        elif code != KafkaError.TOPIC_ALREADY_EXISTS:
            self._fail(topic, f"the topic {topic} could not be created: {_told(error)}")
            return
        self._go_on(topic)

    def _go_on(self, topic: str) -> None:
        self._ready.add(topic)
        for number, letter in self._waiting.pop(topic, ()):
            self._produce(number, letter)

    def _fail(self, topic: str, problem: str, *, is_final: bool = False) -> None:
        self._answers += [LetterAnswer(number, problem, is_final) for number, _ in self._waiting.pop(topic, ())]

    # Letters.

    def _produce(self, number: int, letter: DeadLetter, *, with_time: bool = True) -> None:
        producer, _ = self._open()
        record = letter.record
        self._begun[number] = letter
        try:
            producer.produce(
                letter.topic,
                letter.value,
                record.key,
                headers=list(letter.headers),
                on_delivery=partial(self._on_delivered, number, letter),
                timestamp=record.timestamp_ms or 0 if with_time else 0,
            )
        except BufferError:
            self._answer(LetterAnswer(number, "the producer's queue is full"))
        except KafkaException as error:
            self._on_delivered(number, letter, error.args[0], None)

    def _on_delivered(self, number: int, letter: DeadLetter, error: KafkaError | None, _: Message | None) -> None:
        if error is None:
            size = len(letter.record.value or b"")
            note = f"its value of {size} bytes is left out: it is more than {letter.topic} takes" if letter.leaves_value_out else ""
            self._answer(LetterAnswer(number, note=note))
            return
        code = error.code()
        if code in _TOO_LARGE and not letter.leaves_value_out:
            self._produce(number, letter.without_value())
            return
        if code == KafkaError.INVALID_TIMESTAMP:
            # Its own time is in the headers.
            self._produce(number, letter, with_time=False)
            return
        if code in _NO_SUCH_TOPIC:
            self._ready.discard(letter.topic)
        self._on_error(error)
        # What was still to be written when the producer ended tells nothing but that.
        reason = self._broken or error
        self._answer(LetterAnswer(number, _problem(letter, reason), code in _NEVER or code in _TOO_LARGE))

    def _answer(self, answer: LetterAnswer) -> None:
        self._begun.pop(answer.number, None)
        self._answers.append(answer)

    def _serve(self, producer: Producer, timeout_s: float) -> None:
        """Take its answers; with a time-out, until all are there or that is over. What ends a producer for good is raised here, once."""
        try:
            if timeout_s:
                producer.flush(timeout_s)
            else:
                producer.poll(0)
        except KafkaException as error:
            self._on_error(error.args[0])

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() and (self._broken is None or self._broken.code() == KafkaError._FATAL):  # noqa: SLF001
            self._broken = error

    def _renew(self, reason: str) -> None:
        """An idempotent producer that met a fatal error is of no use any more. What it had is answered as failed."""
        if self._throttle.admit("broken") is not None:
            self._log.error("the producer of dead letters begins anew", reason=reason)
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            self._serve(producer, _CLOSE_TIMEOUT_S)
        for number, letter in list(self._begun.items()):  # It ended without a word about them.
            self._answer(LetterAnswer(number, f"{letter.topic}: {reason}"))
        self._broken = None


def _problem(letter: DeadLetter, error: KafkaError) -> str:
    if error.code() in _NOT_ALLOWED:
        return f"not allowed to write to {letter.topic} ({error.name()}): allow Write and Describe on it"
    if error.code() in _TOO_LARGE:
        return f"{letter.topic} does not even take the key and headers of {letter.record.where}"
    return f"{letter.topic}: {error.str()} ({error.name()})"


def _code(error: BaseException | None) -> int | None:
    first = error.args[0] if isinstance(error, KafkaException) else None
    return first.code() if isinstance(first, KafkaError) else None


def _told(error: BaseException | None) -> str:
    first = error.args[0] if isinstance(error, KafkaException) else error
    return first.str() if isinstance(first, KafkaError) else str(first)
