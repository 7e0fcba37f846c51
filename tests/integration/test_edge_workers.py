"""`edge run --workers N`: processes that share a port; one that dies takes nobody along but its own clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.conftest import StartProject
from tests.rig.fleet import Follower, assert_no_hole
from tests.rig.ports import free_port
from tests.rig.process import Process
from tests.rig.pusher import Pusher
from tests.rig.wait import wait_until, wait_until_async

CHANNEL = "test:1"
WORKERS = 3


class Workers:
    """An edge of several workers."""

    def __init__(self, start: StartProject, redis_url: str) -> None:
        self.port, self.internal_port = free_port(), free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self._start, self._redis_url = start, redis_url

    def start(self, *options: str | int) -> Process:
        """Start it; wait for `all workers started` where it must come."""
        return self._start(
            "edge", "run", "--bus", self._redis_url, "--port", self.port, "--internal-port", self.internal_port, "--drain-s", "0.5",
            "--workers", WORKERS, *options,
        )  # fmt: skip

    def started(self, *options: str | int) -> Process:
        edge = self.start(*options)
        edge.wait_for_log("all workers started")
        return edge

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.internal_port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def health(self) -> dict[str, Any]:
        health: dict[str, Any] = json.loads(self.get("/health/ready")[1])
        return health

    def pids(self) -> dict[int, int]:
        """The workers that serve, and answer in time: process ids by number."""
        return {worker["worker"]: worker["pid"] for worker in self.health()["workers"] if "bus" in worker}

    def all_pids(self) -> dict[int, int]:
        """Wait until every worker answers."""
        return wait_until(
            lambda: found if len(found := self.pids()) == WORKERS else None, what="an answer of every worker", ignore=(OSError,)
        )

    def connections(self) -> list[int]:
        """How many clients each worker has."""
        return [worker.get("connections", 0) for worker in self.health()["workers"]]


@pytest.fixture
def workers(start_project: StartProject, redis_url: str) -> Workers:
    return Workers(start_project, redis_url)


@pytest.fixture
def pusher(redis_url: str) -> Iterator[Pusher]:
    # So slowly that one who is away for some seconds has not missed more than an edge sends at once.
    with contextlib.closing(Pusher(redis_url, CHANNEL, interval_s=0.02)) as pusher_:
        yield pusher_


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_worker_that_is_killed_is_replaced_and_the_others_clients_get_everything(workers: Workers, pusher: Pusher) -> None:
    pusher.push()
    workers.started()

    async def check() -> None:
        async with AsyncExitStack() as stack:
            bare = [await come(workers, stack) for _ in range(30)]
            followers = [await stack.enter_async_context(Follower(workers.url, [CHANNEL])) for _ in range(6)]
            for follower in followers:
                await follower.joined()
            bare += await everywhere(workers, stack)
            pids = workers.all_pids()
            with pusher:
                reading = [asyncio.create_task(read_until_closed(client)) for client in bare]
                os.kill(pids[0], signal.SIGKILL)
                await wait_until_async(lambda: sum(task.done() for task in reading) > 0, what="clients of the dead worker that notice")
                await asyncio.to_thread(
                    wait_until, lambda: workers.pids().get(0, pids[0]) != pids[0], what="a new worker", ignore=(OSError,)
                )
                now = await asyncio.to_thread(workers.all_pids)
                assert {number: now[number] for number in (1, 2)} == {1: pids[1], 2: pids[2]}
                newcomers = await newcomers_of(workers, 0, stack)
                for client in newcomers:
                    await asyncio.wait_for(client.recv(), 60)  # It is subscribed: a stream begins with what comes next.
            wanted = pusher.push()
            for follower in followers:  # Those whose worker died came back, with their positions.
                await follower.wait_for_newest({CHANNEL: wanted})
                assert_no_hole(follower.got[CHANNEL])
                assert follower.gaps[CHANNEL] == []
            assert sum(task.done() for task in reading) < len(bare)
            for client in newcomers:
                await wait_for_value(client, wanted)
            await asyncio.gather(*(client.close() for client in bare))
            kept = [values for task in reading if (values := await task)[-1:] == [wanted]]
            assert kept, "no client kept its connection"
            for values in kept:
                assert values == pusher.pushed[len(pusher.pushed) - len(values) :]

    asyncio.run(check())


async def read_all(client: ClientConnection) -> list[dict[str, Any]]:
    """All messages until the connection ends."""
    messages: list[dict[str, Any]] = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            messages.append(json.loads(await client.recv()))
    return messages


async def read_until_closed(client: ClientConnection) -> list[object]:
    """All values that come on a connection."""
    return [message["data"] for message in await read_all(client)]


async def come(workers: Workers, stack: AsyncExitStack) -> ClientConnection:
    """A bare client. It sends no pings: while a test does not read from it, it would not see their answers."""
    return await stack.enter_async_context(connect(f"{workers.url}/v1/ws?channels={CHANNEL}", ping_interval=None, open_timeout=60))


async def newcomers_of(workers: Workers, number: int, stack: AsyncExitStack) -> list[ClientConnection]:
    """Connect until this worker has a client, too."""
    newcomers: list[ClientConnection] = []
    while not (await asyncio.to_thread(workers.connections))[number]:
        newcomers.append(await come(workers, stack))
    return newcomers


async def everywhere(workers: Workers, stack: AsyncExitStack) -> list[ClientConnection]:
    """Connect until every worker has a client: the kernel deals them out as it likes."""
    return [client for number in range(WORKERS) for client in await newcomers_of(workers, number, stack)]


async def wait_for_value(client: ClientConnection, value: object) -> None:
    while json.loads(await asyncio.wait_for(client.recv(), 60))["data"] != value:
        pass


def test_a_worker_that_dies_again_and_again_is_replaced_ever_more_slowly(workers: Workers, pusher: Pusher) -> None:
    pusher.push()
    edge = workers.started()
    killed: set[int] = set()
    for _ in range(3):
        pid = wait_until(
            lambda: found if (found := workers.pids().get(1, 0)) not in {0, *killed} else None, what="a new worker", ignore=(OSError,)
        )
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    edge.wait_for_log("worker=1 status=-9 in_s=0.8")
    pauses = [float(pause) for pause in re.findall(r"worker=1 status=-9 in_s=(\S+)", edge.output())]
    assert pauses == [0.2, 0.4, 0.8]
    assert workers.get("/health/live")[0] == 200


def stop_by_sigterm(edge: Process) -> None:
    edge.signal(signal.SIGTERM)


def stop_by_ctrl_c(edge: Process) -> None:
    """The terminal tells the whole process group."""
    os.killpg(edge.pid, signal.SIGINT)


@pytest.mark.parametrize("stop", [stop_by_sigterm, stop_by_ctrl_c])
def test_a_signal_drains_all_workers(workers: Workers, pusher: Pusher, stop: Callable[[Process], None]) -> None:
    pusher.push()
    edge = workers.started()

    async def check() -> None:
        async with AsyncExitStack() as stack:
            clients = [await come(workers, stack) for _ in range(20)]
            clients += await everywhere(workers, stack)
            pids = workers.all_pids().values()
            stop(edge)
            for client in clients:
                messages = await asyncio.wait_for(read_all(client), 60)
                assert client.close_code == 1001
                assert messages[-1]["type"] == "drain"
            assert await asyncio.to_thread(edge.wait) == 0
            assert not any(map(is_alive, pids))

    asyncio.run(check())


def test_a_second_signal_ends_all_at_once(workers: Workers, pusher: Pusher) -> None:
    pusher.push()
    edge = workers.started("--drain-s", "1000")
    pids = workers.all_pids().values()
    # Two: the last one is not waited for.
    clients = [socket_client(workers.port) for _ in range(10)]
    edge.signal(signal.SIGINT)
    edge.wait_for_log("draining connections=[1-9]")
    edge.signal(signal.SIGINT)
    assert edge.wait() == 130
    wait_until(lambda: not any(map(is_alive, pids)), what="the end of the workers")
    for client in clients:
        client.close()


def socket_client(port: int) -> socket.socket:
    """A bare client, which answers nothing."""
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(
        b"GET /v1/ws?channels=test:1 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert client.recv(12) == b"HTTP/1.1 101"
    return client


def test_workers_die_with_their_parent(workers: Workers, pusher: Pusher) -> None:
    pusher.push()
    edge = workers.started()
    pids = workers.all_pids().values()
    edge.signal(signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, pids)), what="the end of the workers")
    workers.started()  # The port is free.


def test_a_port_that_is_taken_is_told_whoever_has_it(workers: Workers, start_project: StartProject, redis_url: str, pusher: Pusher) -> None:
    """Another edge shares its port with its own workers, not with us."""
    pusher.push()
    workers.started()
    other = Workers(start_project, redis_url)
    other.port = workers.port
    edge = other.start()
    assert edge.wait() == 1
    assert f"cannot listen on 127.0.0.1:{workers.port}" in edge.output()


def test_a_bus_that_is_laid_out_otherwise_ends_all(workers: Workers, redis_server: Any, pusher: Pusher) -> None:
    with redis.Redis(port=redis_server.port) as client:
        client.set("d:layout", '{"version":1,"shards":16,"servers":2,"server":0}')
    edge = workers.start()
    assert edge.wait() == 1
    assert "edge: worker" in edge.output()
    assert "servers" in edge.output()


def test_health_and_metrics_are_those_of_all(workers: Workers, pusher: Pusher) -> None:
    pusher.push()
    edge = workers.started()
    edge.wait_for(lambda: workers.get("/health/ready")[0] == 200, what="readiness")
    assert workers.get("/health/live")[0] == 200
    assert [worker["worker"] for worker in workers.health()["workers"]] == list(range(WORKERS))
    clients = [socket_client(workers.port) for _ in range(20)]
    workers.all_pids()
    lines = workers.get("/metrics")[1].splitlines()
    by_worker = [line for line in lines if line.startswith("distributary_edge_connections{")]
    assert [line.split("{")[1].split("}")[0] for line in by_worker] == [f'worker="{number}"' for number in range(WORKERS)]
    assert sum(float(line.split()[-1]) for line in by_worker) == 20
    assert f"distributary_edge_workers {WORKERS}.0" in lines
    assert len([line for line in lines if line.startswith("# TYPE distributary_edge_connections ")]) == 1
    for client in clients:
        client.close()
