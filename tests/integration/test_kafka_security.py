"""The bridge against a Kafka with TLS, passwords, tokens and ACLs; static membership; transactions. All by properties of librdkafka."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._resource import ResourceType

from shared import envelope
from shared.bus.layout import BusLayout
from tests.conftest import StartProject
from tests.rig import parts
from tests.rig.kafka_secure import SecureKafka, TokenServer
from tests.rig.kafka_server import KafkaCluster
from tests.rig.parts import Part
from tests.rig.process import Process
from tests.rig.redis_server import RedisServer
from tests.rig.wait import wait_until

LAYOUT = BusLayout()
PASSWORD, SECRET = "the-hidden-password", "the-hidden-secret"


def write_rules(tmp_path: Path, topic: str) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(
        f"version: 1\nsources: [{{name: s, topics: [{topic}]}}]\n"
        "routes: [{name: r, channel: 'item:{item.id}', kind: stream, on_error: dead-letter}]\n"
    )
    return path


def published(redis_server: RedisServer, channel: str = "item:a") -> list[int]:
    with redis_server.client() as client:
        found = client.lrange(LAYOUT.history_key(channel), 0, -1)
    assert isinstance(found, list)
    return [json.loads(envelope.decode(entry).body)["n"] for entry in found]


def value(number: int) -> bytes:
    return b'{"id":"a","n":%d}' % number


Start = Callable[..., Process]


@pytest.fixture
def start_bridge(start_project: StartProject, redis_url: str, unique_name: str) -> Start:
    def start(rules: Path, servers: str, *options: str | Path) -> Process:
        return start_project(
            "bridge", "run", "--rules", rules, "--bootstrap-servers", servers, "--group", unique_name, "--bus", redis_url,
            "--internal-port", "none", "--commit-interval-s", "0.2", *options,
        )  # fmt: skip

    return start


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    parts.need(Part.KAFKA, "tests/integration/test_kafka_security.py")
    with SecureKafka(tmp_path_factory.mktemp("secure"), {"bridge": PASSWORD}) as cluster:
        yield cluster


def allow_reading(secure: SecureKafka, user: str, topic: str) -> None:
    secure.allow(user, ResourceType.TOPIC, topic, AclOperation.READ, AclOperation.DESCRIBE)
    secure.allow(user, ResourceType.GROUP, topic, AclOperation.READ)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_sasl_over_tls_with_as_few_rights_as_are_needed(
    secure: SecureKafka, mechanism: str, start_bridge: Start, redis_server: RedisServer, unique_name: str, tmp_path: Path
):
    topic = secure.create_topic(unique_name)
    letters = f"{topic}.dead-letters"
    allow_reading(secure, "bridge", topic)
    properties = tmp_path / "kafka.properties"
    properties.write_text(secure.properties("bridge", mechanism))
    secure.produce(topic, [value(1), b"poison", value(2)])
    bridge = start_bridge(write_rules(tmp_path, topic), secure.tls_address, "--kafka-properties", properties)
    bridge.wait_for_log(f"dead letters are not taken.*{letters}")
    assert secure.committed(topic, topic) in {None, 1}
    secure.create_topic(letters)
    bridge.wait_for_log(f"not allowed to write to {letters}.*allow Write and Describe")
    secure.allow("bridge", ResourceType.TOPIC, letters, AclOperation.WRITE, AclOperation.DESCRIBE)
    secure.wait_until_committed(topic, topic, 3)
    assert published(redis_server) == [1, 2]
    assert [message.value() for message in secure.consume(letters, 1)] == [b"poison"]
    assert PASSWORD not in bridge.output()
    assert "sasl.password=***" in bridge.output()


def test_a_wrong_password_is_told_and_waited_for(secure: SecureKafka, start_bridge: Start, unique_name: str, tmp_path: Path):
    topic = secure.create_topic(unique_name)
    properties = tmp_path / "kafka.properties"
    properties.write_text(secure.properties("bridge", "PLAIN", password="not-this-one"))
    bridge = start_bridge(write_rules(tmp_path, topic), secure.tls_address, "--kafka-properties", properties)
    bridge.wait_for_log("_AUTHENTICATION")
    assert bridge.is_running
    assert "not-this-one" not in bridge.output()


def test_a_server_that_is_not_trusted_is_told(secure: SecureKafka, start_bridge: Start, unique_name: str, tmp_path: Path):
    topic = secure.create_topic(unique_name)
    properties = tmp_path / "kafka.properties"
    properties.write_text("".join(line for line in secure.properties("bridge", "PLAIN").splitlines(keepends=True) if "ssl.ca" not in line))
    bridge = start_bridge(write_rules(tmp_path, topic), secure.tls_address, "--kafka-properties", properties)
    bridge.wait_for_log("certificate verify failed|_SSL")


def test_oauth_tokens_by_client_credentials(
    secure: SecureKafka, start_bridge: Start, redis_server: RedisServer, unique_name: str, tmp_path: Path
):
    topic = secure.create_topic(unique_name)
    allow_reading(secure, "a-client", topic)
    secure.produce(topic, [value(1)])
    with TokenServer("a-client", SECRET) as tokens:
        properties = tmp_path / "kafka.properties"
        properties.write_text(
            "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.method=oidc\n"
            f"sasl.oauthbearer.client.id=a-client\nsasl.oauthbearer.client.secret={SECRET}\nsasl.oauthbearer.scope=kafka\n"
            f"sasl.oauthbearer.token.endpoint.url={tokens.url}\n"
        )
        bridge = start_bridge(write_rules(tmp_path, topic), secure.oauth_address, "--kafka-properties", properties)
        secure.wait_until_committed(topic, topic, 1)
        assert {"grant_type": "client_credentials", "scope": "kafka"} in tokens.asked
    assert published(redis_server) == [1]
    assert SECRET not in bridge.output()


def test_a_static_member_that_comes_back_causes_no_rebalance(
    kafka: KafkaCluster, unique_name: str, start_bridge: Start, redis_server: RedisServer, tmp_path: Path
):
    topic = kafka.create_topic(unique_name, partitions=2)
    rules = write_rules(tmp_path, topic)

    def start(name: str) -> Process:
        return start_bridge(rules, kafka.bootstrap_servers, "--kafka-property", f"group.instance.id={name}")

    one = start("one")
    one.wait_for_log("partitions assigned partitions=", timeout_s=120)
    two = start("two")
    two.wait_for_log(rf"partitions assigned partitions=\"?{topic}", timeout_s=120)
    one.wait_for_log("partitions revoked", timeout_s=120)
    [kept] = {number for number in (0, 1) if f"{topic}[{number}]" in two.output()}
    before = two.output().count("partitions assigned")
    one.kill()
    one = start("one")
    one.wait_for_log(rf"partitions assigned partitions=\"?{topic}", timeout_s=120)
    kafka.produce(topic, [value(1)], partition=1 - kept)
    wait_until(lambda: published(redis_server) == [1], what="the record of the one that came back")
    assert two.output().count("partitions assigned") == before
    assert f"{topic}[{kept}]" not in one.output().rsplit("starting", 1)[1]


def test_what_a_transaction_took_back_is_not_published(
    kafka: KafkaCluster, topic: str, start_bridge: Start, redis_server: RedisServer, tmp_path: Path
):
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(60)
    for number, is_kept in ((1, True), (2, False), (3, True)):
        producer.begin_transaction()
        producer.produce(topic, value(number))
        producer.flush(60)
        producer.commit_transaction(60) if is_kept else producer.abort_transaction(60)
    start_bridge(write_rules(tmp_path, topic), kafka.bootstrap_servers)
    wait_until(lambda: 3 in published(redis_server), what="the last record", timeout_s=120)
    assert published(redis_server) == [1, 3]


def test_with_read_uncommitted_it_is(kafka: KafkaCluster, topic: str, start_bridge: Start, redis_server: RedisServer, tmp_path: Path):
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(60)
    producer.begin_transaction()
    producer.produce(topic, value(1))
    producer.flush(60)
    producer.abort_transaction(60)
    start_bridge(write_rules(tmp_path, topic), kafka.bootstrap_servers, "--kafka-property", "isolation.level=read_uncommitted")
    wait_until(lambda: published(redis_server) == [1], what="the record that was taken back", timeout_s=120)
