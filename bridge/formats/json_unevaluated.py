"""`unevaluatedProperties` and `unevaluatedItems` of JSON Schema, in time that grows with the value and not with its square.

The library looks up each name and index in a list of those that are evaluated, and matches `patternProperties` there by Python's engine.
(JSON Schema 2020-12, core, section 11, and 2019-09, section 9.3: all that applies in place to the same value counts.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jsonschema.exceptions import ValidationError
from referencing.jsonschema import lookup_recursive_ref

from bridge.formats.json_patterns import has_match

_Here = Callable[[Any, Any, dict[str, Any]], set[Any]]
"""(validator, value, schema) gives the names or indexes that the schema's own keywords evaluate, without those of schemas in place."""


def unevaluated_properties(validator: Any, allowed: Any, value: Any, schema: dict[str, Any]) -> Iterator[ValidationError]:
    """The keyword, as the library calls it."""
    if isinstance(value, dict):
        yield from _others(
            validator, allowed, value.items(), _evaluated(validator, value, _without(schema, "unevaluatedProperties"), _names)
        )


def unevaluated_items(validator: Any, allowed: Any, value: Any, schema: dict[str, Any]) -> Iterator[ValidationError]:
    """The keyword, as the library calls it."""
    if isinstance(value, list):
        yield from _others(
            validator, allowed, enumerate(value), _evaluated(validator, value, _without(schema, "unevaluatedItems"), _indexes)
        )


def _without(schema: dict[str, Any], keyword: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != keyword}


def _others(validator: Any, allowed: Any, parts: Iterable[tuple[Any, Any]], evaluated: set[Any]) -> Iterator[ValidationError]:
    """What does not fit among the parts (a name or index, and what is there) that nothing else has evaluated."""
    others = [(place, inner) for place, inner in parts if place not in evaluated]
    if allowed is False and others:
        yield ValidationError(f"has parts that the schema does not allow: {', '.join(repr(place) for place, _ in others[:20])}")
        return
    for place, inner in others:
        yield from validator.descend(inner, allowed, path=place)


def _evaluated(validator: Any, value: Any, schema: Any, here: _Here) -> set[Any]:
    if not isinstance(schema, dict):
        return set()
    found = here(validator, value, schema)
    for its_validator, inner in _in_place(validator, value, schema):
        found |= _evaluated(its_validator, value, inner, here)
    return found


def _names(_: Any, value: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    if "additionalProperties" in schema or "unevaluatedProperties" in schema:
        return set(value)
    found: set[str] = value.keys() & schema.get("properties", {}).keys()
    for pattern in schema.get("patternProperties", ()):
        found.update(name for name in value if has_match(pattern, name))
    return found


def _indexes(validator: Any, value: list[Any], schema: dict[str, Any]) -> set[int]:
    items = schema.get("items")
    if isinstance(items, list):  # Of 2019-09, where `additionalItems` is about those behind them.
        first, has_rest = len(items), "additionalItems" in schema
    else:
        first, has_rest = len(schema.get("prefixItems", ())), items is not None
    if has_rest or "unevaluatedItems" in schema:
        return set(range(len(value)))
    found = set(range(first))
    if "contains" in schema:  # Of 2020-12; the library has always taken it so in 2019-09, too.
        contained = validator.evolve(schema=schema["contains"])
        found.update(index for index, item in enumerate(value) if contained.is_valid(item))
    return found


def _in_place(validator: Any, value: Any, schema: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The schemas that apply to the same value as `schema`, each with the validator that resolves its references."""
    resolver = validator._resolver  # noqa: SLF001 - there is no other way to follow a reference
    references = [resolver.lookup(schema[keyword]) for keyword in ("$ref", "$dynamicRef") if keyword in schema]
    if "$recursiveRef" in schema:
        references.append(lookup_recursive_ref(resolver))
    for resolved in references:
        yield validator.evolve(schema=resolved.contents, _resolver=resolved.resolver), resolved.contents
    applied = list(schema.get("allOf", ()))
    if isinstance(value, dict):
        applied += [inner for name, inner in schema.get("dependentSchemas", {}).items() if name in value]
    choices = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if "if" in schema:
        is_so = validator.evolve(schema=schema["if"]).is_valid(value)
        applied += [schema["if"], schema.get("then", True)] if is_so else [schema.get("else", True)]
    applied += [choice for choice in choices if validator.evolve(schema=choice).is_valid(value)]
    for inner in applied:
        yield validator, inner
