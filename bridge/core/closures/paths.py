"""Plain paths of fields and indices, such as `item.stops[0].id`: most of what rules ask for, and so the fastest.

JMESPath's specification, "Identifiers", "SubExpressions", "Index Expressions". What is not there is null, and so is a field of what is
no object, and an index of what is no array.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from bridge.core.closures.code import Code, Run, Tree, constant
from bridge.core.scope import Scope

Path = tuple[str | int, ...]
"""Names of fields, and indices: an index below 0 counts from the end."""


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


def path_of_scope(path: Path) -> Code:
    """What follows `path` from the scope."""
    root = path[0]
    if isinstance(root, int):  # The scope is an object.
        return constant(None)
    return Code(_from_scope(root, path[1:]), can_fail=False)


def path_of_value(path: Path) -> Code:
    """What follows `path` from a JSON value."""
    return Code(_from_value(path), can_fail=False)


def _from_scope(root: str, steps: Path) -> Run:
    """A function specialised by the path's length.

    A subscript equals JMESPath's field on every JSON value as long as the step is a text: on anything but an object it raises,
    and that is null. An index is not so simple (a text can be indexed too), so paths with one take the general way.
    """
    if root == "item" and 1 <= len(steps) <= 4 and all(isinstance(step, str) for step in steps):
        return _from_item(steps)
    get_root = attrgetter(root)
    if not steps:
        return get_root
    follow = _from_value(steps)
    return lambda scope: follow(get_root(scope))


def _from_item(steps: Path) -> Run:
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


def _from_value(steps: Path) -> Run:
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
