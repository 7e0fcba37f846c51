"""JSON with a schema: in Confluent's wire format or as it is, checked against the schema only where the rules ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import msgspec

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
    import jsonschema.validators  # noqa: PLC0415 - only where values are checked
    from jsonschema.exceptions import SchemaError, best_match  # noqa: PLC0415
    from referencing import Registry, Resource  # noqa: PLC0415
    from referencing.jsonschema import DRAFT202012  # noqa: PLC0415

    schema = parse_schema_text(text)
    if not isinstance(schema, dict):
        raise ConfigurationError(["is no JSON Schema: it must be an object"])
    try:
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.validators.Draft202012Validator)
        kind.check_schema(schema)
        known: Registry[Any] = Registry().with_resources(
            (name, Resource.from_contents(parse_schema_text(each.text), default_specification=DRAFT202012))
            for name, each in _flat(references)
        )
        extend: Any = jsonschema.validators.extend
        validator = extend(kind, {"uniqueItems": _unique_items})(schema, registry=known)
    except SchemaError as error:
        raise ConfigurationError([f"is no JSON Schema: {error.json_path}: {error.message[:200]}"]) from error
    except ConfigurationError:
        raise
    except Exception as error:
        # TypeError, ValueError and others, on a `$schema` or `$id` that is none.
        raise ConfigurationError([f"is no JSON Schema: {type(error).__name__}: {str(error)[:200]}"]) from error

    def check(value: Any) -> None:
        try:
            found = best_match(islice(validator.iter_errors(value), _ERRORS_LOOKED_AT))
        except Exception as error:
            # A `$ref` that leads nowhere, a pattern that Python does not know, a schema that goes round in circles.
            msg = f"the value cannot be checked against its JSON Schema: {type(error).__name__}: {str(error)[:200]}"
            raise DecodeError(msg) from error
        if found is not None:
            msg = f"the value does not fit its JSON Schema: {found.json_path[:100]}: {found.message[:200]}"
            raise DecodeError(msg)

    return check


def _unique_items(_: Any, wanted: Any, items: Any, __: Any) -> Iterator[Exception]:
    """`uniqueItems` in linear time. The library compares each object with each other: minutes for some thousands of them."""
    from jsonschema.exceptions import ValidationError  # noqa: PLC0415 - only where values are checked

    if wanted is not True or not isinstance(items, list):
        return
    seen: dict[bytes, int] = {}
    for index, item in enumerate(items):
        first = seen.setdefault(msgspec.json.encode(_comparable(item), order="sorted"), index)
        if first != index:
            yield ValidationError(f"the items {first} and {index} are the same")
            return


def _comparable(value: Any) -> Any:
    """`value` such that what JSON Schema calls equal (1 and 1.0, but not 1 and true) is written alike."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_comparable(each) for each in value]
    if isinstance(value, dict):
        return {name: _comparable(each) for name, each in value.items()}
    return value


def _flat(references: References) -> Iterator[tuple[str, RegisteredSchema]]:
    for name, schema in references:
        yield name, schema
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
