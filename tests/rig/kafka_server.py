"""A real Apache Kafka cluster of a test's own, in KRaft mode: each node is broker and controller in one process."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.cimpl import NewPartitions, NewTopic

from tests.rig.ports import free_port
from tests.rig.process import Process
from tests.rig.wait import PATIENCE_S, wait_until

# Quick to start beats quick to run, and small beats both: several nodes and the rest of the tests share two cores.
_JVM = ("-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true")

_LOG4J = """\
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = console
"""

_ANSWER_S = 60
"""How long one call to the cluster may take."""

NEVER_KILLED: Mapping[str, str] = {"broker.session.timeout.ms": "60000"}
"""Settings of a cluster that is not killed: a machine that stands still for two seconds is then no reason to take its partitions away."""


class KafkaNode:
    """One process of a cluster. Its data stay where they are when it is killed and started again."""

    def __init__(self, directory: Path, libs: Path, node_id: int) -> None:
        self.node_id = node_id
        self.directory = directory
        self.libs = libs
        self.port = free_port()
        self.controller_port = free_port()
        self.config = directory / "kraft.properties"
        directory.mkdir(parents=True)
        (directory / "log4j2.properties").write_text(_LOG4J)
        self.process = Process(self._java("kafka.Kafka"), log=directory / "kafka.log", cwd=directory)

    def __repr__(self) -> str:
        return f"<KafkaNode {self.node_id} :{self.port} {self.process!r}>"

    @property
    def address(self) -> str:
        """HOST:PORT for clients."""
        return f"127.0.0.1:{self.port}"

    def format(self, cluster_id: str, settings: Mapping[str, str]) -> None:
        """Write its configuration, and make its folder part of the cluster, which Kafka wants before the first start."""
        self.config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        command = [*self._java("kafka.tools.StorageTool")[:-1], "format", "-t", cluster_id, "-c", str(self.config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

    def _java(self, main_class: str) -> list[str]:
        log4j = f"-Dlog4j2.configurationFile={self.directory / 'log4j2.properties'}"
        return ["java", *_JVM, log4j, "-cp", f"{self.libs}{os.sep}*", main_class, str(self.config)]


class KafkaCluster:
    """`nodes` brokers on loopback ports that they keep through restarts. A second cluster is a second one of these.

    `settings` are broker properties on top of ours, which are for speed: no delay before a group's first rebalance, one
    partition a topic unless asked, deleted topics gone at once.
    """

    def __init__(self, directory: Path, libs: Path, *, nodes: int = 1, settings: Mapping[str, str] | None = None) -> None:
        # In Kafka's own form, with a letter first: one that began with a dash would be taken for an option.
        self.cluster_id = "c" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
        self.nodes = [KafkaNode(directory / f"node-{number}", libs, number) for number in range(1, nodes + 1)]
        self._settings = dict(settings or {})
        self._is_formatted = False

    def __repr__(self) -> str:
        return f"<KafkaCluster {self.nodes!r}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def bootstrap_servers(self) -> str:
        """Every node's address, as `--bootstrap-servers` takes them."""
        return ",".join(node.address for node in self.nodes)

    def start(self, timeout_s: float = 120) -> Self:
        """Start the nodes that are not running, and wait until all of them answer clients."""
        if not self._is_formatted:
            for node in self.nodes:
                node.format(self.cluster_id, self._node_settings(node))
            self._is_formatted = True
        for node in self.nodes:
            if not node.process.is_running:
                node.process.start()
        self.wait_for_brokers(len(self.nodes), timeout_s=timeout_s)
        return self

    def wait_for_brokers(self, count: int, *, timeout_s: float = 120) -> None:
        """Wait until the cluster's own view has exactly `count` live brokers."""
        for node in self.nodes:
            if node.process.is_running:
                node.process.wait_for_port(node.port, timeout_s=timeout_s)
        admin = self.admin()
        wait_until(
            lambda: len(admin.list_topics(timeout=5).brokers) == count,
            what=f"{count} live brokers",
            timeout_s=timeout_s,
            ignore=(KafkaException,),
            state=lambda: [node.process.tail(5) for node in self.nodes],
        )

    def stop(self) -> None:
        """SIGTERM to all: a clean shutdown."""
        for node in self.nodes:
            node.process.signal(signal.SIGTERM)
        for node in self.nodes:
            if node.process.is_running:
                node.process.wait()

    def kill(self) -> None:
        """SIGKILL to all. Harmless where they are not running."""
        for node in self.nodes:
            node.process.kill()

    def restart(self) -> None:
        """Kill all nodes and start them again on their data, on the same ports."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """SIGSTOP to all: connections stay open and nothing is answered."""
        for node in self.nodes:
            node.process.pause()

    def resume(self) -> None:
        """SIGCONT to all."""
        for node in self.nodes:
            node.process.resume()

    def admin(self) -> AdminClient:
        """A new admin client. Keep it until its answers are in: it closes itself when it is dropped."""
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})

    def create_topic(self, name: str, *, partitions: int = 1, settings: Mapping[str, str] | None = None) -> str:
        """Create a topic, wait until it has leaders, and return its name. As many replicas as nodes, at most 3."""
        topic = NewTopic(name, partitions, min(len(self.nodes), 3), config=dict(settings or {}))
        admin, failed = self.admin(), list[int]()
        wait_until(lambda: _create(admin, topic, failed), what=f"topic {name} to be created", interval_s=0.1, state=lambda: failed)
        wait_until(
            lambda: self._partitions_with_leader(admin, name) == partitions,
            what=f"leaders of topic {name}",
            ignore=(KafkaException,),
        )
        return name

    def delete_topic(self, name: str) -> None:
        """Delete a topic and wait until the cluster no longer knows it."""
        admin = self.admin()
        admin.delete_topics([name], operation_timeout=_ANSWER_S)[name].result(_ANSWER_S)
        wait_until(
            lambda: name not in admin.list_topics(timeout=5).topics,
            what=f"topic {name} to be gone",
            ignore=(KafkaException,),
        )

    def add_partitions(self, name: str, total: int) -> None:
        """Grow a topic to `total` partitions."""
        admin = self.admin()
        admin.create_partitions([NewPartitions(name, total)])[name].result(_ANSWER_S)
        wait_until(
            lambda: self._partitions_with_leader(admin, name) == total,
            what=f"{total} partitions of topic {name}",
            ignore=(KafkaException,),
        )

    def topic_id(self, name: str) -> str:
        """The id that a topic has until it is deleted; the next of that name has another."""
        admin = self.admin()
        described = admin.describe_topics(TopicCollection([name]))[name].result(_ANSWER_S)
        return str(described.topic_id)

    def topic_settings(self, name: str) -> dict[str, str]:
        """All settings of a topic."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, name)
        admin = self.admin()
        found = admin.describe_configs([resource])[resource].result(_ANSWER_S)
        return {setting: entry.value for setting, entry in found.items()}

    def produce(
        self,
        topic: str,
        values: Iterable[bytes | None],
        *,
        key: bytes | None = None,
        partition: int = 0,
        headers: Sequence[tuple[str, bytes]] = (),
        timestamp_ms: int | None = None,
    ) -> list[int]:
        """Produce records to one partition, in order, and return their kafka offsets once all replicas in sync have them."""
        with contextlib.closing(_Sender(self.bootstrap_servers)) as sender:
            for value in values:
                sender.send(topic, value, key=key, partition=partition, headers=headers, timestamp_ms=timestamp_ms)
            return sender.finish()

    def consume(self, topic: str, count: int, *, timeout_s: float = PATIENCE_S) -> list[Message]:
        """The first `count` records of a topic, in the order in which they came; AssertionError where there are fewer in time."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap_servers, "group.id": f"rig-{uuid.uuid4().hex}", "log_level": 0})
        with contextlib.closing(consumer):
            partitions = consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
            found: list[Message] = []

            def has_all() -> bool:
                found.extend(message for message in consumer.consume(count - len(found), 0.5) if message.error() is None)
                return len(found) >= count

            wait_until(has_all, what=f"{count} records on {topic}", timeout_s=timeout_s, state=lambda: f"{len(found)} came")
        return found

    def committed(self, group: str, topic: str, partition: int = 0) -> int | None:
        """The kafka offset that a consumer group committed, or None."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap_servers, "group.id": group, "log_level": 0})
        with contextlib.closing(consumer):
            [place] = consumer.committed([TopicPartition(topic, partition)], timeout=_ANSWER_S)
        return place.offset if place.offset >= 0 else None

    def wait_until_committed(self, group: str, topic: str, offset: int, partition: int = 0, *, timeout_s: float = 120) -> None:
        """Wait until a consumer group has committed exactly this kafka offset. No answer, as of a broker that starts, is "not yet"."""
        wait_until(
            lambda: self.committed(group, topic, partition) == offset,
            what=f"group {group} to commit {offset} on {topic}[{partition}]",
            timeout_s=timeout_s,
            interval_s=0.1,
            ignore=(KafkaException,),
        )

    def consume_all(self, topic: str, *, timeout_s: float = PATIENCE_S) -> list[Message]:
        """All records of a topic that are committed, transactions included; the end of each partition is waited for."""
        settings = {"bootstrap.servers": self.bootstrap_servers, "group.id": "rig", "log_level": 0, "enable.partition.eof": True}
        consumer = Consumer(settings)
        with contextlib.closing(consumer):
            partitions = consumer.list_topics(topic, timeout=_ANSWER_S).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
            found: list[Message] = []
            ended: set[int | None] = set()

            def has_all() -> bool:
                for message in consumer.consume(500, 0.1):
                    error = message.error()
                    if error is None:
                        found.append(message)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        ended.add(message.partition())
                return len(ended) >= len(partitions)

            wait_until(has_all, what=f"the end of {topic}", timeout_s=timeout_s)
        return found

    def end_offset(self, topic: str, partition: int = 0) -> int:
        """The kafka offset that the next record of a partition will have."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap_servers, "group.id": "rig", "log_level": 0})
        with contextlib.closing(consumer):
            return int(consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_ANSWER_S)[1])

    def _partitions_with_leader(self, admin: AdminClient, name: str) -> int:
        topic = admin.list_topics(timeout=5).topics.get(name)
        return 0 if topic is None else sum(partition.leader >= 0 for partition in topic.partitions.values())

    def _node_settings(self, node: KafkaNode) -> dict[str, str]:
        replicas = str(min(len(self.nodes), 3))
        controller = f"127.0.0.1:{node.controller_port}"
        return {
            "process.roles": "broker,controller",
            "node.id": str(node.node_id),
            "controller.quorum.voters": ",".join(f"{each.node_id}@127.0.0.1:{each.controller_port}" for each in self.nodes),
            "controller.listener.names": "CONTROLLER",
            "listeners": f"CLIENTS://{node.address},CONTROLLER://{controller}",
            "advertised.listeners": f"CLIENTS://{node.address}",
            "inter.broker.listener.name": "CLIENTS",
            "listener.security.protocol.map": "CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(node.directory / "data"),
            "num.partitions": "1",
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": replicas,
            "default.replication.factor": replicas,
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": "1",
            "file.delete.delay.ms": "0",
            # Records may carry times of years ago: a sweep, every five minutes, would take them from under a test.
            "log.retention.ms": "-1",
            # A broker that was killed may register again only after its old session: let that be soon.
            "broker.heartbeat.interval.ms": "250",
            "broker.session.timeout.ms": "1500",
            "controlled.shutdown.enable": "true",
            "log.cleaner.dedupe.buffer.size": "4194304",
            "num.network.threads": "2",
            "num.io.threads": "2",
            "background.threads": "2",
            **self._settings,
        }


class _Sender:
    """A producer that remembers where its records went."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._producer = Producer({"bootstrap.servers": bootstrap_servers, "acks": "all", "linger.ms": 0, "log_level": 0})
        self._offsets: list[int] = []
        self._errors: list[KafkaError] = []

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None,
        partition: int,
        headers: Sequence[tuple[str, bytes]],
        timestamp_ms: int | None,
    ) -> None:
        self._producer.produce(
            topic,
            value,
            key,
            partition=partition,
            headers=list(headers),
            on_delivery=self._delivered,
            timestamp=timestamp_ms or 0,
        )
        self._producer.poll(0)

    def finish(self) -> list[int]:
        left = self._producer.flush(PATIENCE_S)
        assert left == 0, f"{left} records were not delivered within {PATIENCE_S:g} s"
        assert not self._errors, self._errors
        return self._offsets

    def close(self) -> None:
        self._producer.purge()

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._errors.append(error)
        else:
            self._offsets.append(message.offset() or 0)


_NOT_READY = {KafkaError.INVALID_REPLICATION_FACTOR, KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT, KafkaError._TRANSPORT}


def _create(admin: AdminClient, topic: NewTopic, failed: list[int]) -> bool:
    """Create a topic; False where the cluster is not ready for it yet (too few of its brokers are), or does not answer.

    `failed` gets why. After an attempt without an answer the topic may be there.
    """
    try:
        admin.create_topics([topic], operation_timeout=_ANSWER_S)[topic.topic].result(_ANSWER_S)
    except KafkaException as error:
        reason = error.args[0].code()
        if reason == KafkaError.TOPIC_ALREADY_EXISTS and failed:
            return True
        if reason not in _NOT_READY:
            raise
        failed.append(reason)
        return False
    return True
