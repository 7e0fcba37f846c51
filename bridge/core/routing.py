"""From records to drafts: which routes a record matches, and what each makes of it.

    Router(rules).route(record) -> Routed(drafts, problems, ...)

`route` raises nothing on any record but SchemaUnavailableError: then nothing was made of it, and it can be routed later. The same
record gives the same drafts in the same order: what a draft is numbered with (`Draft.index`) identifies its publication when a record
is processed again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from typing import Any

import msgspec

from bridge.core.cardinality import ChannelCap, TooManyChannelsError
from bridge.core.decoding import Decoder, SchemaUnavailableError
from bridge.core.draft import Draft, OnError, RecordProblem
from bridge.core.expression import EvaluationError, Expression, describe, is_true
from bridge.core.letter import MAX_ITEMS, Replay
from bridge.core.marks import UNMARKED, Marked, marker
from bridge.core.payload_size import Measure, TooLargeError
from bridge.core.record import Record
from bridge.core.ruleset import CompiledRules, Route
from bridge.core.scope import Scope
from shared.publication import ContentType

MAX_PROBLEMS_A_ROUTE = 20
"""Problems told for one route and record; `Routed.failed` counts them all."""
MAX_DRAFTS_A_RECORD = 100_000
MAX_BYTES_A_RECORD = 268_435_456
"""Payload bytes that one record may become: `project: value` of a large array squares its size."""
_MOST_WRITTEN = 16
"""How many times as many bytes, at most, JSON may take as the record that it was read from: `1e15` is written as 1000000000000000.0."""
MAX_CACHED_TOPICS = 10_000

_encode = msgspec.json.Encoder().encode

# What encoding raises on what an expression can give: `&x` by itself, half of a surrogate pair, nesting beyond the stack.
_ENCODING_ERRORS = (msgspec.MsgspecError, RecursionError, TypeError, ValueError, OverflowError)


class Routed(msgspec.Struct):
    """What became of one record. Counts are over all routes that it matched."""

    drafts: list[Draft] = msgspec.field(default_factory=list)
    """In the order of routes, then of items."""
    problems: list[RecordProblem] = msgspec.field(default_factory=list)
    matched: int = 0
    """Routes whose source has the record's topic. 0 with a subscription wider than the rules, or while rules change."""
    filtered: int = 0
    """Items that a `where` left out, or whose channels are an empty array."""
    failed: int = 0
    """Items, or whole records, that a route could not handle."""
    over_cap: int = 0
    """Of them, items that would have made a route's channels too many."""
    is_tombstone: bool = False
    """The record has no value: routes of keyed channels may delete its key, and nothing else is made of it."""


class Router:
    """Applies rules to records. Not for use by several threads at once: its caches are not locked.

    `clock` tells seconds that only go forward: by it, channels that were not used for long count no more for a route's `max_channels`.
    """

    def __init__(self, rules: CompiledRules, *, clock: Callable[[], float] = lambda: 0.0) -> None:
        self._clock = clock
        self._runners = [_RouteRunner(route, clock) for route in rules.routes]
        self._by_topic: dict[str, list[_RouteRunner]] = {}

    def __repr__(self) -> str:
        return f"Router(routes={[runner.route.name for runner in self._runners]}, topics_seen={len(self._by_topic)})"

    def with_rules(self, rules: CompiledRules) -> Router:
        """A router for other rules. Routes that both have (the very objects) go on: the channels that they made stay counted."""
        made = Router(msgspec.structs.replace(rules, routes=()), clock=self._clock)
        known = {id(runner.route): runner for runner in self._runners}
        made._runners = [known.get(id(route)) or _RouteRunner(route, self._clock) for route in rules.routes]
        return made

    def route(self, record: Record, replay: Replay | None = None) -> Routed:
        """Make the drafts of `record`; a problem with one item leaves the others alone. Raises SchemaUnavailableError.

        Of a record that comes again for one route (and some of its items), only that is made. Where no route has that name any more,
        it goes through all: a publication twice is better than none.
        """
        runners = self._runners_of(record.topic)
        routed = Routed(matched=len(runners))
        only = None
        if replay is not None and (named := [runner for runner in runners if runner.route.name == replay.route]):
            runners, only = named, replay.items
        if record.value is None:
            routed.is_tombstone = True
            runners = [runner for runner in runners if runner.route.deletes]
        visit = _Visit(record, routed, only)
        for runner in runners:
            runner.run(visit)
        return routed

    def refusal(self, record: Record, draft: Draft, reason: str) -> RecordProblem:
        """The problem of a draft of `record`, made by these rules, that the bus refused for good."""
        route = next(runner.route for runner in self._runners if runner.route.name == draft.route)
        what = f"the bus refused it on channel {draft.channel}: {reason}"
        if draft.place is None:
            return _problem(route, record, what)
        return _problem(route, record, f"{_item(draft.place)}: {what}", (draft.place,))

    def routes_of(self, topic: str) -> list[str]:
        """The names of the routes that records of `topic` come to."""
        return [runner.route.name for runner in self._runners_of(topic)]

    def _runners_of(self, topic: str) -> list[_RouteRunner]:
        found = self._by_topic.get(topic)
        if found is None:
            found = [runner for runner in self._runners if runner.takes(topic)]
            if len(self._by_topic) >= MAX_CACHED_TOPICS:
                self._by_topic.clear()
            self._by_topic[topic] = found
        return found


