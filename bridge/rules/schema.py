"""The JSON Schema (draft 2020-12) of a rules file, for editors: which settings there are, what each is for, and what it may be.

`bridge check` knows more than a schema can say (what an expression may use, what fits together), so a file that fits the schema may still
have problems; a file without problems always fits it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from bridge.core.cardinality import DEFAULT_MAX_CHANNELS
from bridge.core.draft import ChannelSettings, OnError
from bridge.core.expression import MAX_EXPRESSION_CHARACTERS
from bridge.core.marks import TimeUnit
from bridge.core.template import MAX_TEMPLATE_CHARACTERS
from bridge.formats.choose import FIELD_NAMES, FORMATS, FRAMINGS
from bridge.rules.model import (
    MAX_CHANNELS,
    MAX_EXPRESSIONS,
    MAX_HISTORY_SIZE,
    MAX_ID_COUNT,
    MAX_MAX_CHANNELS,
    MAX_MAX_KEYS,
    MAX_PROJECTED_FIELDS,
    MAX_ROUTES,
    MAX_SOURCES,
    MAX_TAGS,
    MAX_TOPICS,
    RECORD,
    DeadLettersModel,
    FileModel,
    HistoryModel,
    IdModel,
    KeyFormatModel,
    RegistryModel,
    RouteModel,
    SettingsModel,
    SourceModel,
)
from bridge.rules.units import format_duration, format_size
from shared.publication import DELTA_NAMES, KIND_NAMES

Shape = dict[str, Any]

_DEFAULTS = ChannelSettings()
_DOCUMENTATION = "docs/rules.md"


def _reference(name: str) -> Shape:
    return {"$ref": f"#/$defs/{name}"}


def _any_of(names: Iterable[str]) -> Shape:
    return {"enum": sorted(names)}


def _number(least: int, most: int) -> Shape:
    return {"type": "integer", "minimum": least, "maximum": most}


def _map_of(shape: Shape, most: int) -> Shape:
    return {"type": "object", "additionalProperties": shape, "maxProperties": most}


_TEXT: Shape = {"type": "string", "minLength": 1}
_FLAG: Shape = {"type": "boolean"}
_EXPRESSION = _reference("expression")
_TEMPLATE = _reference("template")
_DURATION = _reference("duration")
_FIELDS = _map_of(_EXPRESSION, MAX_PROJECTED_FIELDS)

_COMMON: dict[str, Shape] = {
    "expression": {"type": "string", "minLength": 1, "maxLength": MAX_EXPRESSION_CHARACTERS, "description": "A JMESPath expression."},
    "template": {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_TEMPLATE_CHARACTERS,
        "description": "The name of a channel, with expressions in braces.",
    },
    "duration": {"anyOf": [{"type": "string", "pattern": "^[0-9]{1,15} ?(ms|s|m|h|d)$"}, {"const": 0}]},
    "size": {"anyOf": [{"type": "string", "pattern": "^[0-9]{1,15} ?(B|KB|MB|GB|KiB|MiB|GiB)$"}, {"type": "integer"}]},
    "name": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"},
}

_HISTORY: dict[str, tuple[Shape, str]] = {
    "size": (
        {**_number(1, MAX_HISTORY_SIZE), "default": _DEFAULTS.history_size},
        "How many publications are kept for those who come back.",
    ),
    "bytes": ({**_reference("size"), "default": format_size(_DEFAULTS.history_bytes)}, "How many bytes of payload are kept."),
    "age": ({**_DURATION, "default": _DEFAULTS.history_age_ms}, "How old a publication may get; 0: no bound."),
}
_ID: dict[str, tuple[Shape, str]] = {
    "value": (_EXPRESSION, "What makes an item the same one."),
    "window": ({**_DURATION, "default": format_duration(_DEFAULTS.id_window_ms)}, "For how long an id is known."),
    "count": ({**_number(1, MAX_ID_COUNT), "default": _DEFAULTS.id_count}, "How many of the newest ids are known."),
}
_SETTINGS: dict[str, tuple[Shape, str]] = {
    "kind": (
        {**_any_of(KIND_NAMES.values()), "default": KIND_NAMES[_DEFAULTS.kind]},
        "stream: each publication matters. latest: the newest value is the state. keyed: the newest value of each key is the state.",
    ),
    "delta": ({**_any_of(DELTA_NAMES.values()), "default": DELTA_NAMES[_DEFAULTS.delta]}, "How changes travel."),
    "history": (_reference("history"), "How much of a channel is kept for those who come back."),
    "ttl": ({**_DURATION, "default": format_duration(_DEFAULTS.ttl_ms)}, "A channel without a publication for so long is forgotten."),
    "only_changed": (
        {**_FLAG, "default": _DEFAULTS.only_changed},
        "An item equal to the last one on its channel makes no publication.",
    ),
    "on_error": ({**_any_of(OnError), "default": OnError.SKIP.value}, "What happens to an item that the route cannot handle."),
    "max_keys": ({**_number(1, MAX_MAX_KEYS), "default": _DEFAULTS.max_keys}, "How many keys a keyed channel may have."),
    "max_key_bytes": (
        {**_reference("size"), "default": format_size(_DEFAULTS.max_key_bytes)},
        "How many bytes the newest values of a keyed channel's keys may take on the bus.",
    ),
    "max_channels": (
        {**_number(1, MAX_MAX_CHANNELS), "default": DEFAULT_MAX_CHANNELS},
        "How many channels the route may make from data.",
    ),
    "timestamp": (
        {
            "default": RECORD,
            "anyOf": [
                {"const": RECORD},
                {
                    "type": "object",
                    "properties": {unit.value: _EXPRESSION for unit in TimeUnit},
                    "additionalProperties": False,
                    "minProperties": 1,
                    "maxProperties": 1,
                },
            ],
        },
        "The publication's time: the record's, or an expression's with its unit.",
    ),
    "tags": (
        {"anyOf": [_map_of(_EXPRESSION, MAX_TAGS), {"type": "array", "items": _TEXT, "maxItems": MAX_TAGS}]},
        "Texts that go with the publication: names with expressions, or names of headers.",
    ),
    "set": (_FIELDS, "Fields added to the payload, from expressions."),
    "const": (_map_of({}, MAX_PROJECTED_FIELDS), "Fields added to the payload, always the same."),
}
_ROUTE: dict[str, tuple[Shape, str]] = {
    **_SETTINGS,
    "name": (_reference("name"), "The route's name, in logs and metrics."),
    "source": (_TEXT, "The name of a source; required where there are several."),
    "split": (_EXPRESSION, "Gives an array or an object: each element becomes an item of its own."),
    "where": (_EXPRESSION, "Only items for which it is true go on."),
    "channel": (
        {"anyOf": [_TEMPLATE, {"type": "array", "items": _TEMPLATE, "minItems": 1, "maxItems": MAX_CHANNELS}]},
        "The channels that the item goes to: a template, or several.",
    ),
    "project": (
        {"anyOf": [_EXPRESSION, {**_FIELDS, "minProperties": 1}]},
        "What clients get: names with expressions, or one expression.",
    ),
    "key": (_EXPRESSION, "The item's key on a keyed channel."),
    "version": (_EXPRESSION, "A number or time: an item that is not newer than the newest one makes no publication."),
    "id": ({"anyOf": [_EXPRESSION, _reference("id")]}, "An item whose id the channel saw lately makes no publication."),
}
_DEAD_LETTERS: dict[str, tuple[Shape, str]] = {
    "topic": (_TEXT, "The topic for records that could not be handled; {topic} stands for the record's own."),
    "create": ({**_FLAG, "default": True}, "Whether the bridge may create that topic."),
}
_REGISTRY: dict[str, tuple[Shape, str]] = {
    "url": ({"type": "string", "pattern": "^https?://"}, "The address of the schema registry."),
    "user": (_TEXT, "For basic authentication."),
    "password": (_TEXT, "For basic authentication. ${env:NAME} takes it from the environment."),
    "ca_file": (_TEXT, "Certificates of the authorities to be trusted, PEM."),
    "certificate_file": (_TEXT, "The client's certificate, PEM."),
    "key_file": (_TEXT, "The client's private key, PEM."),
    "key_password": (_TEXT, "Of the private key. ${env:NAME} takes it from the environment."),
    "timeout": (_DURATION, "For one request."),
    "properties": ({"type": "object", "additionalProperties": {"type": "string"}}, "Further properties of the registry's client."),
}
_FORMAT: dict[str, tuple[Shape, str]] = {
    "format": (_any_of(FORMATS), "What the bytes are."),
    "schema_file": (_TEXT, "The file with the schema."),
    "message": (_TEXT, "The name of the Protobuf message."),
    "field_names": (_any_of(FIELD_NAMES), "How Protobuf fields are named."),
    "framing": (_any_of(FRAMINGS), "What stands before the bytes."),
    "subject": (_TEXT, "The subject in the schema registry."),
    "check_schema": (_FLAG, "Whether values are checked against their JSON Schema."),
}
_SOURCE: dict[str, tuple[Shape, str]] = {
    **_FORMAT,
    "name": (_reference("name"), "The source's name."),
    "topics": ({"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_TOPICS, "uniqueItems": True}, "Names of topics."),
    "topic_pattern": ({"type": "string", "pattern": "^\\^", "maxLength": 500}, "A regular expression for names of topics; begins with ^."),
    "key_format": ({"anyOf": [_any_of(FORMATS), _reference("key_format")]}, "What keys are."),
    "schema_registry": (_reference("schema_registry"), "The schema registry."),
    "dead_letters": (_reference("dead_letters"), "Where records go that a route with on_error: dead-letter cannot handle."),
}
_FILE: dict[str, tuple[Shape, str]] = {
    "version": ({"const": 1}, "The version of the rules' language."),
    "sources": ({"type": "array", "items": _reference("source"), "minItems": 1, "maxItems": MAX_SOURCES}, "Where records come from."),
    "expressions": (_map_of(_EXPRESSION, MAX_EXPRESSIONS), "Expressions by name, for all others to use."),
    "defaults": (_reference("defaults"), "Settings for all routes."),
    "dead_letters": (_reference("dead_letters"), "Where dead letters of all sources go."),
    "schema_registry": (_reference("schema_registry"), "The schema registry of all sources."),
    "routes": ({"type": "array", "items": _reference("route"), "minItems": 1, "maxItems": MAX_ROUTES}, "From records to channels."),
}
_OBJECTS: dict[str, tuple[type[BaseModel], dict[str, tuple[Shape, str]]]] = {
    "dead_letters": (DeadLettersModel, _DEAD_LETTERS),
    "defaults": (SettingsModel, _SETTINGS),
    "history": (HistoryModel, _HISTORY),
    "id": (IdModel, _ID),
    "key_format": (KeyFormatModel, _FORMAT),
    "route": (RouteModel, _ROUTE),
    "schema_registry": (RegistryModel, _REGISTRY),
    "source": (SourceModel, _SOURCE),
}


def rules_schema() -> Shape:
    """The schema, as plain JSON values."""
    definitions = {name: _object(model, shapes) for name, (model, shapes) in _OBJECTS.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Rules of a Distributary bridge",
        "description": f"Which records of which topics become publications on which channels ({_DOCUMENTATION}).",
        **_object(FileModel, _FILE),
        "$defs": {**_COMMON, **definitions},
    }


def _object(model: type[BaseModel], shapes: dict[str, tuple[Shape, str]]) -> Shape:
    """A mapping with the settings of `model`: those, and no others."""
    properties = {}
    for name in model.model_fields:
        shape, description = shapes[name]
        properties[name] = {**shape, "description": description}
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    found: Shape = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**found, "required": required} if required else found
