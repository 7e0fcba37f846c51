"""From checked models to the rules that the router applies: defaults filled in, and what must fit together fits."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any

from bridge.core.cardinality import DEFAULT_MAX_CHANNELS
from bridge.core.draft import ChannelSettings, OnError
from bridge.core.expression import Expression, compile_expression, constant
from bridge.core.letter_topic import DeadLetterTopic
from bridge.core.marks import Marks, Timestamp
from bridge.core.ruleset import CompiledRules, Projection, Route, Source
from bridge.core.scope import VALUE_ROOTS
from bridge.rules.check import Checker
from bridge.rules.dead_letters import check_dead_letters, dead_letter_topic
from bridge.rules.document import Path
from bridge.rules.formats import FormatCompiler
from bridge.rules.model import (
    MAX_EXPRESSIONS,
    MAX_ROUTES,
    MAX_SOURCES,
    DeadLettersModel,
    FileModel,
    RegistryModel,
    RouteModel,
    SettingsModel,
    SourceModel,
    check_expression_name,
    kind_of,
)
from bridge.rules.secrets import refuse_elsewhere
from shared.errors import ConfigurationError
from shared.publication import KIND_NAMES, ContentType, DeltaFormat, Kind

_DEFAULTS = ChannelSettings()


def compile_rules(data: Any, checker: Checker, folder: FilePath) -> CompiledRules | None:
    """Make rules of a document's plain `data`; None where `checker` was told of a problem. Names of files begin at `folder`."""
    checker.validate(FileModel, data, ())
    if not isinstance(data, dict):
        return None
    refuse_elsewhere(data, checker)
    _take_expressions(data.get("expressions"), checker)
    letters = None
    if isinstance(data.get("dead_letters"), dict):
        letters = checker.validate(DeadLettersModel, data["dead_letters"], ("dead_letters",))
    formats = FormatCompiler(checker, folder)
    if isinstance(data.get("schema_registry"), dict):
        formats.take_registry(checker.validate(RegistryModel, data["schema_registry"], ("schema_registry",)))
    sources = _sources(data.get("sources"), letters or DeadLettersModel(), formats, checker)
    defaults = checker.validate(SettingsModel, data["defaults"], ("defaults",)) if isinstance(data.get("defaults"), dict) else None
    routes = _routes(data.get("routes"), sources, defaults or SettingsModel(), checker)
    check_dead_letters(routes, list(sources), checker)
    if checker.problems:
        return None
    compiled = tuple(source for source in sources.values() if source is not None)
    used = {route.source.name for route in routes}
    notes = tuple(f'no route uses the source "{source.name}": it is not consumed' for source in compiled if source.name not in used)
    return CompiledRules(compiled, tuple(routes), (*notes, *_tombstone_notes(routes)))


def _take_expressions(data: Any, checker: Checker) -> None:
    """Compile the named expressions, each of which may name those before it, for all that is checked from now on."""
    if not isinstance(data, dict):
        return
    if len(data) > MAX_EXPRESSIONS:
        checker.tell(("expressions",), f"has more than {MAX_EXPRESSIONS} expressions")
    for number, (name, text) in enumerate(list(data.items())[:MAX_EXPRESSIONS]):
        path: Path = ("expressions", name)
        reason = check_expression_name(name)
        if reason is not None:
            checker.tell(path, reason)
            continue
        if not isinstance(text, str):
            checker.tell(path, f"must be a text, not {kind_of(text)}")
        later = [other for other in list(data)[number:] if check_expression_name(other) is None]
        checker.named[name] = _named_expression(text, later, path, checker)


def _named_expression(text: Any, later: list[str], path: Path, checker: Checker) -> Expression:
    """The expression; where it is wrong, and that is told, one in its place, so that nothing is told of those that name it."""
    if isinstance(text, str):
        try:
            return compile_expression(text, checker.named)
        except ConfigurationError as error:
            problems = error.problems
        for problem in problems:
            name = next((name for name in later if problem.startswith(f'uses "{name}" at')), None)
            if name is None:
                checker.tell(path, problem)
            elif name == path[-1]:
                checker.tell(path, "uses itself")
            else:
                checker.tell(path, f'uses "{name}", which comes after it; an expression may use those before it: move it up')
    return compile_expression("item")


def _sources(data: Any, letters: DeadLettersModel, formats: FormatCompiler, checker: Checker) -> dict[str, Source | None]:
    """Sources by name; None for one that is there and wrong, so that routes may still name it."""
    found: dict[str, Source | None] = {}
    if not isinstance(data, list):
        return found
    if len(data) > MAX_SOURCES:
        checker.tell(("sources",), f"has more than {MAX_SOURCES} sources")
    for number, entry in enumerate(data[:MAX_SOURCES]):
        path: Path = ("sources", number)
        model = checker.validate(SourceModel, entry, path)
        name = _name_of(entry, f"sources[{number}]")
        if name in found:
            checker.tell((*path, "name"), f'"{name}" is the name of another source too')
            continue
        source = None
        if model is not None:
            source = _source(model, dead_letter_topic(model.dead_letters, letters), formats, path, checker)
        found[name] = source
    return found


