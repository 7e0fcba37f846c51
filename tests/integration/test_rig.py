"""The rig itself: what it starts is real, breaks as told, and is gone afterwards."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
import redis

from tests.conftest import StartKafka, StartProject, StartRedis
from tests.rig.kafka_server import KafkaCluster
from tests.rig.ports import beside, free_port
from tests.rig.process import Process
from tests.rig.wait import WaitTimeoutError, wait_until, wait_until_async


class TestKafka:
    def test_gives_back_what_was_produced(self, kafka: KafkaCluster, topic: str):
        offsets = kafka.produce(topic, [b"one", None, b"three"], key=b"k", headers=[("h", b"1")], timestamp_ms=1_700_000_000_000)
        records = kafka.consume(topic, 3)
        assert offsets == [0, 1, 2]
        assert [(record.key(), record.value()) for record in records] == [(b"k", b"one"), (b"k", None), (b"k", b"three")]
        assert records[0].headers() == [("h", b"1")]
        assert records[0].timestamp()[1] == 1_700_000_000_000

    def test_a_topic_made_anew_has_another_id_and_starts_over(self, kafka: KafkaCluster, topic: str):
        kafka.produce(topic, [b"old"])
        old_id = kafka.topic_id(topic)
        kafka.delete_topic(topic)
        kafka.create_topic(topic)
        assert kafka.topic_id(topic) != old_id
        assert kafka.produce(topic, [b"new"]) == [0]
        assert [record.value() for record in kafka.consume(topic, 1)] == [b"new"]

    def test_a_group_without_commits_has_no_offset(self, kafka: KafkaCluster, topic: str, unique_name: str):
        assert kafka.committed(unique_name, topic) is None

    def test_keeps_its_records_through_a_kill(self, start_kafka: StartKafka):
        cluster = start_kafka()
        cluster.create_topic("t", partitions=2)
        cluster.produce("t", [b"before"], partition=1)
        cluster.restart()
        assert cluster.produce("t", [b"after"], partition=1) == [1]
        assert [record.value() for record in cluster.consume("t", 2)] == [b"before", b"after"]


class TestRedis:
    def test_is_empty_for_each_test(self, redis_url: str):
        with redis.Redis.from_url(redis_url) as client:
            assert client.dbsize() == 0
            client.set("left", "behind")

    test_is_empty_for_each_test_again = test_is_empty_for_each_test

    def test_loses_everything_when_killed(self, start_redis: StartRedis):
        server = start_redis()
        with server.client() as client:
            client.set("k", "v")
        server.restart()
        with server.client() as client:
            assert client.get("k") is None

    def test_keeps_what_its_append_only_file_has(self, start_redis: StartRedis):
        server = start_redis(options={"appendonly": "yes", "appendfsync": "always"})
        with server.client() as client:
            client.set("k", "v")
        server.kill()
        server.restart()
        with server.client() as client:
            assert client.get("k") == b"v"
        server.restart(empty=True)
        with server.client() as client:
            assert client.get("k") is None

    def test_goes_back_to_a_snapshot_under_another_run_id(self, start_redis: StartRedis):
        server = start_redis()
        with server.client() as client:
            client.set("k", "old")
            first = client.info("server")["run_id"]
            snapshot = server.save()
            client.set("k", "new")
        server.restart(snapshot=snapshot)
        with server.client() as client:
            assert client.get("k") == b"old"
            assert client.info("server")["run_id"] != first

    def test_answers_nothing_while_paused(self, start_redis: StartRedis):
        server = start_redis()
        server.pause()
        with server.client(timeout_s=0.2) as client, pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        with server.client() as client:
            assert client.ping()

    def test_heeds_options_and_acl(self, start_redis: StartRedis):
        server = start_redis(options={"maxmemory": "50mb"}, acl=["user edge on >secret ~* &* -@all +get"])
        with server.client() as admin:
            assert admin.config_get("maxmemory") == {"maxmemory": str(50 * 1024 * 1024)}
        with server.client(username="edge", password="secret") as client:
            assert client.get("k") is None
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.set("k", "v")


class TestProcess:
    @staticmethod
    def python(tmp_path: Path, code: str) -> Process:
        return Process([sys.executable, "-u", "-c", code], log=tmp_path / "log")

    def test_captures_plain_and_structured_lines(self, tmp_path: Path):
        with self.python(tmp_path, """print('ready on 8000'); print('{"event": "up", "port": 8000}'); print('{oops')""") as process:
            assert process.wait_for_log(r"ready on (\d+)")[1] == "8000"
            assert process.wait() == 0
            assert process.records() == [{"event": "up", "port": 8000}]

    def test_says_what_was_printed_by_a_process_that_ended_too_soon(self, tmp_path: Path):
        failing = self.python(tmp_path, "print('no such file'); raise SystemExit(3)")
        with failing, pytest.raises(AssertionError, match=r"(?s)ended with 3.*no such file"):
            failing.wait_for_log("ready")

    def test_kills_a_paused_process_and_its_children(self, tmp_path: Path):
        code = "import subprocess, time; child = subprocess.Popen(['sleep', '100']); print('child', child.pid); time.sleep(100)"
        with self.python(tmp_path, code) as process:
            child = int(process.wait_for_log(r"child (\d+)")[1])
            process.pause()
        assert not process.is_running
        wait_until(lambda: not _is_alive(child), what="the child's end")

    def test_waits_for_http(self, tmp_path: Path):
        port = free_port()
        with Process(
            [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], log=tmp_path / "log", cwd=tmp_path
        ) as process:
            process.wait_for_http(f"http://127.0.0.1:{port}/")
            process.wait_for_port(port)

    def test_starts_the_projects_commands(self, start_project: StartProject):
        process = start_project("edge", "--help")
        assert process.wait() == 0, process.tail()
        assert "Usage" in process.output()


class TestPorts:
    @pytest.mark.parametrize(
        ("first", "last", "ports"),
        [
            (32_768, 60_999, range(10_240, 32_768)),
            (11_000, 60_999, range(61_000, 65_536)),
            (1_024, 9_999, range(10_240, 65_536)),
            (1_024, 65_535, range(10_240, 65_536)),
        ],
    )
    def test_are_not_those_of_outgoing_connections(self, first: int, last: int, ports: range):
        assert beside(first, last) == ports


class TestWait:
    def test_tells_the_last_state(self):
        with pytest.raises(WaitTimeoutError, match=r"waited 0.05 s for spring; last seen: 0; state: winter"):
            wait_until(lambda: 0, timeout_s=0.05, what="spring", state=lambda: "winter")

    def test_takes_named_exceptions_for_not_yet(self):
        tries = iter([ValueError("a"), KeyError("b"), None])

        def condition() -> str:
            error = next(tries)
            if error:
                raise error
            return "done"

        assert wait_until(condition, what="it", ignore=(ValueError, KeyError)) == "done"

    def test_waits_for_coroutines_and_for_plain_functions(self):
        async def main() -> tuple[str, str]:
            async def condition() -> str:
                await asyncio.sleep(0)
                return "async"

            return await wait_until_async(condition, what="a"), await wait_until_async(lambda: "sync", what="b")

        assert asyncio.run(main()) == ("async", "sync")


def _is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
