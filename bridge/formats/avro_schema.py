"""Avro schemas, made ready to read values. fastavro reads them; what it cannot be trusted with is refused, or left to its slower reader."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import fastavro
from fastavro.schema import fingerprint as fingerprint_of
from fastavro.schema import to_parsing_canonical_form

from bridge.core.decoding import DecodeError
from bridge.formats.avro_outline import Outline
from bridge.formats.avro_recursive import read_recursive
from bridge.formats.schema import References, RegisteredSchema, parse_schema_text
from shared.errors import ConfigurationError


class AvroSchema:
    """A schema, ready to read values. Raises ConfigurationError where it is none, or one by which a small record could be endless."""

    def __init__(self, text: str, references: References = ()) -> None:
        named: dict[str, Any] = {}
        outline = Outline()
        for schema in _in_order(references):
            _compiled(schema.text, outline, named)
        self._schema, self.fingerprint = _compiled(text, outline, named)
        if outline.empty_items():
            msg = "is an array of values that have no bytes, so that a record of ten bytes could be a billion of them"
            raise ConfigurationError([msg])
        # Where types contain themselves, the depth is the data's, and fastavro's compiled reader would overrun the stack.
        self._read = read_recursive if outline.is_recursive() else fastavro.schemaless_reader

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


def _compiled(text: str, outline: Outline, named: dict[str, Any]) -> tuple[Any, bytes]:
    """The schema as fastavro reads by it, and its fingerprint as the text has it. Its named types join `named`, and `outline`."""
    plain = parse_schema_text(text)
    try:
        canonical = to_parsing_canonical_form(fastavro.parse_schema(plain, {**named}, _force=True))
        schema = fastavro.parse_schema(outline.enter(plain), named)
    except ConfigurationError:
        raise
    except Exception as error:
        # Besides its own errors: KeyError, TypeError, AttributeError, RecursionError, on what only looks like a schema.
        raise ConfigurationError([f"is no Avro schema: {_told(error)}"]) from error
    return schema, bytes.fromhex(fingerprint_of(canonical, "CRC-64-AVRO"))


def _in_order(references: References) -> Iterator[RegisteredSchema]:
    """Each schema after those that it refers to, and once."""
    seen: set[str] = set()

    def walk(references: References) -> Iterator[RegisteredSchema]:
        for name, schema in references:
            if name not in seen:
                seen.add(name)
                yield from walk(schema.references)
                yield schema

    return walk(references)


def _told(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "it ends too early"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