def _name_of(entry: Any, otherwise: str) -> str:
    name = entry.get("name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) else otherwise


def _source(model: SourceModel, letters: DeadLetterTopic, formats: FormatCompiler, path: Path, checker: Checker) -> Source | None:
    decoders = formats.decoders(model, path)
    if (model.topics is None) == (model.topic_pattern is None):
        checker.tell(
            path, 'needs "topics" or "topic_pattern"' if model.topics is None else 'has "topics" and "topic_pattern"; it needs one of them'
        )
        return None
    if decoders is None or decoders[0] is None:
        return None
    return Source(model.name, tuple(model.topics or ()), model.topic_pattern, decoders[0], decoders[1], letters)


def _routes(data: Any, sources: dict[str, Source | None], defaults: SettingsModel, checker: Checker) -> list[Route]:
    found: list[Route] = []
    names: set[str] = set()
    if not isinstance(data, list):
        return found
    if len(data) > MAX_ROUTES:
        checker.tell(("routes",), f"has more than {MAX_ROUTES} routes")
    for number, entry in enumerate(data[:MAX_ROUTES]):
        path: Path = ("routes", number)
        model = checker.validate(RouteModel, entry, path)
        name = _name_of(entry, "")
        if name and name in names:
            checker.tell((*path, "name"), f'"{name}" is the name of another route too')
        names.add(name)
        source = _source_of(entry, sources, path, checker)
        if model is None or source is None:
            continue
        route = _route(model, source, defaults)
        _check_fit(route, model, path, checker)
        _check_kinds(route, found, path, checker)
        found.append(route)
    return found


def _route(model: RouteModel, source: Source, defaults: SettingsModel) -> Route:
    return Route(
        model.name,
        source,
        tuple(model.channel),
        model.split,
        model.where,
        _projection(model, defaults),
        _settings(model, defaults),
        model.on_error or defaults.on_error or OnError.SKIP,
        _marks(model, defaults),
        model.max_channels or defaults.max_channels or DEFAULT_MAX_CHANNELS,
    )


def _projection(model: RouteModel, defaults: SettingsModel) -> Projection | None:
    """What the route projects, with `const` and `set` on top: of one name a route's own goes before a default, `set` before `const`."""
    added = {name: constant(value) for name, value in (defaults.const or {}).items()} | (defaults.set or {})
    added |= {name: constant(value) for name, value in (model.const or {}).items()} | (model.set or {})
    project = model.project
    if not added:
        return project
    if project is None or project.whole is not None:
        return Projection(tuple(added.items()), compile_expression("item") if project is None else project.whole)
    return Projection(tuple((dict(project.fields) | added).items()))


def _marks(model: RouteModel, defaults: SettingsModel) -> Marks:
    timestamp = defaults.timestamp if model.timestamp is None else model.timestamp
    return Marks(
        model.key,
        tuple(((defaults.tags or {}) | (model.tags or {})).items()),
        timestamp if isinstance(timestamp, Timestamp) else None,
        model.version,
        None if model.id is None else model.id.value,
    )


def _source_of(entry: Any, sources: dict[str, Source | None], path: Path, checker: Checker) -> Source | None:
    name = entry.get("source") if isinstance(entry, dict) else None
    if isinstance(entry, dict) and "source" not in entry:
        if len(sources) > 1:
            checker.tell(path, f'needs "source": there are {", ".join(sources)}')
        return next(iter(sources.values())) if len(sources) == 1 else None
    if not isinstance(name, str):
        return None  # Told already.
    if name not in sources:
        checker.tell((*path, "source"), _no_such_source(name, list(sources)))
        return None
    return sources[name]


def _no_such_source(name: str, sources: list[str]) -> str:
    close = get_close_matches(name, sources, n=1)
    hint = f'did you mean "{close[0]}"?' if close else f"there are {', '.join(sources) or 'none'}"
    return f'there is no source "{name[:100]}"; {hint}'


def _settings(model: RouteModel, defaults: SettingsModel) -> ChannelSettings:
    """What the route says, else what `defaults` say, else what the program says; of `history` each part by itself."""

    def pick(name: str, otherwise: Any) -> Any:
        return next((value for value in (getattr(model, name), getattr(defaults, name)) if value is not None), otherwise)

    def pick_history(name: str, otherwise: int) -> int:
        parts = [getattr(history, name) for history in (model.history, defaults.history) if history is not None]
        return next((part for part in parts if part is not None), otherwise)

    return ChannelSettings(
        kind=pick("kind", _DEFAULTS.kind),
        delta=pick("delta", _DEFAULTS.delta),
        only_changed=pick("only_changed", _DEFAULTS.only_changed),
        history_size=pick_history("size", _DEFAULTS.history_size),
        history_bytes=pick_history("bytes", _DEFAULTS.history_bytes),
        history_age_ms=pick_history("age", _DEFAULTS.history_age_ms),
        ttl_ms=pick("ttl", _DEFAULTS.ttl_ms),
        max_keys=pick("max_keys", _DEFAULTS.max_keys),
        max_key_bytes=pick("max_key_bytes", _DEFAULTS.max_key_bytes),
        id_window_ms=_DEFAULTS.id_window_ms if model.id is None or model.id.window is None else model.id.window,
        id_count=_DEFAULTS.id_count if model.id is None or model.id.count is None else model.id.count,
        stops_at_failure=pick("on_error", OnError.SKIP) is not OnError.SKIP,
    )


def _check_fit(route: Route, model: RouteModel, path: Path, checker: Checker) -> None:
    if route.settings.delta is DeltaFormat.JSON_PATCH and route.content_type is not ContentType.JSON:
        where = (*path, "delta") if model.delta is not None else path
        text = f"a JSON Patch needs JSON, and this route sends values of format {route.source.decoder.format} as they are"
        checker.tell(where, f'{text}; use "vcdiff" or "none", or `project`')
    if not route.source.decoder.has_value:
        _check_raw(route, model, path, checker)
    _check_key(route, model, path, checker)
    _check_added(route, model, path, checker)
    if route.split is None:
        for where, expression in _placed_expressions(route, model, path):
            if expression.roots == frozenset({"index"}):
                checker.tell(where, '"index" is the place of an item in what `split` gives, and this route has no `split`')


def _check_raw(route: Route, model: RouteModel, path: Path, checker: Checker) -> None:
    for where, expression in _placed_expressions(route, model, path):
        used = sorted(expression.roots & VALUE_ROOTS)
        if used:
            checker.tell(where, f'uses "{used[0]}", which is always null in format raw: use key, headers or topic, or another format')


def _placed_expressions(route: Route, model: RouteModel, path: Path) -> list[tuple[Path, Expression]]:
    found: list[tuple[Path, Expression]] = []
    for number, template in enumerate(route.channels):
        found.extend(((*path, "channel", number), part) for part in template.parts if isinstance(part, Expression))
    for name, expression in (("split", route.split), ("where", route.where)):
        if expression is not None:
            found.append(((*path, name), expression))
    if model.project is not None and model.project.whole is not None:
        found.append(((*path, "project"), model.project.whole))
    elif model.project is not None:
        found.extend(((*path, "project", name), expression) for name, expression in model.project.fields)
    found.extend(((*path, "set", name), expression) for name, expression in (model.set or {}).items())
    found.extend(((*path, *name.split(".", 1)), expression) for name, expression in route.marks.expressions)
    return found


def _check_key(route: Route, model: RouteModel, path: Path, checker: Checker) -> None:
    is_keyed = route.settings.kind is Kind.KEYED
    if is_keyed and model.key is None:
        where = (*path, "kind") if model.kind is not None else path
        checker.tell(where, 'a keyed channel needs "key": what tells its entries apart, such as item.id, or key for the record\'s own')
    if not is_keyed and model.key is not None:
        checker.tell(
            (*path, "key"), f'is for kind keyed, and the kind of this route is {KIND_NAMES[route.settings.kind]}: add "kind: keyed"'
        )


def _check_added(route: Route, model: RouteModel, path: Path, checker: Checker) -> None:
    """`set` and `const` add to an object."""
    if route.projection is None or not route.projection.fields or model.project is not None or model.split is not None:
        return
    if route.source.decoder.passes in {ContentType.TEXT, ContentType.BINARY}:
        name = next((name for name in ("set", "const") if getattr(model, name) is not None), None)
        where = path if name is None else (*path, name)
        checker.tell(
            where, f"`set` and `const` add to an object, and a value of format {route.source.decoder.format} is none: use `project`"
        )


def _tombstone_notes(routes: list[Route]) -> Iterator[str]:
    for route in routes:
        if route.settings.kind is Kind.KEYED and not route.deletes:
            key = route.marks.key
            why = "`split` makes items of the value"
            if route.split is None:
                text = key.text if key is not None and key.needs_value else route.channels[0].text
                why = f"`{'key' if key is not None and key.needs_value else 'channel'}` ({text}) needs the value"
            yield f"route {route.name}: a record without a value (a tombstone) deletes no key, because {why}"


def _check_kinds(route: Route, others: list[Route], path: Path, checker: Checker) -> None:
    """One channel has one kind. Of two templates only what is equal letter by letter is known to meet."""
    mine = {template.text for template in route.channels}
    for other in others:
        shared = mine.intersection(template.text for template in other.channels)
        if shared and other.settings.kind is not route.settings.kind:
            kind = KIND_NAMES[other.settings.kind]
            checker.tell((*path, "kind"), f'the route "{other.name}" makes "{min(shared)}" a {kind} channel; one channel has one kind')
