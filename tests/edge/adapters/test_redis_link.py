"""A link to Redis that is up and says nothing."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edge.adapters import redis_link
from edge.adapters.redis_connection import RedisConnection, parse_address
from edge.adapters.redis_link import PLAIN, Link, LinkOwner
from shared.errors import BusUnavailableError
from tests.rig.wait import wait_until_async


class Connection:
    """Answers when a test does it for it."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent: list[bytes] = []

    def send(self, packed: bytes) -> None:
        self.sent.append(packed)

    async def ask(self, *_: str) -> str:
        return "PONG"


class Watched:
    """A link that watches two connections."""

    def __init__(self) -> None:
        self.reader, self.pubsub = Connection(), Connection()
        self.link = Link(cast("LinkOwner", SimpleNamespace(layout=None)), parse_address("redis://127.0.0.1:1"), "Redis here", PLAIN)
        self.link._pubsub = cast("Any", self.pubsub)
        connections = cast("tuple[RedisConnection, RedisConnection]", (self.reader, self.pubsub))
        self.watching = asyncio.create_task(self.link._watch(*connections))

    async def pinged(self, times: int) -> None:
        await wait_until_async(lambda: len(self.pubsub.sent) >= times, what=f"{times} pings", interval_s=0)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_link, "PING_INTERVAL_S", 0.001)
    monkeypatch.setattr(redis_link, "LOOK_S", 0)


def test_a_subscription_that_answers_late_is_there():
    async def main() -> None:
        watched = Watched()
        for times in range(1, 4):
            await watched.pinged(times)
            for _ in range(redis_link.LOOKS - 5):
                await asyncio.sleep(0)
            watched.link._on_messages([[b"pong", b""]])
        watched.pubsub.lost.set_result(None)
        with pytest.raises(BusUnavailableError, match="connection lost"):
            await watched.watching

    asyncio.run(main())


def test_one_that_never_answers_is_given_up():
    async def main() -> None:
        watched = Watched()
        with pytest.raises(BusUnavailableError, match="the subscription does not answer"):
            await watched.watching
        assert len(watched.pubsub.sent) == 1

    asyncio.run(main())
