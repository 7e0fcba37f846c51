"""Expressions of the rules: JMESPath over a scope, parsed by jmespath, checked, and compiled to Python closures.

Where expressions have names (`expressions` in the rules), a name stands for its expression wherever a name of the scope may stand.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import jmespath.exceptions
import jmespath.functions
import jmespath.lexer
import jmespath.parser
import msgspec

from bridge.core.closures.code import Tree
from bridge.core.closures.compile import compile_tree
from bridge.core.closures.paths import steps_of
from bridge.core.closures.values import is_true
from bridge.core.scope import ROOTS, VALUE_ROOTS, Scope
from shared.errors import ConfigurationError, DistributaryError

MAX_EXPRESSION_CHARACTERS = 1_000
MAX_EXPRESSION_DEPTH = 50
MAX_EXPRESSION_NODES = 5_000
"""With the expressions that it names: each of ten that names the one before twice is a thousand of the first."""
MAX_EXPRESSION_GROWTH = 1_000
"""So many times the size of its input, at most, may an expression's value have, by its shape: `[@, @] | [@, @]` makes four of one."""

__all__ = ["EvaluationError", "Expression", "compile_expression", "constant", "describe", "is_true"]

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
    tree: Tree = {}
    """Parsed, with named expressions in the place of their names."""
    meaning: str = ""
    """Its text, and those of the named expressions that it uses: where this is equal, so is what it gives."""
    growth: int = 1
    """So many times the size of its input, at most, has what it gives, by its shape."""

    @property
    def needs_value(self) -> bool:
        """Whether the record's value must be decoded for it."""
        return not self.roots.isdisjoint(VALUE_ROOTS)


def compile_expression(text: str, named: Mapping[str, Expression] | None = None) -> Expression:
    """Compile `text`; raise ConfigurationError with every problem, each saying at which column (from 1) and what to write instead.

    A name of `named` stands for its expression. Names are those of no root.
    """
    named = named or {}
    tree = _parse(text)
    _check_depth(tree)
    problems = [*_unknown_functions(tree, text), *_misplaced_references(tree), *_unknown_roots(tree, text, named)]
    if problems:
        raise ConfigurationError(problems)
    used = sorted(_roots(tree).intersection(named))
    if used:
        tree = _with_named(tree, named)
        _check_depth(tree, f", with {', '.join(used)} in place")
    if sum(1 for _ in _nodes(tree)) > MAX_EXPRESSION_NODES:
        raise ConfigurationError([f"has more than {MAX_EXPRESSION_NODES} parts, with {', '.join(used)} in place"])
    growth = _growth(tree, 1)
    if growth > MAX_EXPRESSION_GROWTH:
        raise ConfigurationError([f"can make more than {MAX_EXPRESSION_GROWTH} times the size of its input"])
    meaning = "\n".join([text, *(f"{name}: {named[name].meaning}" for name in used)])
    return Expression(text, _evaluator(tree, text), frozenset(_roots(tree)), _plain_path(tree), tree, meaning, growth)


def constant(value: Any) -> Expression:
    """An expression that gives `value`, a JSON value, whatever the item."""
    text = f"`{msgspec.json.encode(value).decode()}`"
    return Expression(text, lambda _: value, frozenset(), None, {"type": "literal", "value": value, "children": []}, text, 0)


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


def _check_depth(tree: Any, named: str = "") -> None:
    if _depth(tree) > MAX_EXPRESSION_DEPTH:
        raise ConfigurationError([f"is nested more than {MAX_EXPRESSION_DEPTH} levels deep{named}"])


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


def _unknown_roots(tree: Any, text: str, named: Mapping[str, Expression]) -> Iterator[str]:
    names = [*ROOTS, *named]
    for name in sorted(_roots(tree).difference(names)):
        column, quoted, followed = _place_of(name, text)
        yield f'uses "{name}" at column {column}, which is no name here{_instead_of(name, names, quoted=quoted, followed=followed)}'


