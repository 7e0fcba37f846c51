"""From the settings of a source to the decoder of its values or keys. docs/formats.md has the same as a table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, cast

import msgspec

from bridge.core.decoding import Decode, Decoder
from bridge.formats.cloud_events import CLOUD_EVENTS
from bridge.formats.plain import JSON, RAW, RAW_KEY, STRING
from bridge.formats.registry import RegistrySettings, SchemaRegistry, registry_of
from shared.errors import ConfigurationError
from shared.publication import ContentType

FRAMINGS = ("confluent", "single-object", "none")
FIELD_NAMES = ("proto", "json")
FORMATS = ("json", "string", "raw", "avro", "protobuf", "json-schema", "cloudevents", "gtfs-realtime")
MAX_FILE_BYTES = 4_000_000

_SETTINGS: dict[str, frozenset[str]] = {
    "avro": frozenset({"schema_file", "framing", "subject"}),
    "protobuf": frozenset({"schema_file", "framing", "message", "field_names"}),
    "json-schema": frozenset({"schema_file", "framing", "check_schema"}),
    "gtfs-realtime": frozenset({"field_names"}),
}
"""What can be set beside the format itself; all that is not here has nothing to set."""
_FRAMINGS = {"avro": FRAMINGS, "protobuf": ("confluent", "none"), "json-schema": ("confluent", "none")}
_MODULES = {
    "avro": ("fastavro",),
    "protobuf": ("google.protobuf",),
    "gtfs-realtime": ("google.protobuf", "google.transit.gtfs_realtime_pb2"),
}


class FormatSettings(msgspec.Struct, frozen=True):
    """What the rules say about values or keys. None: not said."""

    format: str
    schema_file: Path | None = None
    message: str | None = None
    """Of Protobuf: the full name of the message type."""
    field_names: str | None = None
    framing: str | None = None
    subject: str | None = None
    check_schema: bool | None = None
    registry: RegistrySettings | None = None


class FormatError(ConfigurationError):
    """The settings of a format do not fit. `setting` is the one at fault; empty where it is all of them."""

    def __init__(self, problems: list[str], *, setting: str) -> None:
        super().__init__(problems)
        self.setting = setting


def choose(settings: FormatSettings, *, is_key: bool = False) -> Decoder | None:
    """The decoder for these settings; None for keys that are text. Raises FormatError. Reads the schema's file, and asks no registry."""
    _check_settings(settings)
    if settings.format == "string" and is_key:
        return None
    plain = {"json": JSON, "string": STRING, "raw": RAW_KEY if is_key else RAW, "cloudevents": CLOUD_EVENTS}.get(settings.format)
    if plain is not None:
        if is_key and plain is CLOUD_EVENTS:
            _refuse("", "a key is no CloudEvent; its own format is string, json, raw, avro, protobuf or json-schema")
        return plain
    _need(*_MODULES.get(settings.format, ()), what=f"format {settings.format}")
    try:
        return _MAKERS[settings.format](settings)
    except FormatError:
        raise
    except ConfigurationError as error:
        raise FormatError(error.problems, setting="schema_file") from error


def _check_settings(settings: FormatSettings) -> None:
    allowed = _SETTINGS.get(settings.format, frozenset())
    for name in ("schema_file", "message", "field_names", "framing", "subject", "check_schema"):
        if getattr(settings, name) is not None and name not in allowed:
            has = f"it has {', '.join(sorted(allowed))}" if allowed else "it needs no settings"
            _refuse(name, f"is no setting of format {settings.format}; {has}")
    framings = _FRAMINGS.get(settings.format, ())
    if settings.framing is not None and settings.framing not in framings:
        _refuse("framing", f'"{settings.framing}" is no framing of format {settings.format}; it is one of {", ".join(framings)}')


def _refuse(setting: str, *texts: str) -> NoReturn:
    raise FormatError(list(texts), setting=setting)


def _need(*modules: str, what: str) -> None:
    for module in modules:
        try:
            found = find_spec(module)
        except ModuleNotFoundError:  # Of a package that is not there.
            found = None
        if found is None:
            _refuse("", f"{what} needs the Python package of {module}: install distributary[formats]")


# --- Avro ------------------------------------------------------------------------------------------------------------------------


def _avro(settings: FormatSettings) -> Decoder:
    from bridge.formats import avro, avro_schema  # noqa: PLC0415 - in an extra, and only for those who use it

    if settings.schema_file is not None:
        framing = settings.framing or "single-object"
        if framing == "confluent":
            _refuse("framing", "a record in Confluent's wire format names its own schema: leave schema_file out, and set schema_registry")
        if settings.subject is not None:
            _refuse("subject", "is of a schema registry; with schema_file there is none to look in")
        data = _read(settings.schema_file)
        schema = avro_schema.AvroSchema(_text(data))
        return _decoder(settings, avro.by_schema(schema, is_framed=framing != "none"), data)
    framing = settings.framing or "confluent"
    if framing == "none":
        _refuse("", "bare Avro values tell nothing about their schema: name it with schema_file")
    registry = _registry(settings)
    if framing == "confluent":
        if settings.subject is not None:
            _refuse("subject", "is for framing single-object; in Confluent's wire format each record names its schema by id")
        return _decoder(settings, avro.by_id(registry))
    return _decoder(settings, avro.by_fingerprint(registry, settings.subject or "{topic}-value"))


