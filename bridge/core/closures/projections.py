"""Arrays made of arrays and objects, element by element. What an element gives is left out where it is null.

JMESPath's specification, "Wildcard Expressions", "Filter Expressions", and of "Index Expressions" the parts "Slices" and "Flatten
Operator". Of what is no array (for `*`, no object) all make null.
"""

from __future__ import annotations

from typing import Any

from bridge.core.closures.code import Code, Tree, any_fails
from bridge.core.closures.values import is_true


def projection(_: Tree, codes: list[Code]) -> Code:
    """`base[*].right`; a slice and a flattened array are such a base, too."""
    base_of, right = (code.run for code in codes)

    def run(value: Any) -> list[Any] | None:
        base = base_of(value)
        if not isinstance(base, list):
            return None
        return [found for element in base if (found := right(element)) is not None]

    return Code(run, any_fails(codes))


def value_projection(_: Tree, codes: list[Code]) -> Code:
    """`base.*.right`, over the values of an object."""
    base_of, right = (code.run for code in codes)

    def run(value: Any) -> list[Any] | None:
        base = base_of(value)
        if not isinstance(base, dict):
            return None
        return [found for element in base.values() if (found := right(element)) is not None]

    return Code(run, any_fails(codes))


def filter_projection(_: Tree, codes: list[Code]) -> Code:
    """`base[?condition].right`."""
    base_of, right_of, holds = (code.run for code in codes)

    def run(value: Any) -> list[Any] | None:
        base = base_of(value)
        if not isinstance(base, list):
            return None
        return [found for element in base if is_true(holds(element)) and (found := right_of(element)) is not None]

    return Code(run, any_fails(codes))


def flattened(_: Tree, codes: list[Code]) -> Code:
    """`base[]`: the elements of elements that are arrays, and the others as they are."""
    (code,) = codes
    base_of = code.run

    def run(value: Any) -> list[Any] | None:
        base = base_of(value)
        if not isinstance(base, list):
            return None
        flat: list[Any] = []
        for element in base:
            if isinstance(element, list):
                flat.extend(element)
            else:
                flat.append(element)
        return flat

    return Code(run, code.can_fail)


def part_of_value(node: Tree) -> Code:
    """`[start:stop:step]`."""
    part = slice(*node["children"])
    # A step of 0 fails with the first item.
    return Code(lambda value: value[part] if isinstance(value, list) else None, can_fail=True)
