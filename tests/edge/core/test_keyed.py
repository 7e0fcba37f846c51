"""The state of a keyed channel: the newest of each key, in the order of offsets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge.core.keyed
from edge.core.item import keyed_item_of
from edge.core.keyed import ENTRY_BYTES, KeyedLoad, KeyedState, StateBounds, StateTooLargeError
from shared.envelope import Envelope
from shared.errors import DeltaError
from tests.edge.builders import EPOCH_TEXT, OTHER, deletion, keyed, value

BOUNDS = StateBounds(100, 1_000_000)


def state_of(*envelopes: Envelope) -> KeyedState:
    state = KeyedState()
    for envelope in envelopes:
        state.put(keyed_item_of(EPOCH_TEXT, envelope, envelope.body))
    return state


def shown(state: KeyedState, offset: int = 0, most: int = 100) -> list[tuple[int, bytes]]:
    return [(item.offset, item.key) for item in state.after(offset, most)]


def settled(load: KeyedLoad) -> bool:
    return load.is_settled


class TestState:
    def test_frames_are_let_go_of_a_part_at_a_time(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(edge.core.keyed, "TIDIED", 10)
        state = state_of(*(keyed(offset, f"key {offset}") for offset in range(1, 41)))
        items = state.after(0, 40)

        def left() -> int:
            return sum(item.frames is not None for item in items)

        for _ in range(2):
            for item in items:
                item.frames = {}
            assert state.forget_frames(are_made=True)
            assert left() == 30, "no turn of the event loop is for all of them"
            while state.forget_frames(are_made=False):
                pass
            assert left() == 0

    def test_a_newer_value_takes_the_place_of_the_older_at_the_end(self):
        state = state_of(keyed(1, "a"), keyed(2, "b"), keyed(3, "a"))
        assert shown(state) == [(2, b"b"), (3, b"a")]
        assert len(state) == 2

    def test_a_deletion_stays_for_those_who_hold_the_key(self):
        state = state_of(keyed(1, "a"), keyed(2, "b"), deletion(3, "a"))
        assert shown(state, 2) == [(3, b"a")]
        assert len(state) == 1
        assert state.oldest == 2

    def test_a_deletion_that_is_forgotten_moves_the_mark(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(edge.core.keyed, "MAX_DELETIONS", 1)
        state = state_of(keyed(1, "a"), keyed(2, "b"), deletion(3, "a"), deletion(4, "b"))
        assert state.forgotten_up_to == 3
        assert shown(state) == [(4, b"b")]

    def test_a_key_that_is_there_again_is_no_forgotten_deletion(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(edge.core.keyed, "MAX_DELETIONS", 1)
        state = state_of(deletion(1, "a"), keyed(2, "a"), deletion(3, "b"))
        assert state.forgotten_up_to == 0
        assert shown(state) == [(2, b"a"), (3, b"b")]

    def test_learns_deletions_from_the_history(self):
        state = KeyedState(forgotten_up_to=5)
        state.put_all([keyed_item_of(EPOCH_TEXT, keyed(offset, key), b"") for offset, key in ((1, "a"), (5, "d"))])
        state.learn([keyed(2, "b"), deletion(3, "b"), keyed(4, "c"), keyed(5, "d")], EPOCH_TEXT)
        assert state.forgotten_up_to == 1
        assert shown(state) == [(1, b"a"), (3, b"b"), (5, b"d")]

    def test_learns_nothing_from_a_history_that_does_not_join(self):
        state = KeyedState(forgotten_up_to=9)
        state.learn([deletion(3, "b"), keyed(4, "c")], EPOCH_TEXT)
        assert state.forgotten_up_to == 9

    @given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), min_size=1, max_size=40), st.integers(0, 40), st.integers(0, 4))
    def test_what_is_learned_is_as_if_it_had_been_there(self, changes: list[tuple[str, bool]], read_at: int, newer: int):
        """The state is read at some position, goes on from there, and is shown the history of all of it: no deletion is missing."""
        edge.core.keyed._SPARE, spare = 2, edge.core.keyed._SPARE
        published = [deletion(offset, key) if is_deleted else keyed(offset, key) for offset, (key, is_deleted) in enumerate(changes, 1)]
        read_at = min(read_at, len(published))
        newest = {envelope.key: envelope for envelope in published[:read_at]}
        state, whole = KeyedState(forgotten_up_to=read_at), state_of(*published)
        state.put_all([keyed_item_of(EPOCH_TEXT, envelope, envelope.body) for envelope in newest.values() if not envelope.is_deletion])
        for envelope in published[read_at : read_at + newer]:
            state.put(keyed_item_of(EPOCH_TEXT, envelope, envelope.body))
        state.learn(published[: read_at + newer], EPOCH_TEXT)
        for envelope in published[read_at + newer :]:
            state.put(keyed_item_of(EPOCH_TEXT, envelope, envelope.body))
        edge.core.keyed._SPARE = spare
        assert state.forgotten_up_to == 0
        assert shown(state) == shown(whole)
        assert (len(state), state.oldest, state.bytes_held) == (len(whole), whole.oldest, whole.bytes_held)

    @given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 8))
    def test_no_more_deletions_are_learned_than_are_kept(self, learned: int, there: int, most: int):
        edge.core.keyed.MAX_DELETIONS, before = most, edge.core.keyed.MAX_DELETIONS
        history = [deletion(offset, f"{offset}") for offset in range(1, 1 + learned)]
        state = KeyedState(forgotten_up_to=learned)
        for offset in range(1 + learned, 1 + learned + there):
            state.put(keyed_item_of(EPOCH_TEXT, deletion(offset, f"{offset}"), b""))
        state.learn(history, EPOCH_TEXT)
        edge.core.keyed.MAX_DELETIONS = before
        kept = [offset for offset, _ in shown(state)]
        assert kept == list(range(1, 1 + learned + there))[-most or learned + there :]
        assert state.forgotten_up_to == learned + there - len(kept)

    @given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=60), st.integers(0, 60), st.integers(1, 9))
    def test_is_what_a_plain_model_is(self, changes: list[tuple[str, bool]], after: int, most: int):
        state, model, size = KeyedState(), {}, 0
        edge.core.keyed._SPARE, spare = 2, edge.core.keyed._SPARE
        for offset, (key, is_deleted) in enumerate(changes, 1):
            envelope = deletion(offset, key) if is_deleted else keyed(offset, key)
            state.put(keyed_item_of(EPOCH_TEXT, envelope, envelope.body))
            model[key] = (offset, is_deleted, len(envelope.body))
        edge.core.keyed._SPARE = spare
        in_order = sorted((offset, key.encode()) for key, (offset, _, _) in model.items())
        assert shown(state, after, most) == [each for each in in_order if each[0] > after][:most]
        assert [(item.offset, item.key) for item in state.newest(most)] == in_order[-most:]
        there = [offset for offset, is_deleted, _ in model.values() if not is_deleted]
        assert (len(state), state.oldest) == (len(there), min(there, default=0))
        size = sum(length + 1 + edge.core.keyed.ENTRY_BYTES for _, _, length in model.values())
        assert state.bytes_held == size


class TestLoad:
    def load(self, newest: Envelope, *entries: Envelope, bounds: StateBounds = BOUNDS) -> KeyedLoad:
        load = KeyedLoad(newest, bounds)
        assert load.add(entries)
        return load

    def test_entries_that_are_ahead_wait_for_what_is_between(self):
        load = self.load(keyed(2, "b"), keyed(1, "a"), keyed(4, "b"))
        assert load.finish([keyed(4, "b")])
        assert not settled(load)
        assert load.follow([keyed(2, "b"), keyed(3, "c")]) == ""
        assert not settled(load)
        assert load.follow([keyed(4, "b")]) == ""
        assert settled(load)
        assert shown(load.state) == [(1, b"a"), (3, b"c"), (4, b"b")]
        assert load.newest_item is load.state.get(b"b")

    def test_a_delta_whose_base_was_overtaken_by_the_entry_needs_none(self):
        load = self.load(keyed(1, "a"), keyed(3, "a"))
        assert load.finish([keyed(3, "a")])
        assert load.follow([keyed(2, "a", base=keyed(1, "a")), keyed(3, "a", base=keyed(2, "a"))]) == ""
        assert [item.payload for item in load.state.after(0, 9)] == [value(3)]

    def test_a_key_that_was_deleted_while_reading_is_waited_for(self):
        load = self.load(keyed(2, "b"), keyed(2, "b"))
        assert load.finish([deletion(3, "a")])
        assert not settled(load)
        assert load.follow([deletion(3, "a")]) == ""
        assert settled(load)
        assert load.newest_item.is_deletion

    def test_a_hole_is_told(self):
        load = self.load(keyed(1, "a"), keyed(1, "a"))
        assert load.finish([keyed(3, "a")])
        assert "3 came after 1" in load.follow([keyed(3, "b")])

    def test_another_epoch_is_told(self):
        load = self.load(keyed(1, "a"), keyed(1, "a"))
        assert not load.add([keyed(1, "a", epoch=OTHER)])
        assert not load.finish([keyed(1, "a", epoch=OTHER)])
        assert not load.finish([])

    @pytest.mark.parametrize("bounds", [StateBounds(1, 1_000_000), StateBounds(10, 2 * ENTRY_BYTES)])
    def test_more_than_it_may_have_is_refused(self, bounds: StateBounds):
        with pytest.raises(StateTooLargeError):
            self.load(keyed(2, "b"), keyed(1, "a"), keyed(2, "b"), bounds=bounds)

    def test_a_key_that_comes_on_two_pages_is_one(self):
        load = self.load(keyed(2, "a"), keyed(2, "a"), keyed(2, "a"), bounds=StateBounds(1, 1_000))
        assert load.finish([keyed(2, "a")])
        assert shown(load.state) == [(2, b"a")]


def test_a_delta_of_another_base_is_refused():
    base = keyed(1, "a")
    wrong = keyed_item_of(EPOCH_TEXT, keyed(2, "a", b"x"), b"x")
    with pytest.raises(DeltaError, match="another base"):
        edge.core.keyed.payload_of(keyed(3, "a", base=base), wrong)
