"""Delivery modes as an application sees them: what waits, what is acknowledged when, and what comes again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from distributary import Client, Gap, Position, Publication, Subscription
from distributary._core import Core
from distributary._session import ACK_BURST
from tests.clients.python.fake_edge import EPOCH, FakeEdge, FastClock, Peer, Script, run, until
from tests.clients.python.test_client import BUS, at, client_of, take

OTHER_EPOCH = "DA0ODxAREhMUFRYX"


@asynccontextmanager
async def subscribed(*scripts: Script, clock: FastClock | None = None, **wish: Any) -> AsyncIterator[tuple[Client, Subscription]]:
    async with FakeEdge(*scripts) as edge, client_of(edge, clock) as client:
        yield client, client.subscribe(BUS, **wish)


def held(client: Client) -> list[int]:
    """What waits for the application."""
    return [item.position.offset for item in client._feeds[BUS]._items.values() if isinstance(item, Publication)]


class TestWish:
    @pytest.mark.parametrize(
        ("wish", "says"),
        [
            ({}, {}),
            ({"mode": "queue"}, {"mode": "queue"}),
            ({"mode": "conflate"}, {"mode": "conflate", "window": 2}),
            ({"mode": "conflate", "window": 0, "max_rate": 0.5}, {"mode": "conflate", "max_rate": 0.5}),
            ({"mode": "ack"}, {"mode": "ack"}),
            ({"mode": "ack", "window": 9}, {"mode": "ack", "window": 9}),
        ],
    )
    def test_is_what_the_edge_is_asked(self, wish: dict[str, Any], says: dict[str, Any]):
        async def script(peer: Peer) -> None:
            await peer.welcome()
            frame = await peer.take(mode=wish.get("mode", "queue"), max_rate=0.25, window=1)
            assert {name: frame[name] for name in ("mode", "max_rate", "window") if name in frame} == says
            await peer.stay()

        async def main() -> None:
            async with subscribed(script, **wish) as (_, subscription):
                joined = await subscription.joined()
                assert (joined.max_rate, joined.window) == (0.25, 1)

        run(main())

    @pytest.mark.parametrize(
        "wish",
        [
            {"mode": "latest"},
            {"mode": "queue", "window": 1},
            {"mode": "queue", "max_rate": 1},
            {"mode": "ack", "max_rate": 1},
            {"mode": "ack", "window": 0},
            {"mode": "conflate", "max_rate": 0},
            {"mode": "conflate", "window": 10_001},
        ],
    )
    def test_that_makes_no_sense_is_refused(self, wish: dict[str, Any]):
        with pytest.raises(ValueError, match=r"mode is|max_rate is|window is"):
            Client("ws://127.0.0.1:1").subscribe(BUS, **wish)


class TestConflate:
    def test_taking_the_next_acknowledges_the_one_before(self):
        async def script(peer: Peer) -> None:
            await peer.welcome()
            await peer.take(mode="conflate", window=1, kind="latest")
            for offset in (3, 9, 20):
                await peer.publish(offset, offset)
                ack = await peer.expect("ack")
                assert ack == {"type": "ack", "number": 17, "offset": offset, "epoch": EPOCH}
            await peer.publish(21, 21)
            await peer.stay()

        async def main() -> None:
            async with subscribed(script, mode="conflate", window=1) as (_, subscription):
                assert [publication.data for publication in await take(subscription, 4)] == [3, 9, 20, 21]
                assert subscription.position == Position(EPOCH, 21)

        run(main())

    def test_nothing_is_acknowledged_before_the_application_comes_for_more(self):
        async def script(peer: Peer) -> None:
            await peer.welcome()
            await peer.take(mode="conflate", window=2, kind="latest")
            await peer.publish(1, 1)
            # The client has the first one, and is asked for a sign of life: an acknowledgement would come before its answer.
            await peer.expect("ping")
            await peer.publish(2, 2)
            assert (await peer.expect("ack"))["offset"] == 1
            await peer.stay()

        async def main() -> None:
            async with subscribed(script, mode="conflate") as (client, subscription):
                await anext(subscription)
                assert client._session is not None
                client._session.ping()
                await until(lambda: held(client) == [2])
                await anext(subscription)

        run(main())

    def test_only_the_newest_waits_with_the_gap_of_those_before_it(self):
        async def script(peer: Peer) -> None:
            await peer.welcome()
            await peer.take(mode="conflate", window=9, kind="latest")
            await peer.publish(1, 1)
            await peer.send({"type": "gap", "number": 17, "reason": "epoch_changed", "missed": None, "epoch": EPOCH})
            await peer.publish(5, {"a": 5})
            await peer.patch(6, [{"op": "replace", "path": "/a", "value": 6}])
            await peer.stay()

        async def main() -> None:
            async with subscribed(script, mode="conflate", window=9) as (client, subscription):
                await subscription.joined()
                await until(lambda: held(client) == [6])
                newest = await anext(subscription)
                assert (newest.data, newest.gap) == ({"a": 6}, Gap("epoch_changed", None))

        run(main())

    def test_a_slow_one_does_not_hold_up_the_others_of_its_client(self):
        async def script(peer: Peer) -> None:
            await peer.welcome()
            await peer.take(mode="conflate", kind="latest")
            await peer.take(18)
            for offset in range(1, 30):
                await peer.publish(offset, offset)
            await peer.publish(1, "other", number=18)
            await peer.stay()

        async def main() -> None:
            wish: Any = {"mode": "conflate", "window": 0}
            async with FakeEdge(script) as edge, client_of(edge, max_queue=3) as client, client.subscribe(BUS, **wish) as slow:
                assert (await anext(client.subscribe("other"))).data == "other"
                assert (await anext(slow)).data == 29

        run(main())

    def test_skipped_offsets_are_no_hole(self):
        async def script(peer: Peer) -> None:
            await peer.welcome()
            await peer.take(mode="conflate", position=at(2))
            await peer.publish(9, 9)
            await peer.stay()

        async def main() -> None:
            async with subscribed(script, mode="conflate") as (_, subscription):
                publication = await anext(subscription)
                assert (publication.data, publication.gap) == (9, None)

        run(main())


class TestAck:
    def test_what_was_not_acknowledged_comes_again(self):
        async def first(peer: Peer) -> None:
            await peer.welcome()
            await peer.take(mode="ack", window=4, position=at(10))
            for offset in range(11, 15):
                await peer.publish(offset, offset)
            assert (await peer.expect("ack"))["offset"] == 11
            peer.cut()

        async def second(peer: Peer) -> None:
            await peer.welcome()
            assert (await peer.take(mode="ack", window=4, position=at(14), recovered=True))["position"] == at(11)
            for offset in range(12, 16):
                await peer.publish(offset, offset)
            assert (await peer.expect("ack"))["offset"] == 15
            await peer.stay()

        async def main() -> None:
            async with FakeEdge(first, second) as edge, client_of(edge) as client:
                subscription = client.subscribe(BUS, mode="ack", window=4)
                taken = await take(subscription, 2)
                await until(lambda: held(client) == [13, 14])
                await subscription.ack(taken[0])
                assert subscription.position == Position(EPOCH, 11)
                await until(lambda: edge.connections == 2 and held(client)[-1:] == [15])
                # 12 was taken and not acknowledged; 13 and 14 waited: each comes once more, and only once.
                again = await take(subscription, 4)
                assert [publication.data for publication in again] == [12, 13, 14, 15]
                await subscription.ack(again[-1].position)
                assert subscription.position == Position(EPOCH, 15)

        run(main())

    def test_what_was_acknowledged_while_the_connection_was_away_does_not_come_again(self):
        async def first(peer: Peer) -> None:
            await peer.welcome()
            await peer.take(mode="ack", window=4, position=at(10))
            await peer.publish(11, 11)
            await peer.publish(12, 12)
            peer.cut()

        async def second(peer: Peer) -> None:
            await peer.welcome()
            assert (await peer.take(mode="ack", window=4, position=at(12), recovered=True))["position"] == at(10)
            for offset in range(11, 14):
                await peer.publish(offset, offset)
            await peer.stay()

        async def main() -> None:
            async with FakeEdge(first, second) as edge, client_of(edge) as client:
                subscription = client.subscribe(BUS, mode="ack", window=4)
                taken = await take(subscription, 2)
                await until(lambda: held(client) == [11, 12, 13])
                await subscription.ack(taken[1])
                assert (await anext(subscription)).data == 13

        run(main())

    def test_before_the_first_acknowledgement_a_latest_channel_comes_back_before_its_first_publication(self):
        async def first(peer: Peer) -> None:
            await peer.welcome()
            assert "position" not in await peer.take(mode="ack", window=4, kind="latest", position=at(7))
            await peer.publish(7, 7)
            await peer.publish(8, 8)
            peer.cut()

        async def second(peer: Peer) -> None:
            await peer.welcome()
            assert (await peer.take(mode="ack", window=4, kind="latest", position=at(9), recovered=True))["position"] == at(6)
            await peer.stay()

        async def main() -> None:
            async with subscribed(first, second, mode="ack") as (client, subscription):
                await take(subscription, 2)
                await until(lambda: (joined := subscription.info) is not None and joined.recovered is True)
                assert client._core.position_of(BUS) == Position(EPOCH, 6)

        run(main())

    def test_of_another_epoch_what_waits_is_kept(self):
        async def first(peer: Peer) -> None:
            await peer.welcome()
            await peer.take(mode="ack", window=4, position=at(10))
            await peer.publish(11, 11)
            peer.cut()

        async def second(peer: Peer) -> None:
            await peer.welcome()
            newest = {"epoch": OTHER_EPOCH, "offset": 1}
            await peer.take(mode="ack", window=4, position=newest, recovered=False, reason="epoch_changed", missed=None)
            await peer.send({"type": "publication", "number": 17, "epoch": OTHER_EPOCH, "offset": 1, "data": 1})
            await peer.stay()

        async def main() -> None:
            async with subscribed(first, second, mode="ack") as (client, subscription):
                await subscription.joined()
                await until(lambda: held(client) == [11, 1])
                got = await take(subscription, 2)
                assert [publication.gap for publication in got] == [None, Gap("epoch_changed", None)]
                await subscription.ack(got[1])
                # Too late: it must not lead back to the epoch that is over.
                await subscription.ack(got[0])
                assert client._core.position_of(BUS) == Position(OTHER_EPOCH, 1)

        run(main())

    def test_a_skipped_offset_is_a_hole(self):
        async def script(peer: Peer) -> None:
            await peer.welcome()
            await peer.take(mode="ack", window=4, position=at(10))
            await peer.publish(11, 11)
            await peer.publish(13, 13)
            await peer.expect("unsubscribe")
            assert (await peer.take(mode="ack", window=4, position=at(13), recovered=True))["position"] == at(10)
            for offset in (11, 12, 13):
                await peer.publish(offset, offset)
            await peer.stay()

        async def main() -> None:
            async with subscribed(script, mode="ack") as (client, subscription):
                await subscription.joined()
                await until(lambda: held(client) == [11, 12, 13])
                assert [publication.data for publication in await take(subscription, 3)] == [11, 12, 13]

        run(main())

    def test_many_acknowledgements_are_few_frames(self):
        count = 3_000
        acks: list[int] = []

        async def script(peer: Peer) -> None:
            await peer.welcome()
            await peer.take(mode="ack", window=count, position=at(0))
            for offset in range(1, count + 1):
                await peer.publish(offset, offset)
            while not acks or acks[-1] < count:
                acks.append((await peer.expect("ack"))["offset"])
            await peer.stay()

        async def main() -> None:
            # Time stands still, so what goes out is what is allowed at once.
            clock = FastClock()
            async with subscribed(script, clock=clock, mode="ack", window=count) as (_, subscription):
                for _ in range(count):
                    await subscription.ack(await anext(subscription))
                    await asyncio.sleep(0)
                await until(lambda: bool(acks) and acks[-1] == count)
            assert acks == sorted(set(acks))
            waits = [wait for wait in clock.waits if wait < 2]
            assert len(acks) - len(waits) <= ACK_BURST

        run(main())

    def test_an_edge_that_chose_the_mode_is_served_too(self):
        async def script(peer: Peer) -> None:
            await peer.welcome()
            assert "mode" not in await peer.take(mode="ack", window=2, position=at(0))
            await peer.publish(1, 1)
            await peer.publish(2, 2)
            assert (await peer.expect("ack"))["offset"] in {1, 2}
            await peer.publish(3, 3)
            await peer.stay()

        async def main() -> None:
            async with subscribed(script) as (_, subscription):
                assert [publication.data for publication in await take(subscription, 3)] == [1, 2, 3]
                assert subscription.position == Position(EPOCH, 2)

        run(main())


def test_without_a_subscription_nobody_is_told():
    core = Core("json")
    core.connect()
    core.add(BUS)
    assert core.ack(BUS) is None
    assert not core.acknowledge("other", Position(EPOCH, 1))
    assert core.acknowledge(BUS, Position(EPOCH, 1))
    assert core.ack(BUS) is None


class TestKeyedConflation:
    """What waits of a keyed channel when its state begins anew."""

    @staticmethod
    async def publish(peer: Peer, offset: int, key: str, *, epoch: str = EPOCH) -> None:
        frame = {"type": "publication", "number": 17, "epoch": epoch, "offset": offset, "key": key}
        await peer.send({**frame, "data": offset})

    @classmethod
    async def begin(cls, peer: Peer) -> None:
        await peer.welcome()
        await peer.take(kind="keyed", mode="conflate", window=9, position={"epoch": EPOCH, "offset": 2})
        await cls.publish(peer, 1, "gone")
        await cls.publish(peer, 2, "stays")
        await peer.send({"type": "caught_up", "number": 17, "epoch": EPOCH, "offset": 2})

    @staticmethod
    async def anew(peer: Peer) -> None:
        gap = {"type": "gap", "number": 17, "reason": "epoch_changed", "missed": None, "epoch": OTHER_EPOCH}
        await peer.send(gap)

    def test_what_waits_of_the_former_state_is_no_part_of_the_new_one(self):
        has_state = asyncio.Event()

        async def script(peer: Peer) -> None:
            await self.begin(peer)
            await has_state.wait()
            await self.publish(peer, 3, "gone")
            await self.anew(peer)
            await self.publish(peer, 1, "stays", epoch=OTHER_EPOCH)
            await self.publish(peer, 2, "stays", epoch=OTHER_EPOCH)  # It takes the place of the one that begins the state.
            await peer.send({"type": "caught_up", "number": 17, "epoch": OTHER_EPOCH, "offset": 2})
            await peer.stay()

        async def main() -> None:
            async with subscribed(script, mode="conflate", window=9, keep_state=True) as (client, subscription):
                await subscription.read_state()
                assert set(subscription.state) == {"gone", "stays"}
                has_state.set()
                await until(lambda: held(client)[-1:] == [2])
                newest = await anext(subscription)
                assert (newest.key, newest.gap) == ("stays", Gap("epoch_changed", None))
                assert (await subscription.read_state()).keys() == {"stays"}

        run(main())

    def test_in_mode_ack_a_state_that_comes_anew_is_acknowledged_anew(self):
        """Of each key only the newest comes, however old it is: offsets below those that were acknowledged."""

        async def script(peer: Peer) -> None:
            await peer.welcome()
            await peer.take(kind="keyed", mode="ack", window=9, position={"epoch": EPOCH, "offset": 5})
            await self.publish(peer, 1, "stays")
            await self.publish(peer, 5, "gone")
            assert (await peer.expect("ack"))["offset"] == 5
            gap = {"reason": "history_trimmed", "missed": {"from": 6, "to": 9}, "epoch": EPOCH}
            await peer.send({"type": "gap", "number": 17, **gap})
            await self.publish(peer, 1, "stays")
            await self.publish(peer, 9, "new")
            await peer.send({"type": "caught_up", "number": 17, "epoch": EPOCH, "offset": 9})
            assert (await peer.expect("ack"))["offset"] == 1
            peer.cut()

        async def again(peer: Peer) -> None:
            await peer.welcome()
            asked = await peer.take(kind="keyed", mode="ack", window=9, position={"epoch": EPOCH, "offset": 9}, recovered=True)
            assert asked["position"] == {"epoch": EPOCH, "offset": 1}
            await self.publish(peer, 9, "new")
            await peer.stay()

        async def main() -> None:
            async with subscribed(script, again, mode="ack", window=9, keep_state=True) as (client, subscription):
                former = [await anext(subscription), await anext(subscription)]
                await subscription.ack(former[-1])
                first = await anext(subscription)
                assert (first.key, first.starts_state, set(subscription.state)) == ("stays", True, {"stays"})
                await subscription.ack(former[-1])  # Late, and of a state that counts no more.
                assert subscription.position == Position(EPOCH, 0)
                await subscription.ack(first)
                assert subscription.position == Position(EPOCH, 1)
                await until(lambda: held(client) == [9])
                while set(subscription.state) != {"stays", "new"}:
                    await anext(subscription)

        run(main())
