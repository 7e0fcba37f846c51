from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import jmespath
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.core.expression import EvaluationError, compile_expression, is_true
from bridge.core.record import Record
from bridge.core.scope import ROOTS, Scope
from shared.errors import ConfigurationError


def scope_of(
    item: Any = None, *, key: bytes | None = b"k", headers: tuple[tuple[str, bytes | None], ...] = (), index: int | str | None = None
) -> Scope:
    scope = Scope(Record("vehicles", 3, 12, 1_700_000_000_000, key, b"", headers))
    scope.put_value(item)
    if index is not None:
        scope.put_item(index, item)
    return scope


NAMES = st.sampled_from(["a", "b", "id", "vehicle", "x y", "", "0", "é", 'q"q', "item"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False, width=32) | st.text(max_size=3),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(NAMES, children, max_size=4),
    max_leaves=12,
)
STEPS = st.one_of(NAMES, st.integers(-4, 4))


def path_text(root: str, steps: list[str | int]) -> str:
    return root + "".join(f"[{step}]" if isinstance(step, int) else f".{json.dumps(step)}" for step in steps)


@given(st.sampled_from(ROOTS), st.lists(STEPS, max_size=6), JSON, st.sampled_from([None, b"k", b"\xff"]))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_a_plain_path_gives_what_jmespath_gives(root: str, steps: list[str | int], data: Any, key: bytes | None):
    text = path_text(root, steps)
    scope = scope_of(data, key=key, headers=(("a", b"1"), ("id", None)), index="at")
    compiled = compile_expression(text)
    assert compiled.path == (root, *steps)
    expected = jmespath.search(text, scope.names())
    got = compiled.evaluate(scope)
    assert got == expected
    assert type(got) is type(expected)


@given(st.data(), JSON)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_path_that_exists_in_the_data_is_followed_to_its_end(draw: st.DataObject, data: Any):
    steps: list[str | int] = []
    here = data
    while isinstance(here, list | dict) and here:
        step = draw.draw(st.sampled_from(range(len(here)) if isinstance(here, list) else sorted(here)))
        steps.append(step)
        here = here[step]
    got = compile_expression(path_text("item", steps)).evaluate(scope_of(data))
    assert got is here


@given(JSON)
@example(0)
@example(0.0)
@example(False)
@example({})
@settings(deadline=None, derandomize=True)
def test_truth_is_that_of_jmespath(value: Any):
    assert is_true(value) == jmespath.search("item && `true` || `false`", {"item": value})


@pytest.mark.parametrize(
    ("text", "data", "expected"),
    [
        ("length(item)", [1, 2], 2),
        ("item.a == 'x' && item.b > `5`", {"a": "x", "b": 6}, True),
        ("item[?a > `1`].a", [{"a": 1}, {"a": 2}], [2]),
        ("{id: item.id, at: timestamp}", {"id": "1"}, {"id": "1", "at": 1_700_000_000_000}),
        ("item.a || key", {}, "k"),
        ("@.item.a", {"a": 1}, 1),
        ("item.a | b", {"a": {"b": 2}}, 2),
    ],
)
def test_what_is_no_plain_path_is_jmespath(text: str, data: Any, expected: Any):
    compiled = compile_expression(text)
    assert compiled.path is None
    assert compiled.evaluate(scope_of(data)) == expected


def test_a_scope_shows_the_record():
    scope = scope_of({"a": 1}, key="schlüssel".encode(), headers=(("h", b"1"), ("h", b"2"), ("n", None), ("bad", b"\xff")), index=7)
    seen = {root: compile_expression(root).evaluate(scope) for root in ROOTS}
    assert seen == {
        "item": {"a": 1},
        "value": {"a": 1},
        "key": "schlüssel",
        "headers": {"h": "2", "n": None, "bad": None},
        "topic": "vehicles",
        "partition": 3,
        "timestamp": 1_700_000_000_000,
        "index": 7,
    }


def test_jmespath_sees_each_item_and_not_the_one_before():
    scope = scope_of([1, 2])
    compiled = compile_expression("[item, index]")
    scope.put_item(0, 1)
    assert compiled.evaluate(scope) == [1, 0]
    scope.put_item(1, 2)
    assert compiled.evaluate(scope) == [2, 1]


