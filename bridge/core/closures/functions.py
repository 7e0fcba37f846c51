"""Function calls. Ours take what has the right types; conversions and refusals are left to jmespath's own functions.

JMESPath's specification, "Function Expressions" and "Built-in Functions".
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection
from typing import Any

import jmespath.functions
import jmespath.visitor

from bridge.core.closures.code import Code, Run, Tree, any_fails, constant

MAX_JOINED_CHARACTERS = 16_777_216
"""What `join` may make: it alone can make of two inputs the product of their sizes."""

_by_library = jmespath.functions.Functions().call_function

_NUMBERS = frozenset({int, float})
_TEXTS = frozenset({str})
_ARRAYS = frozenset({list})
_OBJECTS = frozenset({dict})
_TYPE_NAMES = {str: "string", bool: "boolean", list: "array", dict: "object", float: "number", int: "number", type(None): "null"}


def _number_of(text: str) -> float | None:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            pass
    return None


# Functions of one argument: the types that ours takes (the library has the others, to convert or refuse), and ours.
_UNARY: dict[str, tuple[frozenset[type], Callable[[Any], Any]]] = {
    "abs": (_NUMBERS, abs),
    "ceil": (_NUMBERS, math.ceil),
    "floor": (_NUMBERS, math.floor),
    "keys": (_OBJECTS, list),
    "length": (_TEXTS | _ARRAYS | _OBJECTS, len),
    "reverse": (_TEXTS | _ARRAYS, lambda value: value[::-1]),
    "to_array": (_ARRAYS, lambda value: value),
    "to_number": (_TEXTS, _number_of),
    "to_string": (_TEXTS, lambda value: value),
    "type": (frozenset(_TYPE_NAMES), lambda value: _TYPE_NAMES[type(value)]),
    "values": (_OBJECTS, lambda value: list(value.values())),
}
_BINARY: dict[str, tuple[frozenset[type], frozenset[type], Callable[[Any, Any], Any]]] = {
    "contains": (_TEXTS | _ARRAYS, frozenset(_TYPE_NAMES), operator.contains),
    "ends_with": (_TEXTS, _TEXTS, str.endswith),
    "starts_with": (_TEXTS, _TEXTS, str.startswith),
}
# Functions of an array whose elements are all numbers (or, where told, all texts).
_OF_ELEMENTS: dict[str, tuple[tuple[frozenset[type], ...], Callable[[list[Any]], Any]]] = {
    "avg": ((_NUMBERS,), lambda found: sum(found) / len(found) if found else None),
    "max": ((_NUMBERS, _TEXTS), lambda found: max(found) if found else None),
    "min": ((_NUMBERS, _TEXTS), lambda found: min(found) if found else None),
    "sort": ((_NUMBERS, _TEXTS), sorted),
    "sum": ((_NUMBERS,), sum),
}


def function_call(node: Tree, codes: list[Code]) -> Code:
    """`name(argument, ...)`, all of whose arguments are worked out. The name is a function's, and takes so many."""
    name = node["value"]
    runs = [code.run for code in codes]
    if name == "not_null":
        return Code(_not_null(runs), any_fails(codes))
    makers: list[tuple[Collection[str], Callable[..., Run]]] = [(_UNARY, _unary), (_BINARY, _binary), (_OF_ELEMENTS, _of_elements)]
    for names, make in makers:
        if name in names:
            return Code(make(name, *runs), can_fail=True)
    if name == "join":
        return Code(_join(*runs), can_fail=True)
    if name == "merge":
        return Code(_merge(runs), can_fail=True)
    return Code(lambda value: _by_library(name, [run(value) for run in runs]), can_fail=True)


def expression_reference(_: Tree, codes: list[Code]) -> Code:
    """`&expression`: what the library's `map`, `sort_by` and the like take. It calls our closure for each element."""
    (inner,) = codes
    return constant(jmespath.visitor._Expression(inner.run, _Caller()))  # noqa: SLF001 - the library looks for this very name


class _Caller:
    """In an interpreter's place: its nodes are closures."""

    @staticmethod
    def visit(run: Run, value: Any) -> Any:
        return run(value)


def _unary(name: str, argument: Run) -> Run:
    types, function = _UNARY[name]

    def run(value: Any) -> Any:
        found = argument(value)
        return function(found) if type(found) in types else _by_library(name, [found])

    return run


def _binary(name: str, first: Run, second: Run) -> Run:
    types, second_types, function = _BINARY[name]

    def run(value: Any) -> Any:
        a, b = first(value), second(value)
        return function(a, b) if type(a) in types and type(b) in second_types else _by_library(name, [a, b])

    return run


def _of_elements(name: str, argument: Run) -> Run:
    element_types, function = _OF_ELEMENTS[name]

    def run(value: Any) -> Any:
        found = argument(value)
        if type(found) is list:
            types = set(map(type, found))
            if any(types <= allowed for allowed in element_types):
                return function(found)
        return _by_library(name, [found])

    return run


def _join(separator_of: Run, texts_of: Run) -> Run:
    def run(value: Any) -> Any:
        separator, texts = separator_of(value), texts_of(value)
        if type(separator) is str and type(texts) is list and _TEXTS.issuperset(map(type, texts)):
            size = len(separator) * len(texts) + sum(map(len, texts))
            if size > MAX_JOINED_CHARACTERS:
                msg = f"join() would make a text of more than {MAX_JOINED_CHARACTERS} characters"
                raise ValueError(msg)
            return separator.join(texts)
        return _by_library("join", [separator, texts])

    return run


def _merge(arguments: list[Run]) -> Run:
    def run(value: Any) -> Any:
        found = [argument(value) for argument in arguments]
        if not _OBJECTS.issuperset(map(type, found)):
            return _by_library("merge", found)
        merged: dict[str, Any] = {}
        for one in found:
            merged.update(one)
        return merged

    return run


def _not_null(arguments: list[Run]) -> Run:
    def run(value: Any) -> Any:
        # All are evaluated, as the library does: an error in the second one is an error even where the first one is there.
        return next((found for found in [argument(value) for argument in arguments] if found is not None), None)

    return run
