"""What reads a record's value or key: bytes in, a plain JSON-like value out, or a clear problem.

The decoders themselves are in bridge.formats; a source of the rules (bridge.core.ruleset) has one for values and one for keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from bridge.core.expression import EvaluationError
from bridge.core.record import Record
from shared.errors import DistributaryError
from shared.publication import ContentType

Decode = Callable[[bytes, Record], Any]
"""Decode the value or key (the bytes) of a record.

Gives None, booleans, numbers, texts, lists, and dicts with texts as names. Raises DecodeError or SchemaUnavailableError, and nothing else.
"""


class DecodeError(EvaluationError):
    """Bytes are not what the source's format says: the producer's fault or the rule's; the same bytes fail again."""


class SchemaUnavailableError(DistributaryError):
    """A schema cannot be had at the moment: nobody's fault, and nothing is known about the record. Try the same again later."""


class Decoder(msgspec.Struct, frozen=True, eq=False):
    """One way to read values or keys."""

    format: str
    """As the rules call it."""
    decode: Decode
    passes: ContentType | None = None
    """What the record's own bytes are, where they are passed on as they came. None: what was decoded is passed on, as JSON."""
    has_value: bool = True
    """Whether there is anything for expressions to see."""
    is_text: bool = False
    """Whether its values are text, so that a line of a file can be one."""
    digest: str = ""
    """Changes with its settings and with its schema's file."""
