"""Expressions of the rules: JMESPath over a scope, plain paths compiled to Python closures.

Nearly all expressions of real rules are plain paths (`item.vehicle.position.latitude`). jmespath walks its syntax tree for each
of them; a closure that subscripts is 20 to 50 times faster and gives the same result (tests/bridge/core/test_expression.py).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from operator import attrgetter
from typing import Any

import jmespath.exceptions
import jmespath.functions
import jmespath.lexer
import jmespath.parser
import jmespath.visitor
import msgspec

from bridge.core.scope import ROOTS, VALUE_ROOTS, Scope
from shared.errors import ConfigurationError, DistributaryError

MAX_EXPRESSION_CHARACTERS = 1_000
MAX_EXPRESSION_DEPTH = 50

Evaluate = Callable[[Scope], Any]

# What jmespath raises on data that an expression does not fit. Its functions are written for clean data: beside its own errors
# come those of sorting mixed types, of comparing a text with a number, of a slice with step 0, of `ceil` of infinity.
_EVALUATION_ERRORS = (
    jmespath.exceptions.JMESPathError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_FUNCTIONS = jmespath.functions.Functions.FUNCTION_TABLE
_WORDS_OF_OTHER_LANGUAGES = {"and": "&&", "or": "||", "not": "!"}


class EvaluationError(DistributaryError, ValueError):
    """An expression or template does not fit this item: the producer's fault or the rule's; the same item fails again."""


class Expression(msgspec.Struct, frozen=True):
    """A compiled expression. `evaluate` raises EvaluationError where the data does not fit."""

    text: str
    evaluate: Evaluate
    roots: frozenset[str]
    """The names of the scope that it uses."""
    path: tuple[str | int, ...] | None
    """Where it is a plain path: the root's name, then field names and array indices."""

    @property
    def needs_value(self) -> bool:
        """Whether the record's value must be decoded for it."""
        return not self.roots.isdisjoint(VALUE_ROOTS)


def compile_expression(text: str) -> Expression:
    """Compile `text`; raise ConfigurationError with every problem, each saying at which column (from 1) and what to write instead."""
    tree = _parse(text)
    problems = [*_unknown_functions(tree, text), *_unknown_roots(tree, text)]
    if _depth(tree) > MAX_EXPRESSION_DEPTH:
        problems.append(f"is nested more than {MAX_EXPRESSION_DEPTH} levels deep")
    if problems:
        raise ConfigurationError(problems)
    path = _plain_path(tree)
    if path is not None:
        return Expression(text, _path_closure(path), frozenset({str(path[0])}), path)
    return Expression(text, _jmespath_closure(tree, text), frozenset(_roots(tree)), None)


def is_true(value: object) -> bool:
    """JMESPath's truth: false are null, false, and empty texts, arrays and objects. 0 is true."""
    return bool(value) or (not isinstance(value, bool) and isinstance(value, int | float))


def describe(value: object) -> str:
    """What `value` is, in JSON's words and short, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'the text "{_short(value)}"'
    if isinstance(value, list):
        return f"an array of {len(value)}"
    return f"the number {_short(_digits(value))}" if isinstance(value, int | float) else "an object"


def _digits(number: float) -> str:
    try:
        return repr(number)
    except ValueError:
        return "with more digits than are ever written"


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


# --- Parsing -----------------------------------------------------------------------------------------------------------------


def _parse(text: str) -> Any:
    """The syntax tree, as jmespath's own parser makes it."""
    if not text.strip():
        raise ConfigurationError(["is empty; write an expression such as item.id"])
    if len(text) > MAX_EXPRESSION_CHARACTERS:
        raise ConfigurationError([f"is longer than {MAX_EXPRESSION_CHARACTERS} characters"])
    try:
        with warnings.catch_warnings():
            # `text` in backticks that is no JSON: jmespath guesses what was meant, and says so in a warning.
            warnings.simplefilter("error", PendingDeprecationWarning)
            return jmespath.parser.Parser().parse(text).parsed
    except jmespath.exceptions.LexerError as error:
        raise ConfigurationError([_lexer_problem(error, text)]) from None
    except jmespath.exceptions.IncompleteExpressionError:
        raise ConfigurationError([f"ends too early, at column {len(text) + 1}: something is missing there"]) from None
    except jmespath.exceptions.ParseError as error:
        raise ConfigurationError([_parser_problem(error, text)]) from None
    except PendingDeprecationWarning:
        raise ConfigurationError(["has text between backticks that is not JSON; write a text as 'text', a number as `5`"]) from None
    except RecursionError:
        raise ConfigurationError([f"is nested more than {MAX_EXPRESSION_DEPTH} levels deep"]) from None
    except (jmespath.exceptions.JMESPathError, LookupError, TypeError, ValueError):
        raise ConfigurationError(["is not a JMESPath expression"]) from None


