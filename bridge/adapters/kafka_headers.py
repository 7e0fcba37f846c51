"""The headers of a Kafka message, those included whose names are no UTF-8 text."""

from __future__ import annotations

import gc
from typing import Any

from confluent_kafka import Message

from bridge.core.letter import Headers

NO_TEXT = "\ufffd"
"""Stands for a name that is not UTF-8: its bytes cannot be had."""


def headers_of(message: Message) -> Headers:
    """All headers, in their order. It raises nothing: other languages' clients write any bytes as a name, and a record must not stop us."""
    try:
        found: Any = message.headers()
    except (SystemError, UnicodeDecodeError):
        return _rest_of(message)
    return tuple((name, _bytes(value)) for name, value in found) if found else ()


def _rest_of(message: Message) -> Headers:
    """What confluent-kafka has made of headers of which it could not decode a name.

    It keeps a list of pairs, in which such a name is no object at all: touching it there would crash the process. The garbage collector's
    view leaves it out.
    """
    try:
        found = message.headers()
    except (SystemError, UnicodeDecodeError):
        return ()
    pairs = [gc.get_referents(pair) for pair in reversed(gc.get_referents(found))]
    return tuple(
        (next((part for part in pair if isinstance(part, str)), NO_TEXT), next((part for part in pair if isinstance(part, bytes)), None))
        for pair in pairs
    )


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
