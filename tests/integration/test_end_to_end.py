"""From a real Kafka through bridge, a real Redis and edge to clients: what they hold is what was produced."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from distributary import Client, Options, Position, RefusedError
from tests.rig.fleet import Fleet, Follower, assert_no_hole, write_rules
from tests.rig.kafka_server import KafkaCluster
from tests.rig.stack import Stack

SNAPSHOTS = 200
WATCHED = ["bus:1430", "position:1430"]
PATIENT = Options(reconnect=False, connect_timeout_s=60, call_timeout_s=60)
VARIANTS = [{"format": format_, "delta": delta} for format_ in ("json", "msgpack") for delta in ((), ("vcdiff",), ("json-patch",))]


@pytest.mark.parametrize("bus_delta", ["vcdiff", "json-patch", "none"])
def test_every_client_holds_every_value_that_was_produced(
    stack: Stack, kafka: KafkaCluster, topic: str, tmp_path: Path, bus_delta: str
) -> None:
    fleet = Fleet()
    stack.start_edge()
    stack.start_bridge(write_rules(tmp_path, topic, bus_delta=bus_delta), topic)

    async def follow() -> None:
        async with AsyncExitStack() as followers:
            all_ = [await followers.enter_async_context(Follower(stack.url, WATCHED, **variant)) for variant in VARIANTS]
            for follower in all_:
                await follower.joined()
            # A bare client does not ask again: it comes when the bridge has set the bus up.
            # While it is not read from, it would not see the answers to pings.
            url = f"{stack.url}/v1/ws?channels={','.join(WATCHED)}"
            bare = await followers.enter_async_context(connect(url, open_timeout=60, ping_interval=None))
            # One snapshot first, so that everybody is there when the rest comes in bursts.
            await asyncio.to_thread(kafka.produce, topic, fleet.snapshots(1))
            for follower in all_:
                for channel in WATCHED:
                    await follower.wait_for(channel, 1)
            frames = [await receive(bare) for _ in WATCHED]
            await asyncio.to_thread(kafka.produce, topic, fleet.snapshots(SNAPSHOTS - 1))
            for follower in all_:
                for channel in WATCHED:
                    await follower.wait_for(channel, SNAPSHOTS)
                    assert follower.values(channel) == fleet.expected[channel], follower
                    assert [publication.position.offset for publication in follower.got[channel]] == list(range(1, SNAPSHOTS + 1))
                    assert_no_hole(follower.got[channel])
                    assert follower.gaps[channel] == []
                if follower.name.endswith("delta ()"):
                    assert not any(publication.is_delta for publication in follower.got["bus:1430"])
                else:
                    assert any(publication.is_delta for publication in follower.got["bus:1430"])
            while len(frames) < SNAPSHOTS * len(WATCHED):
                frames.append(await receive(bare))
            check_bare(frames, fleet)

    asyncio.run(follow())


async def receive(bare: ClientConnection) -> dict[str, Any]:
    return dict(json.loads(await asyncio.wait_for(bare.recv(), 60)))


def check_bare(frames: list[dict[str, Any]], fleet: Fleet) -> None:
    """A client without a handshake gets one JSON text frame a publication, with channel, epoch, offset and value."""
    values: dict[str, list[object]] = {channel: [] for channel in WATCHED}
    for frame in frames:
        assert len(frame["epoch"]) == 16
        values[frame["channel"]].append(frame["data"])
        assert frame["offset"] == len(values[frame["channel"]])
    for channel in WATCHED:
        assert values[channel] == fleet.expected[channel]


def test_a_client_that_was_away_gets_exactly_what_it_missed(stack: Stack, kafka: KafkaCluster, topic: str, tmp_path: Path) -> None:
    history = 40
    fleet = Fleet(vehicles=2)
    rules = write_rules(tmp_path, topic)
    rules.write_text(rules.read_text().replace("history: {size: 10000, bytes: 64MiB}", f"history: {{size: {history}}}"))
    stack.start_bridge(rules, topic)
    channel = "bus:1400"
    kafka.produce(topic, fleet.snapshots(history * 2))

    async def resume() -> None:
        newest = await newest_position(stack, channel, history * 2)
        stack.start_edge()
        # A cold edge reads the bus; a warm one has it in its ring: both must give the same.
        for _ in range(2):
            await asyncio.gather(
                *(
                    check_resumed(stack.url, channel, Position(newest.epoch, newest.offset - away), away, fleet, history)
                    for away in (*range(history + 1), history + 1, history * 2 - 1)
                )
            )

    asyncio.run(resume())


async def newest_position(stack: Stack, channel: str, offset: int) -> Position:
    """Wait on an edge of its own for the newest publication, so that the one under test is cold."""
    probe = stack.start_edge()
    try:
        async with Client(stack.url) as client:
            async for publication in client.subscribe(channel):
                if publication.position.offset == offset:
                    return publication.position
    finally:
        probe.terminate()
    raise AssertionError


async def check_resumed(url: str, channel: str, position: Position, away: int, fleet: Fleet, history: int) -> None:
    """Come back after `away` publications."""
    async with Client(url, options=PATIENT) as client:
        subscription = client.subscribe(channel, position=position)
        if away == 0:
            joined = await subscription.joined()
            assert joined.recovered is True
            return
        expected = fleet.expected[channel][-away:] if away <= history else fleet.expected[channel][-1:]
        got = [await asyncio.wait_for(anext(subscription), 60) for _ in expected]
        assert [publication.data for publication in got] == expected, away
        if away <= history:
            assert [publication.gap for publication in got] == [None] * away
            assert [publication.position.offset for publication in got] == list(range(position.offset + 1, position.offset + away + 1))
        else:
            gap = got[0].gap
            assert gap is not None
            assert gap.reason == "history_trimmed"
            assert gap.missed is not None
            assert (gap.missed.first, gap.missed.last) == (position.offset + 1, position.offset + away - 1)


def test_positions_that_the_channel_never_gave_out_are_told(stack: Stack, kafka: KafkaCluster, topic: str, tmp_path: Path) -> None:
    fleet = Fleet(vehicles=2)
    stack.start_edge()
    stack.start_bridge(write_rules(tmp_path, topic), topic)
    kafka.produce(topic, fleet.snapshots(3))

    async def check() -> None:
        async with Client(stack.url) as client:
            async for publication in client.subscribe("bus:1400"):
                if publication.position.offset == 3:
                    break
            newest = publication.position
            for position, reason in (
                (Position(newest.epoch, newest.offset + 5), "position_ahead"),
                (Position("A" * 16, 1), "epoch_changed"),
                (Position("not an epoch", 1), "epoch_changed"),
            ):
                async with Client(stack.url) as other:
                    got = await asyncio.wait_for(anext(aiter(other.subscribe("bus:1400", position=position))), 60)
                    assert got.gap is not None
                    assert got.gap.reason == reason
                    assert got.data == fleet.expected["bus:1400"][-1]

    asyncio.run(check())


def test_a_topic_that_is_created_after_the_bridge_is_seen(stack: Stack, kafka: KafkaCluster, unique_name: str, tmp_path: Path) -> None:
    fleet = Fleet(vehicles=2)
    stack.start_edge()
    stack.start_bridge(write_rules(tmp_path, unique_name), unique_name).wait_for_log("a topic does not exist yet")
    kafka.create_topic(unique_name)
    kafka.produce(unique_name, fleet.snapshots(2))

    async def check() -> None:
        async with Follower(stack.url, ["bus:1400"]) as follower:
            await follower.wait_for_newest({"bus:1400": fleet.expected["bus:1400"][-1]})

    asyncio.run(check())


def test_bad_records_are_passed_over_and_told(stack: Stack, kafka: KafkaCluster, topic: str, tmp_path: Path) -> None:
    fleet = Fleet(vehicles=3)
    [first, second] = fleet.snapshots(2)
    hostile = [
        b"{not json",
        b"\xff\xfe",
        b'[{"vehicle":{}}]',
        b'[{"id":"../../etc"},{"id":"a b"},{"id":"x:y"},{"id":""},{"id":null},{"id":{"a":1}},{"id":true}]',
        b'[{"id":"' + b"x" * 400 + b'"}]',
        b"17",
        b"[" * 5_000,
    ]
    stack.start_edge()
    bridge = stack.start_bridge(write_rules(tmp_path, topic), topic)
    kafka.produce(topic, [first, *hostile, second])

    async def check() -> None:
        async with Follower(stack.url, ["bus:1400", "position:1401"]) as follower:
            for channel in follower.got:
                await follower.wait_for_newest({channel: fleet.expected[channel][-1]})
                assert_no_hole(follower.got[channel])

    asyncio.run(check())
    assert bridge.is_running
    # The first problem of each route in full; the others are counted, so that a flood of bad records does not flood the log.
    bridge.wait_for_log(re.escape(f"{topic}[0]@1: route bus: the value is not JSON"))
    assert "Traceback" not in bridge.output()


def test_a_channel_name_that_is_none_is_refused(stack: Stack) -> None:
    stack.start_edge()

    async def check() -> None:
        async with Client(stack.url) as client, connect(f"{stack.url}/v1/ws?channels=a%20b,%7Bx%7D") as bare:
            assert {json.loads(await bare.recv())["code"] for _ in range(2)} == {"bad_channel"}
            assert client.is_connected

    asyncio.run(check())


def test_an_edge_without_a_bus_says_so_and_lives(stack: Stack, redis_url: str) -> None:
    del redis_url
    edge = stack.start_edge()

    async def check() -> None:
        async with Client(stack.url, options=PATIENT) as client:
            with pytest.raises(RefusedError, match="no bridge has set this bus up"):
                await asyncio.wait_for(anext(aiter(client.subscribe("bus:1430"))), 60)

    asyncio.run(check())
    assert edge.is_running
