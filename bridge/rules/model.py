"""The shape of a rules file: every setting with its type and bounds. docs/rules.md says the same in prose."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, InstanceOf, ValidationInfo
from pydantic_core import PydanticCustomError

from bridge.core.draft import OnError
from bridge.core.expression import Expression, compile_expression
from bridge.core.letter_topic import TOPIC_PLACE
from bridge.core.marks import Timestamp, TimeUnit
from bridge.core.ruleset import Projection
from bridge.core.scope import ROOTS
from bridge.core.template import Template, compile_template
from bridge.formats.choose import FIELD_NAMES, FORMATS, FRAMINGS
from bridge.rules.units import format_duration, format_size, parse_duration_ms, parse_size
from shared.errors import ConfigurationError
from shared.publication import DELTA_NAMES, KIND_NAMES, DeltaFormat, Kind

MAX_SOURCES = 100
MAX_ROUTES = 1_000
MAX_TOPICS = 1_000
MAX_CHANNELS = 20
MAX_PROJECTED_FIELDS = 200
MAX_TAGS = 20
MAX_EXPRESSIONS = 200
MAX_MAX_CHANNELS = 10_000_000
MAX_MAX_KEYS = 1_000_000
MIN_ID_WINDOW_MS = 1_000
MAX_ID_WINDOW_MS = 7 * 86_400_000
MAX_ID_COUNT = 1_000_000

MAX_HISTORY_SIZE = 100_000
MIN_HISTORY_BYTES = 1_024
MAX_HISTORY_BYTES = 1_073_741_824
MIN_HISTORY_AGE_MS = 1_000
MIN_TTL_MS = 60_000
MAX_TTL_MS = 365 * 86_400_000

_NOT_YET = "is planned, and this version does not have it yet"
_OF_THE_EDGE = "is no setting of rules: clients choose it, within what `edge run --namespaces` allows (docs/operations.md, section 4)"
KNOWN_ELSEWHERE = {
    "cluster": _NOT_YET,
    "clusters": _NOT_YET,
    "max_rate": _OF_THE_EDGE,
    "mode": _OF_THE_EDGE,
    "window": _OF_THE_EDGE,
}
"""Settings that are planned, or belong to another part: told apart from typing errors."""

RECORD = "record"

_E = TypeVar("_E")


def _refuse(*texts: str) -> NoReturn:
    """Raise an error that carries our own words through pydantic."""
    raise _error([("", text) for text in texts])


def _error(pairs: list[tuple[str, str]]) -> PydanticCustomError:
    """An error of pairs: the name inside the setting (or nothing), and the text."""
    return PydanticCustomError("rules", "{problems}", {"problems": pairs})


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    hint = ""
    if isinstance(value, dict) and len(value) == 1 and next(iter(value.values())) is None:
        hint = f'; did you mean "{{{next(iter(value))}}}"? A text that begins with {{ is put in quotes'
    elif isinstance(value, bool | int | float):
        hint = "; put it in quotes"
    _refuse(f"must be a text, not {kind_of(value)}{hint}")


def kind_of(value: object) -> str:
    """What YAML calls a value."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true or false"
    names = {int: "a number", float: "a number", str: "a text", list: "a list", dict: "a mapping"}
    return names.get(type(value), "this")


def _compiled(compile_: Callable[[str, Mapping[str, Expression] | None], _E]) -> Callable[[object, ValidationInfo], _E]:
    def parse(value: object, info: ValidationInfo) -> _E:
        try:
            return compile_(_text(value), (info.context or {}).get("named"))
        except ConfigurationError as error:
            raise _error([("", text) for text in error.problems]) from None

    return parse


def _one_of(what: str, values: dict[str, _E]) -> Callable[[object], _E]:
    def parse(value: object) -> _E:
        text = _text(value)
        if text in values:
            return values[text]
        close = get_close_matches(text.lower(), values, n=1)
        hint = f'did you mean "{close[0]}"?' if close else f"it is one of {', '.join(values)}"
        _refuse(f'there is no {what} "{_short(text)}"; {hint}')

    return parse


def _between(
    parse: Callable[[object], int], low: int, high: int, show: Callable[[int], str], *, or_zero: bool = False
) -> Callable[[object], int]:
    def checked(value: object) -> int:
        try:
            number = parse(value)
        except ValueError as error:
            raise _error([("", str(error))]) from None
        if (or_zero and number == 0) or low <= number <= high:
            return number
        zero = "0 (none) or " if or_zero else ""
        _refuse(f"must be {zero}from {show(low)} to {show(high)}, not {show(number)}")

    return checked


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    msg = f"must be a whole number, not {kind_of(value)}"
    raise ValueError(msg)


