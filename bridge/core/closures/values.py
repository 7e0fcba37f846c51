"""What JMESPath says of JSON values where Python says something else: what is true, and what is a number."""

from __future__ import annotations

from numbers import Number


def is_true(value: object) -> bool:
    """JMESPath's truth: false are null, false, and empty texts, arrays and objects. 0 is true (specification, "Or Expressions")."""
    return True if value else not is_empty(value)


def is_empty(value: object) -> bool:
    """Of what Python takes for false, whether JMESPath does too."""
    return value is None or value is False or value in ("", [], {})


def is_number(value: object) -> bool:
    """Whether `value` is one of JSON's numbers. To Python, true and false are some, too."""
    return isinstance(value, Number) and not isinstance(value, bool)
