"""What each route makes of one record, step by step, and why it makes nothing of it.

The publications and problems come from the router itself, so they are what a bridge would make; the steps before them are evaluated once
more here, to be shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jmespath.exceptions
import jmespath.visitor
import msgspec

from bridge.core.decoding import SchemaUnavailableError
from bridge.core.draft import Draft
from bridge.core.expression import EvaluationError, Expression, is_true
from bridge.core.record import Record
from bridge.core.routing import Router
from bridge.core.ruleset import CompiledRules, Route
from bridge.core.scope import ROOTS, Scope

MAX_SHOWN_CHARACTERS = 400
MAX_OPERANDS = 8
MAX_ITEMS = 5
"""Items of a route whose steps are shown; all are counted."""

PUBLISHED = "published"
OTHER_TOPIC = "its source reads other topics"
NO_VALUE = "the record has no value (a tombstone)"
NOTHING_SPLIT = "`split` gave no items"
WHERE_FALSE = "`where` was false"
PROBLEM = "a problem"
NOTHING = "the route made nothing of it"


class Named(msgspec.Struct, frozen=True):
    """A part of an expression, and its value as JSON, shortened."""

    text: str
    value: str


class ItemSteps(msgspec.Struct, frozen=True):
    """One item on its way through a route."""

    item: str
    """As JSON, shortened."""
    index: int | str | None
    """Its place in what was split; None where nothing is."""
    where: str | None
    """What `where` gave, as JSON; None where the route has none."""
    operands: tuple[Named, ...]
    """The paths in `where`, with their values."""
    channels: tuple[Named, ...]
    """The templates and what they gave. Empty where `where` was not true."""
    is_through: bool
    """Whether `where` was true, or there is none."""
    is_failed: bool = False
    """Whether `where` could not be worked out; it tells why, then."""


class Publication(msgspec.Struct, frozen=True):
    """What would be published, and how large it is. Sizes are bytes; those of deltas None where there is none to make."""

    channel: str
    key: str | None
    payload: str
    """Shortened."""
    size: int
    vcdiff_size: int | None = None
    json_patch_size: int | None = None
    is_unchanged: bool = False
    """Equal to the channel's last one: with `only_changed` it would not be published."""
    base_size: int | None = None
    """Of the channel's last payload; None where it has none yet."""


class RouteSteps(msgspec.Struct, frozen=True):
    """What one route makes of the record."""

    route: str
    source: str
    reads_topic: bool
    outcome: str
    """One of the texts at the head of this module."""
    where_text: str | None = None
    split_text: str | None = None
    items: int = 0
    """That `split` gave; 1 without one."""
    left_out: int = 0
    """Of them, those for which `where` was false."""
    failed: int = 0
    """Of them, those for which it could not be worked out."""
    steps: tuple[ItemSteps, ...] = ()
    publications: tuple[Publication, ...] = ()
    made: int = 0
    """Publications in all; the first of them are in `publications`."""
    problems: tuple[str, ...] = ()


class Explanation(msgspec.Struct, frozen=True):
    """A record and what every route makes of it."""

    record: str
    """Its place."""
    timestamp_ms: int | None
    key: str | None
    headers: tuple[Named, ...]
    size: int | None
    """Of its value in bytes; None for a tombstone."""
    values: Mapping[str, str]
    """By format: the value as the sources that read the topic decode it, shortened; or why they cannot."""
    routes: tuple[RouteSteps, ...]

    @property
    def is_nothing(self) -> bool:
        """Whether no route makes a publication of it."""
        return not any(route.made for route in self.routes)


def explain(
    rules: CompiledRules,
    record: Record,
    *,
    shown: int = MAX_SHOWN_CHARACTERS,
    measure: Callable[[Draft, Publication], Publication] = lambda _, publication: publication,
) -> Explanation:
    """Go through all routes with `record`. `shown` is how many characters of a value are kept; `measure` fills in the sizes of deltas."""
    routes = tuple(_explain_route(rules, route, record, shown, measure) for route in rules.routes)
    reading = {route.route for route in routes if route.reads_topic}
    values: dict[str, str] = {}
    for route in rules.routes:
        decoder = route.source.decoder
        if route.name in reading and decoder.format not in values:
            values[decoder.format] = _shown_value(route, record, shown)
    return Explanation(
        record.where,
        record.timestamp_ms,
        None if record.key is None else shorten(record.key.decode(errors="backslashreplace"), shown),
        tuple(
            Named(name, "null" if value is None else shorten(value.decode(errors="backslashreplace"), shown))
            for name, value in record.headers
        ),
        None if record.value is None else len(record.value),
        values,
        routes,
    )


