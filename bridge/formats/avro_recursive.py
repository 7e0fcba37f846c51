"""Avro values of types that contain themselves. Their depth is the data's, and fastavro's compiled reader would overrun the stack.

fastavro's slower reader raises RecursionError in time, but its numbers go on for as long as the bytes say, which takes the square of that:
minutes for a megabyte.
"""

from __future__ import annotations

import io
from typing import Any, cast

import fastavro
from fastavro import _read_py
from fastavro.io.binary_decoder import BinaryDecoder


def read_recursive(stream: io.BytesIO, schema: Any, _: None) -> Any:
    """The value at the stream's position, as fastavro.schemaless_reader reads it."""
    named: Any = {"writer": {}, "reader": {}}
    parsed = fastavro.parse_schema(schema, named["writer"])
    return _read_py.read_data(cast("Any", _BoundedDecoder)(stream), parsed, named, None, {})  # type: ignore[no-untyped-call]


class _BoundedDecoder(BinaryDecoder):
    """fastavro's, with numbers that end."""

    def read_long(self) -> int:
        """A number of 64 bits: at most ten bytes."""
        number = 0
        for shift in range(0, 70, 7):
            read = self.fo.read(1)
            if not read:
                raise EOFError
            byte: int = read[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (number >> 1) ^ -(number & 1)
        msg = "a number has more than ten bytes"
        raise ValueError(msg)

    read_int = read_long
