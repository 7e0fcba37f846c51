"""And, or, not, and comparisons.

JMESPath's specification, "Or Expressions", "And Expressions", "Not Expressions", "Filter Expressions" (there "Comparison Operators").
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from bridge.core.closures.code import Code, Tree, any_fails, constant
from bridge.core.closures.values import is_empty, is_number

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {"lt": operator.lt, "gt": operator.gt, "lte": operator.le, "gte": operator.ge}
_COMPARABLE = frozenset({int, float, str})


def either(_: Tree, codes: list[Code]) -> Code:
    """`left || right`: the left one where it is true."""
    left, right = (code.run for code in codes)

    def run(value: Any) -> Any:
        found = left(value)
        return found if found or not is_empty(found) else right(value)

    return Code(run, any_fails(codes))


def both(_: Tree, codes: list[Code]) -> Code:
    """`left && right`: the right one where the left one is true."""
    left, right = (code.run for code in codes)

    def run(value: Any) -> Any:
        found = left(value)
        return right(value) if found or not is_empty(found) else found

    return Code(run, any_fails(codes))


def negation(_: Tree, codes: list[Code]) -> Code:
    """`!inner`."""
    (code,) = codes
    inner = code.run

    def run(value: Any) -> bool:
        found = inner(value)
        return not found and not is_number(found)

    return Code(run, code.can_fail)


def comparison(node: Tree, codes: list[Code]) -> Code:
    """`left == right`, and so on: equality of any values; order of numbers and, as jmespath has it, of texts, else null."""
    kind = node["value"]
    if kind in _ORDERS:
        return _order(_ORDERS[kind], codes)
    (left, left_code), (right, right_code) = zip(node["children"], codes, strict=True)
    if right["type"] == "literal":
        return _equals_literal(left_code, right["value"], negated=kind == "ne")
    if left["type"] == "literal":  # Equality has no sides.
        return _equals_literal(right_code, left["value"], negated=kind == "ne")
    return _equals(left_code, right_code, negated=kind == "ne")


def _equals(left_code: Code, right_code: Code, *, negated: bool) -> Code:
    left, right = left_code.run, right_code.run

    # To Python 1 == True; to JMESPath no number equals a boolean.
    def equal(value: Any) -> bool:
        a, b = left(value), right(value)
        return a == b and (type(a) is bool) is (type(b) is bool)

    def different(value: Any) -> bool:
        a, b = left(value), right(value)
        return not (a == b and (type(a) is bool) is (type(b) is bool))

    return Code(different if negated else equal, can_fail=True)  # Two values nested deeply can be too much to compare.


def _equals_literal(code: Code, literal: Any, *, negated: bool) -> Code:
    inner = code.run
    if literal is None or isinstance(literal, bool):
        if negated:
            return Code(lambda value: inner(value) is not literal, code.can_fail)
        return Code(lambda value: inner(value) is literal, code.can_fail)
    if literal in (0, 1):
        return _equals(code, constant(literal), negated=negated)
    if negated:
        return Code(lambda value: inner(value) != literal, code.can_fail)
    return Code(lambda value: inner(value) == literal, code.can_fail)


def _order(compare: Callable[[Any, Any], bool], codes: list[Code]) -> Code:
    left, right = (code.run for code in codes)

    def run(value: Any) -> bool | None:
        a, b = left(value), right(value)
        if type(a) in _COMPARABLE and type(b) in _COMPARABLE:
            return compare(a, b)
        return compare(a, b) if _is_comparable(a) and _is_comparable(b) else None

    return Code(run, can_fail=True)  # A text is neither less nor more than a number.


def _is_comparable(value: object) -> bool:
    return isinstance(value, str) or is_number(value)
