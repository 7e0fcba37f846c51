"""JMESPath's syntax trees as Python closures.

jmespath walks its tree for each item, 0.5 to 1 us a node. A tree of closures gives the same results 5 to 50 times faster. What is
not worth a closure of its own, and every error, is left to jmespath's own code, so that there is one set of semantics: a closure
takes the way that it knows only where the types are the expected ones.

Checked against the library on generated expressions and data (tests/bridge/core/test_closures.py), and by the public compliance
suite (tests/bridge/core/test_compliance.py).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Sequence
from numbers import Number
from operator import attrgetter
from typing import Any, NamedTuple

import jmespath.functions
import jmespath.visitor

from bridge.core.scope import Scope

MAX_JOINED_CHARACTERS = 16_777_216
"""What `join` may make: it alone can make of two inputs the product of their sizes."""

Run = Callable[[Any], Any]
Tree = dict[str, Any]
Path = tuple[str | int, ...]

_call = jmespath.functions.Functions().call_function


class Code(NamedTuple):
    """A closure, and whether it can raise (any of jmespath's errors, and Python's) on data that does not fit."""

    run: Run
    can_fail: bool


def compile_tree(tree: Tree) -> Code:
    """A closure over a Scope."""
    return _compile(tree, at_scope=True)


def compile_tree_over_value(tree: Tree) -> Code:
    """A closure over a JSON value, as JMESPath itself is defined."""
    return _compile(tree, at_scope=False)


def steps_of(node: Tree) -> Path | None:
    """The steps of a path of fields and indices; None for anything else.

    They nest in both directions: `a.b[0]` is (a, (b, 0)), `a[0].b` is ((a, 0), b).
    """
    if node["type"] in {"field", "index"}:
        return (node["value"],)
    if node["type"] not in {"subexpression", "index_expression"}:
        return None
    found: Path = ()
    for child in node["children"]:
        steps = steps_of(child)
        if steps is None:
            return None
        found += steps
    return found


def is_true(value: object) -> bool:
    """JMESPath's truth: false are null, false, and empty texts, arrays and objects. 0 is true."""
    return True if value else not _is_empty(value)


def _is_empty(value: object) -> bool:
    """Of what Python takes for false, whether JMESPath does too."""
    return value is None or value is False or value in ("", [], {})


def _is_number(value: object) -> bool:
    return isinstance(value, Number) and not isinstance(value, bool)


# --- Nodes -------------------------------------------------------------------------------------------------------------------


def _compile(node: Tree, *, at_scope: bool) -> Code:
    steps = steps_of(node)
    if steps is not None and (not at_scope or isinstance(steps[0], str)):
        return Code(_scope_path(steps) if at_scope else _value_path(steps), can_fail=False)
    make = _MAKERS.get(node["type"])
    return make(node, at_scope) if make is not None else _by_library(node, at_scope)


def _children(node: Tree, at_scope: bool) -> list[Code]:  # noqa: FBT001 - the makers' common signature
    return [_compile(child, at_scope=at_scope) for child in node["children"]]


def _any_fails(codes: Sequence[Code]) -> bool:
    return any(code.can_fail for code in codes)


def _by_library(node: Tree, at_scope: bool) -> Code:  # noqa: FBT001
    # One interpreter for all items: a new one each time would look up its methods again.
    visit = jmespath.visitor.TreeInterpreter().visit
    if at_scope:
        return Code(lambda scope: visit(node, scope.names()), can_fail=True)
    return Code(lambda value: visit(node, value), can_fail=True)


def _current(_: Tree, at_scope: bool) -> Code:  # noqa: FBT001
    return Code(Scope.names, can_fail=False) if at_scope else Code(lambda value: value, can_fail=False)


def _literal(node: Tree, _: bool) -> Code:  # noqa: FBT001
    return _constant(node["value"])


def _constant(value: object) -> Code:
    return Code(lambda _: value, can_fail=False)