class _Visit:
    """One record on its way through the routes: what is decoded once, and what numbers its drafts."""

    __slots__ = ("_decoded", "_keys", "budget", "counts", "only", "record", "routed", "scope", "size", "value")

    def __init__(self, record: Record, routed: Routed, only: Container[int | str] | None = None) -> None:
        self.record = record
        self.only = only
        """The items that count, where not all of them do."""
        self.value = record.value or b""
        self.size = len(self.value) + (sum(len(data or b"") for _, data in record.headers) if record.headers else 0)
        self.routed = routed
        self.scope = Scope(record)
        self.counts: dict[str, int] = {}
        self.budget = MAX_BYTES_A_RECORD
        self._decoded: dict[Decoder, Any] = {}
        self._keys: dict[Decoder, Any] = {}

    def decode(self, decoder: Decoder) -> Any:
        """The record's value as `decoder` reads it; decoded once. Raises EvaluationError where it is not such a value."""
        if decoder not in self._decoded:
            self._decoded[decoder] = self._try(decoder, self.value)
        decoded = self._decoded[decoder]
        if isinstance(decoded, EvaluationError):
            raise decoded
        return decoded

    def key(self, decoder: Decoder) -> Any:
        """The record's key as `decoder` reads it; null where there is none. Raises EvaluationError where it is not such a key."""
        if decoder not in self._keys:
            self._keys[decoder] = None if self.record.key is None else self._try(decoder, self.record.key)
        decoded = self._keys[decoder]
        if isinstance(decoded, EvaluationError):
            raise EvaluationError(_of_key(str(decoded)))
        return decoded

    def _try(self, decoder: Decoder, data: bytes) -> Any:
        try:
            return decoder.decode(data, self.record)
        except EvaluationError as error:
            return error


