"""What an item gets beside its payload: its key, tags, time, version and id. All of them are checked here, as they are the producer's."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from bridge.core.draft import id_of
from bridge.core.expression import EvaluationError, Expression, describe
from bridge.core.scope import Scope
from shared.envelope import MAX_TAGS_BYTES

MAX_KEY_BYTES = 1_024
MAX_EXACT_INTEGER = 2**53
"""Beyond it, two integers can be one number of 64 bits."""
MAX_TIME_MS = 253_402_300_799_999
"""The end of the year 9999."""

_encode = msgspec.json.Encoder().encode


class TimeUnit(StrEnum):
    """How data writes a time."""

    MILLISECONDS = "ms"
    SECONDS = "s"
    ISO = "iso"


class Timestamp(msgspec.Struct, frozen=True):
    """Where a publication's time comes from."""

    expression: Expression
    unit: TimeUnit


class Marks(msgspec.Struct, frozen=True):
    """What a route's items get. None (no tags): they do not get it."""

    key: Expression | None = None
    tags: tuple[tuple[str, Expression], ...] = ()
    timestamp: Timestamp | None = None
    """None: the record's."""
    version: Expression | None = None
    id: Expression | None = None

    @property
    def expressions(self) -> tuple[tuple[str, Expression], ...]:
        """All of them, each with its place among the route's settings."""
        timestamp = None if self.timestamp is None else self.timestamp.expression
        named = (("key", self.key), ("timestamp", timestamp), ("version", self.version), ("id", self.id))
        found = [(name, expression) for name, expression in named if expression is not None]
        return (*found, *((f"tags.{name}", expression) for name, expression in self.tags))

    @property
    def without_value(self) -> Marks:
        """Those of a record without a value: what needs the value is left out."""
        return Marks(
            None if self.key is None or self.key.needs_value else self.key,
            tuple((name, expression) for name, expression in self.tags if not expression.needs_value),
            None if self.timestamp is None or self.timestamp.expression.needs_value else self.timestamp,
            None if self.version is None or self.version.needs_value else self.version,
            None if self.id is None or self.id.needs_value else self.id,
        )


class Marked(NamedTuple):
    """The marks of one item, as a draft has them."""

    key: bytes | None = None
    tags: bytes = b""
    version: float | None = None
    id: bytes = b""
    time_ms: int | None = None
    """None: the record's."""


UNMARKED = Marked()


def marker(marks: Marks) -> Callable[[Scope], Marked] | None:
    """What makes the marks of an item, or raises EvaluationError; None where there are none to make."""
    if marks == Marks():
        return None
    key, tags, timestamp, version, id_ = marks.key, marks.tags, marks.timestamp, marks.version, marks.id

    def mark(scope: Scope) -> Marked:
        return Marked(
            None if key is None else _key(key, key.evaluate(scope)),
            _tags(tags, scope) if tags else b"",
            None if version is None else _version(version, version.evaluate(scope)),
            b"" if id_ is None else _id(id_, id_.evaluate(scope)),
            None if timestamp is None else _time_ms(timestamp, timestamp.expression.evaluate(scope)),
        )

    return mark


def _key(expression: Expression, value: Any) -> bytes:
    if type(value) is int:
        value = str(value) if abs(value) <= MAX_EXACT_INTEGER else value
    if type(value) is not str:
        msg = f"`key` ({expression.text}) gave {describe(value)}; a key is a text or an integer"
        if value is None:
            msg += ": filter such items out with `where`, or correct the path"
        raise EvaluationError(msg)
    encoded = _utf8("key", expression, value)
    if not 0 < len(encoded) <= MAX_KEY_BYTES:
        msg = f"`key` ({expression.text}) gave a text of {len(encoded)} bytes; a key has 1 to {MAX_KEY_BYTES}"
        raise EvaluationError(msg)
    return encoded


def _tags(tags: tuple[tuple[str, Expression], ...], scope: Scope) -> bytes:
    found: dict[str, str] = {}
    for name, expression in tags:
        value = expression.evaluate(scope)
        if value is None:
            continue
        if isinstance(value, list | dict):
            msg = f"the tag {name} ({expression.text}) gave {describe(value)}; a tag is a text, a number, true or false"
            raise EvaluationError(msg)
        found[name] = value if isinstance(value, str) else _encode(value).decode()
    if not found:
        return b""
    try:
        encoded = _encode(found)
    except (msgspec.MsgspecError, ValueError) as error:
        msg = f"the tags cannot be written as JSON: {str(error)[:200]}"
        raise EvaluationError(msg) from error
    if len(encoded) > MAX_TAGS_BYTES:
        msg = f"the tags are {len(encoded)} bytes of JSON; at most {MAX_TAGS_BYTES} are allowed"
        raise EvaluationError(msg)
    return encoded


def _version(expression: Expression, value: Any) -> float:
    if isinstance(value, str):
        moment = _iso_ms(value)
        if moment is not None:
            return float(moment)
        msg = f"`version` ({expression.text}) gave {describe(value)}, which is no time; a number in a text is read by to_number()"
        raise EvaluationError(msg)
    if isinstance(value, int) and abs(value) > MAX_EXACT_INTEGER:  # First, because some have too many digits to be a float at all.
        msg = f"`version` ({expression.text}) gave {describe(value)}; an integer beyond {MAX_EXACT_INTEGER} cannot be told from the next"
        raise EvaluationError(msg)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        msg = f"`version` ({expression.text}) gave {describe(value)}; a version is a number or an ISO 8601 time"
        raise EvaluationError(msg)
    return float(value)


def _id(expression: Expression, value: Any) -> bytes:
    if value is None or isinstance(value, bool) or value == "":
        msg = f"`id` ({expression.text}) gave {describe(value)}, which identifies nothing: filter such items out with `where`"
        raise EvaluationError(msg)
    if isinstance(value, str):
        return id_of(_utf8("id", expression, value))
    try:
        return id_of(_encode(value))
    except (msgspec.MsgspecError, RecursionError, TypeError, ValueError, OverflowError) as error:
        msg = f"`id` ({expression.text}) gave {describe(value)}, which cannot be written as JSON"
        raise EvaluationError(msg) from error


def _utf8(name: str, expression: Expression, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        msg = f"`{name}` ({expression.text}) gave a text with half of a surrogate pair, which is no character"
        raise EvaluationError(msg) from error


def _time_ms(timestamp: Timestamp, value: Any) -> int | None:
    """Milliseconds since 1970; None (the record's time) where the data has none."""
    if value is None:
        return None
    moment: float | None = None
    if timestamp.unit is TimeUnit.ISO:
        moment = _iso_ms(value) if isinstance(value, str) else None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        moment = value * 1000 if timestamp.unit is TimeUnit.SECONDS else value
    if moment is None or not 0 <= moment <= MAX_TIME_MS:  # No NaN passes either.
        wanted = {
            TimeUnit.ISO: "an ISO 8601 time",
            TimeUnit.SECONDS: "seconds since 1970",
            TimeUnit.MILLISECONDS: "milliseconds since 1970",
        }
        msg = f"`timestamp` ({timestamp.expression.text}) gave {describe(value)}; it says {timestamp.unit}: {wanted[timestamp.unit]}"
        raise EvaluationError(msg)
    return int(moment)


def _iso_ms(text: str) -> int | None:
    """Milliseconds since 1970 of an ISO 8601 date with or without a time; without a zone it is UTC. None where `text` is none."""
    if text[4:5] != "-":  # Digits alone are more likely a number than the standard's short form.
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
