"""What an expression of the rules can see: one item of one record."""

from __future__ import annotations

from bridge.core.record import Record

ROOTS = ("item", "value", "key", "headers", "topic", "partition", "timestamp", "index")
"""Every name that an expression can begin with (docs/rules.md, section "Expressions")."""
VALUE_ROOTS = frozenset({"item", "value"})
"""Those that need the record's value decoded."""


class Scope:
    """The names of one record. It is made once a record; `put_value` and `put_item` move it on from item to item.

    It is changed in place because a snapshot of hundreds of items passes through it; nothing keeps it.
    """

    __slots__ = ("_key_text", "_names", "headers", "index", "item", "key", "partition", "timestamp", "topic", "value")

    item: object
    value: object
    key: object
    headers: dict[str, str | None]
    topic: str
    partition: int
    timestamp: int | None
    index: int | str | None

    def __init__(self, record: Record) -> None:
        self.item = None
        self.value = None
        self.index = None
        self.key = self._key_text = _text(record.key)
        self.headers = {name: _text(value) for name, value in record.headers} if record.headers else {}
        self.topic = record.topic
        self.partition = record.partition
        self.timestamp = record.timestamp_ms
        self._names: dict[str, object] | None = None

    def put_key(self, key: object) -> None:
        """Let `key`, decoded, be the record's key."""
        self.key = key
        self._names = None

    def put_text_key(self) -> None:
        """Let the key be text again, as at first."""
        self.key = self._key_text
        self._names = None

    def put_value(self, value: object) -> None:
        """Let `value` be the record's value, and the item too."""
        self.value = self.item = value
        self.index = self._names = None

    def put_item(self, index: int | str, item: object) -> None:
        """Let `item`, at `index` of what was split, be the item."""
        self.item = item
        self.index = index
        self._names = None

    def names(self) -> dict[str, object]:
        """The scope as one object, for JMESPath. Made at most once an item."""
        if self._names is None:
            self._names = {
                "item": self.item,
                "value": self.value,
                "key": self.key,
                "headers": self.headers,
                "topic": self.topic,
                "partition": self.partition,
                "timestamp": self.timestamp,
                "index": self.index,
            }
        return self._names


def _text(data: bytes | None) -> str | None:
    """UTF-8 text; None where there is none, or where the bytes are no text."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
