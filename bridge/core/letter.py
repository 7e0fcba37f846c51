"""Dead letters: records that a route cannot handle, put aside unchanged, with headers that tell where they came from and why.

The record's own headers stand first, as they were. Ours follow as one block that begins with `distributary.letter`; of several blocks
(a dead letter that became one again) the last one counts. docs/operations.md lists the headers for users.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from bridge.core.draft import RecordProblem
from bridge.core.letter_topic import DeadLetterTopic
from bridge.core.record import Record

Headers = tuple[tuple[str, bytes | None], ...]

BLOCK = "distributary.letter"
"""The header that begins ours. Its value is the version of their form."""
REPLAY_GROUP = "distributary.replay-group"
REPLAY_ROUTE = "distributary.replay-route"
REPLAY_ITEMS = "distributary.replay-items"
REPLAY_OF = "distributary.replay-of"
_REPLAY = frozenset((REPLAY_GROUP, REPLAY_ROUTE, REPLAY_ITEMS, REPLAY_OF))
MARK = "distributary.replayed"
"""The header of a mark: a record on a dead-letter topic that says that a letter (its value) was replayed."""

MAX_ERROR_CHARACTERS = 2_000
MAX_ITEMS = 2_000
MAX_ITEMS_BYTES = 16_384


class Origin(msgspec.Struct, frozen=True):
    """Who makes dead letters."""

    version: str
    group: str
    cluster: str = ""
    """The id of the Kafka cluster that the records come from."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A record on its way to `topic`, for one route."""

    record: Record
    topic: str
    route: str
    added: tuple[tuple[str, bytes], ...]
    """The block of headers that follows the record's own."""
    may_create: bool = True
    leaves_value_out: bool = False
    """The topic does not take so large a record: only its key, its headers and the place where it is to be found are kept."""

    @property
    def headers(self) -> Headers:
        """The record's, then ours."""
        return (*self.record.headers, *self.added)

    @property
    def value(self) -> bytes | None:
        """The record's, unless it is left out."""
        return None if self.leaves_value_out else self.record.value

    @property
    def size(self) -> int:
        """Bytes that it holds, about."""
        record = self.record
        headers = sum(len(name) + len(value or b"") for name, value in self.headers)
        return len(record.key or b"") + len(record.value or b"") + headers

    def without_value(self) -> DeadLetter:
        """The same for a topic that takes only smaller records."""
        left_out = ("distributary.value-left-out", str(len(self.record.value or b"")).encode())
        return msgspec.structs.replace(self, added=(*self.added, left_out), leaves_value_out=True)


def make_letter(record: Record, problems: Sequence[RecordProblem], origin: Origin, at_s: float) -> DeadLetter:
    """The dead letter of one record and one route, whose problems these are (at least one). `at_s`: seconds since 1970."""
    first = problems[0]
    place = first.dead_letters or DeadLetterTopic()
    failed = sum(problem.items for problem in problems)
    items = _items_of(problems, failed)
    texts = [
        (BLOCK, "1"),
        ("distributary.version", origin.version),
        ("distributary.cluster", origin.cluster),
        ("distributary.topic", record.topic),
        ("distributary.partition", str(record.partition)),
        ("distributary.offset", str(record.offset)),
        ("distributary.timestamp", "" if record.timestamp_ms is None else str(record.timestamp_ms)),
        ("distributary.group", origin.group),
        ("distributary.route", first.route),
        ("distributary.error", (first.reason or first.message)[:MAX_ERROR_CHARACTERS]),
        ("distributary.items", items),
        ("distributary.failed", str(failed)),
        ("distributary.at", datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")),
    ]
    added = tuple((name, text.encode(errors="replace")) for name, text in texts if text)
    return DeadLetter(record, place.of(record.topic), first.route, added, place.create)


def _items_of(problems: Sequence[RecordProblem], failed: int) -> str:
    """The places of the items that failed, as JSON; nothing where it was the whole record, or where not all can be listed."""
    places = [place for problem in problems for place in problem.places]
    if len(places) != failed or len(places) > MAX_ITEMS:
        return ""
    try:
        text = msgspec.json.encode(places)
    except (msgspec.MsgspecError, UnicodeEncodeError):  # Half of a surrogate pair.
        return ""
    return text.decode() if len(text) <= MAX_ITEMS_BYTES else ""


class LetterFacts(msgspec.Struct, frozen=True):
    """What the headers of a dead letter tell, and the record's own headers."""

    cluster: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int | None
    group: str
    route: str
    error: str
    items: tuple[int | str, ...] | None
    failed: int
    at: datetime | None
    version: str
    left_out: int | None
    """Bytes of the value where that was left out."""
    headers: Headers
    """The record's own."""

    @property
    def source(self) -> str:
        """Where the record came from, as logs name it."""
        return f"{self.topic}[{self.partition}]@{self.offset}"

    @property
    def identity(self) -> tuple[str, str, int, int, str]:
        """Equal for two letters of one record and route: a crash may have made both."""
        return self.cluster, self.topic, self.partition, self.offset, self.route


def read_letter(headers: Headers) -> LetterFacts | None:
    """What a dead letter's headers tell; None where they are not those of one."""
    start = max((number for number, (name, _) in enumerate(headers) if name == BLOCK), default=None)
    if start is None:
        return None
    found = {name: (value or b"").decode(errors="replace") for name, value in headers[start:]}
    topic, partition, offset = (found.get(f"distributary.{name}", "") for name in ("topic", "partition", "offset"))
    if not topic or not partition.isdecimal() or not offset.isdecimal():
        return None
    return LetterFacts(
        cluster=found.get("distributary.cluster", ""),
        topic=topic,
        partition=int(partition),
        offset=int(offset),
        timestamp_ms=_number(found.get("distributary.timestamp")),
        group=found.get("distributary.group", ""),
        route=found.get("distributary.route", ""),
        error=found.get("distributary.error", ""),
        items=_read_items(found.get("distributary.items")),
        failed=_number(found.get("distributary.failed")) or 1,
        at=_time(found.get("distributary.at")),
        version=found.get("distributary.version", ""),
        left_out=_number(found.get("distributary.value-left-out")),
        headers=headers[:start],
    )


class Replay(msgspec.Struct, frozen=True):
    """A record that comes again: for one route of one group's bridges, and maybe for some of its items only."""

    group: str
    route: str
    items: frozenset[int | str] | None
    """None: all."""


def replay_headers(facts: LetterFacts, letter: str) -> Headers:
    """The headers to produce a dead letter's record again with: its own, and what tells the bridges for whom it is."""
    kept = tuple((name, value) for name, value in facts.headers if name not in _REPLAY)
    added = [(REPLAY_OF, letter), (REPLAY_GROUP, facts.group), (REPLAY_ROUTE, facts.route)]
    if facts.items is not None:
        added.append((REPLAY_ITEMS, msgspec.json.encode(facts.items).decode()))
    return (*kept, *((name, text.encode()) for name, text in added))


def replay_of(headers: Headers) -> Replay | None:
    """What a record's headers tell of a replay; None for a record that comes for the first time."""
    found = {name: (value or b"").decode(errors="replace") for name, value in headers if name in _REPLAY}
    if REPLAY_ROUTE not in found:
        return None
    items = _read_items(found.get(REPLAY_ITEMS))
    return Replay(found.get(REPLAY_GROUP, ""), found[REPLAY_ROUTE], None if items is None else frozenset(items))


def _read_items(text: str | None) -> tuple[int | str, ...] | None:
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=tuple[int | str, ...])
    except msgspec.MsgspecError:
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 20 else None


def _time(text: str | None) -> datetime | None:
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