def _lexer_problem(error: jmespath.exceptions.LexerError, text: str) -> str:
    position = int(error.lexer_position)
    found = text[position : position + 1]
    where = f"at column {position + 1}"
    if "Unclosed" in str(error.message):
        return f"has a {found} {where} that is not closed"
    if found == "=":
        return f"has a single = {where}; write == to compare"
    if found == "-":
        return f'has a - {where}; a name that contains one is put in double quotes: item."route-id"'
    if found == "$":
        return f"has a $ {where}; expressions begin with a name, such as item.id"
    return f'has "{found}" {where}, which means nothing there'


def _parser_problem(error: jmespath.exceptions.ParseError, text: str) -> str:
    value = error.token_value
    where = f"at column {int(error.lex_position) + 1}"
    kind = str(error.token_type).lower()
    if kind == "number":
        return f"has the number {value} {where}; write a number between backticks: `{value}`"
    if value in _WORDS_OF_OTHER_LANGUAGES:
        return f'has "{value}" {where}; write {_WORDS_OF_OTHER_LANGUAGES[value]}'
    if kind == "eof":
        return f"ends too early, at column {len(text) + 1}"
    return f'has "{value}" {where}, which is not expected there'


# --- What a tree uses --------------------------------------------------------------------------------------------------------


def _depth(tree: Any) -> int:
    """How deep `tree` is nested, without recursion: it may be deeper than Python's stack."""
    deepest = 0
    pending = [(tree, 1)]
    while pending:
        node, depth = pending.pop()
        deepest = max(deepest, depth)
        pending.extend((child, depth + 1) for child in node["children"] if isinstance(child, dict))
    return deepest


def _nodes(tree: Any) -> Iterator[Any]:
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(child for child in node["children"] if isinstance(child, dict))


def _roots(tree: Any) -> set[str]:
    """The names of the scope that `tree` looks up; all of them where it takes the scope as a whole."""
    found: set[str] = set()
    pending = [tree]
    while pending:
        node = pending.pop()
        kind, children = node["type"], node["children"]
        if kind == "field":
            found.add(node["value"])
        elif kind in {"current", "identity"}:
            found.update(ROOTS)
        elif kind in {"subexpression", "pipe", "index_expression"}:
            # The first part works on the scope, the others on what it gives.
            # `@` first gives the scope again.
            parts = [child for child in children if child["type"] not in {"current", "identity"}]
            pending.append((parts or children)[0])
        elif kind in {"projection", "value_projection", "filter_projection"}:
            pending.append(children[0])
        elif kind != "expref":
            pending.extend(child for child in children if isinstance(child, dict))
    return found


def _unknown_roots(tree: Any, text: str) -> Iterator[str]:
    for name in sorted(_roots(tree).difference(ROOTS)):
        column, quoted, followed = _place_of(name, text)
        yield f'uses "{name}" at column {column}, which is no name here{_instead_of(name, quoted=quoted, followed=followed)}'


def _instead_of(name: str, *, quoted: bool, followed: bool) -> str:
    close = get_close_matches(name, ROOTS, n=1, cutoff=0.75)
    if quoted and not followed:
        return f"; a text is written '{name}', with single quotes"
    if name in {"true", "false", "null"}:
        return f"; write `{name}`, between backticks"
    if name in _WORDS_OF_OTHER_LANGUAGES:
        return f"; write {_WORDS_OF_OTHER_LANGUAGES[name]}"
    if close:
        return f'; did you mean "{close[0]}"?'
    shown = name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else f'"{name}"'
    return f"; did you mean item.{shown}? Names are {', '.join(ROOTS)}"


