"""Our closures against jmespath itself, on generated expressions and data."""

from __future__ import annotations

import inspect
import os
import re
from typing import Any

import jmespath
import jmespath.ast
import jmespath.parser
import jmespath.visitor
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.core.closures.compile import compile_tree_over_value
from bridge.core.closures.functions import MAX_JOINED_CHARACTERS
from bridge.core.expression import EvaluationError, compile_expression
from bridge.core.record import Record
from bridge.core.scope import Scope
from shared.errors import ConfigurationError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "500"))

FIELDS = st.sampled_from(["a", "b", "c", "n", "s", '"x y"', '""'])
LITERALS = st.sampled_from(
    [
        "`0`",
        "`1`",
        "`-1`",
        "`1.5`",
        "`0.0`",
        "`true`",
        "`false`",
        "`null`",
        "`[]`",
        "`{}`",
        "`[1]`",
        '`{"a": 1}`',
        "''",
        "'a'",
        "'12'",
        "'é'",
    ]
)
COMPARATORS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
UNARY = (
    "abs", "avg", "ceil", "floor", "keys", "length", "max", "min", "not_null", "reverse", "sort", "sum", "to_array", "to_number",
    "to_string", "type", "values",
)  # fmt: skip
BINARY = ("contains", "ends_with", "starts_with", "join", "merge", "not_null")
BY = ("sort_by", "max_by", "min_by")


