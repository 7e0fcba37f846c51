"""The bus in memory and the publish script are two writings of the same rules: any pushes have the same outcome on both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.ports import Bus
from shared.bus.push import Keep, Push, Source
from shared.envelope import Envelope
from shared.errors import IncarnationError
from shared.publication import ContentType, DeltaFormat, Kind, payload_hash
from tests.contract.backends import OTHER_SOURCE, SOURCE, Backend, MemoryBackend, RedisBackend
from tests.rig.redis_server import RedisServer

CHANNELS = ["k:1", "a:1"]


@pytest.fixture
def real(redis_server: RedisServer) -> Iterator[RedisBackend]:
    with closing(RedisBackend(redis_server)) as backend:
        yield backend


PAYLOADS = [b"", b"1", b"two"]
KEEPS = [Keep(history_size=3, max_keys=2, id_window_ms=2, id_count=3), Keep(history_bytes=150, id_window_ms=0, max_key_bytes=130)]


@st.composite
def some_pushes(draw: st.DrawFn) -> Push:
    """Few different ones, so that they meet."""
    key = draw(st.sampled_from([None, b"", b"a", b"b"]))
    is_deletion = key is not None and draw(st.integers(0, 3)) == 0
    payload = b"" if is_deletion else draw(st.sampled_from(PAYLOADS))
    base = None if is_deletion else draw(st.sampled_from([None, *PAYLOADS]))
    return Push(
        draw(st.sampled_from(CHANNELS)),
        payload,
        payload_hash(payload),
        ContentType.NONE if is_deletion else ContentType.JSON,
        Kind.LATEST if key is None else Kind.KEYED,
        draw(st.integers(-1, 5)),
        Source(draw(st.sampled_from([SOURCE, OTHER_SOURCE])), draw(st.integers(0, 30)), draw(st.integers(0, 1))),
        draw(st.sampled_from(KEEPS)),
        DeltaFormat.NONE if base is None else DeltaFormat.VCDIFF,
        b"" if base is None else b"D",
        b"" if base is None else payload_hash(base),
        draw(st.booleans()),
        draw(st.integers(0, 5)) == 0,
        key,
        draw(st.sampled_from([b"", b'{"a":"b"}'])),
        draw(st.sampled_from([None, None, -1.0, 0.0, 1.0, 2.0])),
        draw(st.sampled_from([b"", b"", *(bytes([number]) * 16 for number in range(5))])),
    )


def push_all(publisher: Bus, pushes: list[Push]) -> list[tuple[int, int, str]]:
    try:
        answers = publisher.push(pushes)
    except IncarnationError as error:
        publisher.reopen(error.shards)
        answers = publisher.push(pushes)
    return [(pushed.outcome, pushed.offset, pushed.reason) for pushed in answers]


class Epochs:
    """Names epochs by the order in which they were met: they are drawn at random."""

    def __init__(self) -> None:
        self._names: dict[bytes, int] = {}

    def name(self, entry: Envelope) -> tuple[object, ...]:
        """An envelope without what is drawn at random."""
        epoch = self._names.setdefault(entry.epoch, len(self._names))
        return (
            epoch,
            entry.offset,
            entry.base_offset,
            entry.delta,
            entry.kind,
            entry.content_type,
            entry.time_ms,
            entry.key,
            entry.body,
            entry.tags,
        )


def look(bus: Backend, sent_before: dict[str, int]) -> list[object]:
    """All that subscribers and readers can see."""
    seen: list[object] = []
    for channel in CHANNELS:
        epochs = Epochs()
        seen.append([epochs.name(entry) for entry in bus.wire(channel)[sent_before.get(channel, 0) :]])
        seen.append([epochs.name(entry) for entry in bus.history(channel)])
        seen.append({key: epochs.name(entry) for key, entry in bus.keys(channel).items()})
        seen.append(bus.ids(channel))
    return seen


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.lists(some_pushes(), min_size=1, max_size=12), max_size=8), st.integers(0, 20))
def test_any_pushes_have_the_same_outcome_in_memory_and_on_redis(real: RedisBackend, batches: list[list[Push]], lost_before: int):
    memory = MemoryBackend()
    real.flush()
    sent_before = {channel: len(real.wire(channel)) for channel in CHANNELS}
    buses = [memory.publisher(), real.publisher()]
    for bus in buses:
        bus.open()
    for number, pushes in enumerate(batches):
        if number == lost_before:
            memory.flush()
            real.flush()
        assert push_all(buses[0], pushes) == push_all(buses[1], pushes)
    assert look(memory, {}) == look(real, sent_before)
    buses[1].close()
