"""Pages that many are sent: each client gets what it would get alone, whatever changes meanwhile, and they take no more than they may."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import edge.core.keyed
import edge.core.paced_keyed
import edge.core.pages
from edge.core.delivery import Delivery, Mode
from edge.core.hub import Channel
from edge.core.keyed import KeyedState
from edge.core.paced_keyed import KeyedPaced
from edge.core.stream import ChannelStream
from edge.core.variant import Dialect
from shared.envelope import Envelope
from shared.publication import DeltaFormat
from tests.edge.builders import EPOCH_TEXT, LABEL, deletion, keyed, step, value, variant

KEYS = "abcdefghij"
VARIANTS = (variant(), variant(Dialect.JSON, DeltaFormat.JSON_PATCH))

keys = st.sampled_from(KEYS)
numbers = st.integers(0, 9)


class Beginner:
    """A client that begins: what it was sent, held against what there was."""

    def __init__(self, machine: PagesMachine, subscription: KeyedPaced) -> None:
        self.subscription = subscription
        self.offset = 0
        self.state: dict[str, int] = {}
        self._machine = machine
        self._begun_at = machine.channel.stream.offset
        self._is_whole = False

    def turn(self) -> bool:
        """Take one part, where one is due."""
        pins = [item.offset for item in self.subscription._pins]
        current = {item.offset for item in self._machine.keyed.after(0, 1_000)} | set(pins)
        due = self.subscription.advance(1.0, is_writable=True)
        for frame in read(due.frames):
            self._take(frame, current)
        return due.is_more

    def _take(self, frame: dict[str, Any], current: set[int]) -> None:
        if frame["type"] == "gap":
            self.offset, self.state, self._begun_at = 0, {}, self._machine.channel.stream.offset
            return
        if frame["type"] == "caught_up":
            assert self.state == self._machine.truth(frame["offset"])
            self._is_whole = True
            return
        offset, key = frame["offset"], frame["key"]
        assert offset > self.offset
        assert self._is_whole or offset in current, "somebody who begins is sent what is no longer so"
        self.offset = offset
        envelope = self._machine.published[offset - 1]
        assert envelope.key == key.encode()
        self.state.pop(key, None)
        if envelope.is_deletion:
            assert frame["deleted"]
            assert offset > self._begun_at, "the deletion of a key that it never saw"
            return
        self.state[key] = offset
        assert "delta" in frame or msgspec.json.encode(frame["data"]) == envelope.body


class PagesMachine(RuleBasedStateMachine):
    """One channel, and clients that begin on it, each at its own pace."""

    def __init__(self) -> None:
        super().__init__()
        self.channel = Channel(LABEL, ChannelStream(max_items=3, max_bytes=10_000))
        self.published: list[Envelope] = []
        self.clients: list[Beginner] = []

    @property
    def keyed(self) -> KeyedState:
        assert self.channel.stream.keyed is not None
        return self.channel.stream.keyed

    def truth(self, offset: int) -> dict[str, int]:
        found: dict[str, int] = {}
        for envelope in self.published[:offset]:
            key = (envelope.key or b"").decode()
            found.pop(key, None)
            if not envelope.is_deletion:
                found[key] = envelope.offset
        return found

    @initialize(order=st.permutations(KEYS))
    def fill(self, order: list[str]) -> None:
        for key in order:
            self.change(key, False, 0)

    @rule(key=keys, is_deleted=st.booleans(), size=st.sampled_from([0, 0, 300]))
    def change(self, key: str, is_deleted: bool, size: int) -> None:
        offset = len(self.published) + 1
        envelope = deletion(offset, key) if is_deleted else keyed(offset, key, value(offset, size))
        self.published.append(envelope)
        step(self.channel.stream, envelope)

    @precondition(lambda self: len(self.clients) < 6)
    @rule(which=numbers, mode=st.sampled_from([Mode.QUEUE, Mode.QUEUE, Mode.CONFLATE, Mode.ACK]), turns=st.integers(0, 5))
    def begin(self, which: int, mode: Mode, turns: int) -> None:
        delivery = Delivery(mode, 0, 4) if mode is Mode.ACK else Delivery(mode)
        self.clients.append(Beginner(self, KeyedPaced(self.channel, VARIANTS[which % 2], delivery, 0)))
        for _ in range(turns):
            self.clients[-1].turn()

    @precondition(lambda self: self.clients)
    @rule(which=numbers, turns=st.integers(1, 5))
    def go_on(self, which: int, turns: int) -> None:
        client = self.clients[which % len(self.clients)]
        client.subscription.acknowledge(client.offset)
        for _ in range(turns):
            client.turn()

    @rule()
    def forget_frames(self) -> None:
        self.channel.stream.forget_frames(are_made=True)
        assert not self.keyed.pages

    @precondition(lambda self: len(self.published) < self.keyed.forgotten_up_to + 9)
    @rule()
    def learn(self) -> None:
        """The history is read for somebody else, and shows deletions that were forgotten."""
        self.keyed.learn(self.published[-9:], EPOCH_TEXT)

    @precondition(lambda self: self.clients)
    @rule(which=numbers)
    def leave(self, which: int) -> None:
        """At last each holds the state."""
        client = self.clients.pop(which % len(self.clients))
        for _ in range(200):
            client.subscription.acknowledge(client.offset)
            if not client.turn() and client.subscription.cursor == len(self.published):
                break
        assert client.state == self.truth(len(self.published))

    @invariant()
    def what_is_kept_takes_no_more_than_the_state(self) -> None:
        if not self.published:
            return
        pages = self.keyed.pages
        frames = [joined for page in pages._pages for joined in page.joined.values()]
        assert sum(len(joined.frames) for joined in frames) <= pages.bytes_held == sum(page.bytes_held for page in pages._pages)
        assert not pages or pages.bytes_held + self.keyed.frame_bytes <= self.keyed.bytes_held

    @invariant()
    def pages_have_what_the_log_has(self) -> None:
        if not self.published:
            return
        last = 0
        for page in self.keyed.pages._pages:
            assert page.after >= last
            last = page.last
            there = [item for item in self.keyed.after(page.after, 1_000) if item.offset <= page.last and not item.is_deletion]
            assert list(page.offsets) == [item.offset for item in there]
            for wanted, joined in page.joined.items():
                assert joined.frames == b"".join(wanted.full_frame(item, LABEL) for item in there)  # type: ignore[attr-defined]


class TestPages:
    def channel(self, *envelopes: Envelope) -> Channel:
        channel = Channel(LABEL, ChannelStream(max_items=3, max_bytes=10_000))
        for envelope in envelopes:
            step(channel.stream, envelope)
        return channel

    def beginner(self, channel: Channel) -> KeyedPaced:
        return KeyedPaced(channel, VARIANTS[0], Delivery(), 0)

    def test_are_joined_once_for_all_who_begin(self):
        channel = self.channel(*(keyed(offset, key) for offset, key in enumerate(KEYS, 1)))
        first, second = (self.beginner(channel).advance(1.0, is_writable=True).frames for _ in range(2))
        assert [frame["offset"] for frame in read(first)] == [1, 2, 3]
        assert first is second

    def test_are_as_large_as_payloads_allow(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(edge.core.pages, "MOST_BYTES", 250)
        channel = self.channel(*(keyed(offset, key, value(offset, 100)) for offset, key in enumerate(KEYS, 1)))
        assert [frame["offset"] for frame in read(self.beginner(channel).advance(1.0, is_writable=True).frames)] == [1, 2]

    def test_a_deletion_that_is_learned_later_is_sent_to_those_who_hold_the_key(self):
        channel = self.channel(*(keyed(offset, key) for offset, key in enumerate("abcdef", 1)))
        slow = self.beginner(channel)
        assert [frame["key"] for frame in read(slow.advance(1.0, is_writable=True).frames)] == ["a", "b", "c"]
        late = [deletion(7, "a"), *(keyed(offset, "ghi"[offset - 8]) for offset in (8, 9, 10))]
        late += [deletion(11, "b"), deletion(12, "c"), keyed(13, "c")]
        for envelope in late:
            step(channel.stream, envelope)
        state = channel.stream.keyed
        assert state is not None
        assert state.forgotten_up_to == 7
        quick = self.beginner(channel)
        while not quick.advance(1.0, is_writable=True).is_whole:
            pass
        state.learn(late, EPOCH_TEXT)
        held = {"a", "b", "c"}
        while slow.cursor < 13:
            for frame in read(slow.advance(1.0, is_writable=True).frames):
                if frame["type"] == "publication":
                    (held.discard if "deleted" in frame else held.add)(frame["key"])
        assert held == set("cdefghi")


TestMachine = PagesMachine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=25, deadline=None, print_blob=True)


def read(frames: bytes) -> list[dict[str, Any]]:
    """JSON objects without framing."""
    return [msgspec.json.decode(frame) for frame in frames.replace(b"}{", b"}\n{").split(b"\n") if frame]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.core.keyed, "ENTRY_BYTES", 700)
    monkeypatch.setattr(edge.core.keyed, "MAX_DELETIONS", 2)
    monkeypatch.setattr(edge.core.keyed, "_SPARE", 2)
    monkeypatch.setattr(edge.core.keyed, "ENTRIES_A_PAGE", 3)
    monkeypatch.setattr(edge.core.paced_keyed, "MOST_AT_ONCE", 2)
    monkeypatch.setattr(edge.core.paced_keyed, "PINNED", 1)
    monkeypatch.setattr(edge.core.paced_keyed, "RECENT", 2)
    monkeypatch.setattr(edge.core.paced_keyed, "MANY", 2)
