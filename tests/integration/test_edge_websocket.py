"""A real edge and real WebSocket clients: admission, handshakes, compression."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate

from tests.conftest import StartProject
from tests.rig.ports import free_port
from tests.rig.pusher import Pusher

CHANNEL = "test:1"

StartEdge = Callable[..., str]
MakePusher = Callable[..., Pusher]


@pytest.fixture
def start_edge(start_project: StartProject, redis_url: str) -> StartEdge:
    def start(*options: str | int) -> str:
        port = free_port()
        edge = start_project("edge", "run", "--bus", redis_url, "--port", port, "--internal-port", -1, *options)
        edge.wait_for_port(port)
        return f"ws://127.0.0.1:{port}/v1/ws"

    return start


@pytest.fixture
def make_pusher(redis_url: str) -> Iterator[MakePusher]:
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(contextlib.closing(Pusher(redis_url, CHANNEL, **options)))


def test_of_a_storm_some_are_served_and_the_others_told_when_to_come_back(start_edge: StartEdge, make_pusher: MakePusher) -> None:
    rate = 5
    url = f"{start_edge('--max-connects-per-s', rate)}?channels={CHANNEL}"
    pusher = make_pusher()

    async def check() -> None:
        begun = time.monotonic()
        outcomes = await asyncio.gather(*(connect(url, open_timeout=60) for _ in range(150)), return_exceptions=True)
        took_s = time.monotonic() - begun
        refused = [outcome.response for outcome in outcomes if isinstance(outcome, InvalidStatus)]
        served = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert len(refused) + len(served) == 150
        # The first, those who may wait for a second, and those of the seconds that it took.
        assert rate <= len(served) <= 1 + rate * (1 + took_s)
        assert {response.status_code for response in refused} == {503}
        after = {int(response.headers["Retry-After"]) for response in refused}
        assert len(after) > 2
        assert min(after) >= 1
        assert max(after) <= 1 + len(refused) / rate + 3  # One after the other, and some jitter.
        value = pusher.push()
        for client in served:
            assert json.loads(await asyncio.wait_for(client.recv(), 60))["data"] == value
        await asyncio.gather(*(client.close() for client in served))

    asyncio.run(check())


def test_a_websocket_after_another_request_on_one_connection(start_edge: StartEdge) -> None:
    """As a proxy does that keeps its connections."""
    port = int(start_edge().split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"GET /v1/openapi.json HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += client.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 200")
        client.sendall(
            b"GET /v1/ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        answer = client.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 101")
        for number in (1, 2):
            message = json.dumps({"type": "connect", "id": number}).encode()
            client.sendall(bytes((0x81, 0x80 | len(message))) + bytes(4) + message)
            answer = client.recv(65_536)
            assert (b'"connected"', b'"already_connected"')[number - 1] in answer


OFFERS: dict[str, dict[str, Any]] = {
    "as browsers": {"client_max_window_bits": True},
    "small windows": {"server_max_window_bits": 9, "client_max_window_bits": 9},
    "nothing about windows": {"client_max_window_bits": None},
    "no takeover": {"server_no_context_takeover": True, "client_no_context_takeover": True},
}


def test_compressed_for_those_who_offer_it_plain_for_the_others(start_edge: StartEdge, make_pusher: MakePusher) -> None:
    url = start_edge("--deflate")
    pusher = make_pusher(padding=3_000)

    async def check() -> None:
        offers = [[ClientPerMessageDeflateFactory(**offer)] for offer in OFFERS.values()]
        compressed = [await connect(url, compression=None, extensions=offer) for offer in offers]
        plain = await connect(url, compression=None)
        for client in (*compressed, plain):
            # Long enough to be compressed by the client, and answered.
            await client.send(json.dumps({"type": "connect", "id": 1, "client": "x" * 500}))
            await client.send(json.dumps({"type": "subscribe", "id": 2, "channel": CHANNEL}))
            assert [json.loads(await client.recv())["type"] for _ in range(2)] == ["connected", "subscribed"]
        for _ in range(3):
            value = await asyncio.to_thread(pusher.push)
            for client in (*compressed, plain):
                assert json.loads(await asyncio.wait_for(client.recv(), 60))["data"] == value
        assert [isinstance(client.protocol.extensions[0], PerMessageDeflate) for client in compressed] == [True] * len(OFFERS)
        assert plain.protocol.extensions == []
        bomb = compressed[0]
        await bomb.send("0" * 5_000_000)
        with pytest.raises(ConnectionClosed):
            await bomb.recv()
        assert bomb.close_code == 1009
        for client in (*compressed, plain):
            await client.close()

    asyncio.run(check())


def test_without_the_option_nothing_is_compressed(start_edge: StartEdge) -> None:
    async def check() -> None:
        async with connect(start_edge(), compression="deflate") as client:
            assert client.protocol.extensions == []

    asyncio.run(check())