def _chain(node: Tree, at_scope: bool) -> Code:  # noqa: FBT001
    """Each child works on what the one before gave."""
    first = _compile(node["children"][0], at_scope=at_scope)
    codes = [first, *(_compile(child, at_scope=False) for child in node["children"][1:])]
    if len(codes) == 2:
        inner, outer = codes[0].run, codes[1].run
        return Code(lambda value: outer(inner(value)), _any_fails(codes))
    runs = [code.run for code in codes]

    def run(value: Any) -> Any:
        for one in runs:
            value = one(value)
        return value

    return Code(run, _any_fails(codes))


def _index(node: Tree, at_scope: bool) -> Code:  # noqa: FBT001
    # At the scope, which is an object: an index of an object is null.
    return _constant(None) if at_scope else Code(_value_path((node["value"],)), can_fail=False)


def _slice(node: Tree, at_scope: bool) -> Code:  # noqa: FBT001
    if at_scope:
        return _constant(None)
    part = slice(*node["children"])
    # A step of 0 fails with the first item.
    return Code(lambda value: value[part] if isinstance(value, list) else None, can_fail=True)


def _multi_select_list(node: Tree, at_scope: bool) -> Code:  # noqa: FBT001
    codes = _children(node, at_scope)
    runs = [code.run for code in codes]
    if at_scope:
        return Code(lambda scope: [run(scope) for run in runs], _any_fails(codes))
    return Code(lambda value: None if value is None else [run(value) for run in runs], _any_fails(codes))


def _multi_select_dict(node: Tree, at_scope: bool) -> Code:  # noqa: FBT001
    codes = [_compile(pair["children"][0], at_scope=at_scope) for pair in node["children"]]
    runs = [(pair["value"], code.run) for pair, code in zip(node["children"], codes, strict=True)]
    if at_scope:
        return Code(lambda scope: {name: run(scope) for name, run in runs}, _any_fails(codes))
    return Code(lambda value: None if value is None else {name: run(value) for name, run in runs}, _any_fails(codes))


# --- Logic -------------------------------------------------------------------------------------------------------------------


def _or(node: Tree, at_scope: bool) -> Code:  # noqa: FBT001
    codes = _children(node, at_scope)
    left, right = (code.run for code in codes)

    def run(value: Any) -> Any:
        found = left(value)
        return found if found or not _is_empty(found) else right(value)

    return Code(run, _any_fails(codes))


def _and(node: Tree, at_scope: bool) -> Code:  # noqa: FBT001
    codes = _children(node, at_scope)
    left, right = (code.run for code in codes)

    def run(value: Any) -> Any:
        found = left(value)
        return right(value) if found or not _is_empty(found) else found

    return Code(run, _any_fails(codes))


def _not(node: Tree, at_scope: bool) -> Code:  # noqa: FBT001
    (code,) = _children(node, at_scope)
    inner = code.run

    def run(value: Any) -> bool:
        found = inner(value)
        return not found and not _is_number(found)

    return Code(run, code.can_fail)


def _comparator(node: Tree, at_scope: bool) -> Code:  # noqa: FBT001
    kind = node["value"]
    if kind in _ORDERS:
        return _order(_ORDERS[kind], _children(node, at_scope))
    left, right = node["children"]
    if left["type"] == "literal":
        left, right = right, left  # Equality has no sides.
    inner = _compile(left, at_scope=at_scope)
    if right["type"] == "literal":
        return _equals_literal(inner, right["value"], negated=kind == "ne")
    return _equals(inner, _compile(right, at_scope=at_scope), negated=kind == "ne")


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
        return _equals(code, _constant(literal), negated=negated)
    if negated:
        return Code(lambda value: inner(value) != literal, code.can_fail)
    return Code(lambda value: inner(value) == literal, code.can_fail)


_ORDERS: dict[str, Callable[[Any, Any], bool]] = {"lt": operator.lt, "gt": operator.gt, "lte": operator.le, "gte": operator.ge}
_COMPARABLE = frozenset({int, float, str})


