"""The users of the trial Redis, on a real redis-server that reads the chart's own files."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

Render = Callable[..., list[dict[str, Any]]]
Connect = Callable[[str], "redis.Redis"]
PARTS = Path(__file__).resolve().parents[2] / ".parts"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def connect(render: Render, missing: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connect]:
    """A server with the chart's redis.conf and users.acl; gives connections by user name."""
    program = shutil.which("redis-server") or shutil.which("redis-server", path=PARTS / "bin")
    if program is None:
        missing("redis-server")
        return
    manifests = render("trial")
    config = next(one["data"]["redis.conf"] for one in manifests if one["kind"] == "ConfigMap" and "redis.conf" in one["data"])
    secret = next(one["stringData"] for one in manifests if one["kind"] == "Secret")
    directory, port = tmp_path_factory.mktemp("redis"), free_port()
    # Redis 7.0 does not know CLIENT SETINFO and would refuse the whole file; the chart asks for 7.2.
    (directory / "users.acl").write_text(secret["users.acl"].replace("+client|setinfo ", ""), encoding="utf-8")
    config = config.replace("/etc/redis-users", str(directory)).replace("dir /tmp", f"dir {directory}")
    (directory / "redis.conf").write_text(f"{config}\nport {port}\nbind 127.0.0.1\n", encoding="utf-8")
    server = subprocess.Popen([program, str(directory / "redis.conf")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def call(user: str) -> redis.Redis:
        password = urlsplit(secret[f"{user}-url"]).password if user != "default" else None
        retry = Retry(ConstantBackoff(0.05), 100)
        return redis.Redis(port=port, username=user, password=password, socket_timeout=5, retry=retry, protocol=3)

    try:
        call("edge").ping()
        yield call
    finally:
        server.terminate()
        server.communicate(timeout=10)


def test_nobody_comes_in_without_a_password(connect: Connect) -> None:
    with pytest.raises(redis.AuthenticationError):
        connect("default").ping()


def test_the_bridge_does_its_work(connect: Connect) -> None:
    bridge = connect("bridge")
    script = bridge.register_script("redis.call('hset', KEYS[1], 'p', ARGV[1]); return redis.call('publish', KEYS[1], ARGV[1])")
    assert script(keys=["d:{0}:c:feed"], args=["x"]) == 0
    assert len(bridge.info("server")["run_id"]) == 40
    assert bridge.info("memory")["maxmemory_policy"] == "noeviction"


@pytest.mark.parametrize(
    "command",
    [("SET", "other", "1"), ("FLUSHALL",), ("CONFIG", "SET", "maxmemory", "1"), ("ACL", "LIST"), ("DEBUG", "SLEEP", "1"), ("SHUTDOWN",)],
)
def test_the_bridge_does_no_more(connect: Connect, command: tuple[str, ...]) -> None:
    with pytest.raises(redis.ResponseError):
        connect("bridge").execute_command(*command)
    assert connect("bridge").ping()


def test_the_edge_reads_and_subscribes(connect: Connect) -> None:
    connect("bridge").rpush("d:{0}:h:news", "a", "b")
    edge = connect("edge")
    with edge.pipeline(transaction=True) as reads:
        reads.hgetall("d:{0}:c:news")
        reads.lrange("d:{0}:h:news", 0, -1)
        reads.llen("d:{0}:h:news")
        reads.exists("d:layout")
        reads.get("d:layout")
        assert reads.execute() == [{}, [b"a", b"b"], 2, 0, None]
    assert len(edge.info("server")["run_id"]) == 40
    with edge.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("d:{0}:c:news")
        listener.get_message(timeout=5)
        assert connect("bridge").publish("d:{0}:c:news", "hello") == 1
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
def test_the_edge_does_no_more(connect: Connect, command: tuple[str, ...]) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        connect("edge").execute_command(*command)
