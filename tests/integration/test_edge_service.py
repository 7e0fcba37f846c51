"""An edge as its operator and its worst clients meet it: limits, hostile bytes, health, signals, wrong options."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any, Self

import pytest
import websockets
from websockets.asyncio.client import connect

from shared.bus.layout import BusLayout
from shared.publication import Kind
from tests.conftest import StartProject, StartRedis
from tests.edge.service import Bridge, EdgeProcess, Listener, aside, bare, client, get, run, wait_for_json
from tests.rig.ports import free_port
from tests.rig.redis_server import RedisServer
from tests.rig.wait import PATIENCE_S, wait_until, wait_until_async

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


@pytest.fixture
def bridge(redis_url: str) -> Iterator[Bridge]:
    with Bridge(redis_url) as bridge:
        bridge.push("a", {"n": 1})
        yield bridge


@pytest.fixture
def edge(bridge: Bridge, redis_url: str, start_project: StartProject) -> EdgeProcess:
    edge = EdgeProcess(start_project, redis_url)
    wait_for_json(edge.internal("/health/ready"), lambda health: bool(health["status"] == "ok"))
    return edge


class RawSocket:
    """A client below WebSocket: sends any bytes, and reads frames as they come."""

    def __init__(self, edge: EdgeProcess, *, path: str = "/v1/ws", receive_buffer: int = 0) -> None:
        self._socket = socket.socket()
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(("127.0.0.1", edge.port))
        key = base64.b64encode(os.urandom(16)).decode()
        self.send(
            f"GET {path} HTTP/1.1\r\nHost: edge\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        self._unread = bytearray()
        while b"\r\n\r\n" not in self._unread:
            self._unread += self._socket.recv(4_096)
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        self.status = int(head.split()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def frame(self, opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True, claims: int | None = None) -> None:
        """Send one frame; `claims` another length than it has."""
        size = len(payload) if claims is None else claims
        mask_bit = 0x80 if masked else 0
        head = bytes([opcode | (0x80 if fin else 0)])
        if size < 126:
            head += bytes([size | mask_bit])
        elif size < 65_536:
            head += struct.pack(">BH", 126 | mask_bit, size)
        else:
            head += struct.pack(">BQ", 127 | mask_bit, size)
        self.send(head + (b"\0\0\0\0" if masked else b"") + payload)

    def command(self, **fields: Any) -> None:
        self.frame(TEXT, json.dumps(fields).encode())

    def next(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload."""
        first, second = self._take(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self._take(8))
        return first & 0x0F, self._take(size)

    def answer(self) -> Any:
        """The next text frame, read. Pings that come before it are answered: a test may take long."""
        opcode, payload = self.next()
        while opcode == PING:
            self.frame(PONG, payload)
            opcode, payload = self.next()
        assert opcode == TEXT, (opcode, payload)
        return json.loads(payload)

    def close_code(self) -> int:
        """Read on to the close frame, as fast as can be: the edge does not wait long. Returns its code."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_194_304)
        while True:
            opcode, payload = self.next()
            if opcode == CLOSE:
                (code,) = struct.unpack(">H", payload[:2])
                return int(code)

    def read_some(self, most: int) -> bytes:
        """Read what is there, and keep it for later. Returns it."""
        data = self._socket.recv(most)
        self._unread += data
        return data

    def _take(self, size: int) -> bytes:
        while len(self._unread) < size:
            data = self._socket.recv(1_048_576)
            if not data:
                msg = "the edge has ended the connection"
                raise ConnectionError(msg)
            self._unread += data
        taken = bytes(self._unread[:size])
        del self._unread[:size]
        return taken


def lives(edge: EdgeProcess) -> None:
    """The process serves others as before."""
    with RawSocket(edge, path="/v1/ws?channels=a") as other:
        assert other.answer()["data"] == {"n": 1}
    assert "Traceback" not in edge.process.output(), edge.process.tail()


class TestHostileFrames:
    @pytest.fixture
    def raw(self, edge: EdgeProcess) -> Iterator[RawSocket]:
        with RawSocket(edge) as raw:
            raw.command(type="connect", id=1)
            assert raw.answer()["type"] == "connected"
            yield raw
        lives(edge)

    def test_too_large(self, raw: RawSocket):
        raw.frame(TEXT, b"x" * 65_537)
        assert raw.close_code() == 1009

    def test_too_large_by_its_own_word(self, raw: RawSocket):
        raw.frame(TEXT, b"x", claims=2**40)
        assert raw.close_code() == 1009

    def test_too_large_in_fragments(self, raw: RawSocket):
        raw.frame(TEXT, b"x" * 40_000, fin=False)
        raw.frame(0, b"x" * 40_000)
        assert raw.close_code() == 1009

    def test_as_large_as_may_be(self, raw: RawSocket):
        command = json.dumps({"type": "ping", "id": 5, "pad": ""}).encode()
        raw.frame(TEXT, command[:-2] + b"x" * (65_536 - len(command)) + command[-2:])
        assert raw.answer() == {"type": "pong", "id": 5}

    def test_cut_short(self, raw: RawSocket):
        raw.frame(TEXT, b'{"type":', claims=100)

    def test_in_fragments_with_a_ping_between(self, raw: RawSocket):
        raw.frame(TEXT, b'{"type":"pi', fin=False)
        raw.frame(PING, b"hello")
        raw.frame(0, b'ng","id', fin=False)
        raw.frame(0, b'":7}')
        answers = dict([raw.next(), raw.next()])
        assert answers == {PONG: b"hello", TEXT: b'{"type":"pong","id":7}'}

    def test_byte_by_byte(self, raw: RawSocket):
        raw._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        payload = b'{"type":"ping","id":7}'
        for byte in bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload:
            raw.send(bytes([byte]))
        assert raw.answer() == {"type": "pong", "id": 7}

    def test_of_the_wrong_kind(self, raw: RawSocket):
        raw.frame(BINARY, b"\x81\xa2id\x01")
        assert raw.close_code() == 1003

    @pytest.mark.parametrize("payload", [b"\xff\xfe", b'{"type":"ping","id":1,"x":"\xc3"}'])
    def test_not_utf_8(self, raw: RawSocket, payload: bytes):
        raw.frame(TEXT, payload)
        assert raw.close_code() == 1007

    def test_not_utf_8_across_fragments_is_looked_at_whole(self, raw: RawSocket):
        raw.frame(TEXT, b'{"type":"ping","id":1,"x":"\xc3', fin=False)
        raw.frame(0, b'\xbc"}')
        assert raw.answer() == {"type": "pong", "id": 1}

    def test_unmasked(self, raw: RawSocket):
        raw.frame(TEXT, b"{}", masked=False)
        assert raw.close_code() == 1002

    @pytest.mark.parametrize("data", [b"\x83\x80\0\0\0\0", b"\xf1\x80\0\0\0\0", b"\x80\x80\0\0\0\0", b"\x09\x80\0\0\0\0"])
    def test_against_the_standard(self, raw: RawSocket, data: bytes):
        raw.send(data)
        assert raw.close_code() == 1002

    def test_errors_are_answered_and_too_many_end_it(self, raw: RawSocket):
        for message in (
            b"",
            b"{",
            b"[]",
            b'{"id":0}',
            b'{"id":1,"type":"x"}',
            b'{"id":2,"type":"subscribe"}',
            b'{"id":3,"type":[]}',
            b"1",
            b"null",
        ):
            raw.frame(TEXT, message)
            assert raw.answer()["type"] == "error"
        raw.command(type="ping", id=4)
        assert raw.answer() == {"type": "pong", "id": 4}
        raw.frame(TEXT, b"the tenth")
        assert raw.answer()["code"] == "bad_frame"
        assert raw.close_code() == 4102

    def test_commands_after_the_end_do_nothing(self, raw: RawSocket, edge: EdgeProcess):
        """All in one segment: ten errors, then a subscribe."""
        payload = json.dumps({"type": "subscribe", "id": 1, "channel": "after-the-end"}).encode()
        raw.send(b"\x81\x81\0\0\0\0x" * 10 + bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)
        assert raw.close_code() == 4102
        assert wait_for_json(edge.internal("/health/ready"), lambda _: True)["channels"] == 0

    def test_nested_as_deep_as_fits(self, raw: RawSocket):
        for depth in (980, 990, 995, 998, 1_000, 30_000):
            raw.frame(TEXT, b'{"id":1,"type":' + b"[" * depth + b"]" * depth + b"}")
            assert raw.answer()["type"] == "error"

    def test_channels_that_are_none(self, raw: RawSocket):
        for name in ("", "*", "a b", "a{1}", "ü", "x" * 256, "d:{0}:incarnation", "\x00"):
            raw.command(type="subscribe", id=5, channel=name)
            answer = raw.answer()
            assert (answer["code"], answer["id"], answer["retry"]) == ("bad_channel", 5, False)

    @pytest.mark.parametrize(
        ("position", "reason"),
        [
            ({"epoch": "AAAAAAAAAAAAAAAA", "offset": 1}, "epoch_changed"),
            ({"epoch": None, "offset": 2**53 - 1}, None),
            ("future", "position_ahead"),
        ],
    )
    def test_positions_that_are_none(self, raw: RawSocket, bridge: Bridge, position: Any, reason: str | None):
        if position == "future":
            position = {"epoch": next(iter(bridge.published))[1], "offset": 2}
        raw.command(type="subscribe", id=5, channel="a", position=position)
        answer = raw.answer()
        if reason is None:
            assert answer["code"] == "bad_frame"
        else:
            assert (answer["recovered"], answer["reason"], answer["missed"]) == (False, reason, None)
            assert raw.answer()["data"] == {"n": 1}


KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


def upgrade(*headers: str, path: str = "/v1/ws") -> bytes:
    """A request for a WebSocket with these headers."""
    lines = (f"GET {path} HTTP/1.1", "Host: e", "Upgrade: websocket", "Connection: Upgrade", *headers, "", "")
    return "\r\n".join(lines).encode()


class TestHandshake:
    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            (upgrade(), 400),
            (upgrade("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x"), 400),
            (upgrade("Sec-WebSocket-Version: 7", KEY), 426),
            (upgrade("Sec-WebSocket-Version: 13", KEY, path="/other"), 404),
            (b"POST /v1/ws HTTP/1.1\r\nHost: e\r\nContent-Length: 0\r\n\r\n", 405),
            (b"GET /v1/ws HTTP/1.1\r\nHost: e\r\n\r\n", 426),
            (b"nonsense\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50, 400),
        ],
    )
    def test_what_is_none_is_refused(self, edge: EdgeProcess, request_: bytes, status: int):
        with socket.create_connection(("127.0.0.1", edge.port), timeout=PATIENCE_S) as raw:
            raw.sendall(request_)
            assert int(raw.recv(4_096).split()[1]) == status
        lives(edge)

    def test_one_that_asks_for_no_websocket_is_told_to(self, edge: EdgeProcess):
        status, body = get(edge.http("/v1/ws?channels=a"))
        assert status == 426
        assert "WebSocket clients" in json.loads(body)["detail"]

    def test_one_that_ends_half_way(self, edge: EdgeProcess):
        with socket.create_connection(("127.0.0.1", edge.port)) as raw:
            raw.sendall(b"GET /v1/ws HTTP/1.1\r\nUpgr")
        lives(edge)

    def test_bad_names_in_the_url_are_errors_and_the_others_are_served(self, edge: EdgeProcess):
        with RawSocket(edge, path="/v1/ws?channels=a%20b,a,,a*&delta=nonsense") as raw:
            frames = [raw.answer() for _ in range(4)]
            assert {frame["channel"]: frame.get("code") for frame in frames} == {
                "a b": "bad_channel",
                "a": None,
                "": "bad_channel",
                "a*": "bad_channel",
            }

    def test_subprotocol(self, edge: EdgeProcess):
        async def main() -> None:
            async with connect(
                edge.url(), subprotocols=[websockets.Subprotocol("other"), websockets.Subprotocol("distributary.v1.msgpack")]
            ) as it:
                assert it.subprotocol == "distributary.v1.msgpack"

        run(main)


class TestLimits:
    def start(self, start_project: StartProject, redis_url: str, *options: str | int) -> EdgeProcess:
        return EdgeProcess(start_project, redis_url, *options)

    def test_connections(self, bridge: Bridge, redis_url: str, start_project: StartProject):
        edge = self.start(start_project, redis_url, "--max-connections", 2)
        bare = "/v1/ws?channels=a"  # One that never says `connect` would be closed in time.
        with RawSocket(edge, path=bare) as first, RawSocket(edge, path=bare), RawSocket(edge, path=bare) as refused:
            assert (first.status, refused.status) == (101, 503)
            first.frame(CLOSE, struct.pack(">H", 1_000))
            assert first.close_code() == 1_000
            wait_for_json(edge.internal("/health/ready"), lambda health: bool(health["connections"] == 1))
            with RawSocket(edge) as again:
                assert again.status == 101

    def test_connections_of_one_address(self, bridge: Bridge, redis_url: str, start_project: StartProject):
        edge = self.start(start_project, redis_url, "--max-connections-per-address", 1)
        with RawSocket(edge) as first, RawSocket(edge) as refused:
            assert (first.status, refused.status) == (101, 503)

    def test_subscriptions(self, bridge: Bridge, redis_url: str, start_project: StartProject):
        edge = self.start(start_project, redis_url, "--max-subscriptions", 2)

        async def main() -> None:
            async with client(edge) as listener:
                answers = [await listener.ask(type="subscribe", channel=f"c{number}") for number in range(3)]
                assert [answer.get("code") for answer in answers] == [None, None, "too_many_subscriptions"]

        run(main)

    def test_a_client_that_says_nothing_is_closed(self, edge: EdgeProcess):
        with RawSocket(edge) as raw:
            assert raw.close_code() == 4101

    def test_a_client_that_answers_no_ping_is_closed(self, bridge: Bridge, redis_url: str, start_project: StartProject):
        # So long that the one who answers has the time to, however busy the machine is.
        edge = self.start(start_project, redis_url, "--ping-interval-s", 4)

        async def main() -> None:
            async with bare(edge, "a") as listener:
                with RawSocket(edge, path="/v1/ws?channels=a") as silent:
                    assert await aside(silent.close_code) == 4002
                assert listener.connection.close_code is None
                assert (await listener.ask(type="ping"))["type"] == "pong"

        run(main)


class TestModesByUrl:
    """A bare client chooses by its URL how it is delivered."""

    def test_acknowledgements_move_its_window(self, edge: EdgeProcess, bridge: Bridge):
        with RawSocket(edge, path="/v1/ws?channels=urls&mode=ack&window=2") as raw:
            with RawSocket(edge) as other:  # Once it is subscribed, so is the one before it.
                other.command(type="connect", id=1)
                other.command(type="subscribe", id=2, channel="urls")
                while other.answer()["type"] != "subscribed":
                    pass
            for number in range(1, 6):
                bridge.push("urls", {"n": number}, kind=Kind.STREAM)
            got = [raw.answer(), raw.answer()]
            raw.command(type="ping", id=2)
            assert raw.answer() == {"type": "pong", "id": 2}
            assert [frame["data"]["n"] for frame in got] == [1, 2]
            raw.command(type="ack", channel="urls", epoch=got[-1]["epoch"], offset=got[-1]["offset"])
            assert [raw.answer()["data"]["n"] for _ in range(2)] == [3, 4]

    @pytest.mark.parametrize("query", ["mode=newest", "max_rate=often", "window=0", "window=1.5", "max_rate=nan"])
    def test_what_is_no_mode_is_told_and_nothing_is_subscribed(self, edge: EdgeProcess, query: str):
        with RawSocket(edge, path=f"/v1/ws?channels=a&{query}") as raw:
            error = raw.answer()
            assert (error["type"], error["code"]) == ("error", "bad_frame")
            raw.command(type="unsubscribe", id=1, channel="a")
            assert raw.answer()["code"] == "not_subscribed"

    def test_a_rate_is_kept_to(self, edge: EdgeProcess, bridge: Bridge):
        """At one in 100 s, only the value at the start comes."""
        with RawSocket(edge, path="/v1/ws?channels=a&mode=conflate&max_rate=0.01") as raw:
            assert raw.answer()["data"] == {"n": 1}
            for number in (2, 3):
                bridge.push("a", {"n": number})
            with RawSocket(edge, path="/v1/ws?channels=a") as other:
                while other.answer()["data"] != {"n": 3}:
                    pass
            raw.command(type="ping", id=1)
            assert raw.answer() == {"type": "pong", "id": 1}


async def wait_for_count(listener: Listener, count: int) -> None:
    await wait_until_async(lambda: len(listener.heard) == count, what=f"{count} publications", state=listener.__repr__)


class TestSlowConsumer:
    def test_is_closed_and_costs_nobody_else(self, bridge: Bridge, redis_url: str, start_project: StartProject):
        edge = EdgeProcess(start_project, redis_url, "--max-outbox-bytes", 65_536)

        async def main() -> None:
            async with bare(edge, "big") as quick:
                # A subscription that is not yet there when two are published gets the newest of them only.
                await aside(bridge.push, "big", {"n": -1})
                await wait_until_async(lambda: quick.heard, what="the first one")
                with RawSocket(edge, path="/v1/ws?channels=big", receive_buffer=4_096) as slow:
                    for number in range(200):
                        await aside(bridge.push, "big", {"n": number, "pad": os.urandom(30_000).hex()})
                        # One at a time: the edge has written it to both, and judged the slow one. None waits at the quick one.
                        await wait_for_count(quick, number + 2)
                        if "slow consumer" in edge.process.output():
                            break
                    # The kernel does not take megabytes before anything is unsent here.
                    assert number * 60_000 < 1_000_000
                    assert quick.gaps == []
                    quick.check(bridge.published)
                    assert await aside(slow.close_code) == 4001
                await aside(wait_for_json, edge.internal("/health/ready"), lambda health: health["connections"] == 1)
                assert b"distributary_edge_slow_consumers_total 1.0" in (await aside(get, edge.internal("/metrics")))[1]

        run(main)

    def test_one_publication_larger_than_an_outbox_is_no_reason(self, bridge: Bridge, redis_url: str, start_project: StartProject):
        """As long as nothing else is unsent. The second one before the first was read is."""
        edge = EdgeProcess(start_project, redis_url, "--max-outbox-bytes", 65_536)

        async def main() -> None:
            await aside(bridge.push, "big", {"n": 0})
            with RawSocket(edge, path="/v1/ws?channels=big", receive_buffer=4_096) as slow:
                assert (await aside(slow.answer))["data"]["n"] == 0
                async with client(edge) as quick:
                    await quick.ask(type="subscribe", channel="big")
                    for number in (1, 2):
                        await aside(bridge.push, "big", {"n": number, "pad": os.urandom(400_000).hex()})
                        # Once it is with the others, and a turn of the event loop later, it was judged.
                        await wait_until_async(lambda: len(quick.heard) == number + 1, what="the newest")  # noqa: B023  (waited for here)
                        await quick.ask(type="ping")
                        frame = await aside(slow.answer)
                        assert frame["data"]["n"] == number
                slow.command(type="ping", id=7)
                assert await aside(slow.answer) == {"type": "pong", "id": 7}
                for number in range(3, 10):
                    await aside(bridge.push, "big", {"n": number, "pad": os.urandom(400_000).hex()})
                assert await aside(slow.close_code) == 4001
            assert edge.process.output().count("slow consumer") == 1

        run(main)

    def test_one_that_comes_back_resumes(self, bridge: Bridge, redis_url: str, start_project: StartProject):
        edge = EdgeProcess(start_project, redis_url, "--max-outbox-bytes", 65_536)

        async def main() -> None:
            await aside(bridge.push, "big", {"n": 0})
            with RawSocket(edge, path="/v1/ws?channels=big", receive_buffer=4_096) as slow:
                got = [await aside(slow.answer)]
                async with bare(edge, "big") as quick:
                    await wait_for_count(quick, 1)
                    for number in range(1, 200):
                        await aside(bridge.push, "big", {"n": number, "pad": os.urandom(30_000).hex()}, keep=1_000)
                        await wait_for_count(quick, number + 1)
                        if "slow consumer" in edge.process.output():
                            break
                with contextlib.suppress(AssertionError):
                    while True:
                        got.append(await aside(slow.answer))
            assert [frame["data"]["n"] for frame in got] == list(range(len(got)))
            for last in range(number + 1, number + 4):
                await aside(bridge.push, "big", {"n": last}, keep=1_000)
            async with client(edge) as again:
                answer = await again.ask(type="subscribe", channel="big", position={"epoch": got[-1]["epoch"], "offset": got[-1]["offset"]})
                assert answer["recovered"] is True
                await wait_until_async(lambda: again.heard and again.heard[-1].value["n"] == last, what="the newest")
                assert [each.value["n"] for each in again.heard] == list(range(len(got), last + 1))

        run(main)

    def test_many_first_values_at_once_are_what_was_asked_for(self, bridge: Bridge, redis_url: str, start_project: StartProject):
        """More than an outbox holds, in parts that are each small: no reason to close."""
        edge = EdgeProcess(start_project, redis_url, "--max-outbox-bytes", 65_536)
        names = [f"first:{number}" for number in range(300)]

        async def main() -> None:
            for name in names:
                await aside(bridge.push, name, {"pad": os.urandom(15_000).hex()})
            async with bare(edge, ",".join(names)) as warm:  # the values are in the edge then, and come at once
                await wait_until_async(lambda: len(warm.heard) == len(names), what="every value", state=warm.__repr__)
            with RawSocket(edge, path=f"/v1/ws?channels={','.join(names)}", receive_buffer=4_096) as slowly:
                # It reads once the edge has written all, and more than the kernel takes.
                await aside(wait_for_json, edge.internal("/health/ready"), lambda health: health["connections"] == 1)
                got = [await aside(slowly.answer) for _ in names]
                slowly.command(type="ping", id=7)
                assert await aside(slowly.answer) == {"type": "pong", "id": 7}
            assert {frame["channel"] for frame in got} == set(names)

        run(main)

    def test_first_values_wait_for_the_ones_before(self, bridge: Bridge, redis_url: str, start_project: StartProject):
        """However much a client asks for, however slowly it reads: what comes next is written when there is room, and nobody is closed."""
        edge = EdgeProcess(start_project, redis_url)
        names = [f"huge:{number}" for number in range(12)]

        async def main() -> None:
            for name in names:
                await aside(bridge.push, name, os.urandom(2_000_000))
            async with bare(edge, ",".join(names), format="msgpack") as warm:
                await wait_until_async(lambda: len(warm.heard) == len(names), what="every value", state=warm.__repr__)
                with RawSocket(edge, path=f"/v1/ws?channels={','.join(names)}", receive_buffer=4_096) as slow:
                    got = [(await aside(slow.answer))["channel"] for _ in names]
                    assert got == names
                    slow.command(type="ping", id=7)
                    assert await aside(slow.answer) == {"type": "pong", "id": 7}
            assert "slow consumer" not in edge.process.output()

        run(main)

    def test_who_reads_slowly_is_there(self, bridge: Bridge, redis_url: str, start_project: StartProject):
        """A ping is behind all that was sent before it: who still reads that has not failed to answer."""
        edge = EdgeProcess(start_project, redis_url, "--ping-interval-s", 2)

        def read(slow: RawSocket) -> None:
            got, pause = 0, threading.Event()
            while got < 400_000:
                got += len(slow.read_some(20_000))
                pause.wait(0.1)
            assert slow.answer()["channel"] == "big"
            slow.command(type="ping", id=7)
            assert slow.answer() == {"type": "pong", "id": 7}

        async def main() -> None:
            await aside(bridge.push, "big", {"pad": os.urandom(1_000_000).hex()})
            with RawSocket(edge, path="/v1/ws?channels=big", receive_buffer=4_096) as slow:
                await aside(read, slow)

        run(main)

    def test_what_is_asked_for_again_and_again_is_not_sent_again(self, bridge: Bridge, redis_url: str, start_project: StartProject):
        """A client that never reads cannot make the edge hold as much as it likes by subscribing."""
        edge = EdgeProcess(start_project, redis_url, "--max-outbox-bytes", 65_536)

        async def main() -> None:
            await aside(bridge.push, "big", {"pad": os.urandom(500_000).hex()})
            async with bare(edge, "big") as warm:
                await wait_until_async(lambda: warm.heard, what="the value")
                with RawSocket(edge, receive_buffer=4_096) as greedy:
                    greedy.command(type="connect", id=1)
                    for number in range(2, 60):
                        greedy.command(type="subscribe", id=number, channel="big")
                        greedy.command(type="unsubscribe", id=number, channel="big")
                    greedy.command(type="ping", id=60)
                    answers = []
                    while (answer := await aside(greedy.answer)) != {"type": "pong", "id": 60}:
                        answers.append(answer["type"])
                    assert answers.count("unsubscribed") == 58
                    assert answers.count("publication") <= 5  # What the kernel takes, and one.

        run(main)


class TestOperation:
    def test_health_and_metrics(self, edge: EdgeProcess):
        async def main() -> None:
            async with bare(edge, "a") as listener:
                await listener.wait_for("a", {"n": 1})
                assert await aside(get, edge.internal("/health/live")) == (200, b'{"status":"ok"}')
                status, body = await aside(get, edge.internal("/health/ready"))
                health = json.loads(body)
                assert (status, health["status"], health["connections"], health["channels"]) == (200, "ok", 1, 1)
                assert health["bus"][0]["connected"] is True
                text = (await aside(get, edge.internal("/metrics")))[1].decode()
                for line in ("distributary_edge_connections 1.0", "distributary_edge_channels 1.0", "distributary_edge_bus_up 1.0"):
                    assert line in text
                assert re.search(r"^distributary_edge_bus_reads_total [1-9]", text, re.MULTILINE)
                for path in ("/health/ready", "/metrics"):
                    assert (await aside(get, edge.http(path)))[0] == 404

        run(main)

    def test_channel_info(self, edge: EdgeProcess, bridge: Bridge):
        epoch = next(iter(bridge.published))[1]
        status, body = get(edge.http("/v1/channels/a"))
        assert (status, json.loads(body)) == (200, {"channel": "a", "kind": "latest", "position": {"epoch": epoch, "offset": 1}})
        assert get(edge.http("/v1/channels/never"))[0] == 404
        assert get(edge.http("/v1/channels/a%20b"))[0] == 400
        assert get(edge.http("/v1/channels/" + "x" * 256))[0] == 400

    def test_looking_up_channels_does_not_load_the_bus_without_bound(self, redis_url: str, bridge: Bridge, start_project: StartProject):
        """What the edge has anyway is told however often; what it must ask the bus for is not."""
        edge = EdgeProcess(start_project, redis_url, "--max-lookups-per-s", "0.5")
        wait_for_json(edge.internal("/health/ready"), lambda health: bool(health["status"] == "ok"))
        answers = [get(edge.http(f"/v1/channels/never-{number}"))[0] for number in range(20)]
        assert answers[0] == 404
        assert 429 in answers
        assert answers.count(404) < 15

        async def main() -> None:
            async with bare(edge, "a") as listener:
                await listener.wait_for("a", {"n": 1})
                assert [(await aside(get, edge.http("/v1/channels/a")))[0] for _ in range(20)] == [200] * 20

        run(main)

    def test_without_redis_it_is_degraded_and_alive(self, start_redis: StartRedis, start_project: StartProject):
        server = start_redis()
        with Bridge(server.url) as bridge:
            bridge.push("a", {"n": 1})
            edge = EdgeProcess(start_project, server.url)
            wait_for_json(edge.internal("/health/ready"), lambda health: bool(health["status"] == "ok"))
            server.kill()
            wait_for_json(edge.internal("/health/ready"), lambda health: bool(health["status"] == "degraded"))
            assert get(edge.internal("/health/ready"))[0] == 200
            assert get(edge.internal("/health/live"))[0] == 200
            assert get(edge.http("/v1/channels/never"))[0] == 503

    def test_drain(self, edge: EdgeProcess):
        async def main() -> None:
            async with bare(edge, "a") as first, client(edge) as second:
                await first.wait_for("a", {"n": 1})
                edge.process.signal(signal.SIGTERM)
                assert await first.closed() == 1001
                assert await second.closed() == 1001
                for listener in (first, second):
                    drains = [each for each in listener.controls if each["type"] == "drain"]
                    assert len(drains) == 1
                    assert 0 <= drains[0]["reconnect_after_ms"] <= 1_000
            assert await aside(edge.process.wait) == 0

        run(main)

    def test_ends_at_once_where_nobody_is_connected(self, bridge: Bridge, redis_url: str, start_project: StartProject):
        edge = EdgeProcess(start_project, redis_url, "--drain-s", 1000)
        assert edge.process.terminate() == 0
        assert "Traceback" not in edge.process.output()

    def test_a_client_that_does_not_read_does_not_hold_up_the_end(self, bridge: Bridge, redis_url: str, start_project: StartProject):
        edge = EdgeProcess(start_project, redis_url, "--drain-s", 1)
        with RawSocket(edge, path="/v1/ws?channels=a"), RawSocket(edge, path="/v1/ws?channels=a"):
            wait_for_json(edge.internal("/health/ready"), lambda health: bool(health["connections"] == 2))
            assert edge.process.terminate() == 0


class TestRefusesToStart:
    def run(self, start_project: StartProject, *options: str | int) -> tuple[int, str]:
        process = start_project("edge", "run", *options)
        status = process.wait()
        assert "Traceback" not in process.output(), process.tail()
        return status, process.output()

    def test_all_problems_at_once(self, start_project: StartProject):
        status, output = self.run(
            start_project, "--bus", "http://x,redis://", "--port", 99_999, "--internal-port", -2, "--max-connections", 0,
            "--max-outbox-bytes", 1, "--ping-interval-s", 0, "--drain-s", -1,
        )  # fmt: skip
        assert status == 2
        for word in (
            "http",
            "redis://",
            "--port",
            "--internal-port",
            "--max-connections",
            "--max-outbox-bytes",
            "--ping-interval-s",
            "--drain-s",
        ):
            assert word in output

    def test_no_bus(self, start_project: StartProject):
        status, output = self.run(start_project)
        assert status == 2
        assert "--bus" in output

    def test_passwords_are_not_shown(self, start_project: StartProject):
        status, output = self.run(start_project, "--bus", "redis://user:geheim@127.0.0.1:1,nope://user:geheim@h")
        assert status == 2
        assert "geheim" not in output

    def test_a_port_that_is_taken(self, edge: EdgeProcess, redis_url: str, start_project: StartProject):
        status, output = self.run(start_project, "--bus", redis_url, "--port", edge.port, "--internal-port", free_port())
        assert status == 1
        assert str(edge.port) in output

    @pytest.mark.parametrize("servers", [1, 2])
    def test_a_bus_of_another_layout(
        self, redis_server: RedisServer, redis_url: str, start_redis: StartRedis, start_project: StartProject, servers: int
    ):
        """The bridge was told two servers and the edge one, or the other way round."""
        urls = [redis_url, start_redis().url]
        bridge_urls, edge_urls = (urls, urls[:1]) if servers == 1 else (urls[:1], urls)
        with Bridge(",".join(bridge_urls), layout=BusLayout(servers=len(bridge_urls))) as bridge:
            bridge.push("a", {"n": 1})
            status, output = self.run(start_project, "--bus", ",".join(edge_urls), "--port", free_port(), "--internal-port", free_port())
        assert status == 1
        assert f"servers {len(bridge_urls)}, this process was told {len(edge_urls)}" in output

    def test_something_else_under_the_layouts_key(self, redis_server: RedisServer, redis_url: str, start_project: StartProject):
        with contextlib.closing(redis_server.client()) as redis:
            redis.set("d:layout", "nonsense")
        status, output = self.run(start_project, "--bus", redis_url, "--port", free_port(), "--internal-port", free_port())
        assert status == 1
        assert "--bus-prefix" in output

    def test_a_second_signal_ends_a_drain(self, bridge: Bridge, redis_url: str, start_project: StartProject):
        edge = EdgeProcess(start_project, redis_url, "--drain-s", 1000)
        with RawSocket(edge, path="/v1/ws?channels=a"), RawSocket(edge, path="/v1/ws?channels=a"):
            wait_for_json(edge.internal("/health/ready"), lambda health: bool(health["connections"] == 2))
            edge.process.signal(signal.SIGTERM)
            edge.process.wait_for_log("draining")
            edge.process.signal(signal.SIGTERM)
            assert edge.process.wait() in {0, 130}
            assert "Traceback" not in edge.process.output()


def test_shards_come_from_the_bus(redis_url: str, start_project: StartProject):
    with Bridge(redis_url, layout=BusLayout(shards=3)) as bridge:
        bridge.push("a", {"n": 1})
        edge = EdgeProcess(start_project, redis_url)
        wait_until(lambda: get(edge.http("/v1/channels/a"))[0] == 200, what="the channel")
        lives(edge)