def _order(compare: Callable[[Any, Any], bool], codes: list[Code]) -> Code:
    left, right = (code.run for code in codes)

    def run(value: Any) -> bool | None:
        a, b = left(value), right(value)
        if type(a) in _COMPARABLE and type(b) in _COMPARABLE:
            return compare(a, b)
        return compare(a, b) if _is_comparable(a) and _is_comparable(b) else None

    return Code(run, can_fail=True)  # A text is neither less nor more than a number.


def _is_comparable(value: object) -> bool:
    return isinstance(value, str) or _is_number(value)


# --- Projections -------------------------------------------------------------------------------------------------------------


def _projection(node: Tree, at_scope: bool) -> Code:  # noqa: FBT001
    codes = [_compile(node["children"][0], at_scope=at_scope), _compile(node["children"][1], at_scope=False)]
    base_of, right = (code.run for code in codes)

    def run(value: Any) -> list[Any] | None:
        base = base_of(value)
        if not isinstance(base, list):
            return None
        return [found for element in base if (found := right(element)) is not None]

    return Code(run, _any_fails(codes))


def _value_projection(node: Tree, at_scope: bool) -> Code:  # noqa: FBT001
    codes = [_compile(node["children"][0], at_scope=at_scope), _compile(node["children"][1], at_scope=False)]
    base_of, right = (code.run for code in codes)

    def run(value: Any) -> list[Any] | None:
        base = base_of(value)
        if not isinstance(base, dict):
            return None
        return [found for element in base.values() if (found := right(element)) is not None]

    return Code(run, _any_fails(codes))


def _filter_projection(node: Tree, at_scope: bool) -> Code:  # noqa: FBT001
    base, right, condition = node["children"]
    codes = [_compile(base, at_scope=at_scope), _compile(right, at_scope=False), _compile(condition, at_scope=False)]
    base_of, right_of, holds = (code.run for code in codes)

    def run(value: Any) -> list[Any] | None:
        base = base_of(value)
        if not isinstance(base, list):
            return None
        return [found for element in base if is_true(holds(element)) and (found := right_of(element)) is not None]

    return Code(run, _any_fails(codes))


def _flatten(node: Tree, at_scope: bool) -> Code:  # noqa: FBT001
    (code,) = _children(node, at_scope)
    inner = code.run

    def run(value: Any) -> list[Any] | None:
        base = inner(value)
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


# --- Functions ---------------------------------------------------------------------------------------------------------------

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


def _function(node: Tree, at_scope: bool) -> Code:  # noqa: FBT001
    name = node["value"]
    codes = [_argument(child, at_scope) for child in node["children"]]
    runs = [code.run for code in codes]
    if name == "not_null":
        return Code(_not_null(runs), _any_fails(codes))
    makers: list[tuple[Collection[str], Callable[..., Run]]] = [(_UNARY, _unary), (_BINARY, _binary), (_OF_ELEMENTS, _of_elements)]
    for names, make in makers:
        if name in names:
            return Code(make(name, *runs), can_fail=True)
    if name == "join":
        return Code(_join(*runs), can_fail=True)
    if name == "merge":
        return Code(_merge(runs), can_fail=True)
    return Code(lambda value: _call(name, [run(value) for run in runs]), can_fail=True)


def _argument(node: Tree, at_scope: bool) -> Code:  # noqa: FBT001
    if node["type"] != "expref":
        return _compile(node, at_scope=at_scope)
    # What the library's `map`, `sort_by` and the like take: it calls our closure for each element.
    inner = _compile(node["children"][0], at_scope=False)
    return _constant(jmespath.visitor._Expression(inner.run, _Caller()))  # noqa: SLF001 - the library looks for this very name


class _Caller:
    """In an interpreter's place: its nodes are closures."""

    @staticmethod
    def visit(run: Run, value: Any) -> Any:
        return run(value)