@pytest.mark.parametrize(
    ("text", "roots", "needs_value"),
    [
        ("item.id", {"item"}, True),
        ("key", {"key"}, False),
        ("headers.type == 'bus'", {"headers"}, False),
        ("headers.type == 'bus' && value.a", {"headers", "value"}, True),
        ("headers | item", {"headers"}, False),  # `item` there is a field of `headers`.
        ("item[?key == 'x']", {"item"}, True),
        ("sort_by(item, &topic)", {"item"}, True),
        ("@", set(ROOTS), True),
        ("'text'", set(), False),
        ("item.[key, topic]", {"item"}, True),
        ("{a: key, b: topic}", {"key", "topic"}, False),
        ("!partition", {"partition"}, False),
    ],
)
def test_what_an_expression_uses_is_known_before_it_runs(text: str, roots: set[str], needs_value: bool):
    compiled = compile_expression(text)
    assert compiled.roots == roots
    assert compiled.needs_value is needs_value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        ("item.", "at column 6"),
        ("item[", "at column 6"),
        ("((item", "at column 7"),
        ("item.a = `3`", "single = at column 8; write =="),
        ("item.a > 5", "number 5 at column 10; write a number between backticks: `5`"),
        ("item.a and item.b", 'has "and" at column 8; write &&'),
        ("item.route-id", 'at column 11; a name that contains one is put in double quotes: item."route-id"'),
        ("$.item", "has a $ at column 1"),
        ("item.a == 'x", "has a ' at column 11 that is not closed"),
        ("item ] b", 'has "]" at column 6'),
        ("item #", 'has "#" at column 6'),
        ("`x y`", "is not JSON; write a text as 'text'"),
        ("itm.id", 'uses "itm" at column 1, which is no name here; did you mean "item"?'),
        ("id", "did you mean item.id?"),
        ("item.a == b", 'uses "b" at column 11'),
        ('item.kind == "bus"', "a text is written 'bus', with single quotes"),
        ("item.a == true", "write `true`, between backticks"),
        ("lenght(item)", "calls lenght() at column 1, which is no JMESPath function; did you mean length()?"),
        ("length(item, key)", "with 2 arguments; it takes 1"),
        ("not_null()", "it takes at least 1"),
        ("&item", "has a & where no function takes an expression; it is for those that do, as in sort_by(item, &name)"),
        ("item.a & item.b", "not expected there"),
        ("[item, &item.a]", "has a & where"),
        ("to_string(&item)", "has a & where"),
        ("not_null(item, &item.a)", "has a & where"),
        ("item." + "a" * 1_000, "longer than 1000 characters"),
        ("(" * 499 + "item" + ")" * 490, "item"),
        ("!" * 900 + "item", "levels deep"),
        ("[" * 100 + "item" + "]" * 100, "levels deep"),
    ],
)
def test_a_wrong_expression_says_where_and_what_to_write(text: str, told: str):
    with pytest.raises(ConfigurationError) as caught:
        compile_expression(text)
    assert len(caught.value.problems) == 1
    assert told in caught.value.problems[0] or told == "item"


def test_every_unknown_name_is_told():
    with pytest.raises(ConfigurationError) as caught:
        compile_expression("foo.a == bar.b && sume(item)")
    assert len(caught.value.problems) == 3


@given(st.text(st.sampled_from("item.ab[]{}()?*@&|!<>=`'\",:-0$ \\\n#é"), max_size=30))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_any_text_is_compiled_or_refused_and_then_runs_or_does_not_fit(text: str):
    told: list[str] = []
    try:
        compiled = compile_expression(text)
    except ConfigurationError as error:
        told = error.problems
        compiled = None
    assert (compiled is None) == bool(told)
    if compiled is not None:
        with suppress(EvaluationError):
            compiled.evaluate(scope_of({"a": [1, "x", None], "b": {"a": "m"}}))


@pytest.mark.parametrize(
    "text", ["sum(item)", "sort(item)", "item[0] < item[1]", "item[::0]", "ceil(item[2])", "sort_by(item, &a)", "abs('x')"]
)
def test_data_that_does_not_fit_is_an_evaluation_error(text: str):
    with pytest.raises(EvaluationError, match="cannot be worked out"):
        compile_expression(text).evaluate(scope_of(["x", 1, float("inf")]))