def drafts_of(rules: CompiledRules, route: Route, record: Record) -> tuple[list[Draft], list[str], bool]:
    """What the router alone makes of `record` by this one route: drafts, problems, and whether the route reads the topic."""
    router = Router(msgspec.structs.replace(rules, routes=(route,)))
    if not router.routes_of(record.topic):
        return [], [], False
    try:
        routed = router.route(record)
    except SchemaUnavailableError as error:
        return [], [f"{record.where}: route {route.name}: {error}"], True
    return routed.drafts, [problem.message for problem in routed.problems], True


def why_nothing(rules: CompiledRules, record: Record) -> list[tuple[str, str, str]]:
    """For each route that reads the record's topic (or, where none does, for all): its name, why it made nothing, and what shows it."""
    routes = explain(rules, record, shown=80).routes
    return [(route.route, _reason(route), _evidence(route)) for route in [each for each in routes if each.reads_topic] or routes]


def _reason(route: RouteSteps) -> str:
    if route.outcome == OTHER_TOPIC:
        return f"{OTHER_TOPIC} (source {route.source})"
    if route.outcome == WHERE_FALSE:
        return f"{WHERE_FALSE}: {route.where_text}"
    return f"{NOTHING_SPLIT}: {route.split_text}" if route.outcome == NOTHING_SPLIT else route.outcome


def _evidence(route: RouteSteps) -> str:
    if route.problems:
        return route.problems[0]
    if route.outcome != WHERE_FALSE or not route.steps:
        return ""
    values = ", ".join(f"{operand.text} = {operand.value}" for operand in route.steps[0].operands)
    return values if route.items == 1 else f"first of {route.items} items: {values}"


def operands(expression: Expression) -> list[tuple[str, Any]]:
    """The plain paths in an expression that begin with a name of the scope, also in those that it names: their text, and their tree."""
    found: dict[str, Any] = {}
    for node in _paths(expression.tree):
        path = _path_text(node)
        if path is not None and path.partition(".")[0].partition("[")[0] in ROOTS:
            found.setdefault(path, node)
    return list(found.items())[:MAX_OPERANDS]


def shorten(text: str, limit: int = MAX_SHOWN_CHARACTERS) -> str:
    """At most `limit` characters, with what was cut off counted."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"


def _explain_route(
    rules: CompiledRules, route: Route, record: Record, shown: int, measure: Callable[[Draft, Publication], Publication]
) -> RouteSteps:
    drafts, problems, reads_topic = drafts_of(rules, route, record)
    where_text, split_text = route.where.text if route.where else None, route.split.text if route.split else None
    if not reads_topic:
        return RouteSteps(route.name, route.source.name, False, OTHER_TOPIC, where_text, split_text)  # noqa: FBT003  (by position)
    items = left_out = failed = 0
    steps: list[ItemSteps] = []
    if record.value is not None:
        try:
            for step in _items(route, record, shown):
                items += 1
                failed += step.is_failed
                left_out += not (step.is_through or step.is_failed)
                if len(steps) < MAX_ITEMS:
                    steps.append(step)
        except (EvaluationError, SchemaUnavailableError) as error:
            problems = problems or [str(error)]
    return RouteSteps(
        route.name,
        route.source.name,
        reads_topic=True,
        outcome=_outcome(record, drafts, problems, items, left_out),
        where_text=where_text,
        split_text=split_text,
        items=items,
        left_out=left_out,
        failed=failed,
        steps=tuple(steps),
        publications=tuple(measure(draft, _publication(draft, shown)) for draft in drafts[:MAX_ITEMS]),
        made=len(drafts),
        problems=tuple(problems),
    )


def _outcome(record: Record, drafts: list[Draft], problems: list[str], items: int, left_out: int) -> str:
    if drafts:
        return PUBLISHED
    if problems:
        return PROBLEM
    if record.value is None:
        return NO_VALUE
    if not items:
        return NOTHING_SPLIT
    return WHERE_FALSE if left_out == items else NOTHING


def _items(route: Route, record: Record, shown: int) -> Iterator[ItemSteps]:
    """The items of the record, each with its steps. Raises EvaluationError and SchemaUnavailableError where there are none to be had."""
    scope = _scope_of(route, record)
    # As the router does: a value that nothing looks at is no problem, nor is one of a record that is left out by something else.
    if route.reads_value and not _is_left_out_unread(route, scope):
        scope.put_value(route.source.decoder.decode(record.value or b"", record))
    if route.split is None:
        yield _steps(route, scope, None, shown)
        return
    container = route.split.evaluate(scope)
    pairs: Iterable[tuple[int | str, Any]] = (
        enumerate(container) if isinstance(container, list) else container.items() if isinstance(container, dict) else ()
    )
    for index, item in pairs:
        scope.put_item(index, item)
        yield _steps(route, scope, index, shown)


def _scope_of(route: Route, record: Record) -> Scope:
    """The names that the route's expressions see, but for the value. Raises EvaluationError and SchemaUnavailableError."""
    scope = Scope(record)
    key_decoder = route.source.key_decoder
    if route.reads_key and key_decoder is not None and record.key is not None:
        scope.put_key(key_decoder.decode(record.key, record))
    return scope


