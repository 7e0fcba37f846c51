"""What a client knows of a keyed channel, and what an edge promises about it (docs/protocol.md, sections 4, 5 and 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jsonpatch
import msgspec

from edge.core.delivery import Mode
from shared.delta import vcdiff
from shared.publication import ContentType, DeltaFormat, Kind, Position
from tests.edge.reference_holding import Holding, Publication

Published = Mapping[tuple[str, str, int], tuple[ContentType, bytes, str | None]]


class KeyedHolding(Holding):
    """The newest publication of each key, as this client was told, held against all that was ever published."""

    def __init__(self, channel: str, kind: Kind, delta: DeltaFormat, published: Published) -> None:
        super().__init__(channel, kind, delta)
        self.published = published
        self.state: dict[str, int] = {}
        """Offsets by key. A client that comes back keeps it."""
        self.bases: dict[str, tuple[int, Any]] = {}
        """What deltas may build on: what came in this subscription."""
        self.is_whole = False
        """Whether the state is that of the position: from then on nothing may be missing, except in mode conflate."""
        self.is_partial = False
        """Whether it came back before it held the whole state."""

    def truth(self, epoch: str, offset: int) -> dict[str, int]:
        """The state of the channel at a position."""
        found: dict[str, int] = {}
        for at in range(1, offset + 1):
            content_type, _, key = self.published[self.channel, epoch, at]
            assert key is not None
            found.pop(key, None)
            if content_type is not ContentType.NONE:
                found[key] = at
        return found

    def begin(self, fields: dict[str, Any], newest: Position | None, position: Position | None) -> None:
        """`subscribed` came."""
        self.bases.clear()
        self.is_whole = newest is None
        self.is_anchored = True
        if fields["recovered"]:
            assert newest is None or not position or position.epoch in {"", newest.epoch}
            if self.is_invented or not self.state:
                self.state = self.truth(self.epoch, self.offset) if self.epoch else {}
            return
        self.state.clear()
        self.epoch, self.offset = (None, 0) if newest is None else (newest.epoch, 0)
        if fields["recovered"] is False:
            self._check_loss(fields, position, newest)

    def _check_loss(self, fields: dict[str, Any], position: Position | None, newest: Position | None) -> None:
        assert position is not None
        reason, missed = fields["reason"], fields["missed"]
        self.gaps.append((reason, missed))
        if reason in {"epoch_changed", "position_ahead"}:
            assert missed is None
            return
        assert reason in {"history_trimmed", "too_large"}
        assert newest is not None
        assert missed == {"from": position.offset + 1, "to": newest.offset}

    def lose(self, fields: dict[str, Any]) -> None:
        """`gap` came: what is held counts no more, all of it comes again."""
        self.gaps.append((fields["reason"], fields["missed"]))
        if fields["reason"] == "epoch_changed":
            assert fields["epoch"] is None or fields["epoch"] != self.epoch
        else:
            assert fields["epoch"] == self.epoch or self.epoch is None
            assert fields["missed"]["from"] > self.offset
        self.epoch, self.offset, self.unacked = fields["epoch"], 0, []
        self.state.clear()
        self.bases.clear()
        self.is_whole = fields["epoch"] is None

    def take(self, publication: Publication) -> None:
        """A publication came."""
        epoch = publication.epoch or self.epoch
        assert epoch is not None
        assert self.epoch in {None, epoch}, f"{self}: {publication} is of another epoch"
        assert publication.offset > self.offset, f"{self}: {publication} was known"
        if self.is_whole and self.mode is not Mode.CONFLATE:
            assert publication.offset == self.offset + 1, f"{self}: {publication} is not the next one"
        place = (self.channel, epoch, publication.offset)
        assert place in self.published, f"{self}: {place} was never published"
        content_type, payload, key = self.published[place]
        assert key is not None
        assert publication.key == key
        assert publication.content_type is content_type
        self.state.pop(key, None)
        if content_type is ContentType.NONE:
            self.bases.pop(key, None)
        else:
            value = self._value(publication, key)
            right: Any = payload if isinstance(value, bytes) else msgspec.json.decode(payload)
            assert value == right, f"{self}: {place} has another value than was published"
            self.bases[key] = (publication.offset, value)
            self.state[key] = publication.offset
        self.epoch, self.offset = epoch, publication.offset
        self.received += 1
        if self.window:
            self.unacked.append(publication.offset)
            assert self.mode is not Mode.ACK or len(self.unacked) <= self.window, f"{self}: {self.unacked} are under way"

    def _value(self, publication: Publication, key: str) -> Any:
        if publication.base is None:
            return publication.data
        assert publication.delta is self.delta
        assert key in self.bases, f"{self}: {publication} has a base that this client does not have"
        offset, held = self.bases[key]
        assert publication.base == offset, f"{self}: {publication} has another base than {offset}, which this client holds"
        if publication.delta is DeltaFormat.VCDIFF:
            return vcdiff.decode(held, publication.data, max_size=1 << 20)
        held = msgspec.json.decode(held) if isinstance(held, bytes) else held
        operations = msgspec.json.decode(publication.data) if isinstance(publication.data, bytes) else publication.data
        return jsonpatch.apply_patch(held, operations)

    def catch_up(self, fields: dict[str, Any]) -> None:
        """`caught_up` came: what is held is the state of the channel at the position that it names."""
        assert self.epoch in {None, fields["epoch"]}
        assert fields["offset"] >= self.offset
        self.epoch, self.offset, self.is_whole = fields["epoch"], fields["offset"], True
        truth = self.truth(fields["epoch"], fields["offset"])
        if self.is_partial:  # An edge that is behind cannot know what was replaced before this client got there: all that follows.
            truth = {key: offset for key, offset in truth.items() if key in self.state or not self._is_replaced(key, fields)}
        assert self.state == truth, f"{self}: {self.state} is not the state"

    def _is_replaced(self, key: str, fields: dict[str, Any]) -> bool:
        at = fields["offset"] + 1
        while (place := (self.channel, fields["epoch"], at)) in self.published:
            if self.published[place][2] == key:
                return True
            at += 1
        return False