def _unary(name: str, argument: Run) -> Run:
    types, function = _UNARY[name]

    def run(value: Any) -> Any:
        found = argument(value)
        return function(found) if type(found) in types else _call(name, [found])

    return run


def _binary(name: str, first: Run, second: Run) -> Run:
    types, second_types, function = _BINARY[name]

    def run(value: Any) -> Any:
        a, b = first(value), second(value)
        return function(a, b) if type(a) in types and type(b) in second_types else _call(name, [a, b])

    return run


def _of_elements(name: str, argument: Run) -> Run:
    element_types, function = _OF_ELEMENTS[name]

    def run(value: Any) -> Any:
        found = argument(value)
        if type(found) is list:
            types = set(map(type, found))
            if any(types <= allowed for allowed in element_types):
                return function(found)
        return _call(name, [found])

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
        return _call("join", [separator, texts])

    return run


def _merge(arguments: list[Run]) -> Run:
    def run(value: Any) -> Any:
        found = [argument(value) for argument in arguments]
        if not _OBJECTS.issuperset(map(type, found)):
            return _call("merge", found)
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


_MAKERS: dict[str, Callable[[Tree, bool], Code]] = {
    "and_expression": _and,
    "comparator": _comparator,
    "current": _current,
    "filter_projection": _filter_projection,
    "flatten": _flatten,
    "function_expression": _function,
    "identity": _current,
    "index": _index,
    "index_expression": _chain,
    "literal": _literal,
    "multi_select_dict": _multi_select_dict,
    "multi_select_list": _multi_select_list,
    "not_expression": _not,
    "or_expression": _or,
    "pipe": _chain,
    "projection": _projection,
    "slice": _slice,
    "subexpression": _chain,
    "value_projection": _value_projection,
}


# --- Paths -------------------------------------------------------------------------------------------------------------------


def _scope_path(path: Path) -> Run:
    """A function that follows `path` from the scope, specialised by its length.

    A subscript equals JMESPath's field on every JSON value as long as the step is a text: on anything but an object it raises,
    and that is null. An index is not so simple (a text can be indexed too), so paths with one take the general way.
    """
    root, steps = str(path[0]), path[1:]
    if root == "item" and 1 <= len(steps) <= 4 and all(isinstance(step, str) for step in steps):
        return _item_path(steps)
    get_root = attrgetter(root)
    if not steps:
        return get_root
    follow = _value_path(steps)
    return lambda scope: follow(get_root(scope))


def _item_path(steps: Path) -> Run:
    """One to four fields of `item`: what nearly every rule asks for."""
    a, b, c, d = (*steps, "", "", "")[:4]

    def one(scope: Scope) -> Any:
        try:
            return scope.item[a]  # type: ignore[index]
        except (KeyError, TypeError):
            return None

    def two(scope: Scope) -> Any:
        try:
            return scope.item[a][b]  # type: ignore[index]
        except (KeyError, TypeError):
            return None

    def three(scope: Scope) -> Any:
        try:
            return scope.item[a][b][c]  # type: ignore[index]
        except (KeyError, TypeError):
            return None

    def four(scope: Scope) -> Any:
        try:
            return scope.item[a][b][c][d]  # type: ignore[index]
        except (KeyError, TypeError):
            return None

    return (one, two, three, four)[len(steps) - 1]


def _value_path(steps: Path) -> Run:
    """A function that follows `steps` from a JSON value."""
    if len(steps) == 1 and isinstance(steps[0], str):
        field = steps[0]

        def one(value: Any) -> Any:
            try:
                return value[field]
            except (KeyError, TypeError):
                return None

        return one

    typed_steps = tuple((step, dict if isinstance(step, str) else list) for step in steps)

    def follow(value: Any) -> Any:
        for step, container in typed_steps:
            if not isinstance(value, container):
                return None
            try:
                value = value[step]  # type: ignore[index]  # The step fits its container.
            except LookupError:
                return None
        return value

    return follow