def expressions(roots: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """JMESPath's grammar, with brackets around what has operators."""
    anything = st.deferred(lambda: st.one_of(roots, roots, LITERALS, expression))
    inner = st.deferred(lambda: inner_expressions)
    two = st.tuples(anything, anything)
    expression = st.one_of(
        st.tuples(anything, FIELDS).map(".".join),
        st.tuples(anything, inner).map(" | ".join),
        st.tuples(anything, st.sampled_from(["[0]", "[-1]", "[5]", "[1:]", "[::-1]", "[:2:1]", "[*]", "[]", ".*", "[*].a", "[].b"])).map(
            "".join
        ),
        st.tuples(anything, inner).map(lambda parts: f"{parts[0]}[?{parts[1]}]"),
        st.tuples(anything, inner).map(lambda parts: f"{parts[0]}[*].[{parts[1]}]"),
        st.tuples(anything, inner).map(lambda parts: f"{parts[0]}.{{p: {parts[1]}}}"),
        st.tuples(anything, COMPARATORS, anything).map(" ".join),
        two.map(" && ".join),
        two.map(" || ".join),
        anything.map(lambda text: f"!{text}"),
        anything.map(lambda text: f"({text})"),
        st.lists(anything, min_size=1, max_size=3).map(lambda texts: f"[{', '.join(texts)}]"),
        two.map(lambda texts: f"{{x: {texts[0]}, y: {texts[1]}}}"),
        st.tuples(st.sampled_from(UNARY), anything).map(lambda parts: f"{parts[0]}({parts[1]})"),
        st.tuples(st.sampled_from(BINARY), anything, anything).map(lambda parts: f"{parts[0]}({parts[1]}, {parts[2]})"),
        st.tuples(st.sampled_from(BY), anything, inner).map(lambda parts: f"{parts[0]}({parts[1]}, &{parts[2]})"),
        st.tuples(inner, anything).map(lambda parts: f"map(&{parts[0]}, {parts[1]})"),
    ).map(lambda text: f"({text})")
    inner_expressions = anything if roots is _VALUE_ROOTS else st.deferred(lambda: VALUE_EXPRESSIONS)
    return st.one_of(expression, anything)


_VALUE_ROOTS = st.one_of(FIELDS, st.just("@"), st.just("*"), st.just("[0]"), st.just("[*]"), st.just("[]"))
_SCOPE_ROOTS = st.sampled_from(
    ["item", "item.a", "item.b.c", "item.n", "item.s", "item.a[0]", "value", "key", "headers.h", "index", "timestamp", "@"]
)
VALUE_EXPRESSIONS = expressions(_VALUE_ROOTS)
SCOPE_EXPRESSIONS = expressions(_SCOPE_ROOTS)

NAMES = st.sampled_from(["a", "b", "c", "n", "s", "x y", ""])
SCALARS = st.sampled_from([None, True, False, 0, 1, -1, 0.0, 1.0, 1.5, 7, "", "a", "b", "12", "1.5", "é"])
JSON = st.recursive(
    SCALARS,
    lambda children: st.one_of(
        st.lists(children, max_size=4),
        st.lists(st.integers(-3, 3), max_size=4),
        st.lists(st.sampled_from(["", "a", "b"]), max_size=4),
        st.dictionaries(NAMES, children, max_size=4),
    ),
    max_leaves=16,
)
FAILED = "failed"


def exact(value: Any) -> Any:
    """Python takes 1, 1.0 and True for equal; `{}` of two orders too."""
    if isinstance(value, list):
        return [exact(part) for part in value]
    if isinstance(value, dict):
        return [(name, exact(part)) for name, part in value.items()]
    return (type(value).__name__, value)


def library(text: str, data: Any) -> Any:
    try:
        return exact(jmespath.search(text, data))
    except Exception:  # noqa: BLE001 - whatever it raises, ours must refuse too
        return FAILED


@given(VALUE_EXPRESSIONS, JSON)
@example("(a) == (b)", {"a": True, "b": 1})
@example("(a) != (b)", {"a": 0, "b": False})
@example("!(a)", {"a": 0})
@example("(a) || (b)", {"a": 0, "b": 1})
@example("(a) && (b)", {"a": 0.0, "b": 1})
@example("(a) < (b)", {"a": "a", "b": 1})
@example("(a) < (b)", {"a": True, "b": 1})
@example("contains(a, b)", {"a": [1], "b": True})
@example("contains(a, b)", {"a": "1", "b": 1})
@example("max(a)", {"a": [1, "a"]})
@example("max(a)", {"a": [1, True]})
@example("sort(a)", {"a": []})
@example("sort(a)", {"a": [True, False]})
@example("a == `true`", {"a": 1})
@example("a != `false`", {"a": 0})
@example("`1` == a", {"a": True})
@example("a == `[1]`", {"a": [True]})
@example("[?@]", [0, 1, "", "a", None])
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
def test_a_closure_over_a_value_gives_what_jmespath_gives(text: str, data: Any):
    code = compile_tree_over_value(jmespath.parser.Parser().parse(text).parsed)
    try:
        got = exact(code.run(data))
    except Exception:  # noqa: BLE001
        assert code.can_fail
        got = FAILED
    assert got == library(text, data)


@given(SCOPE_EXPRESSIONS, JSON, st.sampled_from([None, b"k"]))
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
def test_an_expression_over_a_scope_gives_what_jmespath_gives(text: str, data: Any, key: bytes | None):
    scope = Scope(Record("vehicles", 3, 12, 1_700_000_000_000, key, b"", (("h", b"1"),)))
    scope.put_value(data)
    scope.put_item(2, data)
    try:
        compiled = compile_expression(text)
    except ConfigurationError as error:
        told = error.problems
        compiled = None
    if compiled is None:
        assert all(re.search("levels deep|no name here|longer than|times the size", problem) for problem in told)
        return
    try:
        got = exact(compiled.evaluate(scope))
    except EvaluationError:
        got = FAILED
    assert got == library(text, scope.names())


def test_what_join_makes_is_bounded():
    item = {"by": "x" * 20_000, "texts": [""] * 1_000}
    scope = Scope(Record("t", 0, 0, None, None, b""))
    scope.put_value(item)
    assert len(compile_expression("join(item.by, item.texts[:10])").evaluate(scope)) == 180_000
    with pytest.raises(EvaluationError, match=str(MAX_JOINED_CHARACTERS)):
        compile_expression("join(item.by, item.texts)").evaluate(scope)


@pytest.mark.parametrize(
    "text",
    [
        " | ".join(["item", *["[@, @]"] * 10]),
        " | ".join(["item", *["[@, @][]"] * 10]),
        " | ".join(["item", *["join('', [@, @])"] * 10]),
        " | ".join(["item", *["merge({a: @}, {b: @})"] * 10]),
        "item[?" + " | ".join(["[@, @]"] * 10) + "]",
        "map(&" + " | ".join(["[@, @]"] * 10) + ", item)",
        "to_string(item)" + " | [to_string([@])]" * 8,
    ],
)
def test_an_expression_that_multiplies_its_input_is_refused(text: str):
    with pytest.raises(ConfigurationError) as caught:
        compile_expression(text)
    assert caught.value.problems == ["can make more than 1000 times the size of its input"]


def test_an_expression_of_many_parts_is_allowed():
    fields = ", ".join(f"f{number}: item.f{number}" for number in range(50))
    assert compile_expression(f"{{{fields}}}").needs_value


def test_each_kind_of_node_that_the_library_makes_is_compiled():
    made: dict[str, dict[str, Any]] = {}
    pending = [jmespath.parser.Parser().parse(text).parsed for text in EVERY_KIND]
    while pending:
        node = pending.pop()
        made[node["type"]] = node
        pending += [child for child in node["children"] if isinstance(child, dict)]
    kinds = {re.findall(r"'type': '(\w+)'|\"type\": \"(\w+)\"", inspect.getsource(each))[0] for _, each in functions_of(jmespath.ast)}
    assert {single or double for single, double in kinds} == set(made)
    for node in made.values():
        compile_tree_over_value(node)


def functions_of(module: Any) -> list[tuple[str, Any]]:
    return inspect.getmembers(module, inspect.isfunction)


EVERY_KIND = [
    "a.b[0] | @",
    "a[?b == `1` && !c || d].e",
    "a.*.b[]",
    "a[0:2]",
    "[a, b]",
    "{x: a}",
    "sort_by(a, &b)",
    "*",
]
