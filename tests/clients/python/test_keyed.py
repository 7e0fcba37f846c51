"""Keyed channels as an application has them: the map of newest values, what empties it, and what waits in mode conflate."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from distributary import ClientClosedError, Publication, Subscription
from distributary.tail import line_of
from tests.clients.python.fake_edge import EPOCH, FakeEdge, Peer, run, until
from tests.clients.python.test_client import BUS, client_of

STATE: dict[str, Any] = {"kind": "keyed", "position": {"epoch": EPOCH, "offset": 9}}


async def put(peer: Peer, offset: int, key: str, value: Any, **more: Any) -> None:
    """A publication of a key; None deletes it."""
    what = {"deleted": True} if value is None else {"data": value}
    await peer.send({"type": "publication", "number": 17, "epoch": EPOCH, "offset": offset, "key": key, **what, **more})


async def caught_up(peer: Peer, offset: int) -> None:
    await peer.send({"type": "caught_up", "number": 17, "epoch": EPOCH, "offset": offset})


def held(subscription: Subscription) -> dict[str, Any]:
    return {key: publication.data for key, publication in subscription.state.items()}


def test_the_state_then_what_changes():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(**STATE)
        await put(peer, 3, "a", 1, tags={"source": "gps"})
        await put(peer, 9, "b", 2)
        await caught_up(peer, 9)
        await put(peer, 10, "a", None)
        await put(peer, 11, "c", 3)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, format="json", delta=()) as client:
            subscription = client.subscribe(BUS, keep_state=True)
            state = await subscription.read_state()
            assert held(subscription) == {"a": 1, "b": 2}
            assert state["a"].tags == {"source": "gps"}
            assert subscription.is_whole
            assert subscription.position is not None
            assert subscription.position.offset == 9
            gone = await anext(subscription)
            assert (gone.key, gone.is_deleted, gone.data, gone.payload) == ("a", True, None, None)
            await anext(subscription)
            assert held(subscription) == {"b": 2, "c": 3}

    run(main())


def test_a_gap_fills_it_anew_and_a_channel_that_is_gone_empties_it():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(**STATE)
        await put(peer, 9, "a", 1)
        await caught_up(peer, 9)
        await peer.send({"type": "gap", "number": 17, "reason": "history_trimmed", "missed": {"from": 10, "to": 20}, "epoch": EPOCH})
        await put(peer, 20, "b", 2)
        await caught_up(peer, 20)
        await put(peer, 21, "c", 3)
        await peer.send({"type": "gap", "number": 17, "reason": "epoch_changed", "missed": None, "epoch": None})
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, format="json", delta=()) as client:
            subscription = client.subscribe(BUS, keep_state=True)
            assert set(await subscription.read_state()) == {"a"}
            fresh = await anext(subscription)
            assert fresh.starts_state
            assert fresh.gap is not None
            assert not subscription.is_whole
            assert set(await subscription.read_state()) == {"b"}
            await anext(subscription)
            assert set(subscription.state) == {"b", "c"}
            taking = asyncio.ensure_future(anext(subscription))
            await until(lambda: dict(subscription.state) == {})
            assert not taking.done()
            taking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await taking

    run(main())


def test_in_mode_conflate_the_newest_of_each_key_waits_and_the_mark_keeps_its_place():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(mode="conflate", window=2, **STATE)
        await put(peer, 3, "a", 1)
        await put(peer, 9, "b", 2)
        await caught_up(peer, 9)
        for number in range(10, 30):
            await put(peer, number, "ab"[number % 2], number)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, format="json", delta=()) as client:
            subscription = client.subscribe(BUS, mode="conflate", keep_state=True)
            await subscription.joined()

            def newest() -> int:
                waiting = [item for item in client._feeds[BUS]._items.values() if isinstance(item, Publication)]
                return waiting[-1].position.offset if waiting else 0

            await until(lambda: newest() == 29)
            await subscription.read_state()
            assert held(subscription) == {"a": 1, "b": 2}
            assert [(await anext(subscription)).position.offset for _ in range(2)] == [28, 29]
            assert held(subscription) == {"a": 28, "b": 29}

    run(main())


def test_in_mode_ack_a_state_that_comes_anew_is_acknowledged_too():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(mode="ack", window=4, **STATE)
        await put(peer, 9, "a", 1)
        await caught_up(peer, 9)
        assert (await peer.expect("ack"))["offset"] == 9
        await peer.send({"type": "gap", "number": 17, "reason": "history_trimmed", "missed": {"from": 10, "to": 20}, "epoch": EPOCH})
        await put(peer, 5, "b", 2)
        assert (await peer.expect("ack"))["offset"] == 5
        await put(peer, 20, "a", 3)
        assert (await peer.expect("ack"))["offset"] == 20
        await put(peer, 21, "c", 4)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, format="json", delta=()) as client:
            subscription = client.subscribe(BUS, mode="ack", keep_state=True)
            for offset in (9, 5, 20, 21):
                publication = await anext(subscription)
                assert publication.position.offset == offset
                await subscription.ack(publication)
            assert held(subscription) == {"b": 2, "a": 3, "c": 4}

    run(main())


def test_an_empty_channel_has_an_empty_state_at_once():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(kind=None, position=None)
        await put(peer, 1, "a", 1)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, format="json", delta=()) as client:
            subscription = client.subscribe(BUS, keep_state=True)
            assert await subscription.read_state() == {}
            await anext(subscription)
            assert held(subscription) == {"a": 1}

    run(main())


def test_the_state_has_to_be_wanted_and_to_come():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge) as client:
            with pytest.raises(ValueError, match="keep_state"):
                await client.subscribe("other").read_state()
            subscription = client.subscribe(BUS, keep_state=True)
            async with subscription:
                await subscription.aclose()
            with pytest.raises(ClientClosedError):
                await subscription.read_state()

    run(main())


def test_tail_shows_keys_tags_and_deletions():
    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.take(**STATE)
        await put(peer, 8, "a", 1, tags={"source": "gps"})
        await put(peer, 9, "a", None)
        await peer.stay()

    async def main() -> None:
        async with FakeEdge(script) as edge, client_of(edge, format="json", delta=()) as client:
            subscription = client.subscribe(BUS)
            value, gone = line_of(await anext(subscription)), line_of(await anext(subscription))
            assert (value["key"], value["tags"], value["data"]) == ("a", {"source": "gps"}, 1)
            assert (gone["key"], gone["deleted"]) == ("a", True)
            assert "data" not in gone

    run(main())
