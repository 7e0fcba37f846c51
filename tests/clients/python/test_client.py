"""The client's driver against a scripted edge on a real socket."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from distributary import (
    AlreadySubscribedError,
    Backoff,
    CallTimeoutError,
    Client,
    ClientClosedError,
    ClosedByEdgeError,
    Gap,
    Missed,
    Options,
    Position,
    ProtocolError,
    RefusedError,
    Status,
    UnavailableError,
)
from shared.delta import vcdiff
from shared.errors import ChannelError
from tests.clients.python.fake_edge import EPOCH, FakeEdge, FastClock, Peer, run, until

FAST = Backoff(least_s=0.0, first_s=0.001, most_s=0.002)
BUS = "bus:1430"


def client_of(edge: FakeEdge, clock: FastClock | None = None, *, format: Any = "json", delta: Any = (), **options: Any) -> Client:  # noqa: A002
    settings = Options(**{"backoff": FAST, "proxy": False, **options})
    return Client(edge.url, format=format, delta=delta, options=settings, clock=clock, rng=random.Random(1))


def at(offset: int) -> dict[str, Any]:
    return {"epoch": EPOCH, "offset": offset}


async def take(subscription: Any, count: int) -> list[Any]:
    return [await anext(subscription) for _ in range(count)]


@pytest.mark.parametrize("format_name", ["json", "msgpack"])
def test_publications_arrive_in_order_with_their_values(format_name: str):
    async def script(peer: Peer) -> None:
        frame = await peer.welcome()
        assert frame["client"] == "distributary-python"
        assert (await peer.take(position=at(6)))["channel"] == BUS
        for offset in range(7, 12):
            await peer.publish(offset, {"n": offset})
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, format=format_name) as client:
            seen = await take(client.subscribe(BUS), 5)
            assert [publication.position for publication in seen] == [Position(EPOCH, offset) for offset in range(7, 12)]
            assert [publication.data for publication in seen] == [{"n": offset} for offset in range(7, 12)]
            assert {publication.channel for publication in seen} == {BUS}
            assert all(publication.gap is None and not publication.is_delta for publication in seen)

    run(main())


@pytest.mark.parametrize("format_name", ["json", "msgpack"])
def test_deltas_give_the_exact_payload(format_name: str):
    one, two = b'{"id":"1430","lat":41.3}', b'{"id":"1430","lat":41.4}'

    async def script(peer: Peer) -> None:
        await peer.welcome()
        assert (await peer.take(delta="vcdiff"))["delta"] == ["vcdiff"]
        if peer.is_binary:
            await peer.send([0, 17, 1, EPOCH, None, None, 0, one])
        else:
            frame = {"type": "publication", "number": 17, "epoch": EPOCH, "offset": 1, "encoding": "utf-8", "data": one.decode()}
            await peer.send(frame)
        await peer.vcdiff(2, vcdiff.encode(one, two))
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, format=format_name, delta=["vcdiff"]) as client:
            seen = await take(client.subscribe(BUS), 2)
            assert [publication.payload for publication in seen] == [one, two]
            assert [publication.is_delta for publication in seen] == [False, True]

    run(main())


@pytest.mark.parametrize("format_name", ["json", "msgpack"])
def test_what_the_application_does_to_a_value_does_not_reach_the_next_delta(format_name: str):
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(delta="json-patch")
        await peer.publish(1, {"stops": [1, 2]})
        await peer.patch(2, [{"op": "add", "path": "/stops/-", "value": 3}])
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, format=format_name, delta=["json-patch"]) as client:
            subscription = client.subscribe(BUS)
            (await anext(subscription)).data["stops"].clear()
            assert (await anext(subscription)).data == {"stops": [1, 2, 3]}

    run(main())


def test_a_broken_connection_is_resumed_from_the_last_position():
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(11))
        await peer.publish(12, 12)
        await peer.publish(13, 13)
        peer.cut()

    async def second(peer: Peer) -> None:
        await peer.welcome()
        frame = await peer.take(3, position=at(14), recovered=True)
        assert frame["position"] == at(13)
        await peer.publish(14, 14, number=3)
        await peer.publish(15, 15, number=3)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(first, second) as edge, client_of(edge) as client:
            seen = await take(client.subscribe(BUS), 4)
            assert [publication.data for publication in seen] == [12, 13, 14, 15]
            assert [publication.recovered for publication in seen] == [False, False, True, False]
            assert all(publication.gap is None for publication in seen)
            assert edge.connections == 2

    run(main())


@pytest.mark.parametrize("format_name", ["json", "msgpack"])
def test_a_channel_without_publications_is_resumed_from_its_beginning(format_name: str):
    told: list[Gap] = []

    async def first(peer: Peer) -> None:
        await peer.welcome()
        assert "position" not in await peer.take(kind=None)
        peer.cut()

    async def second(peer: Peer) -> None:
        await peer.welcome()
        frame = await peer.take(3, position=at(3), recovered=True)
        assert frame["position"] == {"epoch": None, "offset": 0}
        for offset in range(1, 4):
            await peer.publish(offset, offset, number=3)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(first, second) as edge, client_of(edge, format=format_name) as client:
            subscription = client.subscribe(BUS, on_gap=told.append)
            assert [publication.data for publication in await take(subscription, 3)] == [1, 2, 3]
            assert told == []
            assert subscription.position == Position(EPOCH, 3)

    run(main())


def test_the_position_of_a_channel_without_publications_can_be_kept():
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(kind=None)
        await peer.stay()

    async def second(peer: Peer) -> None:
        await peer.welcome()
        assert (await peer.take(position=at(1), recovered=True))["position"] == {"epoch": None, "offset": 0}
        await peer.publish(1, 1)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(first, second) as edge:
            async with client_of(edge) as client, client.subscribe(BUS) as subscription:
                await subscription.joined()
                kept = subscription.position
            assert kept is not None
            async with client_of(edge) as client:
                assert (await anext(client.subscribe(BUS, position=kept))).data == 1

    run(main())


def test_a_gap_is_told_at_once_and_with_the_next_publication():
    told: list[Gap] = []

    async def script(peer: Peer) -> None:
        await peer.welcome()
        frame = await peer.take(position=at(9), recovered=False, reason="history_trimmed", missed={"from": 3, "to": 8})
        assert frame["position"] == at(2)
        await until(lambda: bool(told))
        await peer.publish(9, "newest")
        await peer.publish(10, "next")
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge) as client:
            subscription = client.subscribe(BUS, position=(EPOCH, 2), on_gap=told.append)
            first, second = await take(subscription, 2)
            assert first.gap == Gap("history_trimmed", Missed(3, 8))
            assert first.data == "newest"
            assert second.gap is None
            assert told == [Gap("history_trimmed", Missed(3, 8))]

    run(main())


def test_the_position_is_that_of_the_last_publication_taken():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(5))
        for offset in range(6, 9):
            await peer.publish(offset, offset)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge) as client, client.subscribe(BUS) as subscription:
            await subscription.joined()
            assert subscription.position == Position(EPOCH, 5)
            await anext(subscription)
            await until(lambda: len(client._feeds[BUS]._items) == 2)
            assert subscription.position == Position(EPOCH, 6)
            await take(subscription, 2)
            assert subscription.position == Position(EPOCH, 8)

    run(main())


def test_a_drain_is_honoured_before_coming_back():
    clock = FastClock()

    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(1))
        await peer.publish(2, 2)
        await peer.send({"type": "drain", "reconnect_after_ms": 1500})
        await peer.socket.close(1001)

    async def second(peer: Peer) -> None:
        await peer.welcome()
        assert (await peer.take(position=at(2), recovered=True))["position"] == at(2)
        await peer.publish(3, 3)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(first, second) as edge, client_of(edge, clock) as client:
            assert [publication.data for publication in await take(client.subscribe(BUS), 2)] == [2, 3]
            assert [wait for wait in clock.waits if 1.5 <= wait <= 1.502]

    run(main())


def test_a_drained_edge_that_does_not_close_is_left_in_time():
    clock = FastClock()
    left = asyncio.Event()

    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(1))
        await peer.send({"type": "drain", "reconnect_after_ms": 1500})
        await peer.publish(2, 2)
        await peer.stay()
        left.set()

    async def second(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(2), recovered=True)
        await peer.publish(3, 3)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(first, second) as edge, client_of(edge, clock) as client:
            subscription = client.subscribe(BUS)
            await take(subscription, 1)
            clock.now = 1.5
            await take(subscription, 1)
            await left.wait()

    run(main())


@pytest.mark.parametrize("code", [1001, 1011, 1012, 4000, 4001, 4002, 4003, 4099])
def test_these_close_codes_mean_come_back(code: int):
    clock = FastClock()

    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(1))
        await peer.socket.close(code)

    async def second(peer: Peer) -> None:
        await peer.welcome()
        assert (await peer.take(position=at(1), recovered=True))["position"] == at(1)
        await peer.publish(2, 2)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(first, second) as edge, client_of(edge, clock) as client:
            assert (await anext(client.subscribe(BUS))).data == 2
            longest = max(wait for wait in clock.waits if wait != 2.5)
            assert (longest >= 5) == (code == 4003)

    run(main())


@pytest.mark.parametrize("code", [1003, 1007, 1009, 4100, 4101, 4102, 4199])
def test_these_close_codes_mean_do_not_come_back(code: int):
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(1))
        await peer.publish(2, 2)
        await peer.socket.close(code, "because")

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge) as client:
            subscription = client.subscribe(BUS)
            assert (await anext(subscription)).data == 2
            with pytest.raises(ClosedByEdgeError, match=f"{code} because") as raised:
                await anext(subscription)
            assert raised.value.code == code
            assert not raised.value.retry
            with pytest.raises(ClosedByEdgeError):
                await anext(client.subscribe("feed"))
            assert edge.connections == 1

    run(main())


@pytest.mark.parametrize(("status", "comes_back"), [(401, False), (403, False), (404, False), (429, True), (503, True)])
def test_a_refused_handshake(status: int, comes_back: bool):
    clock = FastClock()
    problems: list[Status] = []

    async def main() -> None:
        async with FakeEdge(refuse=(status, {"Retry-After": "7"})) as edge:
            options = Options(backoff=FAST, proxy=False, open_timeout_s=None)
            client = Client(edge.url, options=options, clock=clock, on_status=problems.append)
            if not comes_back:
                with pytest.raises(ClosedByEdgeError) as raised:
                    await client.__aenter__()
                assert raised.value.code == status
                return
            opening = asyncio.create_task(client.__aenter__())
            await until(lambda: edge.connections >= 2)
            opening.cancel()
            await asyncio.wait([opening])
            assert [status for status in problems if status.retry_in_s is not None and 7 <= status.retry_in_s < 7.1]

    run(main())


def test_an_unreachable_edge_is_tried_until_the_time_is_up():
    async def main() -> None:
        edge = FakeEdge()
        async with edge:
            url = edge.url
        options = Options(backoff=FAST, proxy=False, open_timeout_s=2)
        with pytest.raises(UnavailableError, match="the last problem: cannot reach"):
            await Client(url, options=options).__aenter__()
        with pytest.raises(UnavailableError, match="cannot reach"):
            await Client(url, options=Options(reconnect=False, proxy=False)).__aenter__()

    run(main())


def test_without_reconnect_the_loss_reaches_the_application_after_what_came_before():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(1))
        await peer.publish(2, 2)
        await peer.socket.close(4001)

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, reconnect=False) as client:
            subscription = client.subscribe(BUS)
            assert (await anext(subscription)).data == 2
            with pytest.raises(UnavailableError, match="slow_consumer") as raised:
                await anext(subscription)
            assert raised.value.retry

    run(main())


def test_a_slow_application_stops_the_reader_and_loses_nothing():
    total, size = 400, 65_536
    sent: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(0))
        for offset in range(1, total + 1):
            await peer.publish(offset, [offset, "x" * size])
            sent.append(offset)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, max_queue=10) as client, client.subscribe(BUS) as subscription:
            await subscription.joined()
            feed = client._feeds[BUS]
            await until(lambda: client._session is not None and client._session._held_by is feed)
            assert len(feed._items) == 10
            assert len(sent) < total
            assert [publication.data[0] for publication in await take(subscription, total)] == list(range(1, total + 1))
            assert edge.connections == 1

    run(main())


def test_the_queue_is_bounded_in_bytes_too():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(0))
        for offset in range(1, 21):
            await peer.publish(offset, "x" * 1000)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, max_queue_bytes=5000) as client, client.subscribe(BUS) as subscription:
            await subscription.joined()
            await until(lambda: client._session is not None and client._session._held_by is not None)
            assert len(client._feeds[BUS]._items) == 5
            await take(subscription, 20)

    run(main())


def test_a_slow_consumer_that_was_cut_off_goes_on_where_it_was():
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(0))
        for offset in range(1, 31):
            await peer.publish(offset, offset)
        await peer.socket.close(4001)

    async def second(peer: Peer) -> None:
        await peer.welcome()
        held = (await peer.take(position=at(40), recovered=True))["position"]["offset"]
        for offset in range(held + 1, 41):
            await peer.publish(offset, offset)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(first, second) as edge, client_of(edge, max_queue=3) as client, client.subscribe(BUS) as subscription:
            await subscription.joined()
            await until(lambda: client._session is not None and client._session._held_by is not None)
            seen = await take(subscription, 40)
            assert [publication.data for publication in seen] == list(range(1, 41))
            assert all(publication.gap is None for publication in seen)

    run(main())


def test_the_edge_is_not_blamed_for_the_time_in_which_the_application_held_up_the_reader():
    clock = FastClock()
    answer = asyncio.Event()

    async def watched() -> None:
        seen = len(clock.waits)
        await until(lambda: len(clock.waits) > seen + 5)

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(0))
        for offset in range(1, 11):
            await peer.publish(offset, offset)
        await answer.wait()
        await peer.take(18, position=at(0))
        await peer.publish(1, "feed", number=18)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, clock, max_queue=3) as client, client.subscribe(BUS) as subscription:
            await subscription.joined()
            await until(lambda: client._session is not None and client._session._held_by is not None)
            async with client.subscribe("feed") as feed:
                clock.now = 100
                await watched()
                await take(subscription, 10)
                await watched()
                answer.set()
                assert (await anext(feed)).data == "feed"
            assert edge.connections == 1

    run(main())


def test_a_connection_that_ends_while_the_queue_is_full_takes_nothing_along():
    clock = FastClock()

    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(0))
        await peer.send({"type": "drain", "reconnect_after_ms": 1500})
        for offset in range(1, 31):
            await peer.publish(offset, offset)
        await peer.stay()

    async def second(peer: Peer) -> None:
        await peer.welcome()
        held = (await peer.take(position=at(40), recovered=True))["position"]["offset"]
        for offset in range(held + 1, 41):
            await peer.publish(offset, offset)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(first, second) as edge, client_of(edge, clock, max_queue=3) as client, client.subscribe(BUS) as subscription:
            await subscription.joined()
            await until(lambda: client._session is not None and client._session._held_by is not None)
            clock.now = 2
            await until(lambda: edge.connections == 2)
            assert [publication.data for publication in await take(subscription, 40)] == list(range(1, 41))

    run(main())


@pytest.mark.parametrize("frame", [b"{", b"[]", b'{"type":"publication","number":17,"offset":2,"data":{}}'])
def test_a_malformed_frame_costs_the_connection_and_then_the_client(frame: bytes):
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(1), recovered=True)
        await peer.raw(frame)
        await peer.stay()
        assert peer.socket.close_code == 1002

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge) as client:
            with pytest.raises(ProtocolError, match="malformed"):
                await anext(client.subscribe(BUS))
            assert edge.connections == 3

    run(main())


def test_a_malformed_frame_is_survived_where_the_next_connection_is_sound():
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(1))
        await peer.publish(2, 2)
        await peer.raw(b"\xff\xfe")
        await peer.stay()

    async def second(peer: Peer) -> None:
        await peer.welcome()
        assert (await peer.take(position=at(3), recovered=True))["position"] == at(2)
        await peer.publish(3, 3)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(first, second) as edge, client_of(edge) as client:
            assert [publication.data for publication in await take(client.subscribe(BUS), 2)] == [2, 3]

    run(main())


def test_malformed_frames_count_only_in_a_row():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        frame = await peer.expect("subscribe")
        held = frame.get("position", at(0))
        answer = {"type": "subscribed", "id": frame["id"], "channel": BUS, "number": 17, "kind": "stream", "mode": "queue"}
        await peer.send({**answer, "position": held, "recovered": True if "position" in frame else None})
        await peer.publish(held["offset"] + 1, held["offset"] + 1)
        await peer.raw(b"{")
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, max_malformed=2) as client:
            assert [publication.data for publication in await take(client.subscribe(BUS), 6)] == [1, 2, 3, 4, 5, 6]

    run(main())


def test_new_subscriptions_count_only_in_a_row():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(1), delta="json-patch")
        for offset in range(2, 7):
            await peer.patch(offset, [{"op": "remove", "path": "/nothing"}])
            await peer.expect("unsubscribe")
            assert (await peer.take(position=at(offset), delta="json-patch", recovered=True))["position"] == at(offset - 1)
            await peer.publish(offset, offset)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, delta=["json-patch"], max_resyncs=1) as client:
            seen = await take(client.subscribe(BUS), 5)
            assert [publication.data for publication in seen] == [2, 3, 4, 5, 6]
            assert all(publication.gap is None for publication in seen)

    run(main())


def test_a_lost_connection_leaves_no_timer_that_would_disturb_the_next():
    async def first(peer: Peer) -> None:
        await peer.welcome()
        frame = await peer.expect("subscribe")
        await peer.send({"type": "error", "id": frame["id"], "code": "unavailable", "message": "", "retry": True})
        await peer.stay()

    async def second(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(0))
        await peer.publish(1, 1)
        await peer.stay()

    async def main() -> None:
        clock = FastClock()
        slow = Backoff(least_s=1000, first_s=1000, most_s=1000)
        async with FakeEdge(first, second) as edge, client_of(edge, clock, backoff=slow) as client, client.subscribe(BUS) as subscription:
            await until(lambda: client._session is not None and bool(client._session._timers))
            session = client._session
            assert session is not None
            session.ping()
            clock.now = 11
            assert (await anext(subscription)).data == 1
            assert all(timer.cancelled() for timer in session._timers.values())

    run(main())


def test_a_frame_larger_than_allowed_is_a_clear_error():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(1))
        await peer.publish(2, "x" * 5000)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, max_frame_bytes=2000) as client:
            with pytest.raises(ClosedByEdgeError, match="max_frame_bytes"):
                await anext(client.subscribe(BUS))

    run(main())


def test_an_edge_that_speaks_another_version_or_protocol_is_a_clear_error():
    async def version_2(peer: Peer) -> None:
        await peer.welcome(version=2)
        await peer.stay()

    async def refuses(peer: Peer) -> None:
        frame = await peer.expect("connect")
        await peer.send({"type": "error", "id": frame["id"], "code": "already_connected", "message": "no", "retry": False})
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(version_2) as edge:
            with pytest.raises(ProtocolError, match="version 2"):
                await client_of(edge).__aenter__()
        async with FakeEdge(refuses) as edge:
            with pytest.raises(RefusedError, match="already_connected"):
                await client_of(edge).__aenter__()

    run(main())


def test_a_broken_chain_is_mended_and_given_up_when_it_stays_broken():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(1), delta="json-patch")
        for _ in range(3):
            await peer.patch(2, [{"op": "remove", "path": "/nothing"}])
            await peer.expect("unsubscribe")
            assert (await peer.take(position=at(2), delta="json-patch", recovered=True))["position"] == at(1)
        await peer.patch(2, [])
        await peer.expect("unsubscribe")
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, delta=["json-patch"], max_resyncs=3) as client:
            with pytest.raises(ProtocolError, match="given up after 3"):
                await anext(client.subscribe(BUS))

    run(main())


def test_leaving_the_loop_unsubscribes_and_the_channel_is_free_again():
    unsubscribed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(1))
        await peer.publish(2, 2)
        frame = await peer.expect("unsubscribe")
        assert frame["channel"] == BUS
        unsubscribed.set()
        await peer.send({"type": "unsubscribed", "id": frame["id"], "channel": BUS})
        await peer.take(position=at(2))
        await peer.publish(3, 3)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge) as client:
            async for publication in client.subscribe(BUS):
                assert publication.data == 2
                break
            async for publication in client.subscribe(BUS):
                assert publication.data == 3
                break
            await unsubscribed.wait()

    run(main())


def test_closing_a_subscription_unsubscribes_and_ends_its_iteration():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(1))
        await peer.publish(2, 2)
        await peer.expect("unsubscribe")
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge) as client:
            async with aclosing(client.subscribe(BUS)) as subscription:
                await anext(subscription)
                waiting = asyncio.create_task(anext(subscription, "end"))
                await asyncio.sleep(0)
            assert await waiting == "end"
            assert [publication async for publication in subscription] == []
            with pytest.raises(ClientClosedError):
                await subscription.joined()

    run(main())


def test_several_channels_share_a_connection_and_one_channel_has_one_subscription():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(1, position=at(0))
        await peer.take(2, position=at(0))
        await peer.publish(1, "feed", number=2)
        await peer.publish(1, "bus", number=1)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge) as client:
            async with client.subscribe(BUS) as one, client.subscribe("feed") as two:
                assert (await anext(one)).data == "bus"
                assert (await anext(two)).data == "feed"
                with pytest.raises(AlreadySubscribedError, match=BUS):
                    await anext(client.subscribe(BUS))
            assert edge.connections == 1

    run(main())


def test_a_refusal_reaches_the_application_and_others_go_on():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        frame = await peer.expect("subscribe")
        error = {"type": "error", "id": frame["id"], "code": "too_many_subscriptions", "message": "100 at most", "retry": False}
        await peer.send({**error, "channel": BUS})
        await peer.take(position=at(0))
        await peer.publish(1, 1)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge) as client:
            subscription = client.subscribe(BUS)
            with pytest.raises(RefusedError, match=r"bus:1430: 100 at most \(too_many_subscriptions\)") as raised:
                await subscription.joined()
            assert raised.value.code == "too_many_subscriptions"
            with pytest.raises(RefusedError):
                await anext(subscription)
            assert (await anext(client.subscribe("feed"))).data == 1

    run(main())


def test_a_refusal_that_allows_another_try_is_tried_again():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        for _ in range(2):
            frame = await peer.expect("subscribe")
            await peer.send({"type": "error", "id": frame["id"], "code": "unavailable", "message": "", "retry": True})
        await peer.take(position=at(0))
        await peer.publish(1, 1)
        await peer.send({"type": "unsubscribed", "channel": BUS, "code": "unavailable", "message": "", "retry": True})
        assert (await peer.take(position=at(2), recovered=True))["position"] == at(1)
        await peer.publish(2, 2)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge) as client:
            assert [publication.data for publication in await take(client.subscribe(BUS), 2)] == [1, 2]

    run(main())


def test_ping_answers_and_silence_costs_the_connection():
    async def talks(peer: Peer) -> None:
        await peer.welcome()
        frame = await peer.expect("ping")
        await peer.send({"type": "pong", "id": frame["id"]})
        await peer.expect("ping")
        await peer.stay()

    async def main() -> None:
        clock = FastClock()
        async with FakeEdge(talks) as edge, client_of(edge, clock, ping_interval_s=12) as client:
            assert await client.ping() == 0
            clock.now = 13
            # The watch pings by itself after 12 s of silence, and gives up 10 s later.
            await until(lambda: client._session is not None and bool(client._session._pings))
            clock.now = 24
            await until(lambda: edge.connections == 2)
        with pytest.raises(ClientClosedError):
            await anext(client.subscribe(BUS))

    run(main())


def test_a_ping_that_is_not_answered_in_time():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, FastClock()) as client:
            with pytest.raises(CallTimeoutError):
                await client.ping(timeout_s=0.01)
            with pytest.raises(CallTimeoutError):
                await client.subscribe(BUS).joined(timeout_s=0.01)

    run(main())


def test_a_subscription_that_is_not_answered_costs_the_connection():
    async def silent(peer: Peer) -> None:
        await peer.welcome()
        await peer.stay()

    async def sound(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(0))
        await peer.publish(1, 1)
        await peer.stay()

    async def main() -> None:
        clock = FastClock()
        async with FakeEdge(silent, sound) as edge, client_of(edge, clock) as client, client.subscribe(BUS) as subscription:
            clock.now = 11
            assert (await anext(subscription)).data == 1

    run(main())


def test_an_answer_may_take_as_long_as_other_things_come():
    """On a thin line it is behind what was asked for before."""
    seconds = 40

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(0))
        frame = await peer.expect("subscribe")
        for offset in range(1, seconds):
            await peer.publish(offset, offset)
            await until(lambda: len(seen) == offset)  # noqa: B023  (waited for here)
        await peer.send({"type": "subscribed", "id": frame["id"], "channel": "other", "number": 18, "position": at(0), "kind": "stream"})
        await peer.publish(1, "other", number=18)
        await peer.stay()

    seen: list[Any] = []

    async def main() -> None:
        clock = FastClock()
        async with FakeEdge(script) as edge, client_of(edge, clock) as client, client.subscribe(BUS) as first:
            await first.joined()
            async with client.subscribe("other") as second:
                for _ in range(1, seconds):
                    seen.append((await anext(first)).data)
                    clock.now += 1
                    await clock.sleep(0)
                assert (await anext(second)).data == "other"
                assert edge.connections == 1

    run(main())


def test_an_edge_that_accepts_and_says_nothing():
    async def mute(peer: Peer) -> None:
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(mute) as edge:
            with pytest.raises(CallTimeoutError, match="connect"):
                await client_of(edge, reconnect=False, connect_timeout_s=2).__aenter__()

    run(main())


def test_cancelling_leaves_nothing_behind():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(0))
        await peer.publish(1, 1)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge:
            begun = asyncio.Event()

            async def application() -> None:
                async with client_of(edge) as client:
                    async for _ in client.subscribe(BUS):
                        begun.set()

            task = asyncio.create_task(application())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main())


def test_cancelling_while_connecting_leaves_nothing_behind():
    async def mute(peer: Peer) -> None:
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(mute) as edge:
            task = asyncio.create_task(client_of(edge).__aenter__())
            await until(lambda: edge.connections == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main())


def test_a_mistake_in_the_library_ends_the_iteration_instead_of_hanging(monkeypatch: pytest.MonkeyPatch):
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(0))
        await peer.stay()

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge) as client:
            monkeypatch.setattr(client._core, "receive", broken)
            with pytest.raises(Exception, match="ZeroDivisionError"):
                await anext(client.subscribe(BUS))

    run(main())


def test_wrong_arguments_are_refused_at_once():
    for url in ("http://host", "host:8000", "ws://", ""):
        with pytest.raises(ValueError, match="no WebSocket URL"):
            Client(url)
    with pytest.raises(ValueError, match="xdiff"):
        Client("ws://host", delta=["xdiff"])
    with pytest.raises(ValueError, match="format is"):
        Client("ws://host", format="xml")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_queue must be above 0"):
        Options(max_queue=0)
    with pytest.raises(ChannelError):
        Client("ws://host").subscribe("no channel")


def test_payload_errors_are_the_publication_s_own():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(position=at(0))
        await peer.raw(msgspec.msgpack.encode([0, 17, 1, EPOCH, None, None, 0, b"{not json"]))
        await peer.publish(2, 2)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, format="msgpack") as client:
            first, second = await take(client.subscribe(BUS), 2)
            with pytest.raises(ValueError, match="bus:1430 at offset 1 is not application/json"):
                _ = first.data
            assert first.payload == b"{not json"
            assert second.data == 2

    run(main())
