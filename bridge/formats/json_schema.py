"""JSON with a schema: in Confluent's wire format or as it is, checked against the schema only where the rules ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from bridge.core.decoding import Decode, DecodeError
from bridge.core.record import Record
from bridge.formats import wire
from bridge.formats.by_schema_id import Read, by_schema_id
from bridge.formats.plain import decode_json
from bridge.formats.registry import SchemaRegistry
from bridge.formats.schema import References, RegisteredSchema, parse_schema_text
from shared.errors import ConfigurationError

_ERRORS_LOOKED_AT = 20

Check = Callable[[Any], None]
"""Raises DecodeError where a value does not fit a schema."""


def checker(text: str, references: References = ()) -> Check:
    """What checks values against a schema; raises ConfigurationError where it is none. A `$ref` never leads to the network."""
    from jsonschema.exceptions import best_match  # noqa: PLC0415 - only where values are checked

    schema = parse_schema_text(text)
    if not isinstance(schema, dict):
        raise ConfigurationError(["is no JSON Schema: it must be an object"])
    validator = _validator(schema, {name: parse_schema_text(each) for name, each in _flat(references)})

    def check(value: Any) -> None:
        try:
            found = best_match(islice(validator.iter_errors(value), _ERRORS_LOOKED_AT))
        except Exception as error:
            # A `$ref` that leads nowhere, a schema that goes round in circles.
            msg = f"the value cannot be checked against its JSON Schema: {type(error).__name__}: {str(error)[:200]}"
            raise DecodeError(msg) from error
        if found is not None:
            msg = f"the value does not fit its JSON Schema: {found.json_path[:100]}: {found.message[:200]}"
            raise DecodeError(msg)

    return check


def _validator(schema: dict[str, Any], others: dict[str, Any]) -> Any:
    """The library's validator. `others` are the schemas that `schema` may refer to, by name."""
    from jsonschema.exceptions import SchemaError  # noqa: PLC0415 - only where values are checked
    from jsonschema.validators import validator_for  # noqa: PLC0415
    from referencing import Registry, Resource  # noqa: PLC0415
    from referencing.jsonschema import DRAFT202012  # noqa: PLC0415

    from bridge.formats.json_keywords import newest_draft  # noqa: PLC0415 - it imports the library
    from bridge.formats.json_patterns import check_patterns  # noqa: PLC0415

    default = newest_draft()
    try:
        kind: Any = validator_for(schema, default=default)
        # Without formats: "regex" would be what Python takes for one.
        kind.check_schema(schema, format_checker=None)
        check_patterns([schema, *others.values()])
        known: Registry[Any] = Registry().with_resources(
            (name, Resource.from_contents(other, default_specification=DRAFT202012)) for name, other in others.items()
        )
        return kind(schema, registry=known)
    except SchemaError as error:
        raise ConfigurationError([f"is no JSON Schema: {error.json_path}: {error.message[:200]}"]) from error
    except ConfigurationError:
        raise
    except Exception as error:
        # TypeError, ValueError and others, on a `$schema` or `$id` that is none.
        raise ConfigurationError([f"is no JSON Schema: {type(error).__name__}: {str(error)[:200]}"]) from error


def _flat(references: References) -> Iterator[tuple[str, str]]:
    """Name and text of each schema that is referred to, directly or not."""
    for name, schema in references:
        yield name, schema.text
        yield from _flat(schema.references)


def by_schema(check: Check | None, *, is_framed: bool) -> Decode:
    """JSON of one schema: as it is or, where `is_framed`, in Confluent's wire format, whatever schema that names."""

    def decode(data: bytes, _record: Record) -> Any:
        if is_framed:
            wire.schema_id(data)
            data = data[wire.HEADER_BYTES :]
        value = decode_json(data)
        if check is not None:
            check(value)
        return value

    return decode


def by_id(registry: SchemaRegistry) -> Decode:
    """JSON in Confluent's wire format, checked against the schema that it names."""
    return by_schema_id(registry, "JSON", _checking)


def _checking(schema: RegisteredSchema) -> Read:
    check = checker(schema.text, schema.references)

    def read(data: bytes, start: int) -> Any:
        value = decode_json(data[start:])
        check(value)
        return value

    return read
