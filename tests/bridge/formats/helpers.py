"""Records and frames for tests of formats."""

from __future__ import annotations

from bridge.core.record import Record


def record(value: bytes = b"", *headers: tuple[str, bytes | None]) -> Record:
    return Record("orders", 0, 7, 1_000, None, value, headers)


def framed(number: int, data: bytes, indexes: bytes = b"") -> bytes:
    """Confluent's wire format."""
    return b"\0" + number.to_bytes(4) + indexes + data
