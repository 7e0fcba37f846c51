"""Channel templates: text with expressions in braces, such as `bus:{item.id}`.

One of the expressions may give an array: each of its elements gives a channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from bridge.core.expression import EvaluationError, Expression, compile_expression, describe
from bridge.core.scope import VALUE_ROOTS, Scope
from shared.channel import MAX_CHANNEL_BYTES, check_channel, is_segment
from shared.errors import ChannelError, ConfigurationError

MAX_TEMPLATE_CHARACTERS = 2_000
MAX_PLACEHOLDERS = 10
MAX_RENDERED = 1_000
"""Channels that one array may give."""
MAX_CACHED_NAMES = 16_384
"""Channel names that a template remembers as checked. The check costs 1 us, a look-up 0.05 us."""


class Template(msgspec.Struct, frozen=True):
    """A compiled template. `render` gives a checked channel name (a list where an expression gave an array), or raises EvaluationError."""

    text: str
    parts: tuple[str | Expression, ...]
    render: Callable[[Scope], str | list[str]]

    @property
    def is_constant(self) -> bool:
        """Whether it always gives the same channel."""
        return not any(isinstance(part, Expression) for part in self.parts)

    @property
    def meaning(self) -> str:
        """Its text, with what its expressions mean: where this is equal, so is what it gives."""
        return "\n".join([self.text, *(part.meaning for part in self.parts if isinstance(part, Expression))])

    @property
    def roots(self) -> frozenset[str]:
        """The names of the scope that it uses."""
        return frozenset[str]().union(*(part.roots for part in self.parts if isinstance(part, Expression)))

    @property
    def needs_value(self) -> bool:
        """Whether the record's value must be decoded for it."""
        return not self.roots.isdisjoint(VALUE_ROOTS)


def compile_template(text: str, named: Mapping[str, Expression] | None = None) -> Template:
    """Compile `text`, in which `named` expressions may be used; raise ConfigurationError with every problem in it."""
    if len(text) > MAX_TEMPLATE_CHARACTERS:
        raise ConfigurationError([f"is longer than {MAX_TEMPLATE_CHARACTERS} characters"])
    problems: list[str] = []
    parts: list[str | Expression] = []
    for is_expression, piece in _pieces(text):
        if not is_expression:
            parts.append(piece)
            continue
        try:
            parts.append(compile_expression(piece, named))
        except ConfigurationError as error:
            problems.extend(f"{{{piece}}} {problem}" for problem in error.problems)
    if sum(isinstance(part, Expression) for part in parts) > MAX_PLACEHOLDERS:
        problems.append(f"has more than {MAX_PLACEHOLDERS} placeholders")
    if not problems:
        # Any value that may stand in a placeholder is as good as `0` for checking the text around it.
        try:
            check_channel("".join(part if isinstance(part, str) else "0" for part in parts))
        except ChannelError as error:
            problems.append(f"cannot give a channel name: {error}")
    if problems:
        raise ConfigurationError(problems)
    return Template(text, tuple(parts), _renderer(tuple(parts)))


def _pieces(text: str) -> Iterator[tuple[bool, str]]:
    """Split `text` into (False, literal text) and (True, expression), merging neighbouring literals."""
    literal = ""
    at = 0
    while at < len(text):
        if text.startswith(("{{", "}}"), at):
            literal += text[at]
            at += 2
        elif text[at] == "}":
            raise ConfigurationError([f"has a }} at column {at + 1} that nothing opened; write }}}} for the character itself"])
        elif text[at] == "{":
            end = _end_of_placeholder(text, at)
            if literal:
                yield False, literal
                literal = ""
            yield True, text[at + 1 : end].strip()
            at = end + 1
        else:
            literal += text[at]
            at += 1
    if literal or not text:
        yield False, literal


def _end_of_placeholder(text: str, start: int) -> int:
    """The index of the brace that closes the one at `start`. Braces in quotes do not count, and JMESPath's own nest."""
    depth = 0
    quote = ""
    at = start
    while at < len(text):
        character = text[at]
        if quote:
            if character == "\\":
                at += 1
            elif character == quote:
                quote = ""
        elif character in "'\"`":
            quote = character
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    raise ConfigurationError([f"has a {{ at column {start + 1} that is not closed"])


