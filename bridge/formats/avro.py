"""Avro: in Confluent's wire format, in single-object encoding, or bare.

fastavro reads it, by a copy of the schema in which each logical type is one of ours, so that its one pass gives plain values: bytes and
fixed become base64, decimals texts with all their digits, dates and times texts of ISO 8601 (a time that no calendar has stays a
number), enums their symbols, unions the value of their branch.
"""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from struct import unpack
from typing import Any
from uuid import UUID

import fastavro
from fastavro import _read_py
from fastavro.read import LOGICAL_READERS
from fastavro.schema import fingerprint as fingerprint_of
from fastavro.schema import to_parsing_canonical_form

from bridge.core.decoding import Decode, DecodeError
from bridge.core.record import Record
from bridge.formats import wire
from bridge.formats.numbers import shortest
from bridge.formats.registry import RegisteredSchema, SchemaRegistry
from shared.errors import ConfigurationError

MAX_CACHED = 1_000
_MAX_DEPTH = 200
_MAX_PRECISION = 1_000
"""Digits of a decimal."""
_MAX_DECIMAL_BYTES = _MAX_PRECISION // 2

Read = Callable[[bytes, int], Any]
"""Reads the value that begins at a place in bytes."""


# --- Logical types ---------------------------------------------------------------------------------------------------------------

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
    return f"{number.scaleb(-int(schema['scale']), Context(prec=_MAX_PRECISION * 3)):f}"


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


# --- Schemas ---------------------------------------------------------------------------------------------------------------------


class AvroSchema:
    """A schema, ready to read values. Raises ConfigurationError where it is none."""

    def __init__(self, text: str, references: tuple[tuple[str, RegisteredSchema], ...] = ()) -> None:
        named: dict[str, Any] = {}
        outline = _Outline()
        for schema in _in_order(references):
            _compiled(schema.text, outline, named)
        self._schema, self.fingerprint = _compiled(text, outline, named)
        if outline.empty_items():
            msg = "is an array of values that have no bytes, so that a record of ten bytes could be a billion of them"
            raise ConfigurationError([msg])
        # Where types contain themselves, the depth is the data's, and fastavro's compiled reader would overrun the stack.
        self._read = _read_py.schemaless_reader if outline.is_recursive() else fastavro.schemaless_reader

    def __repr__(self) -> str:
        return f"<AvroSchema {self.fingerprint.hex()}>"

    def read(self, data: bytes, start: int) -> Any:
        """The value at `start`, which must end where `data` ends. Raises DecodeError."""
        stream = io.BytesIO(data)
        stream.seek(start)
        try:
            value = self._read(stream, self._schema, None)
        except Exception as error:
            # Whatever it is (EOFError, IndexError, UnicodeDecodeError, RecursionError, ...): the schema does not lead through these bytes.
            msg = f"the value does not fit its Avro schema: {_told(error)} (before byte {stream.tell()} of {len(data)})"
            raise DecodeError(msg) from error
        if stream.tell() != len(data):
            msg = f"the value does not fit its Avro schema: {len(data) - stream.tell()} bytes are left over"
            raise DecodeError(msg)
        return value


def _compiled(text: str, outline: _Outline, named: dict[str, Any]) -> tuple[Any, bytes]:
    plain = _json(text)
    try:
        canonical = to_parsing_canonical_form(fastavro.parse_schema(plain, {**named}, _force=True))
        schema = fastavro.parse_schema(outline.enter(plain), named)
    except ConfigurationError:
        raise
    except Exception as error:
        # Besides its own errors: KeyError, TypeError, AttributeError, RecursionError, on what only looks like a schema.
        raise ConfigurationError([f"is no Avro schema: {_told(error)}"]) from error
    return schema, bytes.fromhex(fingerprint_of(canonical, "CRC-64-AVRO"))


def _in_order(references: tuple[tuple[str, RegisteredSchema], ...]) -> Iterator[RegisteredSchema]:
    """Each schema after those that it refers to, and once."""
    seen: set[str] = set()

    def walk(references: tuple[tuple[str, RegisteredSchema], ...]) -> Iterator[RegisteredSchema]:
        for name, schema in references:
            if name not in seen:
                seen.add(name)
                yield from walk(schema.references)
                yield schema

    return walk(references)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError([f"is not JSON: {error}"]) from error


