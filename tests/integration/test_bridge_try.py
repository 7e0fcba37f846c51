"""`bridge try` and `bridge explain` on topics of a real Kafka: they read, and leave nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.rig.kafka_server import KafkaCluster
from tests.rig.process import project_command

RULES = """version: 1
sources: [{{name: a, topics: [{topic}]}}]
routes:
  - {{name: item, split: value, where: "item.n != `3`", channel: "item:{{item.id}}", project: {{id: item.id, n: item.n}}}}
"""


class Command:
    def __init__(self, kafka: KafkaCluster, topic: str, folder: Path) -> None:
        self.kafka, self.topic = kafka, topic
        self.rules = folder / "rules.yaml"
        self.rules.write_text(RULES.format(topic=topic))

    def __call__(self, name: str, *arguments: str | int) -> subprocess.CompletedProcess[str]:
        command = project_command(
            "bridge", name, self.rules, "--topic", self.topic, "--bootstrap-servers", self.kafka.bootstrap_servers, *arguments
        )
        patient = {**os.environ, "BRIDGE_TIMEOUT_S": "60"}
        return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=patient)

    def json(self, name: str, *arguments: str | int) -> dict[str, Any]:
        return dict(json.loads(self(name, *arguments, "--json").stdout))


@pytest.fixture
def command(kafka: KafkaCluster, unique_name: str, tmp_path: Path) -> Command:
    return Command(kafka, kafka.create_topic(unique_name, partitions=3), tmp_path)


def produce(command: Command, count: int) -> None:
    for number in range(count):
        value = json.dumps([{"id": name, "n": number, "text": "which is left out"} for name in "ab"]).encode()
        command.kafka.produce(command.topic, [value], partition=number % 3, timestamp_ms=1_700_000_000_000 + number)


def test_the_last_records_of_all_partitions_are_tried_and_nothing_is_left_behind(command: Command, kafka: KafkaCluster):
    produce(command, 12)
    found = command.json("try", "--last", 7)
    assert found["records"] == 7
    [route] = found["routes"]
    assert (route["publications"], route["channels"]) == (14, 2)
    assert {shown["channel"]: shown["payload"] for shown in route["shown"]} == {
        "item:a": '{"id":"a","n":11}',
        "item:b": '{"id":"b","n":11}',
    }
    assert command.json("try", "--last", 9)["nothing"][0]["why"] == "`where` was false: item.n != `3`"
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    groups = {group.group_id for group in admin.list_consumer_groups().result(20).valid}
    assert "distributary-peek" not in groups


def test_an_empty_topic_is_told(command: Command):
    done = command("try")
    assert done.returncode == 0
    assert f"{command.topic} has 3 partitions and no records" in done.stderr
    assert "Nothing would be published." in done.stdout


def test_one_record_is_explained_by_its_place(command: Command):
    produce(command, 9)
    found = command.json("explain", "--partition", 1, "--offset", 2)
    assert found["record"] == f"{command.topic}[1]@2"
    [route] = found["routes"]
    assert [publication["payload"] for publication in route["publications"]] == ['{"id":"a","n":7}', '{"id":"b","n":7}']
    assert route["publications"][0]["base_size"] == len('{"id":"a","n":4}')
    done = command("explain", "--partition", 0, "--offset", 1)
    assert done.returncode == 1
    assert "item.n = 3" in done.stdout
    done = command("explain", "--partition", 0, "--offset", 99)
    assert (done.returncode, done.stderr.strip()) == (1, f"{command.topic}[0] has no record at 99: it has records from 0 to 2")


def test_records_that_were_removed_are_told(command: Command, kafka: KafkaCluster):
    produce(command, 9)
    admin = kafka.admin()
    place = TopicPartition(command.topic, 0, 3)
    admin.delete_records([place])[place].result(60)
    done = command("explain", "--partition", 0, "--offset", 1)
    assert done.returncode == 1
    assert done.stderr.strip() == f"{command.topic}[0] has no record at 1: it has none any more, those up to 2 were removed"
