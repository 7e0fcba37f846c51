"""What a part of an expression is compiled to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Tree = dict[str, Any]
"""A node of jmespath's syntax tree: its type, its children, and for most types a value."""
Run = Callable[[Any], Any]
"""Works on a JSON value, or at the top of an expression on a Scope. Raises any of jmespath's errors, and Python's."""


class Code(NamedTuple):
    """A closure, and whether it can raise on data that does not fit: who calls one that cannot needs no guard."""

    run: Run
    can_fail: bool


def constant(value: object) -> Code:
    """What gives `value`, whatever the data."""
    return Code(lambda _: value, can_fail=False)


def any_fails(codes: Sequence[Code]) -> bool:
    """Whether what runs all of them can raise."""
    return any(code.can_fail for code in codes)