class _Outline:
    """Schemas rewritten with our logical types, and what their types contain: by names, as Avro resolves them."""

    def __init__(self) -> None:
        self._inside: dict[str, set[str]] = {}
        """The named types that each record contains, however indirectly inside of itself."""
        self._fields: dict[str, list[Any]] = {}
        self._items: list[tuple[Any, str]] = []

    def enter(self, schema: Any) -> Any:
        """`schema` with our logical types."""
        return self._rewrite(schema, "", None, 0)

    def is_recursive(self) -> bool:
        """Whether a type contains itself."""
        return any(self._reaches(name, name, set()) for name in self._inside)

    def _reaches(self, start: str, goal: str, seen: set[str]) -> bool:
        for name in self._inside.get(start, ()):
            if name == goal:
                return True
            if name not in seen:
                seen.add(name)
                if self._reaches(name, goal, seen):
                    return True
        return False

    def empty_items(self) -> bool:
        """Whether an array's items may have no bytes at all."""
        return any(self._is_empty(item, space, set()) for item, space in self._items)

    def _is_empty(self, schema: Any, space: str, seen: set[str]) -> bool:
        if isinstance(schema, dict):
            kind = schema.get("type")
            if kind in {"record", "error"}:
                name, space = _full_name(schema, space)
                seen = seen | {name}
                return all(self._is_empty(field.get("type"), space, seen) for field in schema.get("fields", ()))
            if kind == "fixed":
                return schema.get("size") == 0
            return not isinstance(kind, str) or kind == "null" or (kind not in _CONTAINERS and self._is_empty(kind, space, seen))
        if isinstance(schema, str) and schema not in _PRIMITIVES:
            name = _resolved(schema, space)
            if name in seen or name not in self._fields:
                return False
            return all(self._is_empty(kind, name.rpartition(".")[0], seen | {name}) for kind in self._fields[name])
        return bool(schema == "null")

    def _rewrite(self, schema: Any, space: str, inside: str | None, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise ConfigurationError([f"is nested more than {_MAX_DEPTH} levels deep"])
        if isinstance(schema, list):
            return [self._rewrite(branch, space, inside, depth + 1) for branch in schema]
        if isinstance(schema, str):
            if schema not in _PRIMITIVES:
                self._contains(inside, _resolved(schema, space))
            return {"type": schema, "logicalType": _OURS} if schema in {"bytes", "float"} else schema
        if not isinstance(schema, dict):
            return schema
        return self._rewrite_complex(schema, space, inside, depth)

    def _rewrite_complex(self, schema: dict[str, Any], space: str, inside: str | None, depth: int) -> Any:
        kind, logical = schema.get("type"), schema.get("logicalType", "")
        rest = {name: value for name, value in schema.items() if name not in {"logicalType", "doc", "aliases"}}
        if kind in {"record", "error"}:
            name, space = _full_name(schema, space)
            self._contains(inside, name)
            fields = [field for field in schema.get("fields", ()) if isinstance(field, dict)]
            self._fields[name] = [field.get("type") for field in fields]
            self._inside.setdefault(name, set())
            kept = [
                {"name": field.get("name"), "type": self._rewrite(field.get("type"), space, name, depth + 1)} for field in fields
            ]  # Without defaults: they are for readers of other versions.
            return {**rest, "fields": kept}
        if kind == "array":
            self._items.append((schema.get("items"), space))
            return {**rest, "items": self._rewrite(schema.get("items"), space, inside, depth + 1)}
        if kind == "map":
            return {**rest, "values": self._rewrite(schema.get("values"), space, inside, depth + 1)}
        if kind == "enum":
            return {name: value for name, value in rest.items() if name != "default"}
        if not isinstance(kind, str):
            return self._rewrite(kind, space, inside, depth + 1)
        return _with_our_type(rest, kind, logical if isinstance(logical, str) else "")

    def _contains(self, inside: str | None, name: str) -> None:
        if inside is not None:
            self._inside.setdefault(inside, set()).add(name)


_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_CONTAINERS = frozenset({"array", "map", "enum", *_PRIMITIVES} - {"null"})


def _with_our_type(schema: dict[str, Any], kind: str, logical: str) -> dict[str, Any]:
    if logical == "decimal":
        precision, scale = schema.get("precision"), schema.get("scale", 0)
        if not (isinstance(precision, int) and isinstance(scale, int) and 0 <= scale <= precision <= _MAX_PRECISION):
            logical = ""  # As Avro says: a logical type that is not right is ignored.
        else:
            schema = {**schema, "scale": scale}
    sizes = {"uuid": 16, "duration": 12}
    if kind == "fixed" and logical in sizes and schema.get("size") != sizes[logical]:
        logical = ""
    if kind == "fixed" and not (isinstance(size := schema.get("size"), int) and size >= 0):
        raise ConfigurationError(["is no Avro schema: a fixed type's size must be a number of bytes"])
    if (kind, logical) not in _READERS:
        logical = ""
    return {**schema, "logicalType": _OURS + logical} if (kind, logical) in _READERS else schema


def _full_name(schema: dict[str, Any], space: str) -> tuple[str, str]:
    """A named type's full name, and its namespace, which is that of the names inside of it."""
    name = str(schema.get("name", ""))
    if "." not in name:
        space = str(schema.get("namespace", space) or "")
        return (f"{space}.{name}" if space else name), space
    return name, name.rpartition(".")[0]


def _resolved(name: str, space: str) -> str:
    return name if "." in name or not space else f"{space}.{name}"


def _told(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "it ends too early"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


# --- Decoders --------------------------------------------------------------------------------------------------------------------


def by_schema(schema: AvroSchema, *, is_framed: bool) -> Decode:
    """Values of one schema: bare or, where `is_framed`, in single-object encoding."""
    if not is_framed:
        return lambda data, _record: schema.read(data, 0)

    def decode(data: bytes, _record: Record) -> Any:
        found = wire.fingerprint(data)
        if found != schema.fingerprint:
            msg = f"the value was written with another schema: its fingerprint is {found.hex()}, and the rules' {schema.fingerprint.hex()}"
            raise DecodeError(msg)
        return schema.read(data, 10)

    return decode


def by_id(registry: SchemaRegistry) -> Decode:
    """Values in Confluent's wire format."""
    schemas: dict[int, AvroSchema | DecodeError] = {}

    def decode(data: bytes, _record: Record) -> Any:
        number = wire.schema_id(data)
        schema = schemas.get(number)
        if schema is None:
            schema = _registered(registry.schema(number), f"schema {number}")
            if len(schemas) >= MAX_CACHED:
                schemas.clear()
            schemas[number] = schema
        if isinstance(schema, DecodeError):
            raise DecodeError(str(schema))
        return schema.read(data, wire.HEADER_BYTES)

    return decode


def by_fingerprint(registry: SchemaRegistry, subject: str) -> Decode:
    """Values in single-object encoding, of any version of a subject. `{topic}` in its name stands for the topic."""
    schemas: dict[bytes, AvroSchema] = {}

    def decode(data: bytes, record: Record) -> Any:
        found = wire.fingerprint(data)
        if found not in schemas:
            name = subject.replace("{topic}", record.topic)
            for number, version in enumerate(registry.versions(name)):
                schema = _registered(version, f'version {number} of "{name}"')
                if isinstance(schema, AvroSchema):
                    schemas[schema.fingerprint] = schema
            if found not in schemas:
                msg = f'the value was written with a schema (fingerprint {found.hex()}) that is no version of the subject "{name}"'
                raise DecodeError(msg)
        return schemas[found].read(data, 10)

    return decode


def _registered(schema: RegisteredSchema, what: str) -> AvroSchema | DecodeError:
    if schema.type != "AVRO":
        return DecodeError(f"the value was written with {what} of the registry, which is {schema.type}, not AVRO; correct `format`")
    try:
        return AvroSchema(schema.text, schema.references)
    except ConfigurationError as error:
        return DecodeError(f"{what} of the registry {'; '.join(error.problems)}")
