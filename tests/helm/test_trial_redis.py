"""The users of the trial Redis, on a real redis-server that reads the chart's own files."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import redis
from websockets.sync.client import connect as open_websocket

from shared.bus.layout import BusLayout
from shared.bus.publisher import BusPublisher
from shared.bus.push import Keep, Push, Source
from shared.publication import ContentType, Kind
from tests.rig.parts import Part, need
from tests.rig.ports import free_port
from tests.rig.process import Process, project_command
from tests.rig.wait import wait_until

Render = Callable[..., list[dict[str, Any]]]
pytestmark = pytest.mark.integration


class TrialRedis(NamedTuple):
    """A server with the chart's redis.conf and users.acl."""

    port: int
    passwords: dict[str, str | None]

    def url(self, user: str) -> str:
        """As the chart gives it to a component, but for the address."""
        return f"redis://{user}:{self.passwords[user]}@127.0.0.1:{self.port}/0"

    def connect(self, user: str) -> redis.Redis:
        """A client of redis-py."""
        return redis.Redis(port=self.port, username=user, password=self.passwords[user], socket_timeout=30, protocol=3)


@pytest.fixture(scope="module")
def trial(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrialRedis]:
    """The chart's Redis, as the pod would run it."""
    need(Part.REDIS, __name__)
    manifests = render("trial")
    config = next(one["data"]["redis.conf"] for one in manifests if one["kind"] == "ConfigMap" and "redis.conf" in one["data"])
    secret = next(one["stringData"] for one in manifests if one["kind"] == "Secret")
    directory, port = tmp_path_factory.mktemp("redis"), free_port()
    (directory / "users.acl").write_text(secret["users.acl"], encoding="utf-8")
    config = config.replace("/etc/redis-users", str(directory)).replace("dir /tmp", f"dir {directory}")
    (directory / "redis.conf").write_text(f"{config}\nport {port}\nbind 127.0.0.1\n", encoding="utf-8")
    passwords = {user: urlsplit(secret[f"{user}-url"]).password for user in ("bridge", "edge")}
    server = TrialRedis(port, {**passwords, "default": None})
    with Process(["redis-server", directory / "redis.conf"], log=directory / "log") as process:
        process.wait_for(lambda: "Ready to accept connections" in process.output(), what="its start")
        yield server


def push_of(channel: str, payload: bytes) -> Push:
    """A full payload, from offset 0 of some partition."""
    digest = blake2b(payload, digest_size=8).digest()
    source = Source(bytes(12), 0, 0)
    return Push(channel, payload, digest, ContentType.JSON, Kind.LATEST, 1_700_000_000_000, source, Keep())


def test_bridge_and_edge_need_no_more_than_their_users_may(trial: TrialRedis, tmp_path: Path) -> None:
    """The bridge's publisher and a real edge, each as its user, bring a publication to a client: by snapshot and by subscription."""
    publisher = BusPublisher([trial.connect("bridge")], BusLayout(), instance="test")
    publisher.open()
    publisher.push([push_of("bus:1", b'{"n":1}')])
    public, internal = free_port(), free_port()
    settings = {"EDGE_BUS": trial.url("edge"), "EDGE_PORT": str(public), "EDGE_INTERNAL_PORT": str(internal), "EDGE_DRAIN_S": "0"}
    with Process(project_command("edge", "run"), log=tmp_path / "edge.log", env=settings) as edge:

        def is_well() -> bool:
            publisher.beat()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{internal}/health/ready", timeout=30) as answer:
                    return bool(json.load(answer)["status"] == "ok")
            except urllib.error.HTTPError as not_yet:
                not_yet.close()
                return False

        wait_until(is_well, what="the edge being well", ignore=(OSError,), state=edge.tail)
        with open_websocket(f"ws://127.0.0.1:{public}/v1/ws?channels=bus:1,bus:2", proxy=None) as client:
            first = json.loads(client.recv(timeout=60))
            publisher.push([push_of("bus:2", b'{"n":2}')])
            second = json.loads(client.recv(timeout=60))
        assert [(one["channel"], one["data"]) for one in (first, second)] == [("bus:1", {"n": 1}), ("bus:2", {"n": 2})]
        edge.terminate()
    publisher.close()
    assert "NOPERM" not in edge.output()


def test_nobody_comes_in_without_a_password(trial: TrialRedis) -> None:
    with pytest.raises(redis.AuthenticationError):
        trial.connect("default").ping()


def test_the_bridge_does_its_work(trial: TrialRedis) -> None:
    bridge = trial.connect("bridge")
    script = bridge.register_script("redis.call('hset', KEYS[1], 'p', ARGV[1]); return redis.call('publish', KEYS[1], ARGV[1])")
    assert script(keys=["d:{0}:c:feed"], args=["x"]) == 0
    assert len(bridge.info("server")["run_id"]) == 40
    assert bridge.info("memory")["maxmemory_policy"] == "noeviction"


@pytest.mark.parametrize(
    "command",
    [("SET", "other", "1"), ("FLUSHALL",), ("CONFIG", "SET", "maxmemory", "1"), ("ACL", "LIST"), ("DEBUG", "SLEEP", "1"), ("SHUTDOWN",)],
)
def test_the_bridge_does_no_more(trial: TrialRedis, command: tuple[str, ...]) -> None:
    with pytest.raises(redis.ResponseError):
        trial.connect("bridge").execute_command(*command)
    assert trial.connect("bridge").ping()


def test_the_edge_reads_and_subscribes(trial: TrialRedis) -> None:
    trial.connect("bridge").rpush("d:{0}:h:news", "a", "b")
    trial.connect("bridge").hset("d:{0}:k:news", "key", "value")
    edge = trial.connect("edge")
    with edge.pipeline(transaction=True) as reads:
        reads.hgetall("d:{0}:c:news")
        reads.hscan("d:{0}:k:news", 0, count=100)
        reads.hlen("d:{0}:k:news")
        reads.lrange("d:{0}:h:news", 0, -1)
        reads.llen("d:{0}:h:news")
        reads.exists("d:nothing")
        reads.get("d:nothing")
        assert reads.execute() == [{}, (0, {b"key": b"value"}), 1, [b"a", b"b"], 2, 0, None]
    assert len(edge.info("server")["run_id"]) == 40
    with edge.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("d:{0}:c:news")
        listener.get_message(timeout=60)
        assert trial.connect("bridge").publish("d:{0}:c:news", "hello") == 1
        heard = next(one for one in listener.listen() if one["type"] == "message")
        assert heard["data"] == b"hello"
        listener.unsubscribe()


@pytest.mark.parametrize(
    "command",
    [
        ("SET", "d:a", "1"),
        ("DEL", "d:a"),
        ("EXPIRE", "d:a", "1"),
        ("RPUSH", "d:a", "1"),
        ("HSET", "d:a", "b", "c"),
        ("PUBLISH", "d:{0}:c:news", "x"),
        ("SPUBLISH", "d:{0}:c:news", "x"),
        ("EVAL", "return 1", "0"),
        ("EVAL_RO", "return 1", "0"),
        ("EVALSHA", "0" * 40, "0"),
        ("FCALL_RO", "f", "0"),
        ("SCRIPT", "LOAD", "return 1"),
        ("GET", "other"),
        ("SUBSCRIBE", "other"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("CONFIG", "GET", "*"),
        ("CLIENT", "KILL", "TYPE", "normal"),
        ("FLUSHDB",),
        ("MONITOR",),
        ("ACL", "WHOAMI"),
    ],
)
def test_the_edge_does_no_more(trial: TrialRedis, command: tuple[str, ...]) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        trial.connect("edge").execute_command(*command)
