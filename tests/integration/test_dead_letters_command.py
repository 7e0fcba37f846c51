"""`bridge dead-letters` on a real Kafka: what was put aside is found, shown and played again, once."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bridge import cli
from bridge.adapters import kafka_dead_letters
from bridge.adapters.kafka_dead_letters import KafkaDeadLetters
from bridge.core.draft import OnError, RecordProblem
from bridge.core.letter import Origin, make_letter
from bridge.core.letter_topic import DeadLetterTopic
from bridge.core.record import Record
from shared import envelope
from shared.bus.layout import BusLayout
from tests.conftest import StartProject
from tests.rig.kafka_server import KafkaCluster
from tests.rig.redis_server import RedisServer
from tests.rig.wait import wait_until

LAYOUT = BusLayout()
GROUP = "the-group"
# A topic forgets records by their own time: they must not be old.
NOW_MS = int(time.time() * 1000) - 60_000


class Letters:
    """A topic, and letters that were put aside from it."""

    def __init__(self, kafka: KafkaCluster, topic: str) -> None:
        self.kafka = kafka
        self.topic = topic
        self.name = f"{topic}.dead-letters"

    def put_aside(self, count: int, *, route: str = "each", at_s: float = 1_700_000_000, cluster: str = "", first: int = 0) -> None:
        letters = KafkaDeadLetters(self.kafka.bootstrap_servers, {})
        answers = []
        for number in range(first, first + count):
            record = Record(self.topic, 0, number, NOW_MS, b"k%d" % number, b'{"n":%d}' % number, (("own", b"1"),))
            problem = RecordProblem(route, OnError.DEAD_LETTER, "", f"bad {number}", (), 1, DeadLetterTopic())
            letters.send(number, make_letter(record, [problem], Origin("1", GROUP, cluster or self.kafka.cluster_id), at_s + number))

        def all_written() -> bool:
            answers.extend(letters.poll())
            return len(answers) == count

        wait_until(all_written, what="letters")
        assert all(answer.problem == "" for answer in answers)
        letters.close()

    def run(self, command: str, *arguments: str | Path, answer: str = "") -> Result:
        options = ["--bootstrap-servers", self.kafka.bootstrap_servers]
        if (
            command != "show"
            and not any(":0:" in str(argument) or argument == "a-0-1:" for argument in arguments)
            and "--rules" not in arguments
        ):
            options += ["--topic", self.name]
        return CliRunner().invoke(
            cli.main, ["dead-letters", command, *map(str, arguments), *options], input=answer, env={"COLUMNS": "200", "NO_COLOR": "1"}
        )

    def listed(self, *arguments: str) -> list[dict[str, object]]:
        result = self.run("list", "--json", *arguments)
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.output.splitlines()]

    def replayed(self) -> list[bytes | None]:
        """What is on the topic now. Of a transaction that was just committed, not all may be seen yet."""
        return [message.value() for message in self.kafka.consume_all(self.topic)]


@pytest.fixture
def letters(kafka: KafkaCluster, topic: str, monkeypatch: pytest.MonkeyPatch) -> Letters:
    monkeypatch.setattr(kafka_dead_letters, "_MESSAGE_TIMEOUT_MS", 120_000)  # However busy the machine is.
    return Letters(kafka, topic)


def test_the_list_is_bounded_filtered_and_the_newest_last(letters: Letters):
    letters.put_aside(6)
    letters.put_aside(2, route="other", first=6, at_s=4_000_000_000)
    assert [each["offset"] for each in letters.listed()] == list(range(8))
    assert [each["offset"] for each in letters.listed("--limit", "3")] == [5, 6, 7]
    assert [each["offset"] for each in letters.listed("--route", "each", "--limit", "2")] == [4, 5]
    assert [each["offset"] for each in letters.listed("--since", "1h")] == [6, 7]
    assert [each["offset"] for each in letters.listed("--since", "2023-11-14T22:13:24Z")] == [4, 5, 6, 7]
    [first, *_] = letters.listed()
    assert (first["letter"], first["topic"], first["route"], first["error"]) == (f"{letters.name}:0:0", letters.topic, "each", "bad 0")
    table = letters.run("list").output
    for word in ("2023-11-14 22:13:20Z", f"{letters.name}:0:0", f"{letters.topic}[0]@0", "bad 0"):
        assert word in table


def test_one_is_shown(letters: Letters, tmp_path: Path):
    letters.put_aside(1)
    place = f"{letters.name}:0:0"
    text = letters.run("show", place).output
    for word in (
        f"{letters.topic}[0]@0 of cluster {letters.kafka.cluster_id}",
        "each (group the-group)",
        "bad 0",
        "own = 1",
        "k0",
        '"n": 0',
    ):
        assert word in text
    assert letters.run("show", f"{letters.name}[0]@0", "--raw").stdout_bytes == b'{"n":0}'
    found = json.loads(letters.run("show", place, "--json").output)
    assert (found["value"], found["key"], found["headers"]) == ({"text": '{"n":0}'}, {"text": "k0"}, [{"name": "own", "text": "1"}])
    rules = tmp_path / "rules.yaml"
    rules.write_text(f"version: 1\nsources: [{{name: s, topics: [{letters.topic}], format: json}}]\nroutes: [{{name: each, channel: c}}]\n")
    assert '"n": 0' in letters.run("show", place, "--rules", rules).output
    missing = letters.run("show", f"{letters.name}:0:99")
    assert (missing.exit_code, "there is no dead letter at" in missing.output) == (1, True)


def test_a_replay_plays_each_letter_once_and_only_once(letters: Letters):
    letters.put_aside(5)
    letters.put_aside(1)  # As after a crash: the first record once more.
    dry = letters.run("replay", "--all", "--dry-run")
    assert "5 letters would be replayed" in dry.output
    assert letters.replayed() == []
    some = letters.run("replay", f"{letters.name}:0:1", f"{letters.name}:0:3", "--yes")
    assert (some.exit_code, "2 letters replayed" in some.output) == (0, True), some.output
    wait_until(lambda: letters.replayed() == [b'{"n":1}', b'{"n":3}'], what="two records again")
    marked = [False, False, True, False, True, False]
    wait_until(lambda: [bool(each["replayed_at"]) for each in letters.listed()] == marked, what="two marks")
    rest = letters.run("replay", "--all", "--yes")
    assert "3 letters replayed" in rest.output
    none = letters.run("replay", "--all", "--yes")
    assert (none.exit_code, "0 letters replayed" in none.output) == (0, True)
    everything = [b'{"n":1}', b'{"n":3}', b'{"n":0}', b'{"n":2}', b'{"n":4}']
    wait_until(lambda: letters.replayed() == everything, what="the others again, and none twice")
    again = letters.run("replay", f"{letters.name}:0:1", "--yes", "--again")
    assert "1 letter replayed" in again.output
    wait_until(lambda: len(letters.replayed()) == 6, what="one of them once more")


def test_the_list_finds_the_letters_behind_many_marks(letters: Letters):
    letters.put_aside(1, route="other")
    letters.put_aside(10, first=1)
    result = letters.run("replay", "--all", "--route", "each", "--yes")
    assert result.exit_code == 0, result.output
    marked = [False] + [True] * 10
    wait_until(lambda: [bool(each["replayed_at"]) for each in letters.listed("--limit", "20")] == marked, what="ten marks")
    [newest] = letters.listed("--limit", "1")
    assert newest["offset"] == 10


def test_a_replayed_record_is_as_it_was_and_says_for_whom_it_is(letters: Letters):
    letters.put_aside(1)
    assert letters.run("replay", "--all", "--yes").exit_code == 0
    [message] = letters.kafka.consume(letters.topic, 1)
    assert (message.key(), message.value(), message.timestamp()[1]) == (b"k0", b'{"n":0}', NOW_MS)
    assert message.headers() == [
        ("own", b"1"),
        ("distributary.replay-of", f"{letters.name}:0:0".encode()),
        ("distributary.replay-group", GROUP.encode()),
        ("distributary.replay-route", b"each"),
    ]


def test_where_nobody_can_be_asked_a_replay_needs_yes(letters: Letters):
    letters.put_aside(1)
    assert letters.run("replay", "--all").exit_code == 2
    assert letters.replayed() == []


def test_to_another_topic(letters: Letters):
    letters.put_aside(2, cluster="elsewhere")
    refused = letters.run("replay", "--all", "--yes")
    assert (refused.exit_code, "comes from another cluster (elsewhere)" in refused.output) == (1, True)
    letters.kafka.create_topic(f"{letters.topic}.again")
    assert letters.run("replay", "--all", "--yes", "--to", f"{letters.topic}.again").exit_code == 0
    assert [message.value() for message in letters.kafka.consume(f"{letters.topic}.again", 2)] == [b'{"n":0}', b'{"n":1}']
    missing = letters.run("replay", f"{letters.name}:0:0", "--again", "--yes", "--to", "no-such-topic")
    assert (missing.exit_code, "the topic no-such-topic does not exist" in missing.output) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("replay",), "name letters, or say --all"),
        (("replay", "a:0:1", "--all"), "name letters, or say --all"),
        (("replay", "a:0:1", "--route", "r"), "go with --all"),
        (("replay", "a-0-1:"), "is not TOPIC:PARTITION:OFFSET"),
        (("list", "--since", "yesterday"), "neither a duration"),
        (("list", "--kafka-property", "no.such=1"), "no.such"),
    ],
)
def test_wrong_command_lines(letters: Letters, arguments: tuple[str, ...], told: str):
    result = letters.run(*arguments)
    assert result.exit_code == 2
    assert told in result.output
    assert "Traceback" not in result.output


def test_a_topic_that_is_not_there(letters: Letters):
    result = letters.run("list")
    assert (result.exit_code, f"there is no topic {letters.name}" in result.output) == (1, True)


def test_ctrl_c_ends_it_and_says_so(start_project: StartProject):
    away = ("--bootstrap-servers", "127.0.0.1:1", "--topic", "t", "--kafka-property", "log_level=6")
    process = start_project("bridge", "dead-letters", "list", *away)
    process.wait_for_log("Connection refused")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait() == 130
    assert "interrupted" in process.output()
    assert "Traceback" not in process.output()


def test_after_the_rules_are_corrected_what_failed_reaches_its_channel(
    kafka: KafkaCluster, topic: str, start_project: StartProject, redis_url: str, redis_server: RedisServer, tmp_path: Path
):
    rules = tmp_path / "rules.yaml"
    text = (
        f"version: 1\nsources: [{{name: s, topics: [{topic}]}}]\ndefaults: {{kind: stream, on_error: dead-letter}}\nroutes:\n"
        "  - {name: each, split: value, channel: 'item:{item.id}'}\n  - {name: whole, channel: all}\n"
    )
    rules.write_text(text)
    kafka.produce(topic, [b'[{"id":"a"},{"name":"b"}]'])
    start_project(
        "bridge", "run", "--rules", rules, "--bootstrap-servers", kafka.bootstrap_servers, "--group", topic, "--bus", redis_url,
        "--internal-port", "none", "--commit-interval-s", "0.2",
    )  # fmt: skip
    kafka.wait_until_committed(topic, topic, 1)
    rules.write_text(text.replace("item.id", "item.id || item.name"))
    letters = Letters(kafka, topic)

    def published(channel: str) -> list[object]:
        with redis_server.client() as client:
            found = client.lrange(LAYOUT.history_key(channel), 0, -1)
        assert isinstance(found, list)
        return [json.loads(envelope.decode(entry).body) for entry in found]

    def reload_and_replay() -> bool:
        result = letters.run("replay", "--all", "--again", "--yes", "--rules", rules)
        assert result.exit_code == 0, result.output
        return bool(published("item:b"))

    wait_until(reload_and_replay, what="the replayed item", timeout_s=120, interval_s=1)
    assert published("item:b")[0] == {"name": "b"}
    assert len(published("item:a")) == 1, "an item that was fine is not published again"
    assert len(published("all")) == 1, "nor is what another route made"