def _name(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", text):
        what = "at most 100 ASCII letters, digits, _ . and -, a letter or digit first"
        _refuse(f'"{_short(text)}" cannot be a name, as it stands in logs and metrics: use {what}')
    return text


def _topic(value: object) -> str:
    text = _text(value)
    if text.startswith("^"):
        _refuse("is a pattern; write it as topic_pattern")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", text) or text in {".", ".."}:
        _refuse(f'"{_short(text)}" is not the name of a Kafka topic: at most 249 ASCII letters, digits, . _ and -')
    return text


def _dead_letter_topic(value: object) -> str:
    text = _text(value)
    if text.count(TOPIC_PLACE) > 1 or not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", text.replace(TOPIC_PLACE, "")):
        what = f"ASCII letters, digits, . _ and -, with {TOPIC_PLACE} in it at most once for the name of the record's topic"
        _refuse(f'"{_short(text)}" cannot be the name of a topic for dead letters: use {what}')
    return text


def _topic_pattern(value: object) -> str:
    text = _text(value)
    if not text.startswith("^"):
        _refuse(f'must begin with ^, as Kafka clients want it; did you mean "^{_short(text)}"?')
    if len(text) > 500:
        _refuse("is longer than 500 characters")
    # librdkafka matches with POSIX extended expressions, the bridge with Python's: what only one of them knows is refused.
    other = re.search(r"\\[A-Za-z0-9]|\(\?|[*+?}][?+]|\[\[[:.=]", text)
    if other:
        _refuse(f'has "{other[0]}", which Kafka clients read otherwise; use plain classes such as [0-9]')
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise _error([("", f"is not a regular expression: {error}")]) from None
    return text


def _list_of_channels(value: object) -> object:
    if isinstance(value, list):
        if not value:
            _refuse("must name at least one channel")
        if len(value) > MAX_CHANNELS:
            _refuse(f"has more than {MAX_CHANNELS} templates")
        return value
    return [value]


def _projection(value: object, info: ValidationInfo) -> Projection:
    if not isinstance(value, dict):
        if isinstance(value, list):
            _refuse("must be a mapping of names to expressions, or one expression, not a list")
        return Projection(whole=_compiled(compile_expression)(value, info))
    if not value:
        _refuse("must name at least one field; without `project` the item itself is sent")
    return Projection(fields=tuple(_fields(value, info).items()))


def _fields(value: object, info: ValidationInfo) -> dict[str, Expression]:
    """Names with an expression each."""
    if not isinstance(value, dict):
        _refuse(f"must be a mapping of names to expressions, not {kind_of(value)}")
    if len(value) > MAX_PROJECTED_FIELDS:
        _refuse(f"has more than {MAX_PROJECTED_FIELDS} fields")
    fields: dict[str, Expression] = {}
    problems: list[tuple[str, str]] = []
    for name, expression in value.items():
        try:
            fields[str(name)] = _compiled(compile_expression)(expression, info)
        except PydanticCustomError as error:
            problems.extend((str(name), text) for _, text in (error.context or {})["problems"])
    if problems:
        raise _error(problems)
    return fields


def _tags(value: object, info: ValidationInfo) -> dict[str, Expression]:
    """Names with an expression each, or names of headers."""
    if isinstance(value, list):
        value = {_text(name): "headers." + msgspec.json.encode(name).decode() for name in value}
    elif not isinstance(value, dict):
        _refuse(f"must be a mapping of names to expressions, or a list of names of headers, not {kind_of(value)}")
    if len(value) > MAX_TAGS:
        _refuse(f"has more than {MAX_TAGS} tags")
    problems = [
        (name, "cannot be the name of a tag: use at most 64 ASCII letters, digits, _ . and -") for name in value if not _is_tag(name)
    ]
    if problems:
        raise _error(problems)
    return _fields(value, info)


def _is_tag(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) is not None


def _constants(value: object) -> dict[str, Any]:
    constants = _mapping(value)
    if len(constants) > MAX_PROJECTED_FIELDS:
        _refuse(f"has more than {MAX_PROJECTED_FIELDS} fields")
    return constants


def _timestamp(value: object, info: ValidationInfo) -> Timestamp | Literal["record"]:
    if value == RECORD:
        return "record"
    units = ", ".join(unit.value for unit in TimeUnit)
    if not isinstance(value, dict):
        _refuse(f'must be "{RECORD}", or one of {units} with an expression, such as {{ms: item.time}}')
    if len(value) != 1:
        _refuse(f"must have one of {units}, with an expression")
    ((unit, text),) = value.items()
    if unit not in list(TimeUnit):
        close = get_close_matches(unit.lower(), list(TimeUnit), n=1)
        raise _error(
            [(unit, f'is no unit of time here; did you mean "{close[0]}"?' if close else f"is no unit of time here; units are {units}")]
        )
    try:
        return Timestamp(_compiled(compile_expression)(text, info), TimeUnit(unit))
    except PydanticCustomError as error:
        raise _error([(unit, told) for _, told in (error.context or {})["problems"]]) from None


def _id(value: object) -> object:
    """An id may be its expression alone."""
    return {"value": value} if isinstance(value, str) else _mapping(value)


def check_expression_name(name: str) -> str | None:
    """Why this cannot be the name of an expression; None where it can."""
    if name in ROOTS:
        return "is a name that expressions have already"
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,49}", name) or name in {"and", "or", "not", "true", "false", "null"}:
        return "cannot be the name of an expression: use at most 50 ASCII letters, digits and _, a letter or _ first"
    return None