# --- Protobuf --------------------------------------------------------------------------------------------------------------------


def _protobuf(settings: FormatSettings) -> Decoder:
    from bridge.formats import proto_schema, protobuf  # noqa: PLC0415 - in an extra

    json_names = settings.field_names == "json"
    if settings.schema_file is not None:
        if settings.message is None:
            _refuse("", 'needs "message", the full name of the message type in schema_file')
        data = _read(settings.schema_file)
        is_source = settings.schema_file.suffix == ".proto"
        files = proto_schema.compile_file(settings.schema_file) if is_source else proto_schema.read_set(data)
        pool = proto_schema.pool_of(files)
        try:
            type_ = proto_schema.message_of(pool, files, settings.message)
        except ConfigurationError as error:
            raise FormatError(error.problems, setting="message") from error
        read = protobuf.reader(pool, type_, json_names=json_names)
        # Of a .proto file, what it imports belongs to it too.
        return _decoder(
            settings, protobuf.by_type(read, is_framed=settings.framing == "confluent"), files.SerializeToString(deterministic=True)
        )
    if settings.framing == "none":
        _refuse("", "bare Protobuf messages tell nothing about their type: name it with schema_file and message")
    return _decoder(settings, protobuf.by_id(_registry(settings), settings.message, json_names=json_names))


def _gtfs_realtime(settings: FormatSettings) -> Decoder:
    from google.transit import gtfs_realtime_pb2  # noqa: PLC0415 - in an extra

    from bridge.formats import protobuf  # noqa: PLC0415

    type_ = cast("Any", gtfs_realtime_pb2.FeedMessage.DESCRIPTOR)
    read = protobuf.reader(type_.file.pool, type_, json_names=settings.field_names == "json")

    def read_feed(data: bytes) -> Any:
        feed = read(data)
        # At night a feed may have none, which is no problem of it: there is nothing to split, and nothing in it.
        feed.setdefault("entity", [])
        return feed

    return _decoder(settings, protobuf.by_type(read_feed, is_framed=False))


# --- JSON Schema -----------------------------------------------------------------------------------------------------------------


def _json_schema(settings: FormatSettings) -> Decoder:
    from bridge.formats import json_schema  # noqa: PLC0415 - with the others

    is_file = settings.schema_file is not None
    framing = settings.framing or ("none" if is_file else "confluent")
    checks = is_file if settings.check_schema is None else settings.check_schema
    if checks:
        _need("jsonschema", "re2", what="a check against a JSON Schema")
    if framing == "none" and not is_file:
        _refuse("", "JSON without a schema is format json; name the schema with schema_file, or set framing: confluent")
    if settings.schema_file is None:
        decode = json_schema.by_id(_registry(settings)) if checks else json_schema.by_schema(None, is_framed=True)
        return _decoder(settings, decode)
    data = _read(settings.schema_file)
    check = json_schema.checker(_text(data)) if checks else None
    decode = json_schema.by_schema(check, is_framed=framing == "confluent")
    made = _decoder(settings, decode, data)
    return msgspec.structs.replace(made, passes=ContentType.JSON, is_text=True) if framing == "none" else made


_MAKERS: dict[str, Callable[[FormatSettings], Decoder]] = {
    "avro": _avro,
    "protobuf": _protobuf,
    "json-schema": _json_schema,
    "gtfs-realtime": _gtfs_realtime,
}


# --- Parts -----------------------------------------------------------------------------------------------------------------------


def _decoder(settings: FormatSettings, decode: Decode, schema: bytes = b"") -> Decoder:
    said = repr(msgspec.structs.replace(settings, registry=None)).encode()
    registry = msgspec.json.encode(settings.registry) if settings.registry is not None else b""
    digest = hashlib.sha256(b"\0".join((said, registry, schema))).hexdigest()
    return Decoder(settings.format, decode, digest=digest)


def _registry(settings: FormatSettings) -> SchemaRegistry:
    if settings.registry is None:
        other = "; or name the schema with schema_file" if "schema_file" in _SETTINGS[settings.format] else ""
        _refuse("", f"format {settings.format} needs `schema_registry`, here or at the top of the file{other}")
    _need("confluent_kafka.schema_registry", "authlib", "cachetools", "attrs", what="a schema registry")
    registry = registry_of(settings.registry)
    try:
        registry.prepare()
    except ConfigurationError as error:
        raise FormatError(error.problems, setting="schema_registry") from error
    return registry


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        _refuse("schema_file", f"{path} cannot be read: {error.strerror or error}")
    if len(data) > MAX_FILE_BYTES:
        _refuse("schema_file", f"{path} is larger than {MAX_FILE_BYTES} bytes")
    return data


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse("schema_file", f"is not UTF-8 text (byte {error.start})")
