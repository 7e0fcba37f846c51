"""Regular expressions of JSON Schema, by an engine whose time is linear in the text (docs/adr/0012-patterns-in-linear-time.md).

A pattern is somebody's own, and the text that it meets is anybody's: Python's engine takes minutes for `^(a+)+$` and thirty letters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import re2

from shared.errors import ConfigurationError

MAX_PATTERNS = 256
"""Kept compiled, the ones used last. Each may take 8 MiB, and most take some KB."""

_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|.)", re.DOTALL)
_DATA = frozenset({"const", "default", "enum", "examples"})
"""Keywords whose values are data: a `pattern` inside of them is none."""


def has_match(pattern: str, text: str) -> bool:
    """Whether `pattern` matches anywhere in `text`. Raises ConfigurationError where it is no pattern that can be checked."""
    return _compiled(pattern).search(text) is not None


def check_patterns(schema: Any) -> None:
    """Raise ConfigurationError, naming each pattern in a JSON Schema that cannot be checked in linear time."""
    patterns: list[str] = []
    by_name: list[str] = []
    has_unevaluated = False
    for node in _objects(schema):
        if isinstance(node.get("pattern"), str):
            patterns.append(node["pattern"])
        by_name += node.get("patternProperties") or ()
        has_unevaluated = has_unevaluated or "unevaluatedProperties" in node
    problems = []
    for pattern in dict.fromkeys([*patterns, *by_name]):
        try:
            _compiled(pattern)
        except ConfigurationError as error:
            problems += error.problems
    if has_unevaluated and by_name:  # The one place where the library's own matching cannot be replaced.
        problems.append("has unevaluatedProperties and patternProperties, which cannot be checked together; set check_schema: false")
    if problems:
        raise ConfigurationError(problems)


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every object in a schema but those that are data."""
    pending = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending += node
        elif isinstance(node, dict):
            yield node
            pending += (value for name, value in node.items() if name not in _DATA)


@lru_cache(maxsize=MAX_PATTERNS)
def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False  # It would write them to stderr itself.
    try:
        return re2.compile(_ESCAPE.sub(_in_re2, pattern), options)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0].decode(errors="replace") if isinstance(error, re2.error) else "it is no text"
        msg = (
            f"has the pattern {pattern[:200]!r}, which cannot be checked in bounded time: {reason[:200]}; write it without look-around, "
            "back-references and counts above 1000, or set check_schema: false"
        )
        raise ConfigurationError([msg]) from error


def _in_re2(escape: re.Match[str]) -> str:
    r"""`\u00e9`, as ECMA-262 has it, in RE2's spelling; any other escape as it is."""
    return f"\\x{{{escape[1]}}}" if escape[1] else escape[0]
