from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core import template as module
from bridge.core.expression import EvaluationError
from bridge.core.record import Record
from bridge.core.scope import Scope
from bridge.core.template import compile_template
from shared.channel import check_channel, is_segment
from shared.errors import ConfigurationError


def render(template: str, item: Any) -> str | list[str]:
    scope = Scope(Record("t", 0, 0, None, None, b""))
    scope.put_value(item)
    return compile_template(template).render(scope)


@pytest.mark.parametrize(
    ("template", "item", "channel"),
    [
        ("feed", None, "feed"),
        ("bus:{item.id}", {"id": "1430"}, "bus:1430"),
        ("bus:{item.id}", {"id": 1430}, "bus:1430"),
        ("bus:{ item.id }:x", {"id": "a"}, "bus:a:x"),
        ("{item.a}:{item.b}", {"a": "r", "b": -7}, "r:-7"),
        ("bus:{item.id || 'none'}", {}, "bus:none"),
        ("bus:{item.{a: b}.a}", {"b": "nested"}, "bus:nested"),
        ("bus:{item.id == '}' && 'brace' || 'other'}", {"id": "}"}, "bus:brace"),
        ("{topic}", None, "t"),
    ],
)
def test_a_template_gives_a_channel(template: str, item: Any, channel: str):
    assert render(template, item) == channel


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "gave null; a channel name needs a text or an integer: filter such items out with `where`"),
        (True, "gave true;"),
        (1.0, "gave the number 1.0;"),
        ([["a"]], "gave an array of 1;"),
        (["a", None], "gave null;"),
        (["a", "b:c"], "contains ':'"),
        (["a"] * 1_001, "gave an array of 1001; at most 1000"),
        ({"a": 1}, "gave an object;"),
        ("", "is empty"),
        ("a:b", "contains ':' (only the template itself may)"),
        ("a b", "contains ' '"),
        ("a\n", "contains '\\n'"),
        ("a*", "contains '*'"),
        ("{x}", "contains '{'"),
        ("é", "contains 'é'"),
        ("x" * 300, "is 304 bytes long"),
    ],
)
@pytest.mark.parametrize("template", ["bus:{item.id}", "{topic}_a:{item.id}"])
def test_hostile_data_makes_no_channel(template: str, value: Any, told: str):
    with pytest.raises(EvaluationError) as caught:
        render(template, {"id": value})
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("template", "item", "channels"),
    [
        ("stop:{item.stops}", {"stops": ["a", 5]}, ["stop:a", "stop:5"]),
        ("stop:{item.stops[].id}", {"stops": [{"id": "a"}, {"id": "b"}]}, ["stop:a", "stop:b"]),
        ("{item.line}:{item.stops}:x", {"line": 7, "stops": ["a", "b"]}, ["7:a:x", "7:b:x"]),
        ("stop:{item.stops}", {"stops": []}, []),
    ],
)
def test_an_array_gives_a_channel_for_each_element(template: str, item: Any, channels: list[str]):
    assert render(template, item) == channels


def test_of_two_arrays_no_product_is_made():
    with pytest.raises(EvaluationError, match="two expressions of the template gave arrays"):
        render("{item.a}:{item.b}", {"a": ["x"], "b": ["y"]})


def test_a_number_with_more_digits_than_python_writes_makes_no_channel():
    with pytest.raises(EvaluationError, match="gave the number"):
        render("bus:{item}", 10**5_000)


def test_a_name_may_not_begin_with_punctuation_from_data():
    with pytest.raises(EvaluationError, match="must start with"):
        render("{item}", "-x")


def test_a_value_equal_to_one_seen_before_is_checked_by_its_own_type():
    template = compile_template("bus:{item}")
    scope = Scope(Record("t", 0, 0, None, None, b""))
    scope.put_value(1)
    assert template.render(scope) == "bus:1"
    scope.put_value(True)
    with pytest.raises(EvaluationError, match="gave true"):
        template.render(scope)
    scope.put_value(1.0)
    with pytest.raises(EvaluationError, match=r"gave the number 1\.0"):
        template.render(scope)


def test_segments_of_two_placeholders_are_checked_each_by_itself():
    template = compile_template("{item.a}:{item.b}")
    scope = Scope(Record("t", 0, 0, None, None, b""))
    scope.put_value({"a": "x", "b": "y"})
    assert template.render(scope) == "x:y"
    for a, b in (("x:y", ""), ("", "x:y"), ("x:y", "z")):
        scope.put_value({"a": a, "b": b})
        with pytest.raises(EvaluationError):
            template.render(scope)


@pytest.mark.parametrize("text", ["c:{item}", "c:{item}:{topic}"])
def test_more_names_than_are_remembered_are_still_right(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_CACHED_NAMES", 8)
    template = compile_template(text)
    scope = Scope(Record("t", 0, 0, None, None, b""))
    end = ":t" if text.endswith("}:{topic}") else ""
    for number in [*range(20), 0, 5]:
        scope.put_value(number)
        assert template.render(scope) == f"c:{number}{end}"
    caches = list(caches_of(template.render))
    assert caches
    assert all(len(cache) <= 8 for cache in caches)


def caches_of(function: Any) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        if isinstance(cell.cell_contents, dict | set):
            yield cell.cell_contents
        elif callable(cell.cell_contents) and getattr(cell.cell_contents, "__module__", "") == module.__name__:
            yield from caches_of(cell.cell_contents)


@given(st.one_of(st.text(), st.integers(), st.none(), st.booleans(), st.floats(), st.binary().map(lambda data: data.decode("latin-1"))))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_what_comes_out_is_a_channel_of_the_templates_namespace(value: Any):
    try:
        name = render("bus:{item}", value)
    except EvaluationError:
        assert not (isinstance(value, str) and is_segment(value) and len(value) < 250)
        return
    assert isinstance(name, str)
    assert check_channel(name) == f"bus:{value}"
    assert name.count(":") == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must not be empty"),
        ("a{item.b", "has a { at column 2 that is not closed"),
        ("a}b", "has a } at column 2 that nothing opened"),
        ("a:{}", "{} is empty"),
        ("a b", "contains ' '"),
        ("a:{{x}}", "contains '{'"),
        ("x" * 256, "longer than 255 bytes"),
        ("a:{id}", '{id} uses "id" at column 1'),
        ("a:" + "{item}" * 11, "more than 10 placeholders"),
        ("x" * 2_001, "longer than 2000 characters"),
    ],
)
def test_a_wrong_template_says_why(text: str, told: str):
    with pytest.raises(ConfigurationError) as caught:
        compile_template(text)
    assert told in caught.value.problems[0]