def _instead_of(name: str, names: list[str], *, quoted: bool, followed: bool) -> str:
    close = get_close_matches(name, names, n=1, cutoff=0.75)
    if quoted and not followed:
        return f"; a text is written '{name}', with single quotes"
    if name in {"true", "false", "null"}:
        return f"; write `{name}`, between backticks"
    if name in _WORDS_OF_OTHER_LANGUAGES:
        return f"; write {_WORDS_OF_OTHER_LANGUAGES[name]}"
    if close:
        return f'; did you mean "{close[0]}"?'
    shown = name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else f'"{name}"'
    return f"; did you mean item.{shown}? Names are {', '.join(names[:30])}"


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


def _misplaced_references(tree: Any) -> Iterator[str]:
    """`&expression` is for the functions that call it. As a value it is nothing that JSON can say, and jmespath finds that out nowhere."""
    parents = [{"type": "", "children": [tree]}, *_nodes(tree)]
    for parent in parents:
        for number, child in enumerate(parent["children"]):
            if isinstance(child, dict) and child["type"] == "expref" and not _takes_reference(parent, number):
                yield "has a & where no function takes an expression; it is for those that do, as in sort_by(item, &name); `and` is &&"
                return


def _takes_reference(node: Any, number: int) -> bool:
    """Whether `node` is a call of a function whose argument with this number is an expression (or of one that is not known)."""
    if node["type"] != "function_expression":
        return False
    signature = _FUNCTIONS.get(node["value"], {}).get("signature")
    return signature is None or (number < len(signature) and "expref" in signature[number]["types"])


# --- Evaluating --------------------------------------------------------------------------------------------------------------


def _with_named(node: Any, named: Mapping[str, Expression]) -> Any:
    """`node`, which works on the scope, with named expressions in the place of their names."""
    kind, children = node["type"], node["children"]
    if kind == "field":
        return named[node["value"]].tree if node["value"] in named else node
    if kind in {"subexpression", "pipe", "index_expression"}:
        # As `_roots` has it: what follows `@` works on the scope too.
        parts = [child for child in children if child["type"] not in {"current", "identity"}] or children[:1]
        first = _with_named(parts[0], named)
        return {**node, "children": [first, *parts[1:]]} if len(parts) > 1 else first
    if kind in {"projection", "value_projection", "filter_projection"}:
        return {**node, "children": [_with_named(children[0], named), *children[1:]]}
    if kind in {"expref", "literal", "slice"}:
        return node
    return {**node, "children": [_with_named(child, named) if isinstance(child, dict) else child for child in children]}


def _growth(node: Any, size: int) -> int:
    """How many times the scope's size what `node` gives can be where its input is `size` times so large; or what is inside of it.

    A bound: no part of an expression can combine its input with itself but by naming it several times; `join`, which can, is bounded when
    it runs. Beyond the allowed bound the count stops.
    """
    if size > MAX_EXPRESSION_GROWTH:
        return size
    kind, children = node["type"], node["children"]
    function = node["value"] if kind == "function_expression" else ""
    if function == "map":  # As a projection, the other way round.
        kind, children = "projection", [children[1], children[0]]
    if kind in {"subexpression", "pipe", "index_expression", "projection", "value_projection"}:
        for child in children:
            size = _growth(child, size)
        return size
    if kind == "filter_projection":
        base = _growth(children[0], size)
        return max(_growth(children[1], base), _growth(children[2], base))
    of_children = [_growth(child, size) for child in children if isinstance(child, dict)]
    if kind in {"multi_select_list", "multi_select_dict"} or function in {"merge", "join"}:
        return sum(of_children)
    return max([size, *of_children]) * (_ESCAPED if function == "to_string" else 1)


_ESCAPED = 3
"""jmespath writes `é`, two bytes, as six: \\u00e9. Quotes within quotes double."""


def _plain_path(tree: Any) -> tuple[str | int, ...] | None:
    """The steps of a path that only names fields and indices and begins with a field; None for anything else."""
    steps = steps_of(tree)
    return steps if steps and isinstance(steps[0], str) else None


def _evaluator(tree: Any, text: str) -> Evaluate:
    code = compile_tree(tree)
    run = code.run
    if not code.can_fail:
        return run

    def evaluate(scope: Scope) -> Any:
        try:
            return run(scope)
        except _EVALUATION_ERRORS as error:
            reason = str(error).partition("\n")[0][:200]
            msg = f"{text} cannot be worked out: {reason or type(error).__name__}"
            raise EvaluationError(msg) from error

    return evaluate