def _strict_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    hint = f"; write {'true' if value in {'yes', 'on'} else 'false'}" if value in ("yes", "no", "on", "off") else ""
    _refuse(f"must be true or false, not {kind_of(value)}{hint}")


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _version(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value != 1:
        _refuse(f"must be 1, the only version of rules that there is, not {_short(repr(value))}")
    return 1


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        _refuse(f"must be a list, not {kind_of(value)}")
    if not value:
        _refuse("must have at least one entry")
    return value


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(f"must be a mapping, not {kind_of(value)}")
    return value


def _list_of_topics(value: object) -> list[Any]:
    topics = _list(value)
    if len(topics) > MAX_TOPICS:
        _refuse(f"has more than {MAX_TOPICS} topics; use topic_pattern")
    if len({repr(topic) for topic in topics}) < len(topics):
        _refuse("names a topic twice")
    return topics


# Each validator stands outside of `| None`, so that a setting that is there but empty is told, and not taken for one left out.
_Name = Annotated[str, BeforeValidator(_name)]
_Expression = Annotated[InstanceOf[Expression] | None, BeforeValidator(_compiled(compile_expression))]
_Template = Annotated[InstanceOf[Template], BeforeValidator(_compiled(compile_template))]
_Topic = Annotated[str, BeforeValidator(_topic)]
_Flag = Annotated[bool | None, BeforeValidator(_strict_bool)]
_Fields = Annotated[dict[str, InstanceOf[Expression]] | None, BeforeValidator(_fields)]
_KINDS = {name: kind for kind, name in KIND_NAMES.items()}
_DELTAS = {name: format_ for format_, name in DELTA_NAMES.items()}
_FORMATS = {name: name for name in FORMATS}
_FRAMINGS = {name: name for name in FRAMINGS}
_FIELD_NAMES = {name: name for name in FIELD_NAMES}
_ON_ERROR = {action.value: action for action in OnError}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class HistoryModel(_Model):
    """How much of a channel is kept for those who come back: whichever bound is reached first."""

    size: Annotated[int | None, BeforeValidator(_between(_count, 1, MAX_HISTORY_SIZE, str))] = None
    bytes: Annotated[int | None, BeforeValidator(_between(parse_size, MIN_HISTORY_BYTES, MAX_HISTORY_BYTES, format_size))] = None
    age: Annotated[
        int | None, BeforeValidator(_between(parse_duration_ms, MIN_HISTORY_AGE_MS, MAX_TTL_MS, format_duration, or_zero=True))
    ] = None


class IdModel(_Model):
    """What makes an item the same one, and for how long it is known."""

    value: Annotated[InstanceOf[Expression], BeforeValidator(_compiled(compile_expression))]
    window: Annotated[int | None, BeforeValidator(_between(parse_duration_ms, MIN_ID_WINDOW_MS, MAX_ID_WINDOW_MS, format_duration))] = None
    count: Annotated[int | None, BeforeValidator(_between(_count, 1, MAX_ID_COUNT, str))] = None


class SettingsModel(_Model):
    """What `defaults` can set for all routes. None: not set here."""

    kind: Annotated[Kind | None, BeforeValidator(_one_of("kind", _KINDS))] = None
    delta: Annotated[DeltaFormat | None, BeforeValidator(_one_of("delta", _DELTAS))] = None
    history: Annotated[HistoryModel | None, BeforeValidator(_mapping)] = None
    ttl: Annotated[int | None, BeforeValidator(_between(parse_duration_ms, MIN_TTL_MS, MAX_TTL_MS, format_duration))] = None
    only_changed: _Flag = None
    on_error: Annotated[OnError | None, BeforeValidator(_one_of("on_error", _ON_ERROR))] = None
    max_keys: Annotated[int | None, BeforeValidator(_between(_count, 1, MAX_MAX_KEYS, str))] = None
    max_key_bytes: Annotated[int | None, BeforeValidator(_between(parse_size, MIN_HISTORY_BYTES, MAX_HISTORY_BYTES, format_size))] = None
    max_channels: Annotated[int | None, BeforeValidator(_between(_count, 1, MAX_MAX_CHANNELS, str))] = None
    timestamp: Annotated[InstanceOf[Timestamp] | Literal["record"] | None, BeforeValidator(_timestamp)] = None
    tags: Annotated[dict[str, InstanceOf[Expression]] | None, BeforeValidator(_tags)] = None
    set: _Fields = None
    const: Annotated[dict[str, Any] | None, BeforeValidator(_constants)] = None


class RouteModel(SettingsModel):
    """One of `routes`."""

    name: _Name
    source: Annotated[str | None, BeforeValidator(_text)] = None
    split: _Expression = None
    where: _Expression = None
    channel: Annotated[list[_Template], BeforeValidator(_list_of_channels)]
    project: Annotated[InstanceOf[Projection] | None, BeforeValidator(_projection)] = None
    key: _Expression = None
    version: _Expression = None
    id: Annotated[IdModel | None, BeforeValidator(_id)] = None


class DeadLettersModel(_Model):
    """Where dead letters go."""

    topic: Annotated[str | None, BeforeValidator(_dead_letter_topic)] = None
    create: _Flag = None


_DeadLetters = Annotated[DeadLettersModel | None, BeforeValidator(_mapping)]


def _url(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"https?://[^\s/]+\S*", text):
        _refuse(f'"{_short(text)}" is no address of a schema registry; it begins with http:// or https://')
    return text


def _texts(value: object) -> dict[str, str]:
    return {name: _text(each) for name, each in _mapping(value).items()}


def _key_format(value: object) -> object:
    return value if isinstance(value, dict) else {"format": _text(value)}


_Text = Annotated[str | None, BeforeValidator(_text)]


class RegistryModel(_Model):
    """A schema registry, and how to be let in."""

    url: Annotated[str, BeforeValidator(_url)]
    user: _Text = None
    password: _Text = None
    ca_file: _Text = None
    certificate_file: _Text = None
    key_file: _Text = None
    key_password: _Text = None
    timeout: Annotated[int | None, BeforeValidator(_between(parse_duration_ms, 100, 60_000, format_duration))] = None
    properties: Annotated[dict[str, str] | None, BeforeValidator(_texts)] = None


class FormatModel(_Model):
    """What values or keys are."""

    format: Annotated[str, BeforeValidator(_one_of("format", _FORMATS))] = "json"
    schema_file: _Text = None
    message: _Text = None
    field_names: Annotated[str | None, BeforeValidator(_one_of("field_names", _FIELD_NAMES))] = None
    framing: Annotated[str | None, BeforeValidator(_one_of("framing", _FRAMINGS))] = None
    subject: _Text = None
    check_schema: _Flag = None


class KeyFormatModel(FormatModel):
    """What keys are; its name alone will do where that says it all."""

    format: Annotated[str, BeforeValidator(_one_of("format", _FORMATS))] = "string"


class SourceModel(FormatModel):
    """One of `sources`."""

    name: _Name
    topics: Annotated[list[_Topic] | None, BeforeValidator(_list_of_topics)] = None
    topic_pattern: Annotated[str | None, BeforeValidator(_topic_pattern)] = None
    key_format: Annotated[KeyFormatModel, BeforeValidator(_key_format)] = KeyFormatModel()
    schema_registry: Annotated[RegistryModel | None, BeforeValidator(_mapping)] = None
    dead_letters: _DeadLetters = None


class FileModel(_Model):
    """The file's top level. Sources and routes are checked one by one, so that a wrong one hides nothing about the others."""

    version: Annotated[int, BeforeValidator(_version)]
    sources: Annotated[list[Any], BeforeValidator(_list)]
    expressions: Annotated[dict[str, Any] | None, BeforeValidator(_mapping)] = None
    defaults: Annotated[dict[str, Any] | None, BeforeValidator(_mapping)] = None
    dead_letters: Annotated[dict[str, Any] | None, BeforeValidator(_mapping)] = None
    schema_registry: Annotated[dict[str, Any] | None, BeforeValidator(_mapping)] = None
    routes: Annotated[list[Any], BeforeValidator(_list)]


INNER_MODELS: dict[str, type[BaseModel]] = {
    "dead_letters": DeadLettersModel,
    "history": HistoryModel,
    "id": IdModel,
    "key_format": KeyFormatModel,
    "schema_registry": RegistryModel,
}
"""The models inside of others, by their setting's name."""
