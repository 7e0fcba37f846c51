"""From checked models to the rules that the router applies: defaults filled in, and what must fit together fits."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any

from bridge.core.draft import ChannelSettings, OnError
from bridge.core.expression import Expression
from bridge.core.letter import DeadLetterTopic
from bridge.core.ruleset import CompiledRules, Route, Source
from bridge.core.scope import VALUE_ROOTS
from bridge.core.template import Template
from bridge.rules.check import Checker
from bridge.rules.dead_letters import check_dead_letters, dead_letter_topic
from bridge.rules.document import Path
from bridge.rules.formats import FormatCompiler
from bridge.rules.model import (
    MAX_ROUTES,
    MAX_SOURCES,
    DeadLettersModel,
    FileModel,
    RegistryModel,
    RouteModel,
    SettingsModel,
    SourceModel,
)
from shared.publication import KIND_NAMES, ContentType, DeltaFormat

_DEFAULTS = ChannelSettings()


def compile_rules(data: Any, checker: Checker, folder: FilePath) -> CompiledRules | None:
    """Make rules of a document's plain `data`; None where `checker` was told of a problem. Names of files begin at `folder`."""
    checker.validate(FileModel, data, ())
    if not isinstance(data, dict):
        return None
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
    return CompiledRules(compiled, tuple(routes), notes)


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
        settings = _settings(model, defaults)
        on_error = model.on_error or defaults.on_error or OnError.SKIP
        route = Route(model.name, source, tuple(model.channel), model.split, model.where, model.project, settings, on_error)
        _check_fit(route, model, path, checker)
        _check_kinds(route, found, path, checker)
        found.append(route)
    return found


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
    )


def _check_fit(route: Route, model: RouteModel, path: Path, checker: Checker) -> None:
    if route.settings.delta is DeltaFormat.JSON_PATCH and route.content_type is not ContentType.JSON:
        where = (*path, "delta") if model.delta is not None else path
        text = f"a JSON Patch needs JSON, and this route sends values of format {route.source.decoder.format} as they are"
        checker.tell(where, f'{text}; use "vcdiff" or "none", or `project`')
    if not route.source.decoder.has_value:
        _check_raw(route, path, checker)
    if route.split is None:
        for where, expression in _placed_expressions(route, path):
            if expression.roots == frozenset({"index"}):
                checker.tell(where, '"index" is the place of an item in what `split` gives, and this route has no `split`')


def _check_raw(route: Route, path: Path, checker: Checker) -> None:
    for where, expression in _placed_expressions(route, path):
        used = sorted(expression.roots & VALUE_ROOTS)
        if used:
            checker.tell(where, f'uses "{used[0]}", which is always null in format raw: use key, headers or topic, or another format')


def _placed_expressions(route: Route, path: Path) -> list[tuple[Path, Expression]]:
    found: list[tuple[Path, Expression]] = []
    for number, template in enumerate(route.channels):
        found.extend(((*path, "channel", number), part) for part in template.parts if isinstance(part, Expression))
    for name, expression in (("split", route.split), ("where", route.where)):
        if expression is not None:
            found.append(((*path, name), expression))
    if route.projection is not None and route.projection.whole is not None:
        found.append(((*path, "project"), route.projection.whole))
    elif route.projection is not None:
        found.extend(((*path, "project", name), expression) for name, expression in route.projection.fields)
    return found


def _check_kinds(route: Route, others: list[Route], path: Path, checker: Checker) -> None:
    """One channel has one kind. Of two templates only what is equal letter by letter is known to meet."""
    mine = {template.text for template in route.channels}
    for other in others:
        shared = mine.intersection(template.text for template in other.channels)
        if shared and other.settings.kind is not route.settings.kind:
            kind = KIND_NAMES[other.settings.kind]
            checker.tell((*path, "kind"), f'the route "{other.name}" makes "{min(shared)}" a {kind} channel; one channel has one kind')


def channel_texts(templates: tuple[Template, ...]) -> str:
    """Templates as one text, for tables."""
    return ", ".join(template.text for template in templates)