class _RouteRunner:
    """One route, made ready for the hot path."""

    __slots__ = (
        "_cap", "_channels", "_decoder", "_key_decoder", "_mark", "_mark_deletion", "_needs_value", "_payload_of", "_plain_bytes", "_split",
        "_where", "_where_needs_value", "content_type", "route",
    )  # fmt: skip

    def __init__(self, route: Route, clock: Callable[[], float]) -> None:
        self.route = route
        is_constant = all(template.is_constant for template in route.channels)
        self._cap = None if is_constant else ChannelCap(route.max_channels, route.settings.ttl_ms / 1000, clock)
        self._mark = marker(route.marks)
        self._mark_deletion = marker(route.marks.without_value)
        self.content_type: ContentType = route.content_type
        self._decoder = route.source.decoder
        self._key_decoder = route.source.key_decoder if route.reads_key else None
        self._split = route.split.evaluate if route.split is not None else None
        self._where = route.where.evaluate if route.where is not None else None
        self._where_needs_value = route.where is not None and route.where.needs_value
        self._channels = tuple(template.render for template in route.channels)
        self._payload_of = _payload_function(route)
        self._plain_bytes = MAX_BYTES_A_RECORD // (_MOST_WRITTEN * _growth(route))
        self._needs_value = route.reads_value

    def takes(self, topic: str) -> bool:
        """Whether records of `topic` are for this route."""
        source = self.route.source
        if source.topic_pattern is not None:
            # As librdkafka does: `^a|b` finds a `b` anywhere.
            return re.search(source.topic_pattern, topic) is not None
        return topic in source.topics

    def run(self, visit: _Visit) -> None:
        """Add to `visit.routed` what this route makes of the record."""
        try:
            if self._key_decoder is None:
                visit.scope.put_text_key()
            else:
                visit.scope.put_key(visit.key(self._key_decoder))
            if visit.record.value is None:
                self._run_deletion(visit)
            elif self._split is None:
                self._run_whole(visit)
            else:
                self._run_split(visit)
        except EvaluationError as error:
            self._count(visit, error)
            self._tell(visit, str(error))
        except SchemaUnavailableError:
            raise
        except Exception as error:
            # A fault of ours. Where the record can be put aside it is, else the caller must not go on.
            if self.route.on_error is not OnError.DEAD_LETTER:
                raise
            visit.routed.failed += 1
            self._tell(visit, f"a fault in distributary: {error!r}"[:1000])

    def _run_deletion(self, visit: _Visit) -> None:
        """Delete the key of a record without a value. A `where` that needs it is not asked: deleting what is not there does no harm."""
        scope, where, mark = visit.scope, self._where, self._mark_deletion
        scope.put_value(None)
        if where is not None and not self._where_needs_value and not is_true(where(scope)):
            visit.routed.filtered += 1
            return
        self._publish(visit, self._names(scope), b"", UNMARKED if mark is None else mark(scope), ContentType.NONE)

    def _run_whole(self, visit: _Visit) -> None:
        scope = visit.scope
        where = self._where
        scope.put_value(None)
        if where is not None and not self._where_needs_value and not is_true(where(scope)):
            visit.routed.filtered += 1
            return
        if self._needs_value:
            scope.put_value(visit.decode(self._decoder))
            if where is not None and self._where_needs_value and not is_true(where(scope)):
                visit.routed.filtered += 1
                return
        names, mark = self._names(scope), self._mark
        payload_of = self._payload_of
        if payload_of is not None and visit.size > self._plain_bytes:
            payload_of = self._bounded(visit, payload_of)
        payload = visit.value if payload_of is None else payload_of(scope)
        self._publish(visit, names, payload, UNMARKED if mark is None else mark(scope), self.content_type)

    def _names(self, scope: Scope) -> list[str]:
        """The item's channels, each once: what a list in the data repeats is no second publication."""
        if len(self._channels) == 1:  # Nearly always.
            name = self._channels[0](scope)
            return [name] if type(name) is str else list(dict.fromkeys(name))
        names: list[str] = []
        is_list = False
        for render in self._channels:
            name = render(scope)
            if type(name) is str:
                names.append(name)
            else:
                names.extend(name)
                is_list = True
        return list(dict.fromkeys(names)) if is_list else names

    def _run_split(self, visit: _Visit) -> None:
        scope = visit.scope
        scope.put_value(visit.decode(self._decoder) if self._needs_value else None)
        assert self._split is not None  # noqa: S101 - for the type checker; `run` decided on it
        where, names_of, mark, content_type = self._where, self._names, self._mark, self.content_type
        payload_of = self._payload_of or _encoded_item
        if visit.size > self._plain_bytes:
            payload_of = self._bounded(visit, payload_of)
        told = 0
        more: list[int | str] = []
        only = visit.only
        for index, item in _items(self._split(scope)):
            if only is not None and index not in only:
                continue
            scope.put_item(index, item)
            try:
                if where is not None and not is_true(where(scope)):
                    visit.routed.filtered += 1
                    continue
                names = names_of(scope)
                self._publish(visit, names, payload_of(scope), UNMARKED if mark is None else mark(scope), content_type)
            except _TooMuchError:
                raise
            except EvaluationError as error:
                self._count(visit, error)
                told += 1
                if told > MAX_PROBLEMS_A_ROUTE:
                    more.append(index)
                else:
                    self._tell(visit, f"{_item(index)}: {error}", (index,))
        if more:
            self._tell(visit, f"{len(more)} more items have problems", tuple(more[:MAX_ITEMS]), items=len(more))

    def _bounded(self, visit: _Visit, payload_of: Callable[[Scope], bytes]) -> Callable[[Scope], bytes]:
        """Of a large record: measures a payload before it is written, and so before it fills the memory."""
        projection = self.route.projection
        evaluators = [expression.evaluate for expression in projection.expressions] if projection else [_item_of]

        def bounded(scope: Scope) -> bytes:
            measure, values = Measure(visit.budget), []
            for evaluate in evaluators:
                values.append(evaluate(scope))
                try:
                    measure.add(values[-1])
                except TooLargeError:
                    raise _too_much() from None
                except _ENCODING_ERRORS as error:
                    raise _unwritable(error) from error
            return payload_of(scope)

        return bounded

    @staticmethod
    def _count(visit: _Visit, error: EvaluationError) -> None:
        visit.routed.failed += 1
        visit.routed.over_cap += isinstance(error, TooManyChannelsError)

    def _publish(self, visit: _Visit, names: list[str], payload: bytes, marked: Marked, content_type: ContentType) -> None:
        """All of an item's drafts, or (where there is a problem) none."""
        counts, drafts, route = visit.counts, visit.routed.drafts, self.route
        size = len(payload) * len(names)
        if size > visit.budget or len(drafts) + len(names) > MAX_DRAFTS_A_RECORD:
            raise _too_much()
        if self._cap is not None:
            self._cap.admit(names)
        visit.budget -= size
        visit.routed.filtered += not names
        settings, route_name, place = route.settings, route.name, visit.scope.index
        for name in names:
            index = counts.get(name, 0)
            counts[name] = index + 1
            if marked is UNMARKED:  # By far the most: it need not be taken apart.
                drafts.append(Draft(name, payload, content_type, index, settings, route_name, place))
            else:
                drafts.append(Draft(name, payload, content_type, index, settings, route_name, place, *marked))

    def _tell(self, visit: _Visit, what: str, places: tuple[int | str, ...] = (), *, items: int = 1) -> None:
        visit.routed.problems.append(_problem(self.route, visit.record, what, places, items=items))


