"""Delivery modes on real sockets, with a reader that is really slow: the classic case of 25 publications for 10 that the client handles.

Nobody sleeps here: a client handles a frame when the test says so, and what counts is how many publications were made meanwhile.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distributary import Client, Options, Position, RefusedError, Subscription
from shared.publication import Kind
from tests.conftest import StartProject
from tests.edge.service import Bridge, EdgeProcess, Listener, aside, client, run
from tests.edge.slow_reader import SlowReader, slow_reader
from tests.rig.process import ROOT, Process
from tests.rig.wait import wait_until_async

BUS = "bus:1430"
STEPS = [2, 3] * 20
"""Publications during the handling of one frame: 25 for 10."""


@pytest.fixture
def bridge(redis_url: str) -> Iterator[Bridge]:
    with Bridge(redis_url) as bridge:
        yield bridge


StartEdge = Callable[..., EdgeProcess]


@pytest.fixture
def start_edge(redis_url: str, start_project: StartProject) -> StartEdge:
    # One that does not read answers no pings: that is not what is tested here.
    return lambda *options: EdgeProcess(start_project, redis_url, "--ping-interval-s", 600, *options)


class Source:
    """Publishes, and waits until the edge has it: a client in mode queue, which reads all the time, has it then."""

    def __init__(self, bridge: Bridge, witness: Listener, channel: str = BUS) -> None:
        self.newest = 0
        self._bridge = bridge
        self._witness = witness
        self._channel = channel

    async def push(self, count: int, *, size: int = 100) -> None:
        """Publish, and do not wait."""
        for _ in range(count):
            self.newest += 1
            await aside(self._bridge.push, self._channel, {"n": self.newest, "pad": "x" * size}, keep=1000)

    async def publish(self, count: int, *, size: int = 100) -> None:
        await self.push(count, size=size)
        newest = self.newest
        await wait_until_async(lambda: self._witness.offsets(self._channel)[-1:] == [newest], what=f"{newest} at the witness")


async def begin(bridge: Bridge, witness: Listener, channel: str = BUS) -> Source:
    """A channel with one publication."""
    source = Source(bridge, witness, channel)
    await witness.ask(type="subscribe", channel=channel, delta=["json-patch"])
    await source.publish(1)
    return source


def rss_bytes(edge: EdgeProcess) -> int:
    return int(Path(f"/proc/{edge.process.pid}/statm").read_text().split()[1]) * 4096


def check(bridge: Bridge, frame: dict[str, Any], held: dict[str, Any] | None, channel: str = BUS) -> dict[str, Any]:
    """The value after a frame; asserts that it is the one that was published there. Deltas are JSON Patches that replace `n`."""
    assert frame["type"] == "publication", frame
    value: dict[str, Any] = dict(held or {})
    if "base" in frame:
        assert held is not None
        assert frame["base"] == held["n"]
        for operation in frame["data"]:
            assert (operation["op"], operation["path"]) == ("replace", "/n")
            value["n"] = operation["value"]
    else:
        value = frame["data"]
    # Offsets count what this test has published, and so does `n`.
    assert value["n"] == frame["offset"]
    assert (channel, frame.get("epoch"), frame["offset"]) in bridge.published or "base" in frame
    return value


class TestConflate:
    def test_the_newest_within_one_frame_however_slow_the_client(self, bridge: Bridge, start_edge: StartEdge):
        edge = start_edge()

        async def main() -> None:
            async with client(edge) as witness, slow_reader(edge) as slow:
                source = await begin(bridge, witness)
                answer = await slow.subscribe(BUS, mode="conflate", window=1, delta=["json-patch"])
                assert (answer["mode"], answer["window"], answer["max_rate"]) == ("conflate", 1, None)
                asked_at, held, seen, deltas = source.newest, None, [], 0
                for count in STEPS:
                    await source.publish(count)
                    frame = await slow.read()
                    # What was the newest when it asked for more, or what came until that was heard.
                    assert asked_at <= frame["offset"] <= source.newest
                    held = check(bridge, frame, held)
                    deltas += "base" in frame
                    seen.append(frame["offset"])
                    asked_at = source.newest
                    await slow.ack(BUS, frame["offset"])
                assert (await slow.read())["offset"] == source.newest
                assert seen == sorted(set(seen))
                assert deltas == len(seen) - 1, "what follows a conflation is one delta"
                assert await slow.read_all() == []

        run(main)

    def test_the_python_client_has_it_too(self, bridge: Bridge, start_edge: StartEdge):
        edge = start_edge()

        async def main() -> None:
            async with client(edge) as witness, Client(edge.url(), options=Options(proxy=False)) as slow:
                source = await begin(bridge, witness)
                subscription = slow.subscribe(BUS, mode="conflate")
                await subscription.joined()
                asked_at = [0, 0]
                for count in STEPS:
                    # One is on its way while the application works on the one before: it was the newest when that was taken.
                    publication = await anext(subscription)
                    assert asked_at[-2] <= publication.position.offset <= source.newest
                    assert publication.data["n"] == publication.position.offset
                    assert publication.gap is None
                    await source.publish(count)
                    asked_at.append(source.newest)
                while publication.position.offset < source.newest:
                    publication = await anext(subscription)

        run(main)

    def test_one_that_stops_reading_gets_the_newest_next_and_costs_nothing_meanwhile(self, bridge: Bridge, start_edge: StartEdge):
        edge = start_edge()
        size, count = 100_000, 400

        async def main() -> None:
            async with client(edge) as witness, slow_reader(edge) as slow:
                source = await begin(bridge, witness)
                # Without deltas: what waits in the kernel shall be large. Without a window: only the socket says that the client is slow.
                await slow.subscribe(BUS, mode="conflate")
                await source.publish(count // 2, size=size)
                before = rss_bytes(edge)
                await source.publish(count // 2, size=size)
                assert rss_bytes(edge) - before < count // 2 * size / 2
                offsets = [frame["offset"] for frame in await slow.read_all()]
                # What had left before the socket was full, and then the newest.
                assert offsets == sorted(set(offsets))
                if offsets[-1] != source.newest:
                    offsets.append((await slow.read())["offset"])
                assert offsets[-1] == source.newest
                assert len(offsets) < count / 8
                assert offsets[-2] < source.newest / 2

        run(main)

    def test_what_the_bus_brings_at_once_is_not_held_beyond_the_ring(self, bridge: Bridge, start_edge: StartEdge):
        edge = start_edge()
        size, count = 400_000, 50

        async def main() -> None:
            async with client(edge) as witness, slow_reader(edge) as slow:
                source = await begin(bridge, witness)
                await slow.subscribe(BUS, mode="conflate")
                await source.publish(count, size=size)
                before = rss_bytes(edge)
                # An edge that had no processor for a while finds many deltas in one read: small ones, to large payloads.
                edge.process.pause()
                await source.push(count, size=size)
                edge.process.resume()
                await source.publish(0)
                assert rss_bytes(edge) - before < count * size / 2
                while (await slow.read())["offset"] < source.newest:
                    pass

        run(main)

    def test_one_publication_larger_than_the_outbox_is_no_reason_to_close(self, bridge: Bridge, start_edge: StartEdge):
        edge = start_edge("--max-outbox-bytes", 65_536)

        async def main() -> None:
            async with slow_reader(edge) as slow:
                await slow.subscribe(BUS, mode="conflate")
                await aside(bridge.push, BUS, {"n": 1, "pad": "x" * 8_000_000})
                assert (await slow.read())["data"]["n"] == 1

        run(main)

    def test_max_rate_holds_back_all_but_the_first(self, bridge: Bridge, start_edge: StartEdge):
        edge = start_edge()

        async def main() -> None:
            async with client(edge) as witness, slow_reader(edge) as slow:
                source = await begin(bridge, witness)
                answer = await slow.subscribe(BUS, mode="conflate", max_rate=0.001)
                assert answer["max_rate"] == 0.001
                assert (await slow.read())["offset"] == 1
                await source.publish(10)
                assert await slow.read_all() == []

        run(main)

    def test_max_rate_lets_the_newest_through_in_time(self, bridge: Bridge, start_edge: StartEdge):
        edge = start_edge()

        async def main() -> None:
            async with client(edge) as witness, slow_reader(edge) as slow:
                source = await begin(bridge, witness)
                await slow.subscribe(BUS, mode="conflate", max_rate=20)
                await source.publish(30)
                offsets = [(await slow.read())["offset"]]
                while offsets[-1] < source.newest:
                    offsets.append((await slow.read())["offset"])
                assert offsets == sorted(set(offsets))

        run(main)


class TestAck:
    def test_all_of_them_in_order_and_never_more_than_the_window_under_way(self, bridge: Bridge, start_edge: StartEdge):
        edge = start_edge()
        window = 5

        async def main() -> None:
            async with client(edge) as witness, slow_reader(edge) as slow:
                source = await begin(bridge, witness)
                answer = await slow.subscribe(BUS, mode="ack", window=window, delta=["json-patch"])
                assert (answer["mode"], answer["window"]) == ("ack", window)
                handled, held, waiting = 0, None, []
                for count in STEPS:
                    await source.publish(count)
                    waiting += await slow.read_all()
                    assert len(waiting) == min(window, source.newest - handled)
                    frame = waiting.pop(0)
                    held = check(bridge, frame, held)
                    handled += 1
                    assert frame["offset"] == handled
                    await slow.ack(BUS, handled)
                while handled < source.newest:
                    frame = waiting.pop(0) if waiting else await slow.read()
                    held = check(bridge, frame, held)
                    handled += 1
                    assert frame["offset"] == handled
                    await slow.ack(BUS, handled)
                assert await slow.read_all() == []

        run(main)

    def test_far_behind_it_reads_the_history_in_pages(self, bridge: Bridge, start_edge: StartEdge):
        edge = start_edge()
        total = 700  # more than the ring of a channel

        async def main() -> None:
            async with client(edge) as witness, slow_reader(edge) as slow:
                source = await begin(bridge, witness)
                await source.publish(total - 1)
                await slow.subscribe(BUS, mode="ack", window=20, position={"epoch": None, "offset": 0})
                for offset in range(1, total + 1):
                    assert (await slow.read())["offset"] == offset
                    if offset % 7 == 0:
                        await slow.ack(BUS, offset)
                assert await slow.read_all() == []

        run(main)

    def test_what_the_history_no_longer_holds_is_named_exactly(self, bridge: Bridge, start_edge: StartEdge):
        edge = start_edge()

        async def main() -> None:
            for number in range(1, 1_501):
                await aside(bridge.push, BUS, {"n": number}, keep=300)
            async with slow_reader(edge) as slow:
                await slow.subscribe(BUS, mode="ack", window=10, position={"epoch": None, "offset": 0})
                gap = await slow.read()
                assert (gap["type"], gap["reason"], gap["missed"]) == ("gap", "history_trimmed", {"from": 1, "to": 1_200})
                for offset in range(1_201, 1_501):
                    assert (await slow.read())["offset"] == offset
                    await slow.ack(BUS, offset)
                assert await slow.read_all() == []

        run(main)

    def test_another_edge_goes_on_behind_the_last_acknowledgement(self, bridge: Bridge, start_edge: StartEdge):
        first, second = start_edge(), start_edge()

        async def main() -> None:
            async with client(first) as witness:
                source = await begin(bridge, witness)
                await source.publish(9)

                async def take(subscription: Subscription, count: int) -> list[int]:
                    return [(await anext(subscription)).position.offset for _ in range(count)]

                async with Client(first.url()) as one:
                    subscription = one.subscribe(BUS, mode="ack", window=4, rewind=10)
                    assert await take(subscription, 4) == [1, 2, 3, 4]
                    publication = await anext_within_window(subscription)
                    assert publication is None
                    epoch = subscription.info.newest.epoch if subscription.info and subscription.info.newest else ""
                    await subscription.ack(Position(epoch, 3))
                    assert await take(subscription, 3) == [5, 6, 7]
                    position = subscription.position
                assert position == Position(epoch, 3)
                async with Client(second.url()) as other:
                    subscription = other.subscribe(BUS, mode="ack", position=position)
                    assert await take(subscription, 7) == [4, 5, 6, 7, 8, 9, 10]

        run(main)


async def anext_within_window(subscription: Subscription) -> Any:
    """What waits in the client beyond what was taken, once the edge has answered all that it was asked; None where there is nothing."""
    client_ = subscription._owner
    assert isinstance(client_, Client)
    await client_.ping()
    items = client_._feeds[subscription.channel]._items
    return items[0] if items else None


class TestQueue:
    def test_one_that_overflows_is_told_and_misses_nothing(self, bridge: Bridge, start_edge: StartEdge):
        edge = start_edge("--max-outbox-bytes", 65_536)

        async def main() -> None:
            async with client(edge) as witness:
                source = await begin(bridge, witness)
                async with slow_reader(edge) as slow:
                    answer = await slow.subscribe(BUS)
                    assert answer["mode"] == "queue"
                    while "closing a slow consumer" not in edge.process.output():
                        await source.publish(5, size=20_000)
                        assert source.newest < 1_000
                    await source.publish(5)  # while it is not there
                    offsets = []
                    while (frame := await slow.read())["type"] != "closed":
                        offsets.append(frame["offset"])
                    assert slow.close_code == 4001
                    assert offsets == list(range(1, len(offsets) + 1))
                    assert len(offsets) < source.newest
                async with slow_reader(edge) as slow:
                    position = {"epoch": answer["position"]["epoch"], "offset": len(offsets)}
                    answer = await slow.subscribe(BUS, position=position)
                    assert answer["recovered"] is True
                    following = [frame["offset"] for frame in await slow.read_all()]
                    assert offsets + following == list(range(1, source.newest + 1))

        run(main)

    def test_the_python_client_comes_back_by_itself_and_misses_nothing(self, bridge: Bridge, start_edge: StartEdge):
        edge = start_edge("--max-outbox-bytes", 65_536)

        async def main() -> None:
            async with client(edge) as witness, Client(edge.url(), delta=(), options=Options(proxy=False, max_queue=2)) as slow:
                source = await begin(bridge, witness)
                subscription = slow.subscribe(BUS, mode="queue")
                await subscription.joined()
                taken = [await anext(subscription)]
                # The application works on it, the client stops reading, and what the kernels take is full in the end.
                while "closing a slow consumer" not in edge.process.output():
                    await source.publish(10, size=100_000)
                    assert source.newest < 1_000
                await source.publish(5)  # while it is not there
                while taken[-1].position.offset < source.newest:
                    taken.append(await anext(subscription))
                assert [publication.position.offset for publication in taken] == list(range(1, source.newest + 1))
                assert [publication.data["n"] for publication in taken] == list(range(1, source.newest + 1))
                assert all(publication.gap is None for publication in taken)
            assert edge.process.output().count("closing a slow consumer") == 1

        run(main)


class TestSession:
    def test_modes_of_one_session_do_not_disturb_each_other(self, bridge: Bridge, start_edge: StartEdge):
        edge = start_edge()
        channels = {mode: f"{mode}:1" for mode in ("queue", "conflate", "ack")}

        async def main() -> None:
            async with client(edge) as witness, slow_reader(edge) as slow:
                sources = {mode: await begin(bridge, witness, channel) for mode, channel in channels.items()}
                numbers: dict[int, str] = {}
                got: dict[str, list[int]] = {mode: [] for mode in channels}

                async def read() -> None:
                    for frame in await slow.read_all():
                        got[numbers[frame["number"]]].append(frame["offset"])

                for mode, channel in channels.items():
                    wish = {} if mode == "queue" else {"window": 2}
                    await slow.say(type="subscribe", channel=channel, mode=mode, **wish)
                    while (frame := await slow.read())["type"] != "subscribed":
                        got[numbers[frame["number"]]].append(frame["offset"])
                    numbers[frame["number"]] = mode
                for _ in range(10):
                    for source in sources.values():
                        await source.publish(3)
                    await read()
                assert got["queue"] == list(range(1, 32))
                assert got["ack"] == [1, 2]
                assert len(got["conflate"]) == 2
                await slow.ack(channels["conflate"], got["conflate"][-1])
                await slow.ack(channels["ack"], 2)
                await read()
                assert (got["conflate"][-1], got["ack"]) == (31, [1, 2, 3, 4])
                await slow.say(type="unsubscribe", channel=channels["ack"])
                await sources["queue"].publish(1)
                assert {frame["type"] for frame in await slow.read_all()} == {"unsubscribed", "publication"}

        run(main)

    def test_a_lost_bus_does_not_stop_an_acknowledging_client(self, bridge: Bridge, start_edge: StartEdge, redis_url: str):
        edge = start_edge()

        async def main() -> None:
            async with client(edge) as witness, Client(edge.url()) as reader:
                source = await begin(bridge, witness)
                await source.publish(5)
                subscription = reader.subscribe(BUS, mode="ack", window=3, rewind=6)
                for offset in range(1, 4):
                    assert (await anext(subscription)).position.offset == offset
                await aside(flush, redis_url)
                await aside(bridge.push, BUS, {"n": "new"}, keep=1000)
                # What the edge still has of the old epoch comes first, or is told to be lost; the new one comes from its beginning.
                told = None
                while True:
                    publication = await anext(subscription)
                    told = told or publication.gap
                    await subscription.ack(publication)
                    if publication.data["n"] == "new":
                        break
                assert told is not None
                assert told.reason == "epoch_changed"

        run(main)


def flush(redis_url: str) -> None:
    import redis

    with redis.Redis.from_url(redis_url) as connection:
        connection.flushall()


class TestNamespaces:
    def test_say_what_is_allowed_and_what_is_given(self, bridge: Bridge, start_edge: StartEdge, tmp_path: Path):
        path = tmp_path / "namespaces.toml"
        path.write_text('[default]\nwindow = 8\n[namespaces.bus]\nmodes = ["conflate", "queue"]\nmax_rate = 4\n')
        edge = start_edge("--namespaces", str(path))

        async def main() -> None:
            await aside(bridge.push, BUS, {"n": 1}, kind=Kind.STREAM)
            async with slow_reader(edge) as slow:
                await check_agreed(slow, BUS, {}, {"mode": "conflate", "max_rate": 4})
                await check_agreed(slow, "bus:2", {"mode": "conflate", "max_rate": 2, "window": 9}, {"max_rate": 2, "window": 8})
                await check_agreed(slow, "bus:3", {"mode": "queue"}, {"mode": "queue"})
                await check_agreed(slow, "other:1", {"mode": "ack", "window": 100}, {"mode": "ack", "window": 8})
                asked = await slow.say(type="subscribe", channel="bus:4", mode="ack")
                refused = await slow.read()
                assert (refused["id"], refused["code"], refused["retry"]) == (asked, "mode_not_allowed", False)
            async with Client(edge.url()) as asking:
                with pytest.raises(RefusedError) as error:
                    await anext(asking.subscribe(BUS, mode="ack"))
                assert error.value.code == "mode_not_allowed"

        run(main)

    def test_a_file_with_mistakes_stops_the_edge_before_it_starts(self, start_project: StartProject, redis_url: str, tmp_path: Path):
        path = tmp_path / "namespaces.toml"
        path.write_text('[defaults]\n[namespaces.bus]\nmode = ["queue"]\nwindow = 0\n')
        process = start_project("edge", "run", "--bus", redis_url, "--namespaces", str(path))
        assert process.wait() == 2
        output = process.output()
        assert all(word in output for word in ("defaults", 'did you mean "modes"', "namespaces.bus.window"))


async def check_agreed(slow: SlowReader, channel: str, wish: dict[str, Any], agreed: dict[str, Any]) -> None:
    answer = await slow.subscribe(channel, **wish)
    assert {name: answer[name] for name in agreed} == agreed


def test_the_example_shows_all_three_and_ends_cleanly(bridge: Bridge, start_edge: StartEdge, tmp_path: Path):
    edge = start_edge()
    command: list[str | Path] = [sys.executable, ROOT / "examples" / "slow_client.py", f"ws://127.0.0.1:{edge.port}", BUS]
    paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'clients' / 'python'}", "PYTHONUNBUFFERED": "1"}
    with Process(command, log=tmp_path / "example.log", env=paths) as example:

        def publish_until_shown() -> bool:
            bridge.push(BUS, {"n": 1})
            last = example.output().splitlines()[-1:]
            return bool(last) and all(f"{mode} " in last[0] for mode in ("queue", "conflate", "ack"))

        example.wait_for(publish_until_shown, what="a line with all three modes")
        example.signal(signal.SIGINT)
        assert example.wait() == 0, example.output()
        assert "Traceback" not in example.output()
