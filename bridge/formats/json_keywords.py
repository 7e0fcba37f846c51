"""Keywords of JSON Schema that the library checks at a cost which the value can choose, done again in linear time.

`uniqueItems`: the library compares each item with each other, which is minutes for some thousands of objects. `pattern`,
`patternProperties`, `additionalProperties`: it has Python's engine of regular expressions (bridge/formats/json_patterns.py). Both are
so of `unevaluatedItems` and `unevaluatedProperties`, which are in a file of their own. And `additionalItems`, with which it fails where
`items` is true or false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import jsonschema.validators
import msgspec
from jsonschema.exceptions import ValidationError

from bridge.formats.json_patterns import has_match
from bridge.formats.json_unevaluated import unevaluated_items, unevaluated_properties

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError]]
"""Of the library: (validator, the keyword's value, the value to check, the schema around the keyword) gives what does not fit."""


@cache
def newest_draft() -> Any:
    """The library's class for draft 2020-12 with these keywords.

    All drafts get those that they have, and the library knows them by their `$schema`: a part of a schema may name a draft of its own.
    """
    drafts: dict[str, Any] = {}
    for version, draft in _DRAFTS.items():
        extend: Any = jsonschema.validators.extend
        keywords = {name: keyword for name, keyword in _KEYWORDS.items() if name in draft.VALIDATORS}
        drafts[version] = jsonschema.validators.validates(version)(extend(draft, keywords, version=version))
    return drafts["draft2020-12"]


def _unique_items(_: Any, wanted: Any, items: Any, __: Any) -> Iterator[ValidationError]:
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


def _pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(value, str) and not has_match(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: dict[str, Any], value: Any, _: Any) -> Iterator[ValidationError]:
    if not isinstance(value, dict):
        return
    for pattern, schema in patterns.items():
        for name, inner in value.items():
            if has_match(pattern, name):
                yield from validator.descend(inner, schema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, value: Any, schema: dict[str, Any]) -> Iterator[ValidationError]:
    if not isinstance(value, dict):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    others = [name for name in value if name not in known]
    for pattern in patterns:  # One after the other, so that each is compiled once for all names, however many there are.
        others = [name for name in others if not has_match(pattern, name)]
    if isinstance(allowed, dict):
        for name in others:
            yield from validator.descend(value[name], allowed, path=name)
    elif allowed is False and others:
        yield ValidationError(f"has properties that the schema does not allow: {', '.join(map(repr, others[:20]))}")


def _additional_items(validator: Any, allowed: Any, value: Any, schema: dict[str, Any]) -> Iterator[ValidationError]:
    """Without effect where `items` is one schema for all (draft-07, section 6.4.2)."""
    items = schema.get("items")
    if not isinstance(value, list) or not isinstance(items, list):
        return
    if allowed is False and len(value) > len(items):
        yield ValidationError(f"has {len(value)} items, and the schema allows {len(items)}")
    elif isinstance(allowed, dict):
        for index in range(len(items), len(value)):
            yield from validator.descend(value[index], allowed, path=index)


_KEYWORDS: dict[str, Keyword] = {
    "additionalItems": _additional_items,
    "additionalProperties": _additional_properties,
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "unevaluatedItems": unevaluated_items,
    "unevaluatedProperties": unevaluated_properties,
    "uniqueItems": _unique_items,
}
_DRAFTS = {
    "draft3": jsonschema.validators.Draft3Validator,
    "draft4": jsonschema.validators.Draft4Validator,
    "draft6": jsonschema.validators.Draft6Validator,
    "draft7": jsonschema.validators.Draft7Validator,
    "draft2019-09": jsonschema.validators.Draft201909Validator,
    "draft2020-12": jsonschema.validators.Draft202012Validator,
}
"""By the names under which the library keeps them."""
