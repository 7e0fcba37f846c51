"""Expressions of the rules: our closures beside jmespath.search and jmespath's interpreter on a parsed tree, in turns in one run."""

from __future__ import annotations

import time
from collections.abc import Callable

import jmespath
import jmespath.parser
import jmespath.visitor

from bench.measure import median, report
from bridge.core.expression import compile_expression
from bridge.core.record import Record
from bridge.core.scope import Scope

ROUNDS = 7
CALLS = 20_000

ITEM = {
    "id": "1430",
    "vehicle": {
        "trip": {"trip_id": "t-77", "route_id": "12", "direction_id": 1},
        "position": {"latitude": 41.76, "longitude": -72.67, "speed": 8.5},
        "current_status": "IN_TRANSIT_TO",
        "stops": [{"id": "a", "wait": 3}, {"id": "b", "wait": 0}, {"id": "c", "wait": 9}],
    },
}
EXPRESSIONS = {
    "path": "item.vehicle.position.latitude",
    "comparison": "item.vehicle.position.speed > `0`",
    "equality": "item.vehicle.current_status == 'STOPPED_AT'",
    "and": "item.vehicle.position.speed > `0` && item.vehicle.trip.route_id == '12'",
    "or default": "item.vehicle.label || item.id || key",
    "function": "starts_with(item.vehicle.trip.route_id, '1')",
    "contains": "contains(['11', '12', '13'], item.vehicle.trip.route_id)",
    "multiselect": "{id: item.id, lat: item.vehicle.position.latitude, long: item.vehicle.position.longitude}",
    "join": "join('-', [item.id, item.vehicle.trip.trip_id])",
    "filter": "item.vehicle.stops[?wait > `0`].id",
    "sort_by": "sort_by(item.vehicle.stops, &wait)[0].id",
}


def scope() -> Scope:
    """A scope on one vehicle."""
    made = Scope(Record("vehicles", 0, 0, 1_700_000_000_000, b"1430", b""))
    made.put_item(3, ITEM)
    return made


def cost_us(call: Callable[[], object]) -> float:
    """CPU of one call."""
    start = time.process_time_ns()
    for _ in range(CALLS):
        call()
    return (time.process_time_ns() - start) / CALLS / 1000


def main() -> None:
    """Print the table."""
    seen = scope()
    rows = []
    for name, text in EXPRESSIONS.items():
        tree, visit = jmespath.parser.Parser().parse(text).parsed, jmespath.visitor.TreeInterpreter().visit
        evaluate = compile_expression(text).evaluate
        ways: list[Callable[[], object]] = [
            lambda text=text: jmespath.search(text, seen.names()),  # type: ignore[misc]
            lambda tree=tree, visit=visit: visit(tree, seen.names()),  # type: ignore[misc]
            lambda evaluate=evaluate: evaluate(seen),  # type: ignore[misc]
        ]
        assert ways[0]() == ways[2]()
        spent: list[list[float]] = [[], [], []]
        for _ in range(ROUNDS):
            for way, times in zip(ways, spent, strict=True):
                times.append(cost_us(way))
        search, tree_walk, closure = (median(times) for times in spent)
        rows.append([name, f"{search:.2f}", f"{tree_walk:.2f}", f"{closure:.2f}", f"{search / closure:.0f}", text])
    report(
        "expressions",
        f"CPU of an expression, us (median of {ROUNDS} rounds of {CALLS} calls)",
        ["", "jmespath.search", "its interpreter", "closure", "ratio", "expression"],
        rows,
    )


if __name__ == "__main__":
    main()
