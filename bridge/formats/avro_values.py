"""Avro's values as plain ones: what fastavro calls for each logical type, and for the types that JSON does not have.

Bytes and fixed become base64, decimals texts with all their digits, dates and times texts of ISO 8601 (a time that no calendar has
stays a number). Each is registered with fastavro as a logical type of ours, so that its one pass over a record gives plain values.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from struct import unpack
from typing import Any
from uuid import UUID

from fastavro.read import LOGICAL_READERS

from bridge.formats.numbers import shortest

MAX_PRECISION = 1_000
"""Digits of a decimal."""
_MAX_DECIMAL_BYTES = MAX_PRECISION // 2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_DAY = date(1970, 1, 1).toordinal()
_DAY_US = 86_400_000_000


def _base64(data: bytes, *_: Any) -> str:
    return b64encode(data).decode()


def _decimal(data: bytes, schema: Any = None, *_: Any) -> str:
    if len(data) > _MAX_DECIMAL_BYTES:  # Its digits would take minutes.
        msg = f"a decimal has {len(data)} bytes"
        raise ValueError(msg)
    # With a context of its own: the usual one rounds to 28 digits.
    number = Decimal(int.from_bytes(data, signed=True))
    return f"{number.scaleb(-int(schema['scale']), Context(prec=MAX_PRECISION * 3)):f}"


def _date(days: int, *_: Any) -> str | int:
    try:
        return date.fromordinal(_FIRST_DAY + days).isoformat()
    except (ValueError, OverflowError):
        return days


def _time(unit_us: int, digits: int) -> Callable[..., str | int]:
    def read(number: int, *_: Any) -> str | int:
        if not 0 <= number * unit_us < _DAY_US:
            return number
        text = (_EPOCH + timedelta(microseconds=number * unit_us)).strftime("%H:%M:%S.%f")
        return text[: 9 + digits]

    return read


def _timestamp(units_a_second: int, digits: int, zone: str) -> Callable[..., str | int]:
    def read(number: int, *_: Any) -> str | int:
        seconds, rest = divmod(number, units_a_second)
        try:
            moment = _EPOCH + timedelta(seconds=seconds)
        except OverflowError:
            return number
        return f"{moment.isoformat()[:19]}.{rest:0{digits}d}{zone}"

    return read


def _uuid_of_fixed(data: bytes, *_: Any) -> str:
    return str(UUID(bytes=data))


def _duration(data: bytes, *_: Any) -> dict[str, int]:
    months, days, milliseconds = unpack("<III", data)
    return {"months": months, "days": days, "milliseconds": milliseconds}


_OURS = "distributary-"
_READERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("float", ""): lambda number, *_: shortest(number),
    ("bytes", ""): _base64,
    ("fixed", ""): _base64,
    ("bytes", "decimal"): _decimal,
    ("fixed", "decimal"): _decimal,
    ("int", "date"): _date,
    ("int", "time-millis"): _time(1_000, 3),
    ("long", "time-micros"): _time(1, 6),
    ("fixed", "uuid"): _uuid_of_fixed,
    ("fixed", "duration"): _duration,
    **{
        ("long", f"{prefix}timestamp-{name}"): _timestamp(10**digits, digits, zone)
        for prefix, zone in (("", "Z"), ("local-", ""))
        for name, digits in (("millis", 3), ("micros", 6), ("nanos", 9))
    },
}
"""By Avro's type and logical type. A logical type that is not here is no more than its type."""
LOGICAL_READERS.update({f"{type_}-{_OURS}{logical}": reader for (type_, logical), reader in _READERS.items()})


def our_logical_type(type_: str, logical: str) -> str | None:
    """The logical type of ours for one of Avro's (empty for none) on a type; None for types that are plain as fastavro reads them."""
    for name in (logical, ""):
        if (type_, name) in _READERS:
            return _OURS + name
    return None
