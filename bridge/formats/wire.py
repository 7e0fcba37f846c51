"""Frames that tell a value's schema: Confluent's wire format, and Avro's single-object encoding.

Confluent: a byte 0, the schema's id (4 bytes, big endian), then the value; of Protobuf between them the message's place in its file,
as zigzag varints: how many indexes, then each; a single 0 stands for "the first message".
Single-object (Avro 1.11, "Single-object encoding"): C3 01, the schema's CRC-64-AVRO fingerprint (8 bytes, little endian), the value.
"""

from __future__ import annotations

from bridge.core.decoding import DecodeError

HEADER_BYTES = 5
"""Of Confluent's wire format."""
SINGLE_OBJECT_HEADER_BYTES = 10
_MAX_SCHEMA_ID = 2**31 - 1
_MAX_INDEXES = 32
_SINGLE_OBJECT = b"\xc3\x01"
_CONTAINER = b"Obj\x01"


def schema_id(data: bytes) -> int:
    """The id in the frame; the value begins at HEADER_BYTES. Raises DecodeError."""
    if len(data) < HEADER_BYTES or data[0] != 0:
        msg = f"the value is not in Confluent's wire format (a byte 0, then 4 of a schema id): {guess(data)}"
        raise DecodeError(msg)
    number = int.from_bytes(data[1:HEADER_BYTES])
    if not 0 < number <= _MAX_SCHEMA_ID:
        msg = f"the value is not in Confluent's wire format: {number} is no schema id"
        raise DecodeError(msg)
    return number


def fingerprint(data: bytes) -> bytes:
    """The fingerprint in a single-object frame; the value begins at SINGLE_OBJECT_HEADER_BYTES. Raises DecodeError."""
    if len(data) < SINGLE_OBJECT_HEADER_BYTES or data[:2] != _SINGLE_OBJECT:
        msg = f"the value is not in Avro's single-object encoding (the bytes C3 01, then 8 of a fingerprint): {guess(data)}"
        raise DecodeError(msg)
    return data[2:SINGLE_OBJECT_HEADER_BYTES]


def guess(data: bytes) -> str:
    """What such bytes look like, and what to do."""
    if not data:
        return "it is empty"
    if data[:4] == _CONTAINER:
        return (
            "it is an Avro object container file, which is many records with a schema of their own; let the producer send each of them "
            "as a record, in Confluent's wire format or single-object encoding"
        )
    if data[:2] == _SINGLE_OBJECT:
        return "it looks like Avro's single-object encoding, `framing: single-object`"
    if data[:1] in b"{[":
        return "it looks like JSON, `format: json`"
    if data[0] == 0:
        return f"it has {len(data)} bytes" if len(data) < HEADER_BYTES else "it looks like Confluent's wire format, `framing: confluent`"
    return f"it begins with the bytes {data[:6].hex(' ').upper()}; correct the producer, or `format` and `framing`"


def message_indexes(data: bytes, start: int) -> tuple[tuple[int, ...], int]:
    """Which message of its file the value is, as told at `start`: the index at each level, and where the value begins.

    Raises DecodeError.
    """
    count, at = _zigzag(data, start)
    if count == 0:
        return (0,), at
    if not 0 < count <= _MAX_INDEXES:
        msg = f"the value is not Protobuf in Confluent's wire format: it names {count} message indexes"
        raise DecodeError(msg)
    indexes = []
    for _ in range(count):
        index, at = _zigzag(data, at)
        indexes.append(index)
    return tuple(indexes), at


def _zigzag(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(data) and shift < 35:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at
        shift += 7
    msg = "the value is not Protobuf in Confluent's wire format: it ends within its message indexes"
    raise DecodeError(msg)