def _place_of(name: str, text: str) -> tuple[int, bool, bool]:
    """The column of `name` where it stands at the beginning of a path, whether it is quoted there, and whether a path follows."""
    tokens = list(jmespath.lexer.Lexer().tokenize(text))
    for number, token in enumerate(tokens):
        is_name = token["type"] in {"unquoted_identifier", "quoted_identifier"} and token["value"] == name
        if is_name and (number == 0 or tokens[number - 1]["type"] != "dot"):
            return token["start"] + 1, token["type"] == "quoted_identifier", tokens[number + 1]["type"] == "dot"
    return 1, False, False


def _unknown_functions(tree: Any, text: str) -> Iterator[str]:
    """The library itself finds out when the function is called: with the first record."""
    for node in _nodes(tree):
        if node["type"] != "function_expression":
            continue
        name, given = node["value"], len(node["children"])
        where = f"at column {_place_of(name, text)[0]}"
        if name not in _FUNCTIONS:
            close = get_close_matches(name, _FUNCTIONS, n=1)
            yield f"calls {name}() {where}, which is no JMESPath function" + (f"; did you mean {close[0]}()?" if close else "")
            continue
        signature = _FUNCTIONS[name]["signature"]
        expected = len(signature)
        is_variadic = bool(signature) and signature[-1].get("variadic", False)
        if given < expected or (given > expected and not is_variadic):
            at_least = "at least " if is_variadic else ""
            yield f"calls {name}() {where} with {given} arguments; it takes {at_least}{expected}"


# --- Evaluating --------------------------------------------------------------------------------------------------------------


def _plain_path(tree: Any) -> tuple[str | int, ...] | None:
    """The steps of a path that only names fields and indices and begins with a field; None for anything else."""
    steps = _steps(tree)
    return steps if steps and isinstance(steps[0], str) else None


def _steps(node: Any) -> tuple[str | int, ...] | None:
    """The steps below `node`. They nest in both directions: `a.b[0]` is (a, (b, 0)), `a[0].b` is ((a, 0), b)."""
    if node["type"] in {"field", "index"}:
        return (node["value"],)
    if node["type"] not in {"subexpression", "index_expression"}:
        return None
    found: tuple[str | int, ...] = ()
    for child in node["children"]:
        steps = _steps(child)
        if steps is None:
            return None
        found += steps
    return found


def _path_closure(path: tuple[str | int, ...]) -> Evaluate:
    """A function that follows `path`, specialised by its length.

    A subscript equals JMESPath's field on every JSON value as long as the step is a text: on anything but an object it raises,
    and that is null. An index is not so simple (a text can be indexed too), so paths with one take the general way.
    """
    root, steps = str(path[0]), path[1:]
    if root == "item" and 1 <= len(steps) <= 4 and all(isinstance(step, str) for step in steps):
        return _item_path_closure(steps)
    get_root = attrgetter(root)
    if not steps:
        return get_root

    typed_steps = tuple((step, dict if isinstance(step, str) else list) for step in steps)

    def follow(scope: Scope) -> Any:
        value: Any = get_root(scope)
        for step, container in typed_steps:
            if not isinstance(value, container):
                return None
            try:
                value = value[step]  # type: ignore[index]  # The step fits its container.
            except LookupError:
                return None
        return value

    return follow


def _item_path_closure(steps: tuple[str | int, ...]) -> Evaluate:
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


def _jmespath_closure(tree: Any, text: str) -> Evaluate:
    # One interpreter for all items: a new one each time, as `jmespath.search` makes it, would look up its methods again.
    visit = jmespath.visitor.TreeInterpreter().visit

    def evaluate(scope: Scope) -> Any:
        try:
            return visit(tree, scope.names())
        except _EVALUATION_ERRORS as error:
            reason = str(error).partition("\n")[0][:200]
            msg = f"{text} cannot be worked out: {reason or type(error).__name__}"
            raise EvaluationError(msg) from error

    return evaluate
