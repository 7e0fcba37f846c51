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

_ESCAPE = re.compile(
    r"""\\(?: u(?P<high>d[89ab][0-9a-f]{2})\\u(?P<low>d[c-f][0-9a-f]{2}) | u(?P<unit>[0-9a-f]{4}) | u\{(?P<point>[0-9a-f]{1,6})\} | . )""",
    re.DOTALL | re.VERBOSE | re.IGNORECASE,
)
_DATA = frozenset({"const", "default", "enum", "examples"})
"""Keywords whose values are data: a `pattern` inside of them is none."""
_NAMES = frozenset({"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"})
"""Keywords whose values are schemas by name, or by pattern: a `default` among the names is no keyword."""


def has_match(pattern: str, text: str) -> bool:
    """Whether `pattern` matches anywhere in `text`. Raises ConfigurationError where it is no pattern that can be checked."""
    return _compiled(pattern).search(text) is not None


def check_patterns(schema: Any) -> None:
    """Raise ConfigurationError, naming each pattern in a JSON Schema that cannot be checked in linear time."""
    patterns: list[str] = []
    by_name: list[str] = []
    for node in _objects(schema):
        if isinstance(node.get("pattern"), str):
            patterns.append(node["pattern"])
        by_name += node.get("patternProperties") or ()
    problems = []
    for pattern in dict.fromkeys([*patterns, *by_name]):
        try:
            _compiled(pattern)
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(problems)


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema that is an object, and what may be one; not what is data."""
    pending = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending += node
        elif isinstance(node, dict):
            yield node
            for name, value in node.items():
                if name in _NAMES and isinstance(value, dict):
                    pending += value.values()
                elif name not in _DATA:
                    pending.append(value)


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
    r"""`\u00e9`, a pair of surrogates, or `\u{1f600}`, as ECMA-262 has them, in RE2's spelling; any other escape as it is."""
    found = escape.groupdict(default="")
    if found["high"]:
        pair = 0x10000 + (int(found["high"], 16) - 0xD800) * 0x400 + int(found["low"], 16) - 0xDC00
        return f"\\x{{{pair:x}}}"
    number = found["unit"] or found["point"]
    return f"\\x{{{number}}}" if number else escape[0]
