"""Which pushes go to Redis in one call of the publish script, and in which order the calls are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shared.bus.layout import BusLayout
from shared.bus.push import Push

MAX_BATCH = 200
MAX_BATCH_BYTES = 1_048_576
"""A script holds Redis while it runs: so many publications, or so many bytes, make one call."""


class Batch(NamedTuple):
    """Some pushes of one shard, by their index."""

    shard: int
    members: list[int]


def rounds_of(pushes: Sequence[Push], layout: BusLayout) -> list[list[Batch]]:
    """Split pushes by shard, in order, into batches within MAX_BATCH and MAX_BATCH_BYTES (one push that is larger goes alone).

    The n-th batch of each shard is in the n-th round.
    """
    rounds: list[list[Batch]] = []
    newest: dict[int, tuple[Batch, int, int]] = {}
    for at, push in enumerate(pushes):
        shard = layout.shard_of(push.channel)
        size = len(push.payload) + len(push.delta)
        batch, number, total = newest.get(shard, (None, -1, 0))
        if batch is None or len(batch.members) >= MAX_BATCH or total + size > MAX_BATCH_BYTES:
            batch, number, total = Batch(shard, []), number + 1, 0
            if number == len(rounds):
                rounds.append([])
            rounds[number].append(batch)
        batch.members.append(at)
        newest[shard] = (batch, number, total + size)
    return rounds
