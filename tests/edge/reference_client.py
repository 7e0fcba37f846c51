"""A client that follows docs/protocol.md to the letter and checks, frame by frame, that the edge keeps its promises.

It knows all that was ever published (`Published`), so it can tell a right value from a wrong one, and hold each claim about what was missed
against the truth.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import jsonpatch
import msgspec

from edge.core.delivery import Mode
from edge.core.protocol import Subscribe
from edge.core.variant import Dialect
from edge.node import Node
from edge.session import Session
from shared.delta import vcdiff
from shared.publication import DELTA_NAMES, ContentType, DeltaFormat, Kind, Position
from tests.edge.reference_holding import Holding, Publication
from tests.edge.reference_keyed import KeyedHolding

Published = dict[tuple[str, str, int], tuple[ContentType, bytes, str | None]]
"""Every publication there ever was: (channel, epoch, offset) -> what it is, its bytes, and its key on a keyed channel."""

NOWHERE = Position("", 0)
"""Where one is who was subscribed before the first publication."""

_SIZE_BYTES = 4
_CONTENT_TYPES = {None: ContentType.JSON, "text/plain": ContentType.TEXT, "application/octet-stream": ContentType.BINARY}
_DELTAS = {name: delta for delta, name in DELTA_NAMES.items()}


def wrap(message: bytes) -> bytes:
    """A frame of this transport: the size, then the message."""
    return len(message).to_bytes(_SIZE_BYTES, "big") + message


class ReferenceClient:
    """One client on one node, with no transport in between. `edge.ports.ClientPipe` for its session."""

    def __init__(self, node: Node, dialect: Dialect, published: Published, kind_of: Callable[[str], Kind]) -> None:
        self.node = node
        self.dialect = dialect
        self.session = Session(node, self, dialect, wrap)
        self.holdings: dict[str, Holding] = {}
        self.errors: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        self.failure: BaseException | None = None
        """The first promise that was broken."""
        self.on_loss: Callable[[str, str, str, dict[str, int]], None] = lambda *_: None
        """Told each time the edge says that publications cannot be had: channel, epoch, reason, missed."""
        self.on_wrong_position: Callable[[Holding], None] = lambda _: None
        """Told each time the edge says that the position of a holding is none, or none any more."""
        self.is_writable = True
        """Whether its socket takes more; for the test to change (`stall`, `read_on`)."""
        self.is_full = False
        """Whether much is unsent; for the test to change (`fill`, `read_on`)."""
        self._published = published
        self._kind_of = kind_of
        self._ids = 0
        self._room = 0
        self._fills = False
        self._asked: dict[int, tuple[str, Position | None, Any]] = {}
        if not dialect.is_named:
            self.send(type="connect")

    def __repr__(self) -> str:
        return f"<ReferenceClient {self.dialect.value} {list(self.holdings.values())}>"

    # -- what it says --------------------------------------------------------------------------------------------------------------

    def send(self, **fields: Any) -> int:
        """Send a command with the next id, which is returned."""
        self._ids += 1
        message = {**fields, "id": self._ids}
        self.session.receive(msgspec.json.encode(message) if self.dialect.is_text else msgspec.msgpack.encode(message))
        return self._ids

    def subscribe(
        self,
        channel: str,
        *,
        position: Position | None = None,
        delta: DeltaFormat = DeltaFormat.NONE,
        rewind: dict[str, Any] | None = None,
        mode: Mode = Mode.QUEUE,
        window: int = 0,
        max_rate: float = 0,
        state: dict[str, int] | None = None,
        is_partial: bool = False,
    ) -> None:
        """Subscribe by a frame. `state` is what it holds of a keyed channel, if it was there before, and maybe only a part."""
        holding = self.holdings[channel] = self._hold(channel, delta)
        if isinstance(holding, KeyedHolding):
            holding.state, holding.is_partial = dict(state or {}), is_partial
        if position is not None:
            holding.epoch, holding.offset, holding.is_resumed = position.epoch or None, position.offset, bool(position.epoch)
            holding.is_invented = position.offset > 0 and (channel, position.epoch, position.offset) not in self._published
        fields: dict[str, Any] = {"type": "subscribe", "channel": channel}
        if position is not None:
            fields["position"] = {"epoch": position.epoch or None, "offset": position.offset}
        if delta is not DeltaFormat.NONE:
            fields["delta"] = [DELTA_NAMES[delta]]
        if rewind is not None:
            fields["rewind"] = rewind
        if mode is not Mode.QUEUE:
            fields["mode"] = mode.value
            holding.mode, holding.window, holding.max_rate = mode, window, max_rate if mode is Mode.CONFLATE else 0
            holding.acked = position
        if window:
            fields["window"] = window
        if max_rate:
            fields["max_rate"] = max_rate
        self._asked[self._ids + 1] = (channel, position, rewind)
        self.send(**fields)

    def subscribe_bare(self, channel: str, *, delta: DeltaFormat = DeltaFormat.NONE) -> None:
        """Subscribe as the URL of a bare client does: the start has no frame of its own."""
        holding = self.holdings[channel] = self._hold(channel, delta)
        holding.is_subscribed = holding.may_jump = True
        self.session.subscribe(Subscribe(None, channel, delta=delta))

    def _hold(self, channel: str, delta: DeltaFormat) -> Holding:
        kind = self._kind_of(channel)
        return KeyedHolding(channel, kind, delta, self._published) if kind is Kind.KEYED else Holding(channel, kind, delta)

    def unsubscribe(self, channel: str) -> None:
        """Unsubscribe by a frame, and forget."""
        del self.holdings[channel]
        self.send(type="unsubscribe", channel=channel)

    def acknowledge(self, channel: str, *, but: int = 0, epoch: str | None = None) -> None:
        """Acknowledge what was received, `but` so many of the newest. Of another epoch it has no effect, whatever the offset."""
        holding = self.holdings[channel]
        if epoch is not None:
            self.send(type="ack", channel=channel, offset=1_000_000, epoch=epoch)
            return
        handled = holding.unacked[: len(holding.unacked) - but]
        if handled:
            # Noted before it is sent: what it makes room for comes at once.
            del holding.unacked[: len(handled)]
            holding.acked = Position(holding.epoch or "", handled[-1])
            who = {"channel": channel} if holding.offset % 2 else {"number": holding.number}
            self.send(type="ack", offset=handled[-1], epoch=holding.epoch, **who)

    def stall(self, after: int = 0) -> None:
        """The socket takes no more, or only so many writes more."""
        self._room = after
        self.is_writable = after > 0

    def fill(self, after: int = 0) -> None:
        """So much is unsent, now or after so many writes more, that nothing new is to begin."""
        self.stall(after)
        self._fills = after > 0
        self.is_full = not after

    def read_on(self) -> None:
        """The socket has room again."""
        self._room = 0
        self._fills = self.is_full = False
        self.is_writable = True
        self.session.on_writable()

    def leave(self) -> None:
        """The connection is gone."""
        self.session.close()

    # -- edge.ports.ClientPipe -----------------------------------------------------------------------------------------------------

    def write(self, frames: bytes) -> None:
        """Read all frames of one write, and check what must hold after it."""
        try:
            self._take(frames)
        except BaseException as error:
            self.failure = self.failure or error  # for the test, in case that the edge goes on
            raise

    def _take(self, frames: bytes) -> None:
        assert self.closed is None
        touched: set[str] = set()
        while frames:
            size = int.from_bytes(frames[:_SIZE_BYTES], "big")
            message, frames = frames[_SIZE_BYTES : _SIZE_BYTES + size], frames[_SIZE_BYTES + size :]
            assert len(message) == size, "a frame is cut short"
            self._read(message, touched)
        for channel in touched & self.holdings.keys():
            holding = self.holdings[channel]
            # What was promised comes in the same write, so whatever happens next finds the client at one place.
            assert holding.expected_after is None, f"{holding}: was told what was missed and did not get what follows"
        if self._room:
            self._room -= 1
            self.is_writable = self._room > 0
            self.is_full = self._fills and not self.is_writable

    def allow_burst(self, size: int) -> None:
        """See `edge.ports.ClientPipe`."""

    def keep_short(self) -> None:
        """See `edge.ports.ClientPipe`."""

    def close(self, code: int, reason: str) -> None:
        """See `edge.ports.ClientPipe`."""
        self.closed = (code, reason)
        self.session.close()

    # -- what it hears -------------------------------------------------------------------------------------------------------------

    def _read(self, message: bytes, touched: set[str]) -> None:
        fields: Any = msgspec.json.decode(message) if self.dialect.is_text else msgspec.msgpack.decode(message)
        if isinstance(fields, list) or fields["type"] == "publication":
            publication = _from_array(fields) if isinstance(fields, list) else _from_object(fields)
            holding = self._holding_of(publication.who)
            if holding is not None:
                touched.add(holding.channel)
                self._on_publication(holding, publication)
        elif fields["type"] == "gap":
            holding = self._holding_of(fields.get("channel", fields.get("number")))
            if holding is not None:
                touched.add(holding.channel)
                self._on_gap(holding, fields)
        elif fields["type"] == "caught_up":
            holding = self._holding_of(fields.get("channel", fields.get("number")))
            assert isinstance(holding, KeyedHolding)
            holding.catch_up(fields)
        elif fields["type"] == "subscribed":
            touched.add(fields["channel"])
            self._on_subscribed(fields)
        elif fields["type"] == "error":
            self.errors.append(fields)
            if fields["code"] == "unavailable":
                assert fields["retry"]
                self.holdings.pop(fields["channel"], None)

    def _holding_of(self, who: Any) -> Holding | None:
        holding = next((each for each in self.holdings.values() if who in (each.channel, each.number)), None)
        assert holding is not None, f"a frame for {who!r}, which this client has not subscribed to"
        assert holding.is_subscribed, f"{holding}: a frame before `subscribed`"
        return holding

    def _on_subscribed(self, fields: dict[str, Any]) -> None:
        channel, position, rewind = self._asked.pop(fields["id"])
        if channel not in self.holdings:
            return
        holding = self.holdings[channel]
        assert fields["channel"] == channel
        assert not holding.is_subscribed
        holding.is_subscribed, holding.number = True, fields["number"]
        assert fields["delta"] == (None if holding.delta is DeltaFormat.NONE else DELTA_NAMES[holding.delta])
        assert fields["mode"] == holding.mode
        newest = None if fields["position"] is None else Position(fields["position"]["epoch"], fields["position"]["offset"])
        recovered = fields["recovered"]
        assert (recovered is None) == (position is None)
        assert ("reason" in fields) == (recovered is False) == ("missed" in fields)
        if isinstance(holding, KeyedHolding):
            holding.window = fields.get("window", 0)
            holding.begin(fields, newest, position)
            return
        start = self._start_queue if holding.mode is Mode.QUEUE else self._start_paced
        start(holding, fields, newest, position, is_rewound=rewind is not None)

    def _start_queue(
        self, holding: Holding, fields: dict[str, Any], newest: Position | None, position: Position | None, *, is_rewound: bool
    ) -> None:
        """Find out what must come in this write."""
        recovered = fields["recovered"]
        if recovered:
            assert position is not None
            holding.is_anchored = True
            if newest is None:
                assert position == NOWHERE
                return
            assert position.epoch in {"", newest.epoch}
            holding.expected_after = newest.offset if newest.offset > position.offset else None
        elif newest is None:
            if recovered is False:
                assert fields["missed"] is None
                self.on_wrong_position(holding)
                holding.gaps.append((fields["reason"], None))
            holding.epoch, holding.offset, holding.is_anchored, holding.is_resumed = None, 0, True, False
        elif recovered is False:
            self._lose(holding, fields, newest)
            assert holding.expected_after in (-1, newest.offset)
            holding.expected_after = newest.offset
        elif is_rewound:
            holding.epoch, holding.offset = newest.epoch, newest.offset
            holding.may_jump = holding.is_anchored = True  # to any place up to the newest; contiguous from there
            if holding.kind is not Kind.STREAM:
                holding.expected_after = newest.offset
        elif holding.kind is Kind.STREAM:
            holding.epoch, holding.offset, holding.is_anchored = newest.epoch, newest.offset, True
        else:
            holding.may_jump = holding.is_anchored = True
            holding.expected_after = newest.offset
        self._note_reach(holding, newest)

    def _on_gap(self, holding: Holding, fields: dict[str, Any]) -> None:
        newest = None
        if isinstance(holding, KeyedHolding):
            holding.lose(fields)
            return
        if holding.mode is not Mode.QUEUE:
            self._on_gap_paced(holding, fields)
            return
        if fields["epoch"] is None:
            holding.gaps.append((fields["reason"], None))
            self.on_wrong_position(holding)
            holding.epoch, holding.offset, holding.is_anchored = None, 0, True
            holding.may_jump = holding.has_value = holding.is_resumed = False
            assert fields["missed"] is None
            return
        newest = Position(fields["epoch"], -1)
        self._lose(holding, fields, newest)

    def _lose(self, holding: Holding, fields: dict[str, Any], newest: Position) -> None:
        """The edge says that something was missed: check it against where this client is, and against what there is."""
        reason, missed = fields["reason"], fields["missed"]
        holding.gaps.append((reason, missed))
        same_epoch = holding.epoch in (None, newest.epoch)
        if reason in {"epoch_changed", "position_ahead"}:
            self.on_wrong_position(holding)
        if reason == "epoch_changed":
            assert missed is None
            assert holding.epoch != newest.epoch, f"{holding}: `epoch_changed`, but it is the same"
        elif reason == "position_ahead":
            assert missed is None
            assert holding.epoch == newest.epoch
            assert holding.offset > newest.offset
        else:
            assert same_epoch
            assert missed is not None
            self.on_loss(holding.channel, newest.epoch, reason, missed)
            if holding.is_anchored or holding.epoch is not None:
                assert missed["from"] == holding.offset + 1, f"{holding}: missed {missed}"
                assert missed["to"] >= missed["from"]
                holding.expected_after = missed["to"] + 1
                for offset in range(missed["from"], missed["to"] + 2):
                    assert (holding.channel, newest.epoch, offset) in self._published, f"{holding}: missed {missed} was never published"
        if holding.expected_after is None:
            holding.expected_after = -1  # any, but one at once
        holding.epoch, holding.is_anchored, holding.may_jump = newest.epoch, True, True
        holding.has_value = holding.is_resumed = False

    # -- modes conflate and ack ----------------------------------------------------------------------------------------------------

    def _start_paced(
        self, holding: Holding, fields: dict[str, Any], newest: Position | None, position: Position | None, *, is_rewound: bool
    ) -> None:
        """Find out which publication must come next: the one after `offset`, or in mode conflate any after it."""
        if holding.window:
            assert fields["window"] == holding.window
        holding.window = fields.get("window", 0)
        assert holding.window or holding.mode is Mode.CONFLATE
        assert fields.get("max_rate") == (holding.max_rate or None)
        holding.is_anchored = True
        if fields["recovered"] is False:
            self.on_wrong_position(holding)
            assert fields["missed"] is None
        if fields["recovered"]:
            assert newest is None or holding.epoch in {None, newest.epoch}
        elif newest is None:
            holding.epoch, holding.offset = None, 0
        elif fields["recovered"] is False:
            assert (fields["reason"] == "position_ahead") == (holding.epoch == newest.epoch)
            from_start = holding.mode is Mode.ACK and fields["reason"] == "epoch_changed"
            holding.epoch, holding.offset = newest.epoch, 0 if from_start else newest.offset - 1
        else:
            is_next = holding.kind is Kind.STREAM and not is_rewound
            holding.epoch, holding.offset = newest.epoch, newest.offset if is_next or is_rewound else newest.offset - 1
            holding.may_jump = is_rewound
        holding.is_resumed = holding.is_resumed and bool(fields["recovered"])

    def _on_gap_paced(self, holding: Holding, fields: dict[str, Any]) -> None:
        reason, missed = fields["reason"], fields["missed"]
        holding.gaps.append((reason, missed))
        holding.has_value = False
        if reason == "epoch_changed":
            assert missed is None
            if holding.epoch is not None:
                assert holding.epoch != fields["epoch"], f"{holding}: {fields}"
                self.on_wrong_position(holding)
            # Else a whole epoch came and went before any of it could be sent: in order, or at the rate that was agreed on.
            holding.epoch, holding.offset, holding.unacked = fields["epoch"], 0, []
            return
        assert (holding.mode, reason) == (Mode.ACK, "history_trimmed"), f"{holding}: {fields}"
        assert holding.epoch in {None, fields["epoch"]}
        assert missed["from"] == holding.offset + 1, f"{holding}: {fields}"
        self.on_loss(holding.channel, fields["epoch"], "not held", missed)
        holding.offset = missed["to"]

    def _check_order_paced(self, holding: Holding, publication: Publication, epoch: str) -> None:
        assert holding.epoch in {None, epoch}, f"{holding}: {publication} is of another epoch"
        if holding.mode is Mode.ACK and not holding.may_jump:
            assert publication.offset == holding.offset + 1, f"{holding}: {publication} is not the next one"
        elif holding.mode is Mode.CONFLATE:
            assert self.is_writable, f"{holding}: {publication} was sent to a socket that takes nothing"
            assert holding.may_jump or publication.offset > holding.offset, f"{holding}: {publication} was known"
            channel = self.node.hub.get(holding.channel)
            assert channel is not None
            assert publication.offset == channel.stream.offset, f"{holding}: {publication} is not the newest of {channel}"
            if holding.max_rate:
                assert self.node.clock() - holding.received_at >= 1 / holding.max_rate - 1e-6, f"{holding}: too soon"
        holding.received_at = self.node.clock()
        if holding.window:
            holding.unacked.append(publication.offset)
            assert len(holding.unacked) <= holding.window, f"{holding}: {holding.unacked} are under way"

    def _note_reach(self, holding: Holding, newest: Position | None) -> None:
        if newest is not None:
            assert (holding.channel, newest.epoch, newest.offset) in self._published, f"{holding}: {newest} was never published"

    def _on_publication(self, holding: Holding, publication: Publication) -> None:
        if isinstance(holding, KeyedHolding):
            if holding.mode is Mode.CONFLATE:
                assert self.is_writable, f"{holding}: {publication} was sent to a socket that takes nothing"
            holding.take(publication)
            return
        if publication.base is None:
            assert publication.epoch is not None
            epoch = publication.epoch
        else:
            epoch = publication.epoch or holding.epoch or ""
            assert epoch == holding.epoch
        if holding.mode is not Mode.QUEUE:
            self._check_order_paced(holding, publication, epoch)
        elif holding.may_jump:
            if holding.expected_after is not None and holding.expected_after > 0 and holding.kind is not Kind.STREAM and not holding.gaps:
                assert publication.offset <= holding.expected_after
        else:
            assert publication.offset == holding.offset + 1, f"{holding}: {publication} is not the next one"
            assert holding.epoch in (None, epoch), f"{holding}: {publication} is of another epoch"
        value = self._value(holding, publication)
        self._check_value(holding, publication, epoch, value)
        if holding.expected_after is not None and holding.expected_after in {-1, publication.offset}:
            holding.expected_after = None
        elif holding.expected_after is not None:
            assert publication.offset < holding.expected_after, f"{holding}: {publication} is beyond {holding.expected_after}"
        holding.epoch, holding.offset, holding.value = epoch, publication.offset, value
        holding.is_anchored = holding.has_value = True
        holding.may_jump = holding.is_invented = False
        holding.received += 1

    def _value(self, holding: Holding, publication: Publication) -> Any:
        if publication.base is None:
            return publication.data
        assert publication.delta is holding.delta, f"{holding}: {publication} is in a format that was not agreed on"
        assert holding.has_value, f"{holding}: {publication} has a base that this client does not have"
        assert publication.base == holding.offset, f"{holding}: {publication} has another base than what this client holds"
        if publication.delta is DeltaFormat.VCDIFF:
            return vcdiff.decode(holding.value, publication.data, max_size=1 << 20)
        held = msgspec.json.decode(holding.value) if isinstance(holding.value, bytes) else holding.value
        operations = msgspec.json.decode(publication.data) if isinstance(publication.data, bytes) else publication.data
        return jsonpatch.apply_patch(held, operations)

    def _check_value(self, holding: Holding, publication: Publication, epoch: str, value: Any) -> None:
        place = (holding.channel, epoch, publication.offset)
        assert place in self._published, f"{holding}: {place} was never published"
        content_type, payload, _ = self._published[place]
        assert publication.content_type is content_type
        if isinstance(value, bytes):
            assert value == payload, f"{holding}: {place} has other bytes than were published"
        else:
            assert holding.delta is not DeltaFormat.VCDIFF, f"{holding}: a value without exact bytes cannot be a base"
            assert value == msgspec.json.decode(payload), f"{holding}: {place} has another value than was published"


def _from_object(fields: dict[str, Any]) -> Publication:
    if fields.get("deleted"):
        assert "data" not in fields
        name = fields["channel"] if "channel" in fields else fields["number"]
        return Publication(name, fields["offset"], fields["epoch"], None, DeltaFormat.NONE, ContentType.NONE, b"", fields["key"])
    data, encoding = fields["data"], fields.get("encoding")
    if encoding == "utf-8":
        data = data.encode()
    elif encoding == "base64":
        data = base64.b64decode(data, validate=True)
    else:
        assert encoding is None
    return Publication(
        fields["channel"] if "channel" in fields else fields["number"],
        fields["offset"],
        fields.get("epoch"),
        fields.get("base"),
        _DELTAS[fields["delta"]] if "delta" in fields else DeltaFormat.NONE,
        _CONTENT_TYPES[fields.get("content_type")],
        data,
        fields.get("key"),
        fields.get("tags"),
    )


def _from_array(fields: list[Any]) -> Publication:
    form, who, offset, place, _time, key, content_type, data, *rest = fields
    tags = rest[0] if rest else None
    epoch = base = None
    if form == 0:
        epoch = place
    elif isinstance(place, list):
        epoch, base = place
    else:
        base = place
    return Publication(who, offset, epoch, base, DeltaFormat(form), ContentType(content_type), data, key, tags)
