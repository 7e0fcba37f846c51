"""Schemas as they are registered: a text, and the other schemas that it refers to by name."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from shared.errors import ConfigurationError


class RegisteredSchema(msgspec.Struct, frozen=True):
    """A schema as it was registered, with all that it refers to."""

    type: str
    """AVRO, PROTOBUF or JSON."""
    text: str
    references: References = ()


References = tuple[tuple[str, RegisteredSchema], ...]
"""Name and schema of each one that a schema refers to directly."""


def parse_schema_text(text: str) -> Any:
    """The text of a schema that is written as JSON (those of Avro and JSON Schema are). Raises ConfigurationError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError([f"is not JSON: {error}"]) from error