def _renderer(parts: tuple[str | Expression, ...]) -> Callable[[Scope], str | list[str]]:
    expressions = [part for part in parts if isinstance(part, Expression)]
    if not expressions:
        name = "".join(part for part in parts if isinstance(part, str))
        return lambda _: name
    if len(expressions) == 1:
        return _one_placeholder(parts, expressions[0])
    return _many_placeholders(parts)


def _one_placeholder(parts: tuple[str | Expression, ...], expression: Expression) -> Callable[[Scope], str | list[str]]:
    at = parts.index(expression)
    before, after = "".join(map(str, parts[:at])), "".join(map(str, parts[at + 1 :]))
    evaluate = expression.evaluate
    checked: dict[str, str] = {}

    def render_one(value: Any) -> str:
        if type(value) is not str:
            value = _segment_text(expression, value)
        name = checked.get(value)
        if name is None:
            name = _checked_name(f"{before}{_segment(expression, value)}{after}")
            if len(checked) >= MAX_CACHED_NAMES:
                checked.clear()
            checked[value] = name
        return name

    def render(scope: Scope) -> str | list[str]:
        value = evaluate(scope)
        if type(value) is str and (name := checked.get(value)) is not None:
            return name
        if type(value) is list:
            return [render_one(element) for element in _elements(expression, value)]
        return render_one(value)

    return render


def _many_placeholders(parts: tuple[str | Expression, ...]) -> Callable[[Scope], str | list[str]]:
    # Not only names that passed as a whole: a segment may not contain what parts segments, so each is checked by itself.
    checked: set[str] = set()

    def join(values: list[Any]) -> str:
        texts = []
        for part, value in zip(parts, values, strict=True):
            if isinstance(part, str):
                texts.append(part)
                continue
            text = value if type(value) is str else _segment_text(part, value)
            texts.append(_segment(part, text))
        name = "".join(texts)
        if name not in checked:
            _checked_name(name)
            if len(checked) >= MAX_CACHED_NAMES:
                checked.clear()
            checked.add(name)
        return name

    def render(scope: Scope) -> str | list[str]:
        values = [part if isinstance(part, str) else part.evaluate(scope) for part in parts]
        arrays = [at for at, value in enumerate(values) if type(value) is list]
        if not arrays:
            return join(values)
        at = arrays[0]
        expression, array = parts[at], values[at]
        if len(arrays) > 1 or isinstance(expression, str) or not isinstance(array, list):
            msg = "two expressions of the template gave arrays; one of them may"
            raise EvaluationError(msg)
        return [join([*values[:at], element, *values[at + 1 :]]) for element in _elements(expression, array)]

    return render


def _elements(expression: Expression, array: list[Any]) -> list[Any]:
    if len(array) > MAX_RENDERED:
        msg = f"{{{expression.text}}} gave {describe(array)}; at most {MAX_RENDERED} channels can be made of it"
        raise EvaluationError(msg)
    return array


def _segment_text(expression: Expression, value: Any) -> str:
    """An integer's digits. What else is not a text has no place in a channel's name."""
    if type(value) is int:
        try:
            return str(value)
        except ValueError:  # More digits than Python writes.
            pass
    msg = f"{{{expression.text}}} gave {describe(value)}; a channel name needs a text or an integer"
    if value is None:
        msg += ": filter such items out with `where`, or correct the path"
    raise EvaluationError(msg)


def _segment(expression: Expression, text: str) -> str:
    if is_segment(text):
        return text
    reason = _why_no_segment(text)
    msg = f"{{{expression.text}}} gave {describe(text)}, which {reason}: it cannot be a part of a channel name"
    raise EvaluationError(msg)


def _why_no_segment(text: str) -> str:
    if not text:
        return "is empty"
    if ":" in text:
        return "contains ':' (only the template itself may)"
    culprit = next((character for character in text if not is_segment(character)), "")
    return f"contains {culprit!r}"


def _checked_name(name: str) -> str:
    if len(name) > MAX_CHANNEL_BYTES:
        msg = f"the channel name {name[:40]!r}... is {len(name)} bytes long; at most {MAX_CHANNEL_BYTES} are allowed"
        raise EvaluationError(msg)
    try:
        return check_channel(name)
    except ChannelError as error:
        raise EvaluationError(str(error)) from error