def _problem(route: Route, record: Record, what: str, places: tuple[int | str, ...] = (), *, items: int = 1) -> RecordProblem:
    message = f"{record.where}: route {route.name}: {what}"
    place = route.source.dead_letters if route.on_error is OnError.DEAD_LETTER else None
    return RecordProblem(route.name, route.on_error, message, what, places, items, place)


def _item(place: int | str) -> str:
    """An item, as problems name it."""
    return f"item {place if isinstance(place, int) else repr(place[:40])}"


def _of_key(problem: str) -> str:
    """What a decoder says of a value, said of a key."""
    return problem.replace("the value", "the key", 1).replace("read this topic with format", "read its keys with `key_format`", 1)


class _TooMuchError(EvaluationError):
    """A record that would become too much: it ends the route, where another problem ends only its item."""


def _too_much() -> _TooMuchError:
    return _TooMuchError(
        f"the record becomes more than {MAX_DRAFTS_A_RECORD} publications or {MAX_BYTES_A_RECORD} bytes; "
        "the rest of it was not made: project less of each item"
    )


def _growth(route: Route) -> int:
    """How many times the size of a record's values a payload can have, by the shape of the route's expressions."""
    of_items = 1 if route.split is None else route.split.growth
    return of_items * max(1, sum(expression.growth for expression in route.projection.expressions) if route.projection else 1)


def _items(container: Any) -> Iterable[tuple[int | str, Any]]:
    if isinstance(container, list):
        return enumerate(container)
    if isinstance(container, dict):
        return container.items()
    msg = f"`split` gave {describe(container)}; it needs an array or an object"
    raise EvaluationError(msg)


def _payload_function(route: Route) -> Callable[[Scope], bytes] | None:
    """What makes the payload of an item; None where the record's bytes (or, after a split, the item) are the payload."""
    projection = route.projection
    if projection is None:
        return None if route.source.decoder.passes is not None else _encoded_item
    if projection.whole is None:
        return _object_payload(projection.fields)
    return _extended_payload(projection.whole, projection.fields) if projection.fields else _whole_payload(projection.whole)


def _whole_payload(expression: Expression) -> Callable[[Scope], bytes]:
    evaluate = expression.evaluate

    def payload_of(scope: Scope) -> bytes:
        return _encoded(evaluate(scope))

    return payload_of


def _object_payload(fields: tuple[tuple[str, Expression], ...]) -> Callable[[Scope], bytes]:
    evaluators = [(name, expression.evaluate) for name, expression in fields]

    def payload_of(scope: Scope) -> bytes:
        return _encoded({name: evaluate(scope) for name, evaluate in evaluators})

    return payload_of


def _extended_payload(whole: Expression, fields: tuple[tuple[str, Expression], ...]) -> Callable[[Scope], bytes]:
    evaluators = [(name, expression.evaluate) for name, expression in fields]

    def payload_of(scope: Scope) -> bytes:
        value = whole.evaluate(scope)
        if not isinstance(value, dict):
            msg = f"`set` and `const` add to an object, and {whole.text} gave {describe(value)}"
            raise EvaluationError(msg)
        return _encoded({**value, **{name: evaluate(scope) for name, evaluate in evaluators}})

    return payload_of


def _item_of(scope: Scope) -> object:
    return scope.item


def _encoded_item(scope: Scope) -> bytes:
    return _encoded(scope.item)


def _encoded(value: Any) -> bytes:
    try:
        return _encode(value)
    except _ENCODING_ERRORS as error:
        raise _unwritable(error) from error


def _unwritable(error: Exception) -> EvaluationError:
    return EvaluationError(f"the payload cannot be written as JSON: {str(error)[:200]}")
