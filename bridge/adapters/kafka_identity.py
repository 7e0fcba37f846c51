"""Which cluster and which topics these are: ids that change when a topic is deleted and made anew under the same name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from bridge.core.backoff import Backoff
from shared.telemetry import Log, Throttle

_MOCK_CLUSTER = "mockCluster"
"""How librdkafka's mock cluster begins its id. It never answers a question for topic ids."""
_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"
"""The all-zero id: brokers from before Kafka 2.8."""
_METADATA_TIMEOUT_S = 1.0
_DESCRIBE_TIMEOUT_S = 5.0
_WILL_NOT_CHANGE = frozenset((KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION))  # noqa: SLF001  (librdkafka's own codes begin so)


class TopicIdentities:
    """Asks the cluster, without making anybody wait longer than a second, and asks again until it knows.

    Nothing may be published of a topic whose id is not known (`is_known`): under its name instead of its id, a
    record that is processed again would not be recognised. Only where a cluster has no topic ids at all does the name serve.
    """

    def __init__(
        self, consumer: Consumer, admin: AdminClient, subscribed: Sequence[str], *, clock: Callable[[], float], random: Callable[[], float]
    ) -> None:
        self.cluster_id = ""
        self.topic_ids: dict[str, str] = {}
        self.partitions: int | None = None
        """How many there are of all topics subscribed to; None while that is not known."""
        self._consumer = consumer
        self._admin: AdminClient | None = admin
        self._subscribed = subscribed
        self._clock = clock
        self._wanted: set[str] = set()
        self._asked: dict[str, Future[Any]] = {}
        self._backoff = Backoff(first_s=0.2, most_s=5.0, random=random)
        self._not_before = 0.0
        self._has_warned = False
        self._throttle = Throttle(30, clock=clock)
        self._log = Log("bridge.kafka")

    def __repr__(self) -> str:
        return f"<TopicIdentities of cluster {self.cluster_id!r}: {len(self.topic_ids)} known, {len(self._wanted)} wanted>"

    def subscribe(self, topics: Sequence[str]) -> None:
        """Other topics are subscribed to: count their partitions anew."""
        self._subscribed = topics
        self.partitions = None
        self._not_before = 0.0

    def want(self, topics: Iterable[str]) -> None:
        """Learn the ids of these topics (anew), and how many partitions there are."""
        self.partitions = None
        self._wanted.update(topics)
        self._asked.clear()
        self._not_before = 0.0

    def keep_only(self, topics: Iterable[str]) -> None:
        """Ask no more for other topics than these."""
        self._wanted.intersection_update(topics)

    def is_known(self, topic: str) -> bool:
        """Whether `topic_ids` has what the topic is now. While it is asked for anew, it still has what it was."""
        return topic in self.topic_ids and topic not in self._wanted

    def poll(self) -> list[str]:
        """Take one step. Returns the topics whose ids became known."""
        if self._asked:
            return self._collect()
        if self._clock() < self._not_before or (not self._wanted and self.partitions is not None):
            return []
        if self.partitions is None and not self._learn_cluster():
            return []
        if self.cluster_id.startswith(_MOCK_CLUSTER):
            return self._settle_for_names(self._wanted, "it is librdkafka's mock cluster")
        if self._wanted and self._admin is not None:
            self._asked = self._admin.describe_topics(TopicCollection(sorted(self._wanted)), request_timeout=_DESCRIBE_TIMEOUT_S)
        return []

    def close(self) -> None:
        """Ask no more."""
        self._wanted.clear()
        self._asked.clear()
        self._admin = None

    def _learn_cluster(self) -> bool:
        try:
            metadata = self._consumer.list_topics(timeout=_METADATA_TIMEOUT_S)
        except KafkaException as error:
            self._try_later(_told(error))
            return False
        self.cluster_id = metadata.cluster_id or ""
        self.partitions = sum(len(topic.partitions) for name, topic in metadata.topics.items() if self.is_subscribed(name))
        return True

    def is_subscribed(self, name: str) -> bool:
        """Whether a topic of this name is one of those subscribed to. Of `^a|b`, as of librdkafka, `b` may stand anywhere."""
        return any(re.search(topic, name) if topic.startswith("^") else topic == name for topic in self._subscribed)

    def _collect(self) -> list[str]:
        if not all(future.done() for future in self._asked.values()):
            return []
        asked, self._asked = self._asked, {}
        known: list[str] = []
        nameless: list[str] = []
        for topic, future in asked.items():
            error = future.exception()
            if error is None:
                self._learn(topic, str(future.result().topic_id), known, nameless)
            elif isinstance(error, KafkaException) and error.args[0].code() in _WILL_NOT_CHANGE:
                nameless.append(topic)
            else:
                self._try_later(f"{topic}: {_told(error)}")
        self._wanted.difference_update(known)
        return known + self._settle_for_names(nameless, "its brokers have no topic ids")

    def _learn(self, topic: str, topic_id: str, known: list[str], nameless: list[str]) -> None:
        if topic_id in {_NO_ID, "", "None"}:
            nameless.append(topic)
            return
        self.topic_ids[topic] = topic_id
        self._backoff.reset()
        known.append(topic)

    def _settle_for_names(self, topics: Iterable[str], why: str) -> list[str]:
        settled = sorted(topics)
        if settled and not self._has_warned:
            self._has_warned = True
            self._log.warning(
                "topics are known by their names only: one that is deleted and made anew is taken for the old one",
                cluster=self.cluster_id,
                why=why,
            )
        self.topic_ids.update((topic, topic) for topic in settled)
        self._wanted.difference_update(settled)
        return settled

    def _try_later(self, reason: str) -> None:
        self._not_before = self._clock() + self._backoff.next_s()
        if self._throttle.admit("describe") is not None:
            self._log.warning("Kafka does not tell the topics' ids yet; their partitions wait", reason=reason)


def _told(error: BaseException) -> str:
    """The reason in words: an exception of Kafka's client shows itself as code."""
    first = error.args[0] if error.args else error
    return str(first.str() if isinstance(first, KafkaError) else first)
