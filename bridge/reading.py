"""Reading: what becomes of a record. The router makes drafts of it; here its problems are judged, counted and told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

import msgspec

from bridge.core.decoding import SchemaUnavailableError
from bridge.core.draft import OnError, RecordProblem
from bridge.core.letter import replay_of
from bridge.core.record import Record
from bridge.core.routing import Routed, Router
from bridge.core.tally import Tally
from shared.telemetry import Log, Throttle

_NO_ROUTE = ""
"""Whose problem a fault in routing is: it is counted for none."""


class Verdict(msgspec.Struct, frozen=True):
    """What becomes of a record with problems."""

    letters: Sequence[Sequence[RecordProblem]] = ()
    """A dead letter is to be written for each: the problems of one route."""
    halt: str | None = None
    """Why its partition stops here, and nothing else is done about it; None where it does not."""


class Reader:
    """See the module. `group` says whose dead letters there are; None where none can be written, so that such a problem halts.

    `clock` tells seconds that only go forward.
    """

    def __init__(self, router: Router, tally: Tally, *, group: str | None, clock: Callable[[], float]) -> None:
        self.router = router
        """May be replaced between two records."""
        self._tally = tally
        self._group = group
        self._throttle = Throttle(10, clock=clock)
        self._log = Log("bridge.reading")

    def __repr__(self) -> str:
        return f"<Reader {self.router}>"

    def read(self, record: Record) -> Routed:
        """Route a record; where there are problems, `judge` them.

        Raises SchemaUnavailableError where it cannot be read yet; then nothing was counted. Nothing else is raised.
        """
        try:
            routed = self._route(record) if record.headers else self.router.route(record)
        except SchemaUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001  (a fault of ours must not lose a record: its partition stops, visibly)
            self._log.exception("routing failed", record=record.where)
            what = f"a fault in distributary, which a route with `on_error: dead-letter` would put aside: {error!r}"
            return Routed(problems=[RecordProblem(_NO_ROUTE, OnError.HALT, what)])
        self._tally.filtered += routed.filtered
        self._tally.over_cap += routed.over_cap
        self._tally.tombstones += routed.is_tombstone
        return routed

    def judge(self, record: Record, problems: Sequence[RecordProblem]) -> Verdict:
        """Count and tell the problems of a record, and say what follows from them."""
        halt = None
        for problem in problems:
            key = problem.route, problem.on_error
            if problem.route != _NO_ROUTE:
                self._tally.problems[key] = self._tally.problems.get(key, 0) + 1
            if (why := self._why_to_halt(record, problem)) is not None:
                halt = why if halt is None else halt
            elif (silenced := self._throttle.admit(key)) is not None:
                what = "record put aside" if problem.on_error is OnError.DEAD_LETTER else "record skipped"
                self._log.warning(what, route=problem.route, problem=problem.message, not_shown=silenced)
        return Verdict(_letters(problems)) if halt is None else Verdict(halt=halt)

    def why_unreadable(self, record: Record) -> SchemaUnavailableError | None:
        """Why a record cannot be read yet; None where it can."""
        with contextlib.suppress(Exception):  # `read` tells what else is wrong with it.
            try:
                self._route(record)
            except SchemaUnavailableError as error:
                return error
        return None

    def _route(self, record: Record) -> Routed:
        replay = replay_of(record.headers) if record.headers else None
        if replay is not None and self._group is not None and replay.group not in {"", self._group}:
            return Routed(filtered=1)  # It comes again for another group's bridges.
        return self.router.route(record, replay)

    def _why_to_halt(self, record: Record, problem: RecordProblem) -> str | None:
        if problem.on_error is OnError.HALT:
            return problem.message
        if problem.on_error is OnError.SKIP:
            return None
        if self._group is None or problem.dead_letters is None:
            return f"{problem.message}; and there is nowhere to put its dead letter"
        topic = problem.dead_letters.of(record.topic)
        if self.router.routes_of(topic):
            return (
                f"{problem.message}; its dead letter would go to {topic}, which these rules consume: "
                "name another topic in dead_letters.topic"
            )
        return None


def _letters(problems: Iterable[RecordProblem]) -> list[list[RecordProblem]]:
    by_route: dict[str, list[RecordProblem]] = {}
    for problem in problems:
        if problem.on_error is OnError.DEAD_LETTER:
            by_route.setdefault(problem.route, []).append(problem)
    return list(by_route.values())
