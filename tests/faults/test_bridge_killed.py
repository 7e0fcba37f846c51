"""kill -9 of the bridge in the middle of its work: nothing twice, nothing missing, every value right."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from functools import partial
from pathlib import Path

import msgspec
import redis

from shared.bus.layout import BusLayout
from shared.envelope import decode
from tests.rig.fleet import Fleet, Follower, assert_no_hole, write_rules
from tests.rig.kafka_server import KafkaCluster
from tests.rig.stack import Stack
from tests.rig.wait import wait_until

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "8"))
SNAPSHOTS_A_ROUND = 12
WATCHED = ["bus:1430", "position:1430", "position:1400"]
# The same member comes back: the group does not wait for the dead one's session to time out.
STATIC_MEMBER = ("--kafka-property", "group.instance.id=one")
# One that was killed is missed soon.
QUICK_MEMBER = ("--kafka-property", "session.timeout.ms=3000", "--kafka-property", "heartbeat.interval.ms=300")


def history(client: redis.Redis, channel: str) -> list[object]:
    """Every value that the bus holds of a channel; its offsets are checked on the way."""
    entries = client.lrange(BusLayout().history_key(channel), 0, -1)
    envelopes = [decode(entry) for entry in entries if isinstance(entry, bytes)]
    assert [envelope.offset for envelope in envelopes] == list(range(1, len(envelopes) + 1))
    assert len({envelope.epoch for envelope in envelopes}) <= 1
    return [msgspec.json.decode(envelope.body) for envelope in envelopes]


def has_all(client: redis.Redis, channel: str, count: int) -> bool:
    return int(client.llen(BusLayout().history_key(channel))) >= count


def test_a_bridge_that_is_killed_again_and_again(stack: Stack, kafka: KafkaCluster, redis_url: str, topic: str, tmp_path: Path) -> None:
    fleet, chance = Fleet(), random.Random(7)
    rules = write_rules(tmp_path, topic)
    stack.start_edge()
    probe = redis.Redis.from_url(redis_url)
    joined = threading.Event()
    last_channel = BusLayout().history_key("position:1551")

    async def follow() -> None:
        async with Follower(stack.url, WATCHED) as deltas, Follower(stack.url, WATCHED, format="json", delta=()) as full:
            killing = asyncio.create_task(asyncio.to_thread(kill_again_and_again))
            await deltas.joined()
            await full.joined()
            joined.set()
            await killing
            for follower in (deltas, full):
                for channel in WATCHED:
                    await follower.wait_for(channel, len(fleet.expected[channel]))
                    assert follower.values(channel) == fleet.expected[channel]
                    assert follower.gaps[channel] == []
                    assert_no_hole(follower.got[channel])

    def has_more(seen: int) -> bool:
        return int(probe.llen(last_channel)) > seen

    def kill_again_and_again() -> None:
        for round_ in range(ROUNDS):
            published = probe.llen(last_channel)
            bridge = stack.start_bridge(rules, topic, *STATIC_MEMBER)
            if round_ == 0:
                # Clients can subscribe once a bridge has set the bus up, and are there before the first publication.
                assert joined.wait(120), "the clients did not come"
            kafka.produce(topic, fleet.snapshots(SNAPSHOTS_A_ROUND))
            wait_until(partial(has_more, published), what="the bridge at work", interval_s=0.002)
            time.sleep(chance.uniform(0, 0.25))  # A point that nobody chose: this is the fault, not a wait for something.
            bridge.kill()
        stack.start_bridge(rules, topic, *STATIC_MEMBER)
        total = len(fleet.expected["position:1551"])
        wait_until(lambda: probe.llen(last_channel) >= total, what=f"all {total} snapshots", timeout_s=120)

    asyncio.run(follow())
    positions = {channel: values for channel, values in fleet.expected.items() if channel.startswith("position:")}
    for channel, values in positions.items():  # The last snapshot reaches one channel after the other.
        wait_until(partial(has_all, probe, channel, len(values)), what=f"{len(values)} publications on {channel}")
    assert [channel for channel, values in positions.items() if history(probe, channel) != values] == []
    probe.close()


def test_a_second_bridge_that_joins_and_leaves(stack: Stack, kafka: KafkaCluster, redis_url: str, unique_name: str, tmp_path: Path) -> None:
    topic = kafka.create_topic(unique_name, partitions=3)
    fleets = [Fleet(vehicles=40, seed=seed) for seed in range(3)]
    rules = write_rules(tmp_path, topic)
    rules.write_text(
        rules.read_text().replace('"bus:{item.id}"', '"bus{partition}:{item.id}"').replace('"position:{', '"position{partition}:{')
    )
    stack.start_edge()
    stack.start_bridge(rules, topic, *QUICK_MEMBER)
    probe = redis.Redis.from_url(redis_url)
    watched = [f"{kind}{partition}:1400" for kind in ("bus", "position") for partition in range(3)]

    def produce(count: int) -> None:
        for partition, fleet in enumerate(fleets):
            kafka.produce(topic, fleet.snapshots(count), partition=partition)

    def expected(channel: str) -> list[object]:
        kind, partition = channel.split(":", maxsplit=1)[0][:-1], int(channel.split(":", maxsplit=1)[0][-1])
        return fleets[partition].expected[f"{kind}:{channel.split(':')[1]}"]

    def rebalance() -> None:
        for round_ in range(max(3, ROUNDS // 4)):
            second = stack.start_bridge(rules, topic, *QUICK_MEMBER)
            produce(10)
            second.wait_for_log(r"partitions assigned partitions=\S+\[", timeout_s=120)
            produce(10)
            # Half of the times it leaves in order, half of the times it is just gone.
            second.terminate() if round_ % 2 == 0 else second.kill()
            produce(5)

    async def follow() -> None:
        async with Follower(stack.url, watched) as follower:
            await follower.joined()
            await asyncio.to_thread(rebalance)
            for channel in watched:
                await follower.wait_for(channel, len(expected(channel)), timeout_s=120)
                assert follower.values(channel) == expected(channel), channel
                assert follower.gaps[channel] == []

    asyncio.run(follow())
    wanted = fleets[1].expected["position:1410"]
    wait_until(partial(has_all, probe, "position1:1410", len(wanted)), what="a channel that nobody watches")
    assert history(probe, "position1:1410") == wanted
    probe.close()
