"""What rules would make of records, without Kafka and Redis: counts and bytes a route, and the last payload of channels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from fnmatch import fnmatchcase

import msgspec

from bridge.core.decoding import SchemaUnavailableError
from bridge.core.draft import Draft
from bridge.core.explain import Explanation, Publication, explain, why_nothing
from bridge.core.record import Record
from bridge.core.routing import Router
from bridge.core.ruleset import CompiledRules
from bridge.core.seen import Seen, SeenIds
from shared.publication import DELTA_NAMES, KIND_NAMES, ContentType

MAX_PROBLEMS = 20
MAX_EXPLAINED = 1000
"""Records that became nothing and are looked at for the reason."""
MAX_BASE_BYTES = 268_435_456
"""Payloads that are kept as bases; the channel that was silent longest goes first, as in the bridge."""
_MAX_ID_BYTES = 268_435_456
_NO_TIME = -1

_Place = str | tuple[str, bytes]
"""What has a last payload: a channel, or a key of a keyed one."""


def _place(draft: Draft) -> _Place:
    return draft.channel if draft.key is None else (draft.channel, draft.key)


class ChannelReport(msgspec.Struct):
    """One channel of a route."""

    channel: str
    publications: int
    payload: str
    """The last one, as text."""


class RouteReport(msgspec.Struct):
    """What one route made. Bytes are of payloads; those of deltas count a full payload wherever it is not larger than the delta."""

    route: str
    kind: str
    delta: str
    """The format that the rules ask for."""
    records: int = 0
    """Records that came to the route."""
    publications: int = 0
    unchanged: int = 0
    """Items equal to the last one on their channel. With `only_changed` they are not among the publications."""
    stale: int = 0
    """Items whose `version` is not newer than what is known of their channel (their key). They are not among the publications."""
    repeated: int = 0
    """Items whose `id` their channel had within its window. They are not among the publications."""
    channels: int = 0
    bytes_full: int = 0
    bytes_vcdiff: int = 0
    bytes_json_patch: int = 0
    shown: list[ChannelReport] = []
    """The first channels."""


class NothingReport(msgspec.Struct):
    """Why records became nothing at all: one route's reason."""

    route: str
    why: str
    records: int = 0
    example: str = ""
    """The first such record, and the values that show it."""


class Report(msgspec.Struct):
    """The whole try-out."""

    records: int = 0
    tombstones: int = 0
    unmatched: int = 0
    """Records of a topic that no route reads."""
    filtered: int = 0
    """Items that a `where` left out."""
    failed: int = 0
    """Items that a route could not handle."""
    problems: list[str] = []
    """The first of them."""
    routes: list[RouteReport] = []
    nothing: list[NothingReport] = []
    """Why records became nothing: route by route, for the first of them."""
    became_nothing: int = 0
    """Records of which no route made anything, without a problem."""