def _is_left_out_unread(route: Route, scope: Scope) -> bool:
    where = route.where
    return route.split is None and where is not None and not where.needs_value and not is_true(where.evaluate(scope))


def _steps(route: Route, scope: Scope, index: int | str | None, shown: int) -> ItemSteps:
    where, is_through, is_failed = None, True, False
    if route.where is not None:
        where, is_through, is_failed = _where(route.where, scope, shown)
    channels = tuple(Named(template.text, _rendered(template, scope)) for template in route.channels) if is_through else ()
    found = operands(route.where) if route.where is not None else []
    values = tuple(Named(text, as_json(_value_of(tree, scope), shown)) for text, tree in found)
    return ItemSteps(as_json(scope.item, shown), index, where, values, channels, is_through, is_failed)


def _where(where: Expression, scope: Scope, shown: int) -> tuple[str, bool, bool]:
    """What it gave, whether that is true, and whether it failed."""
    try:
        value = where.evaluate(scope)
    except EvaluationError as error:
        return str(error), False, True  # The item is not left out: it has a problem, and the router tells it.
    return as_json(value, shown), is_true(value), False


def _rendered(template: Any, scope: Scope) -> str:
    try:
        rendered = template.render(scope)
    except EvaluationError as error:
        return f"({error})"
    return rendered if isinstance(rendered, str) else ", ".join(map(str, rendered))


def _publication(draft: Draft, shown: int) -> Publication:
    key = None if draft.key is None else draft.key.decode(errors="backslashreplace")
    return Publication(draft.channel, key, shorten(draft.payload.decode(errors="backslashreplace"), shown), len(draft.payload))


def _shown_value(route: Route, record: Record, shown: int) -> str:
    if record.value is None:
        return "null"
    try:
        return as_json(route.source.decoder.decode(record.value, record), shown)
    except (EvaluationError, SchemaUnavailableError) as error:
        return f"({error})"


def as_json(value: Any, limit: int = MAX_SHOWN_CHARACTERS) -> str:
    """`value` as JSON, shortened; of what JSON cannot say, what Python does."""
    try:
        return shorten(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=repr), limit)
    except (ValueError, TypeError, RecursionError):
        return "(cannot be shown)"


def _value_of(tree: Any, scope: Scope) -> Any:
    try:
        return jmespath.visitor.TreeInterpreter().visit(tree, scope.names())
    except (jmespath.exceptions.JMESPathError, ArithmeticError, LookupError, TypeError, ValueError):
        return None


_OWN_SCOPE = frozenset({"projection", "filter_projection", "value_projection", "flatten"})
"""What stands to the right of these sees the elements, and not the scope."""


def _paths(node: Any) -> Iterator[Any]:
    if _path_text(node) is not None:
        yield node
        return
    children = [] if node["type"] == "expref" else node.get("children", [])
    if node["type"] == "subexpression" and children[-1]["type"] in _OWN_SCOPE:
        # `item.list[*].id` is parsed as `item.(list[*].id)`: what is walked through is `item.list`.
        walked = {"type": "subexpression", "children": [*children[:-1], children[-1]["children"][0]]}
        if _path_text(walked) is not None:
            yield walked
            return
    for child in children[:1] if node["type"] in _OWN_SCOPE or node["type"] == "pipe" else children:
        if isinstance(child, dict):
            yield from _paths(child)


def _path_text(node: Any) -> str | None:
    kind, children = node["type"], node.get("children", [])
    if kind == "field":
        name = str(node["value"])
        return name if name.replace("_", "a").isalnum() and not name[0].isdigit() else json.dumps(name)
    if kind in {"subexpression", "index_expression"}:
        parts = [_path_text(child) for child in children]
        if any(part is None for part in parts):
            return None
        return "".join(part if number == 0 or part.startswith("[") else f".{part}" for number, part in enumerate(parts) if part is not None)
    return f"[{node['value']}]" if kind == "index" else None