class TryOut:
    """Feeds records through a router and adds up."""

    def __init__(
        self,
        rules: CompiledRules,
        *,
        vcdiff: Callable[[bytes, bytes], bytes],
        json_patch: Callable[[bytes, bytes], bytes | None],
        show: int = 5,
        pattern: str = "*",
    ) -> None:
        """`vcdiff` and `json_patch` make a delta of base and target; `show` channels a route are shown, of those that fit `pattern`."""
        self._rules = rules
        self._router = Router(rules)
        self._nothing: dict[tuple[str, str], NothingReport] = {}
        self._vcdiff = vcdiff
        self._json_patch = json_patch
        self._show = show
        self._pattern = pattern
        self._report = Report()
        self._routes = {
            route.name: RouteReport(route.name, KIND_NAMES[route.settings.kind], DELTA_NAMES[route.settings.delta])
            for route in rules.routes
        }
        self._bases: OrderedDict[_Place, bytes] = OrderedDict()
        self._base_bytes = 0
        self._versions: dict[_Place, float] = {}
        self._ids = SeenIds(_MAX_ID_BYTES)
        self._seen: dict[str, set[str]] = {name: set() for name in self._routes}
        self._shown: dict[str, dict[str, ChannelReport]] = {name: {} for name in self._routes}

    def feed(self, record: Record) -> None:
        """Route one record."""
        report = self._report
        report.records += 1
        try:
            routed = self._router.route(record)
        except SchemaUnavailableError as error:
            report.failed += 1
            report.problems.extend([f"{record.where}: {error}"][: MAX_PROBLEMS - len(report.problems)])
            return
        report.unmatched += routed.matched == 0
        report.tombstones += routed.is_tombstone
        report.filtered += routed.filtered
        report.failed += routed.failed
        report.problems.extend(problem.message for problem in routed.problems[: MAX_PROBLEMS - len(report.problems)])
        for name in self._router.routes_of(record.topic):
            self._routes[name].records += 1
        for draft in routed.drafts:
            if fnmatchcase(draft.channel, self._pattern):
                self._count(draft, record.timestamp_ms)
        if not routed.drafts and not routed.problems:
            report.became_nothing += 1
            if report.became_nothing <= MAX_EXPLAINED:
                self._say_why(record)

    def explain(self, record: Record, *, shown: int) -> Explanation:
        """What each route makes of `record`, after those that were fed before: step by step, `shown` characters of each value."""
        return explain(self._rules, record, shown=shown, measure=self._measure)

    def report(self) -> Report:
        """What was added up so far."""
        for name, route in self._routes.items():
            route.channels = len(self._seen[name])
            route.shown = list(self._shown[name].values())
        self._report.routes = list(self._routes.values())
        self._report.nothing = list(self._nothing.values())
        return self._report

    def _say_why(self, record: Record) -> None:
        for route, why, evidence in why_nothing(self._rules, record):
            found = self._nothing.get((route, why))
            if found is None:
                found = self._nothing[route, why] = NothingReport(
                    route, why, 0, f"{record.where}: {evidence}" if evidence else record.where
                )
            found.records += 1

    def _measure(self, draft: Draft, publication: Publication) -> Publication:
        """With the sizes of its deltas to the channel's last payload."""
        base = self._bases.get(_place(draft))
        if base is None:
            return publication
        patch = self._json_patch(base, draft.payload) if draft.content_type is ContentType.JSON else None
        return msgspec.structs.replace(
            publication,
            base_size=len(base),
            is_unchanged=base == draft.payload,
            vcdiff_size=len(self._vcdiff(base, draft.payload)),
            json_patch_size=None if patch is None else len(patch),
        )

    def _count(self, draft: Draft, record_ms: int | None) -> None:
        route = self._routes[draft.route]
        self._seen[draft.route].add(draft.channel)
        if self._is_refused(draft, route, record_ms if draft.time_ms is None else draft.time_ms):
            return
        base = self._bases.get(_place(draft))
        if base == draft.payload:
            route.unchanged += 1
            if draft.settings.only_changed:
                return
        route.publications += 1
        if draft.is_deletion:
            self._base_bytes -= len(self._bases.pop(_place(draft), b""))
            self._sample(draft)
            return
        route.bytes_full += len(draft.payload)
        route.bytes_vcdiff += self._size_of(self._vcdiff, base, draft.payload)
        patches = self._json_patch if draft.content_type is ContentType.JSON else None
        route.bytes_json_patch += self._size_of(patches, base, draft.payload)
        self._remember(draft)
        self._sample(draft)

    def _is_refused(self, draft: Draft, route: RouteReport, time_ms: int | None) -> bool:
        """Whether the bus would publish nothing of it, by its id (first) or version; where it would, both are noted."""
        time_ms = _NO_TIME if time_ms is None else time_ms
        if draft.id:
            seen = self._ids.find(draft.channel, draft.id)
            if seen is not None and (time_ms < 0 or abs(time_ms - seen.time_ms) <= draft.settings.id_window_ms):
                route.repeated += 1
                return True
        if draft.version is not None:
            place = _place(draft)
            newest = self._versions.get(place)
            if newest is not None and draft.version <= newest:
                route.stale += 1
                return True
            self._versions[place] = draft.version
        if draft.id:
            self._ids.add(draft.channel, draft.id, Seen(time_ms if seen is None else max(time_ms, seen.time_ms), 0.0))
        return False

    @staticmethod
    def _size_of(encode: Callable[[bytes, bytes], bytes | None] | None, base: bytes | None, payload: bytes) -> int:
        """The smaller of full and delta, as the bridge pushes it."""
        delta = encode(base, payload) if encode is not None and base is not None else None
        return len(payload) if delta is None else min(len(delta), len(payload))

    def _remember(self, draft: Draft) -> None:
        self._base_bytes += len(draft.payload) - len(self._bases.pop(_place(draft), b""))
        self._bases[_place(draft)] = draft.payload
        while self._base_bytes > MAX_BASE_BYTES:
            self._base_bytes -= len(self._bases.popitem(last=False)[1])

    def _sample(self, draft: Draft) -> None:
        shown = self._shown[draft.route]
        if draft.channel not in shown:
            if len(shown) >= self._show:
                return
            shown[draft.channel] = ChannelReport(draft.channel, 0, "")
        shown[draft.channel].publications += 1
        shown[draft.channel].payload = draft.payload.decode(errors="backslashreplace")
